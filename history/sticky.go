package history

import (
	"context"
	"iter"
	"math"
	"slices"

	"github.com/dejalog/deja"
)

// WhenSticky is When for a predicate that stays true once it is: it looks at few messages, by binary search, and finds at most
// one interval of a key, without its extremes. Where the predicate does become false again the answer can be wrong: all that
// recovered is missed, and the interval found may begin too late.
func (h *History) WhenSticky(ctx context.Context, s Scope, p Predicate, lim Limits) iter.Seq2[*Holding, error] {
	return func(yield func(*Holding, error) bool) {
		lim := h.within(lim)
		for key, err := range h.keys(ctx, s, lim) {
			var found *Holding
			if err == nil {
				found, err = h.sticky(ctx, key, p, lim)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(found, nil) {
				return
			}
		}
	}
}

// keys yields the keys of a scope that have messages within limits, in order; one that the scope names, whatever it has.
func (h *History) keys(ctx context.Context, s Scope, lim Limits) iter.Seq2[deja.Stream, error] {
	return func(yield func(deja.Stream, error) bool) {
		key, single := s.Single()
		if single {
			yield(key, nil)
			return
		}
		for step, err := range h.steps.scan(ctx, s.Matches, lim.Last) {
			if err == nil && step.Stream == key {
				continue
			}
			if err != nil {
				yield(key, err)
				return
			}
			if key = step.Stream; !yield(key, nil) {
				return
			}
		}
	}
}

// sticky searches the past of a key.
func (h *History) sticky(ctx context.Context, key deja.Stream, p Predicate, lim Limits) (*Holding, error) {
	found := &Holding{Key: key, Intervals: []Interval{}, Scan: ScanSome, Assumed: "sticky", Complete: true}
	last, err := h.before(ctx, key, lim.Last[h.partition(key)])
	if err != nil || last == nil {
		return found, err
	}
	found.UpTo = last.Position
	if found.Complete, err = h.untrimmed(ctx, key); err != nil {
		return found, err
	}
	first := last
	if holds, err := h.holdsAfter(ctx, last, p); err != nil || !holds {
		return found, err
	}
	for good := int64(0); good+1 < first.N; {
		middle := good + (first.N-good)/2
		s, err := h.before(ctx, key, middle)
		if err != nil {
			return nil, err
		}
		holds := false
		if s != nil && s.N > good {
			if holds, err = h.holdsAfter(ctx, s, p); err != nil {
				return nil, err
			}
		}
		if holds {
			first = s
		} else {
			good = middle
		}
	}
	from, err := h.message(ctx, first)
	found.Intervals = []Interval{{From: from}}
	return found, err
}

// before returns the last message of a key that recorded something, of the decisions up to last; nil if there is none.
func (h *History) before(ctx context.Context, key deja.Stream, last int64) (*Step, error) {
	for s, err := range h.steps.key(ctx, key, 0, last, true) {
		if err != nil {
			return nil, err
		}
		if len(s.Events) > 0 {
			return s.clone(), nil
		}
	}
	return nil, ctx.Err()
}

// untrimmed reports whether the history has all of a key's messages.
func (h *History) untrimmed(ctx context.Context, key deja.Stream) (bool, error) {
	for s, err := range h.steps.key(ctx, key, 0, math.MaxInt64, false) {
		if err != nil {
			return false, err
		}
		if s.Version > 0 {
			return s.Version <= int64(len(s.Events)), nil
		}
	}
	return true, ctx.Err()
}

// holdsAfter evaluates a predicate after a message.
func (h *History) holdsAfter(ctx context.Context, s *Step, p Predicate) (bool, error) {
	prev, err := h.steps.state(ctx, s.Stream, s.N-1)
	if err != nil {
		return false, err
	}
	st, err := h.steps.state(ctx, s.Stream, s.N)
	if err != nil {
		return false, err
	}
	holds, err := p.eval(prev, st, slices.Clone(s.Events)...)
	if err != nil {
		return false, describeError(s, err)
	}
	return holds, nil
}
