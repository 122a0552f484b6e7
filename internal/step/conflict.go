package step

import (
	"context"
	"errors"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/wire"
)

// differ names what differs between the first message of a ledger key and a conflicting one: envelope fields with @
// in front, and paths of the payload.
func (w *Worker) differ(ctx context.Context, first driver.Entry, m Message) ([]string, error) {
	rec, err := w.fetchOne(ctx, first.Partition, first.Offset)
	if errors.Is(err, driver.ErrTrimmed) {
		return []string{"@unknown"}, nil // the first message is no longer in the log
	}
	if err != nil {
		return nil, err
	}
	env, err := w.dec.Message(rec.Value)
	if err == nil {
		return Differ(env, m.Env), nil
	}
	return []string{"@record"}, nil // the first was no message at all
}

// Differ lists what differs in the content of two messages.
func Differ(a, b *deja.Envelope) []string {
	var paths []string
	for _, f := range []struct {
		name   string
		differ bool
	}{
		{"@kind", a.Kind != b.Kind},
		{"@type", a.Type != b.Type},
		{"@stream", a.Stream != b.Stream},
		{"@source", a.Source != b.Source},
		{"@cause", a.CausationID != b.CausationID},
		{"@business_time", !wire.Micro(a.BusinessTime).Equal(wire.Micro(b.BusinessTime))},
		{"@content_type", a.ContentType != b.ContentType},
	} {
		if f.differ {
			paths = append(paths, f.name)
		}
	}
	if a.ContentType == "application/json" && b.ContentType == a.ContentType {
		return append(paths, canon.Differ(a.Payload, b.Payload)...)
	}
	if string(a.Payload) != string(b.Payload) {
		paths = append(paths, "payload")
	}
	return paths
}
