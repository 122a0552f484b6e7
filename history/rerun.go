package history

import (
	"context"
	"fmt"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/wire"
)

// rerun decides messages of one key again, some of them or all, from the key's beginning on and as often as it takes. It does not
// look at their duplicates and conflicts: a message that is left out never came.
type rerun struct {
	h        *History
	stream   deja.Stream
	build    string
	journal  driver.Topic
	steps    []*Step // how each was settled first, in the order of the inbox
	messages []relive.Message
	spent    int64 // messages decided so far
	most     int64
}

// newRerun reads the messages of a key up to a decision.
func (h *History) newRerun(ctx context.Context, s deja.Stream, last int64, most int64) (*rerun, error) {
	r := &rerun{h: h, stream: s, most: most}
	var err error
	if r.journal, err = h.log.Topic(ctx, wire.Journal(h.machine.Name())); err != nil {
		return nil, err
	}
	for st, err := range h.steps.key(ctx, s, 0, last, false) {
		if err != nil {
			return nil, err
		}
		if st.Status != deja.Conflicted && st.Act.IsZero() { // what an act decides again was parked at its own place
			r.steps = append(r.steps, st)
		}
	}
	slices.SortFunc(r.steps, func(a, b *Step) int { return int(a.Position.Offset - b.Position.Offset) })
	w, err := r.world(ctx, nil)
	if err != nil {
		return nil, err
	}
	in := inboxReader{h: h}
	for _, st := range r.steps {
		rec, err := in.at(ctx, st.Position)
		if err != nil {
			return nil, err
		}
		m := w.Prepare(rec)
		if st.Status == deja.Parked {
			d, err := h.source.Decision(ctx, st.Position.Partition, st.N)
			if err != nil {
				return nil, err
			}
			if n := diedOf(&d); n > 0 {
				m = w.Killed(rec, n)
			}
		}
		r.messages = append(r.messages, m.NotBefore(st.Time)) // others, which are not lived, may have moved the clock on
	}
	return r, nil
}

func (r *rerun) world(ctx context.Context, decided func(relive.Decision)) (*relive.World, error) {
	return relive.New(ctx, relive.Config{
		Machine: r.h.machine, Partitions: r.h.source.Partitions(), MaxRecord: r.journal.MaxRecord, Build: r.build, Decided: decided,
	}, relive.Past{})
}

// numbers returns the numbers from 0 on, so many.
func numbers(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// affords reports whether so many messages may be decided yet.
func (r *rerun) affords(n int) bool { return r.spent+int64(n) <= r.most }

// live decides some of the messages, and calls fn with each decision of the key.
func (r *rerun) live(ctx context.Context, some []int, fn func(*Step, *relive.Decision) error) error {
	r.spent += int64(len(some))
	var failed error
	w, err := r.world(ctx, func(d relive.Decision) {
		if failed == nil && d.Cause.Stream == r.stream && d.Decided.Status != deja.Conflicted {
			failed = fn(stepOf(&d), &d)
		}
	})
	if err != nil {
		return err
	}
	ms := make([]relive.Message, len(some))
	for i, n := range some {
		ms[i] = r.messages[n]
	}
	if err := w.Live(ctx, ms); err != nil {
		return fmt.Errorf("decide messages of %s again: %w", r.stream, err)
	}
	return failed
}

// stepOf returns a decision that is made now as a step.
func stepOf(d *relive.Decision) *Step {
	s := &Step{
		Stream: d.Cause.Stream, N: d.N, Position: d.Cause.Position, ID: d.Cause.ID, Cause: d.Cause.CausationID, Kind: d.Cause.Kind,
		Type: d.Cause.Type, Status: d.Decided.Status, Version: d.Version, Time: d.Time, BusinessTime: d.Cause.BusinessTime, Act: d.Act,
	}
	for i := range d.Decided.Events {
		ev := &d.Decided.Events[i]
		s.Events = append(s.Events, Event{ev.Type, ev.Payload})
	}
	for _, c := range d.Changes {
		s.Writes = append(s.Writes, Write{c.Path, c.Old, c.New})
	}
	return s
}

// holds decides some of the messages, and reports whether a predicate holds after the last of them.
func (r *rerun) holds(ctx context.Context, p Predicate, some []int) (holds bool, err error) {
	along, err := p.along(r.h.machine, r.stream)
	if err != nil {
		return false, err
	}
	err = r.live(ctx, some, func(s *Step, _ *relive.Decision) (err error) {
		holds, err = along.step(s)
		return err
	})
	return holds, err
}
