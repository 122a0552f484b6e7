package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// A Message is a message of the inbox that was decided, as answers show it.
type Message struct {
	ID       deja.ID         `json:"id"`
	Position deja.Position   `json:"position"`
	Version  int64           `json:"version"` // of the key, after it
	Type     string          `json:"type"`
	Payload  json.RawMessage `json:"payload"` // null where the log no longer has it

	Step *Step `json:"-"` // how it was decided
}

// brief returns the message of a step without its payload. It keeps the step.
func brief(s *Step) Message {
	return Message{ID: s.ID, Position: s.Position, Version: s.Version, Type: s.Type, Step: s}
}

// message returns the message of a step. It keeps the step.
func (h *History) message(ctx context.Context, s *Step) (Message, error) {
	m := brief(s)
	env, err := h.envelope(ctx, s.Position)
	switch {
	case errors.Is(err, driver.ErrTrimmed):
		return m, nil
	case err != nil:
		return m, fmt.Errorf("message %s at %s: %w", s.ID, s.Position, err)
	}
	m.Payload = payloadOf(env)
	return m, nil
}

// payloadOf returns a message's payload as answers show it: JSON as it is, all else as a text of its bytes.
func payloadOf(env *deja.Envelope) json.RawMessage {
	if env.ContentType == "application/json" && json.Valid(env.Payload) {
		return env.Payload
	}
	data, err := json.Marshal(env.Payload)
	if err != nil { // bytes always have a JSON form
		return nil
	}
	return data
}

// envelope reads a message from the inbox.
func (h *History) envelope(ctx context.Context, at deja.Position) (*deja.Envelope, error) {
	recs, err := h.log.Fetch(ctx, at, 1)
	if err != nil {
		return nil, err
	}
	if len(recs) == 0 || recs[0].Offset != at.Offset {
		return nil, fmt.Errorf("the inbox has no record there: %w", driver.ErrTrimmed)
	}
	return wire.NewDecoder(h.machine.Name()).Message(recs[0].Value)
}
