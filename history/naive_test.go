package history

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"sort"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/replay"
)

// folded is a history in memory, folded naively: what the index is compared with.
type folded struct {
	machine    *deja.Machine
	partitions [][]*Step // by partition, in order of N, from 1
	keys       map[deja.Stream][]*Step
	streams    []deja.Stream // in order
}

// foldAll reads all of a history.
func foldAll(ctx context.Context, src *replay.Source) (*folded, error) {
	f := &folded{machine: src.Machine(), partitions: make([][]*Step, src.Partitions()), keys: map[deja.Stream][]*Step{}}
	states := map[deja.Stream]*deja.State{}
	for p := range src.Partitions() {
		for e, err := range src.Decisions(ctx, p, 1) {
			if err != nil {
				return nil, err
			}
			s, err := f.fold(states, e)
			if err != nil {
				return nil, fmt.Errorf("decision %d of partition %d: %w", e.N, p, err)
			}
			f.partitions[p] = append(f.partitions[p], s)
			f.keys[s.Stream] = append(f.keys[s.Stream], s)
		}
	}
	for s := range f.keys {
		f.streams = append(f.streams, s)
	}
	slices.SortFunc(f.streams, deja.Stream.Compare)
	return f, nil
}

// fold makes the step of a decision, and folds it.
func (f *folded) fold(states map[deja.Stream]*deja.State, e *journal.Entry) (*Step, error) {
	s := &Step{
		Stream: e.Cause.Stream, N: e.N, Position: e.Cause.Position, ID: e.Cause.ID, Cause: e.Cause.CausationID, Kind: e.Cause.Kind,
		Type: e.Cause.Type, Hash: binary.BigEndian.Uint64(e.Hash[:8]), Status: e.Decided.Status, Version: e.Version,
		Time: e.Time, BusinessTime: e.Cause.BusinessTime, Act: e.Act,
	}
	if len(e.Decided.Events) == 0 {
		return s, nil
	}
	st := states[s.Stream]
	if st == nil {
		var err error
		if st, err = f.machine.NewState(s.Stream); err != nil {
			return nil, err
		}
		states[s.Stream] = st
	}
	before, err := f.fields(st)
	if err != nil {
		return nil, err
	}
	for i := range e.Decided.Events {
		ev := &e.Decided.Events[i]
		if err := f.machine.Fold(st, ev); err != nil {
			return nil, err
		}
		s.Events = append(s.Events, Event{ev.Type, ev.Payload})
	}
	after, err := f.fields(st)
	if err != nil {
		return nil, err
	}
	for _, c := range canon.Diff(before, after) {
		s.Writes = append(s.Writes, Write{c.Path, c.Old, c.New})
	}
	return s, nil
}

func (f *folded) fields(st *deja.State) ([]canon.Field, error) {
	if st.Version == 0 {
		return nil, nil
	}
	data, err := st.Encode()
	if err != nil {
		return nil, err
	}
	return f.machine.Flatten(nil, st.Stream.Aggregate, data)
}

func (f *folded) upTo() []int64 {
	last := make([]int64, len(f.partitions))
	for p := range last {
		last[p] = int64(len(f.partitions[p]))
	}
	return last
}

func (f *folded) key(_ context.Context, s deja.Stream, after, last int64, back bool) iter.Seq2[*Step, error] {
	return func(yield func(*Step, error) bool) {
		all := f.keys[s]
		for i := range all {
			st := all[i]
			if back {
				st = all[len(all)-1-i]
			}
			if st.N > after && st.N <= last && !yield(st, nil) {
				return
			}
		}
	}
}

func (f *folded) scan(_ context.Context, match func(deja.Stream) bool, last []int64) iter.Seq2[*Step, error] {
	return func(yield func(*Step, error) bool) {
		for _, s := range f.streams {
			if !match(s) {
				continue
			}
			for _, st := range f.keys[s] {
				if st.N <= last[st.Position.Partition] && !yield(st, nil) {
					return
				}
			}
		}
	}
}

func (f *folded) state(ctx context.Context, s deja.Stream, last int64) (*deja.State, error) {
	st, err := f.machine.NewState(s)
	if err != nil {
		return nil, err
	}
	for step, err := range f.key(ctx, s, 0, last, false) {
		if err != nil {
			return nil, err
		}
		for _, ev := range step.Events {
			if err := f.machine.Fold(st, &deja.Envelope{Type: ev.Type, Stream: s, Payload: ev.Payload}); err != nil {
				return nil, err
			}
		}
	}
	return st, nil
}

func (f *folded) decision(_ context.Context, at place) (*Step, error) {
	if at.n < 1 || at.n > int64(len(f.partitions[at.partition])) {
		return nil, fmt.Errorf("decision %d of partition %d: %w", at.n, at.partition, replay.ErrNotFound)
	}
	return f.partitions[at.partition][at.n-1], nil
}

func (f *folded) where(match func(*Step) bool) []*Step {
	var found []*Step
	for _, p := range f.partitions {
		for _, s := range p {
			if match(s) {
				found = append(found, s)
			}
		}
	}
	return found
}

func placesOf(ss []*Step) []place {
	var ps []place
	for _, s := range ss {
		ps = append(ps, place{s.Position.Partition, s.N})
	}
	return ps
}

func (f *folded) find(_ context.Context, lo, hi deja.ID, most int) ([]place, error) {
	found := f.where(func(s *Step) bool { return bytes.Compare(s.ID[:], lo[:]) >= 0 && bytes.Compare(s.ID[:], hi[:]) <= 0 })
	slices.SortStableFunc(found, func(a, b *Step) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return placesOf(found[:min(most, len(found))]), nil
}

func (f *folded) caused(_ context.Context, cause deja.ID) ([]place, error) {
	return placesOf(f.where(func(s *Step) bool { return s.Cause == cause })), nil
}

func (f *folded) decidedBy(_ context.Context, partition int32, t time.Time) (int64, error) {
	all := f.partitions[partition]
	return int64(sort.Search(len(all), func(i int) bool { return all[i].Time.After(t) })), nil
}

func (f *folded) close() error { return nil }
