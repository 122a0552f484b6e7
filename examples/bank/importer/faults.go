package importer

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// faults is a log handler that passes on what the engine warns of, and remembers the last fault: a service tries again
// for ever, an import must come to an end.
type faults struct {
	slog.Handler

	mu   sync.Mutex
	last error
	at   time.Time
}

// Handle implements [slog.Handler].
func (f *faults) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			f.mu.Lock()
			f.last, f.at = err, r.Time
			f.mu.Unlock()
		}
		return true
	})
	return f.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (f *faults) WithAttrs([]slog.Attr) slog.Handler { return f }

// WithGroup implements [slog.Handler].
func (f *faults) WithGroup(string) slog.Handler { return f }

// since returns the last fault, if there was one after t.
func (f *faults) since(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at.Before(t) {
		return nil
	}
	return f.last
}
