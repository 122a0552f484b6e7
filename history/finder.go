package history

import (
	"context"
	"encoding/binary"
	"iter"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/replay"
)

// finder finds decisions for locators, by their steps.
type finder struct{ h *History }

var _ replay.Index = (*finder)(nil)

func found(s *Step) replay.Found {
	return replay.Found{
		Stream: s.Stream, Partition: s.Position.Partition, N: s.N, ID: s.ID, Cause: s.Cause,
		Applied: s.Status == deja.Applied, BusinessTime: s.BusinessTime,
	}
}

// Last implements [replay.Index].
func (f *finder) Last(_ context.Context, partition int32) (int64, error) {
	return f.h.steps.upTo()[partition], nil
}

// Decision implements [replay.Index].
func (f *finder) Decision(ctx context.Context, partition int32, n int64) (replay.Found, error) {
	s, err := f.h.steps.decision(ctx, place{partition, n})
	if err != nil {
		return replay.Found{}, err
	}
	return found(s), nil
}

// Messages implements [replay.Index]. A message has several decisions where it was parked, or repeated with other content.
func (f *finder) Messages(ctx context.Context, lo, hi deja.ID, most int) ([]replay.Found, error) {
	for ask := 2 * most; ; ask *= 4 {
		places, err := f.h.steps.find(ctx, lo, hi, ask)
		if err != nil {
			return nil, err
		}
		var all []replay.Found
		for _, at := range places {
			s, err := f.h.steps.decision(ctx, at)
			if err != nil {
				return nil, err
			}
			switch last := len(all) - 1; {
			case s.Status == deja.Conflicted:
			case last >= 0 && all[last].ID == s.ID && all[last].Partition == s.Position.Partition:
				if s.N > all[last].N {
					all[last] = found(s)
				}
			default:
				all = append(all, found(s))
			}
		}
		// The last one may have further decisions that were not asked for.
		if len(places) < ask || len(all) > most {
			return all[:min(len(all), most)], nil
		}
	}
}

// Version implements [replay.Index]. A stream's version never falls, so the decision that brought it there is searched for.
func (f *finder) Version(ctx context.Context, s deja.Stream, version int64) (at replay.Found, highest int64, err error) {
	last, err := f.versioned(ctx, s, slices.Max(f.h.steps.upTo()))
	if err != nil || last == nil || last.Version < version {
		return at, highestOf(last), err
	}
	n := sort.Search(int(last.N), func(i int) bool {
		if err != nil {
			return true
		}
		var st *Step
		st, err = f.versioned(ctx, s, int64(i)+1)
		return st != nil && st.Version >= version
	})
	if err == nil {
		at, err = f.Decision(ctx, last.Position.Partition, int64(n)+1)
	}
	return at, last.Version, err
}

func highestOf(last *Step) int64 {
	if last == nil {
		return 0
	}
	return last.Version
}

// versioned returns a stream's last step up to a number that knows the stream's version; nil if there is none.
func (f *finder) versioned(ctx context.Context, s deja.Stream, last int64) (*Step, error) {
	for st, err := range f.h.steps.key(ctx, s, 0, last, true) {
		if err != nil || st.Status != deja.Conflicted && st.Status != deja.DeadLetter {
			return st, err
		}
	}
	return nil, nil //nolint:nilnil // there is none
}

// Key implements [replay.Index].
func (f *finder) Key(ctx context.Context, s deja.Stream, last []int64, back bool) iter.Seq2[replay.Found, error] {
	return func(yield func(replay.Found, error) bool) {
		limit, err := f.h.lastOf(ctx, s, Limits{Last: last})
		if err != nil {
			yield(replay.Found{}, err)
			return
		}
		for st, err := range f.h.steps.key(ctx, s, 0, limit, back) {
			if err != nil {
				yield(replay.Found{}, err)
				return
			}
			if !yield(found(st), nil) {
				return
			}
		}
	}
}

// DecidedBy implements [replay.Index].
func (f *finder) DecidedBy(ctx context.Context, partition int32, t time.Time) (int64, error) {
	return f.h.steps.decidedBy(ctx, partition, t)
}

// Handled implements [replay.Index]: both positions rise with the decisions.
func (f *finder) Handled(ctx context.Context, at deja.Position) (int64, error) {
	var failed error
	n := sort.Search(int(f.h.steps.upTo()[at.Partition]), func(i int) bool {
		if failed != nil {
			return true
		}
		var beyond bool
		beyond, failed = f.beyond(ctx, at, int64(i)+1)
		return beyond
	})
	return int64(n), failed
}

// beyond reports whether a decision was made after a position. The journal is asked only where the step does not tell.
func (f *finder) beyond(ctx context.Context, at deja.Position, n int64) (bool, error) {
	s, err := f.h.steps.decision(ctx, place{at.Partition, n})
	if err != nil {
		return false, err
	}
	inbox := !strings.HasSuffix(at.Topic, "journal")
	if inbox && s.Act.IsZero() {
		return s.Position.Offset > at.Offset, nil
	}
	e, err := f.h.Entry(ctx, s)
	if err != nil || inbox {
		return err == nil && e.Through() > at.Offset, err
	}
	return e.Offset > at.Offset, nil
}

// Entry implements [replay.Index].
func (f *finder) Entry(ctx context.Context, partition int32, n int64) (journal.Entry, error) {
	s, err := f.h.steps.decision(ctx, place{partition, n})
	if err != nil {
		return journal.Entry{}, err
	}
	return f.h.Entry(ctx, s)
}

// Entry reads a step's decision: what the journal has beyond the step.
func (h *History) Entry(ctx context.Context, s *Step) (journal.Entry, error) {
	return journal.FindOf(ctx, h.log, h.machine.Name(), s.Position.Partition, s.N, func(e *journal.Entry) bool {
		return e.Cause.ID == s.ID && e.Cause.Position.Offset == s.Position.Offset && e.Time.Equal(s.Time) && e.Act == s.Act &&
			e.Version == s.Version && binary.BigEndian.Uint64(e.Hash[:8]) == s.Hash
	})
}
