package history

import (
	"context"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/replay"
)

// Limits is a part of a history: of each partition the decisions with After < N ≤ Last.
type Limits struct{ After, Last []int64 }

// All returns the limits of all that the history has.
func (h *History) All() Limits {
	last := h.steps.upTo()
	return Limits{After: make([]int64, len(last)), Last: last}
}

// Has reports whether a decision is within the limits.
func (l Limits) Has(s *Step) bool {
	p := s.Position.Partition
	return s.N > l.After[p] && s.N <= l.Last[p]
}

// Resolve returns what is up to a moment: all decisions that were made by then. The cut says it in positions, and has notes
// for the reader of an answer.
func (h *History) Resolve(ctx context.Context, at replay.Locator, by replay.Clock) (Limits, replay.Cut, error) {
	lim := h.All()
	cut, err := h.source.Cut(ctx, at, by)
	if err != nil {
		return lim, cut, err
	}
	for p := range lim.Last {
		lim.Last[p] = min(lim.Last[p], cut.Points[p].N)
	}
	return lim, cut, nil
}

// Range returns what is in a range. The notes are for the reader of an answer.
func (h *History) Range(ctx context.Context, r replay.Range, by replay.Clock) (Limits, []string, error) {
	lim := h.All()
	sp, err := h.source.Span(ctx, r, by)
	if err != nil {
		return lim, nil, err
	}
	for p := range lim.Last {
		lim.After[p], lim.Last[p] = sp.After[p], min(lim.Last[p], sp.Last[p])
	}
	return lim, sp.Notes, nil
}

// Step returns the message that a locator names: of an ID, as it was settled at last; else the one that was decided last up to
// there. Of several partitions it is of one that the locator speaks of, and of several of those the last in time.
func (h *History) Step(ctx context.Context, at replay.Locator) (*Step, error) {
	return h.StepBy(ctx, at, replay.Decided)
}

// StepBy returns what Step does, of a time by a clock.
func (h *History) StepBy(ctx context.Context, at replay.Locator, by replay.Clock) (*Step, error) {
	f, _, err := h.source.Message(ctx, at, by)
	if err != nil {
		return nil, err
	}
	return h.steps.decision(ctx, place{f.Partition, f.N})
}

// StateAt returns the state of a key at a moment, folded.
func (h *History) StateAt(ctx context.Context, s deja.Stream, at Limits) (*deja.State, error) {
	last, err := h.lastOf(ctx, s, at)
	if err != nil {
		return nil, err
	}
	return h.steps.state(ctx, s, last)
}

// lastOf returns the limit of the partition that a key is in; 0 if the history has nothing of it.
func (h *History) lastOf(ctx context.Context, s deja.Stream, at Limits) (int64, error) {
	for st, err := range h.steps.key(ctx, s, 0, slices.Max(h.steps.upTo()), false) {
		if err != nil {
			return 0, err
		}
		return at.Last[st.Position.Partition], nil
	}
	return 0, nil
}
