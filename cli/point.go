package cli

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
)

// point reads which point of a history is meant: by a locator, or by a key and --at.
func (e *Env) point(ctx context.Context, h *history.History, text string, at *moment) (history.Point, error) {
	if at.text == "" {
		return h.AtBy(ctx, text, at.clock)
	}
	s, err := e.stream(text)
	if err != nil {
		return history.Point{}, err
	}
	return h.Of(ctx, s, at.at, at.clock)
}

// writeAnswer is a changed field. Old and New are null where nothing is there.
type writeAnswer struct {
	Path string          `json:"path"`
	Old  json.RawMessage `json:"old"`
	New  json.RawMessage `json:"new"`
}

func writesOf(h *history.History, aggregate string, ws []history.Write) []writeAnswer {
	all := make([]writeAnswer, len(ws))
	for i, w := range ws {
		all[i] = writeAnswer{w.Path, valueOf(h, aggregate, w.Path, w.Old), valueOf(h, aggregate, w.Path, w.New)}
	}
	return all
}

// valueOf returns a token of a write-set as a value.
func valueOf(h *history.History, aggregate, path, token string) json.RawMessage {
	if token == "" {
		token = h.Zero(aggregate, path)
	}
	if token == "" {
		return nil
	}
	return json.RawMessage(token)
}

// shown writes a value for people.
func shown(v json.RawMessage) string {
	if v == nil {
		return "none"
	}
	return string(v)
}

// writerAnswer is a message that wrote a field.
type writerAnswer struct {
	ID           deja.ID       `json:"id"`
	Type         string        `json:"type"`
	N            int64         `json:"n"`
	Position     deja.Position `json:"position"`
	Version      int64         `json:"version"`
	Time         time.Time     `json:"time"`
	BusinessTime time.Time     `json:"business_time,omitzero"`
	Actor        string        `json:"actor,omitempty"`
	Source       string        `json:"source"`
}

func writerOf(w *history.Writer) *writerAnswer {
	if w == nil {
		return nil
	}
	return &writerAnswer{w.ID, w.Type, w.N, w.Position, w.Version, w.Time, w.BusinessTime, w.Actor, w.Source}
}

// pointAnswer says where a state is from.
type pointAnswer struct {
	Key      string        `json:"key"`
	Version  int64         `json:"version"`
	Position deja.Position `json:"position"`
	Time     time.Time     `json:"time,omitzero"`
}

func pointOf(o history.Origin) pointAnswer {
	return pointAnswer{o.Stream.String(), o.Version, o.Position, o.Time}
}

func (p pointAnswer) String() string {
	if p.Version == 0 {
		return p.Key + "  nothing was recorded"
	}
	return p.Key + "  version " + strconv.FormatInt(p.Version, 10) + " at " + p.Position.String()
}
