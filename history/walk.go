package history

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/replay"
)

// Steps yields the messages of a key up to a point, in order; the last first, if back says so.
func (h *History) Steps(ctx context.Context, p Point, back bool) iter.Seq2[*Step, error] {
	return h.steps.key(ctx, p.Stream, 0, p.n(), back)
}

// Decided returns the message of a decision.
func (h *History) Decided(ctx context.Context, partition int32, n int64) (*Step, error) {
	return h.steps.decision(ctx, place{partition, n})
}

// Next returns the message of the same key after a step. Where there is none, as in all that leads from a step to another one,
// the error wraps [replay.ErrNotFound].
func (h *History) Next(ctx context.Context, s *Step) (*Step, error) {
	return h.seek(ctx, s, false, fmt.Sprintf("this is the last message of %s", s.Stream), func(*Step) bool { return true })
}

// Before returns the message of the same key before a step.
func (h *History) Before(ctx context.Context, s *Step) (*Step, error) {
	return h.seek(ctx, s, true, fmt.Sprintf("this is the first message of %s", s.Stream), func(*Step) bool { return true })
}

// NextWrite returns the next message of the same key that wrote a field or one below it; the one before, if back says so.
func (h *History) NextWrite(ctx context.Context, s *Step, path string, back bool) (*Step, error) {
	where := "later"
	if back {
		where = "earlier"
	}
	return h.seek(ctx, s, back, fmt.Sprintf("no %s message of %s wrote %s", where, s.Stream, path), func(other *Step) bool {
		return slices.ContainsFunc(other.Writes, func(w Write) bool { return within(w.Path, path) })
	})
}

func (h *History) seek(ctx context.Context, s *Step, back bool, none string, match func(*Step) bool) (*Step, error) {
	after, last := s.N, int64(math.MaxInt64)
	if back {
		after, last = 0, s.N-1
	}
	for other, err := range h.steps.key(ctx, s.Stream, after, last, back) {
		if err != nil || match(other) {
			return other, err
		}
	}
	return nil, fmt.Errorf("%w: %s", replay.ErrNotFound, none)
}

// AtVersion returns the message that brought a key to a version.
func (h *History) AtVersion(ctx context.Context, s deja.Stream, version int64) (*Step, error) {
	f, highest, err := (&finder{h}).Version(ctx, s, version)
	if err != nil {
		return nil, err
	}
	if f.N == 0 {
		return nil, fmt.Errorf("%w: %s has versions 1 to %d", replay.ErrNotFound, s, highest)
	}
	return h.steps.decision(ctx, place{f.Partition, f.N})
}

// Cause returns the message that caused a step's.
func (h *History) Cause(ctx context.Context, s *Step) (*Step, error) {
	if s.Cause.IsZero() {
		return nil, fmt.Errorf("%w: nothing caused %s: it came from outside", replay.ErrNotFound, s.ID)
	}
	return h.first(ctx, s.Cause)
}
