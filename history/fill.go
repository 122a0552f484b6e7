package history

import (
	"container/list"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/trail"
)

// filler folds a partition's decisions, and adds them to a trail with what each changed.
type filler struct {
	*builder
	trail     *trail.Trail
	out       *trail.Builder
	partition int32
	states    *states
	entry     trail.Entry // used again for each decision
	after     []canon.Field
}

// run adds what the journal has beyond the trail.
func (f *filler) run(ctx context.Context) error {
	begun := false
	for e, err := range f.source.After(ctx, f.partition, f.trail.Mark(f.partition)) {
		if err != nil {
			return err
		}
		if !begun {
			expect, err := f.recordsAfter(ctx, f.trail, f.partition)
			if err != nil {
				return err
			}
			if err := f.out.Begin(f.partition, max(expect, 1)); err != nil {
				return err
			}
			begun = true
		}
		if err := f.add(ctx, e); err != nil {
			return fmt.Errorf("decision %d of partition %d: %w", e.N, f.partition, err)
		}
		if f.done++; f.done%f.every == 0 {
			f.report()
		}
	}
	return f.out.Flush()
}

// add folds a decision, and adds it.
func (f *filler) add(ctx context.Context, d *journal.Entry) error {
	e := &f.entry
	*e = trail.Entry{
		Stream: d.Cause.Stream, N: d.N, Offset: d.Cause.Position.Offset, ID: d.Cause.ID, Cause: d.Cause.CausationID, Act: d.Act,
		Kind: d.Cause.Kind, Status: d.Decided.Status, Type: d.Cause.Type, Hash: binary.BigEndian.Uint64(d.Hash[:8]), Version: d.Version,
		Time: d.Time, BusinessTime: d.Cause.BusinessTime, Events: e.Events[:0], Writes: e.Writes[:0],
	}
	for i := range d.Decided.Events {
		e.Events = append(e.Events, trail.Event{Type: d.Decided.Events[i].Type, Payload: d.Decided.Events[i].Payload})
	}
	l := f.states.get(e.Stream)
	if l == nil && len(e.Events) > 0 {
		var err error
		if l, err = f.load(ctx, e.Stream); err != nil {
			return err
		}
	}
	if l != nil {
		if err := f.fold(l, d); err != nil {
			return err
		}
		f.states.used(l, d.N, f.out.Persisted())
	}
	return f.out.Add(e, d.After())
}

// load folds the state of a stream that is not kept. What was not persisted yet is always kept.
func (f *filler) load(ctx context.Context, s deja.Stream) (*live, error) {
	l, err := f.lookBack(ctx, f.trail, f.partition, s, f.out.Persisted())
	if err != nil {
		return nil, err
	}
	if l.data, l.fields, err = f.fields(nil, l.state); err != nil {
		return nil, err
	}
	f.states.put(s, l)
	return l, nil
}

// fields returns a state's JSON and its fields; nothing at version 0.
func (b *builder) fields(dst []canon.Field, st *deja.State) ([]byte, []canon.Field, error) {
	if st.Version == 0 {
		return nil, dst, nil
	}
	data, err := st.Encode()
	if err != nil {
		return nil, dst, err
	}
	dst, err = b.machine.Flatten(dst, st.Stream.Aggregate, data)
	return data, dst, err
}

// fold applies a decision's events, and notes what they write; now and then also what the state was before.
func (f *filler) fold(l *live, d *journal.Entry) error {
	e := &f.entry
	if l.passed >= f.point && (l.bytes >= len(l.data) || l.passed >= pointMost) && l.state.Version > 0 {
		e.Point, e.PointVersion = l.data, l.state.Version
		l.passed, l.bytes = 0, 0
	}
	l.pass(e.Events)
	if len(e.Events) == 0 {
		return nil
	}
	for i := range d.Decided.Events {
		ev := &d.Decided.Events[i]
		if err := f.machine.Fold(l.state, ev); err != nil {
			return err
		}
		if l.state.Version != ev.Version {
			return fmt.Errorf("%s is at version %d, its event says %d: %w", ev.Stream, l.state.Version, ev.Version, journal.ErrForked)
		}
	}
	data, after, err := f.fields(f.after[:0], l.state)
	if err != nil {
		return err
	}
	for _, c := range canon.Diff(l.fields, after) {
		e.Writes = append(e.Writes, trail.Write{Path: c.Path, Old: c.Old, New: c.New})
	}
	l.data, l.fields, f.after = data, after, l.fields
	return nil
}

// live is a state in the making, and what it was last.
type live struct {
	state  *deja.State
	data   []byte
	fields []canon.Field
	passed int // decisions since the state was noted
	bytes  int // of their events

	stream  deja.Stream
	n       int64 // the decision that used it last
	counted int   // bytes of data that states counts
	place   *list.Element
}

func (l *live) pass(events []trail.Event) {
	l.passed++
	for i := range events {
		l.bytes += len(events[i].Payload)
	}
}

// Bounds of what is kept: states, and bytes of their JSON. In memory a state takes several times that.
const (
	maxLive      = 200_000
	maxLiveBytes = 64 << 20
)

// states are those of the streams that were used last.
type states struct {
	most  int
	bytes int
	live  map[deja.Stream]*live
	order *list.List // the last used first
}

func newStates(most int) *states {
	return &states{most: most, live: map[deja.Stream]*live{}, order: list.New()}
}

// get returns a stream's state; nil if it is not kept.
func (s *states) get(stream deja.Stream) *live { return s.live[stream] }

func (s *states) put(stream deja.Stream, l *live) {
	l.stream, l.place = stream, s.order.PushFront(l)
	s.live[stream] = l
}

// used notes that decision n used a state. States go that were used longest ago, where there are too many, and where the trail
// has all that made them.
func (s *states) used(l *live, n, persisted int64) {
	l.n = n
	s.bytes += len(l.data) - l.counted
	l.counted = len(l.data)
	s.order.MoveToFront(l.place)
	for len(s.live) > s.most || s.bytes > maxLiveBytes {
		oldest := s.order.Back().Value.(*live)
		if oldest.n > persisted || oldest == l {
			return
		}
		s.order.Remove(oldest.place)
		s.bytes -= oldest.counted
		delete(s.live, oldest.stream)
	}
}
