package history

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/trail"
	"github.com/dejalog/deja/replay"
)

// index answers from a trail. Where the trail turns out to be damaged, it is built anew, and the answer goes on from where
// it was.
type index struct {
	builder
	last  []int64 // of each partition, what there was when the history was opened
	notes []string

	mu     sync.RWMutex
	trail  *trail.Trail
	closed []*trail.Trail // damaged ones, in which something may still be reading
	healed int
}

var _ steps = (*index)(nil)

// maxHealed bounds how often an open history's index is built anew: a disk that damages what is written would have it go on
// for ever.
const maxHealed = 3

func (x *index) present() *trail.Trail {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.trail
}

// heal returns nil if an answer can be tried again after an error that a trail gave: then there is another trail.
func (x *index) heal(ctx context.Context, bad *trail.Trail, err error) error {
	if !errors.Is(err, trail.ErrDamaged) {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.trail != bad { // another call has built it
		return nil
	}
	if x.healed++; x.healed > maxHealed {
		return fmt.Errorf("the index was built anew %d times: %w", maxHealed, err)
	}
	open := x.open
	if err := bad.Spoil(); err != nil {
		open = func(ctx context.Context) (*trail.Trail, []string, error) {
			return x.temporary(ctx, fmt.Sprintf("the index is damaged, and stays so: %v", err))
		}
	}
	t, notes, err := open(ctx)
	if err != nil {
		return fmt.Errorf("build the damaged index anew: %w", err)
	}
	for p, n := range x.last {
		if t.Mark(int32(p)).N < n {
			return errors.Join(fmt.Errorf("the history ended at decision %d of partition %d, and now ends at %d", n, p, t.Mark(int32(p)).N), t.Close())
		}
	}
	x.notes = append(x.notes, notes...)
	x.closed, x.trail = append(x.closed, bad), t
	return nil
}

// ask calls fn with the trail, and again if that is damaged.
func (x *index) ask(ctx context.Context, fn func(*trail.Trail) error) error {
	for {
		t := x.present()
		err := fn(t)
		if err == nil {
			return nil
		}
		if err := x.heal(ctx, t, err); err != nil {
			return err
		}
	}
}

func (x *index) upTo() []int64 { return append([]int64{}, x.last...) }

func (x *index) key(ctx context.Context, s deja.Stream, after, last int64, back bool) iter.Seq2[*Step, error] {
	return func(yield func(*Step, error) bool) {
		for i := range x.last {
			p := i
			if back {
				p = len(x.last) - 1 - i
			}
			lo, hi, wanted := after, min(last, x.last[p]), true
			err := x.ask(ctx, func(t *trail.Trail) error {
				for e, err := range t.Key(ctx, int32(p), s, lo, hi, back) {
					if err != nil {
						return err
					}
					if back {
						hi = e.N - 1
					} else {
						lo = e.N
					}
					if wanted = yield(x.step(e, new(Step)), nil); !wanted {
						return nil
					}
				}
				return nil
			})
			if err != nil {
				yield(nil, err)
			}
			if err != nil || !wanted {
				return
			}
		}
	}
}

func (x *index) scan(ctx context.Context, match func(deja.Stream) bool, last []int64) iter.Seq2[*Step, error] {
	return func(yield func(*Step, error) bool) {
		limit := x.upTo()
		for p := range limit {
			limit[p] = min(limit[p], last[p])
		}
		var from trail.From
		step := new(Step)
		err := x.ask(ctx, func(t *trail.Trail) error {
			for e, err := range t.Scan(ctx, match, limit, from) {
				if err != nil {
					return err
				}
				from = trail.From{Stream: e.Stream, Partition: e.Partition, N: e.N}
				if !yield(x.step(e, step), nil) {
					return nil
				}
			}
			return nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// step makes an entry a step.
func (x *index) step(e *trail.Entry, s *Step) *Step {
	events, writes := s.Events[:0], s.Writes[:0]
	if events == nil && len(e.Events) > 0 {
		events = make([]Event, 0, len(e.Events))
	}
	if writes == nil && len(e.Writes) > 0 {
		writes = make([]Write, 0, len(e.Writes))
	}
	*s = Step{
		Stream: e.Stream, N: e.N, Position: deja.Position{Topic: x.inbox, Partition: e.Partition, Offset: e.Offset}, ID: e.ID, Cause: e.Cause,
		Kind: e.Kind, Type: e.Type, Hash: e.Hash, Status: e.Status, Version: e.Version, Time: e.Time, BusinessTime: e.BusinessTime, Act: e.Act,
	}
	for i := range e.Events {
		events = append(events, Event(e.Events[i]))
	}
	for i := range e.Writes {
		writes = append(writes, Write(e.Writes[i]))
	}
	s.Events, s.Writes = events, writes
	return s
}

func (x *index) state(ctx context.Context, s deja.Stream, last int64) (st *deja.State, err error) {
	err = x.ask(ctx, func(t *trail.Trail) error {
		for p := range x.last {
			l, err := x.lookBack(ctx, t, int32(p), s, min(last, x.last[p]))
			if err != nil {
				return err
			}
			if st = l.state; st.Version > 0 {
				break
			}
		}
		return nil
	})
	return st, err
}

func (x *index) decision(ctx context.Context, at place) (s *Step, err error) {
	if at.partition < 0 || int(at.partition) >= len(x.last) || at.n < 1 || at.n > x.last[at.partition] {
		return nil, fmt.Errorf("decision %d of partition %d: %w", at.n, at.partition, replay.ErrNotFound)
	}
	err = x.ask(ctx, func(t *trail.Trail) error {
		e, err := t.Decision(trail.Place{Partition: at.partition, N: at.n})
		if err == nil {
			s = x.step(e, new(Step))
		}
		return err
	})
	return s, err
}

func (x *index) find(ctx context.Context, lo, hi deja.ID, most int) (ps []place, err error) {
	err = x.ask(ctx, func(t *trail.Trail) error {
		found, err := t.Find(ctx, lo, hi, most)
		ps = x.places(found)
		return err
	})
	return ps, err
}

func (x *index) caused(ctx context.Context, cause deja.ID) (ps []place, err error) {
	if cause.IsZero() {
		return nil, nil
	}
	err = x.ask(ctx, func(t *trail.Trail) error {
		found, err := t.Caused(ctx, cause)
		ps = x.places(found)
		return err
	})
	return ps, err
}

func (x *index) places(found []trail.Place) []place {
	var ps []place
	for _, f := range found {
		ps = append(ps, place{f.Partition, f.N})
	}
	return ps
}

func (x *index) decidedBy(ctx context.Context, partition int32, at time.Time) (n int64, err error) {
	err = x.ask(ctx, func(t *trail.Trail) error {
		n, err = t.DecidedBy(ctx, partition, at)
		n = min(n, x.last[partition])
		return err
	})
	return n, err
}

// info tells of the index.
func (x *index) info() Index {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := Index{Path: x.trail.Path(), Notes: append([]string{}, x.notes...)}
	out.Bytes, out.Segments = x.trail.Size()
	for p := range x.trail.Partitions() {
		out.Messages += x.trail.Mark(p).N
	}
	return out
}

func (x *index) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.trail.Close()
	for _, t := range x.closed {
		err = errors.Join(err, t.Close())
	}
	x.closed = nil
	return err
}

// openIndex opens the index of a history, and brings it up to the history's end.
func openIndex(ctx context.Context, cfg *Config, src *replay.Source) (*index, error) {
	return newBuilder(cfg, src).index(ctx, cfg.Build)
}

func (b *builder) index(ctx context.Context, build string) (*index, error) {
	x := &index{builder: *b}
	var err error
	if x.identity, err = x.identify(ctx, build); err != nil {
		return nil, err
	}
	if x.trail, x.notes, err = x.open(ctx); err != nil {
		return nil, err
	}
	for p := range x.trail.Partitions() {
		x.last = append(x.last, x.trail.Mark(p).N)
	}
	return x, nil
}
