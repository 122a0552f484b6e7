// Package replay folds a service's recorded decisions again: into memory, or into a clean database, up to any moment
// of its past. It never decides, but to verify, and it has nothing in its hands through which anything could leave
// the process: no performer, no client, no store but the one it fills.
package replay

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// Config says which history is replayed. Nothing is written to log and store.
type Config struct {
	Service *deja.Service
	Log     driver.Log

	// Store has the ledger, which finds messages by ID, and vouches for the last record of each partition's chain. Nil: the
	// journal is searched instead, and the last record has no witness.
	Store driver.Reader
}

// A Source is a service's history, read-only. It is safe for concurrent use.
type Source struct {
	machine    *deja.Machine
	log        driver.Log
	store      driver.Reader // nil: there is a log alone
	index      Index         // nil: decisions are found in the journal
	partitions int32

	mu    sync.Mutex
	marks map[int32][]driver.Logged // of partitions that were read to the end: one right before every markEvery-th decision
}

// Open returns a service's history. It does not read it yet.
func Open(ctx context.Context, cfg Config) (*Source, error) {
	m, err := deja.Compile(cfg.Service)
	if err != nil {
		return nil, err
	}
	topic, err := cfg.Log.Topic(ctx, wire.Journal(m.Name()))
	if err != nil {
		return nil, fmt.Errorf("journal of %s: %w", m.Name(), err)
	}
	return &Source{
		machine: m, log: cfg.Log, store: cfg.Store, partitions: topic.Partitions, marks: map[int32][]driver.Logged{},
	}, nil
}

// Machine returns the service's machine.
func (s *Source) Machine() *deja.Machine { return s.machine }

// Partitions returns how many partitions the history has.
func (s *Source) Partitions() int32 { return s.partitions }

const (
	scanChunk = 2000 // journal records that are read at once
	markEvery = 1000 // decisions between two marks
)

// Decisions yields the decisions of a partition in order, from a number on and as far as they are there. Where the log
// no longer has the beginning it begins with the first that is left.
func (s *Source) Decisions(ctx context.Context, partition int32, first int64) iter.Seq2[*journal.Entry, error] {
	return func(yield func(*journal.Entry, error) bool) {
		from, err := s.mark(ctx, partition, first)
		if err == nil {
			err = s.scan(ctx, partition, from, func(e *journal.Entry) (bool, error) {
				return e.N < first || yield(e, nil), nil
			})
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// After yields the decisions of a partition behind a mark, in order, such as [journal.Entry.After] gave. Behind the zero
// mark it yields all there ever were; the error wraps [driver.ErrTrimmed] if the log no longer has the first.
func (s *Source) After(ctx context.Context, partition int32, mark driver.Logged) iter.Seq2[*journal.Entry, error] {
	return func(yield func(*journal.Entry, error) bool) {
		var err error
		if mark.N == 0 {
			mark, err = s.whole(ctx, partition)
		}
		if err == nil {
			err = s.scan(ctx, partition, mark, func(e *journal.Entry) (bool, error) { return yield(e, nil), nil })
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// Decision returns decision n of a partition.
func (s *Source) Decision(ctx context.Context, partition int32, n int64) (journal.Entry, error) {
	if s.index != nil {
		if last, err := s.index.Last(ctx, partition); err == nil && n <= last {
			return s.index.Entry(ctx, partition, n)
		}
	}
	for e, err := range s.Decisions(ctx, partition, n) {
		if err != nil {
			return journal.Entry{}, err
		}
		if e.N == n {
			return *e, nil
		}
		break
	}
	return journal.Entry{}, fmt.Errorf("decision %d is not in %s of partition %d: %w", n, wire.Journal(s.machine.Name()), partition, journal.ErrGap)
}

// mark returns a place in the journal from which decision n is reached soon.
func (s *Source) mark(ctx context.Context, partition int32, n int64) (driver.Logged, error) {
	begin, err := journal.Begin(ctx, s.log, s.machine.Name(), partition)
	if err != nil || n <= begin.N+1 {
		return begin, err
	}
	if s.store != nil {
		at, err := s.store.Progress(ctx, partition)
		if err != nil {
			return begin, err
		}
		if at.Incarnation.Number == 0 && at.N > 0 { // each number is there once, or in copies: the first will do
			e, err := journal.Find(ctx, s.log, s.machine.Name(), partition, min(n, at.N), 0)
			if err != nil {
				return begin, err
			}
			return e.Before(), nil
		}
	}
	s.mu.Lock()
	marks, read := s.marks[partition]
	s.mu.Unlock()
	if !read {
		if err := s.scan(ctx, partition, begin, func(*journal.Entry) (bool, error) { return true, nil }); err != nil {
			return begin, err
		}
		s.mu.Lock()
		marks = s.marks[partition]
		s.mu.Unlock()
	}
	for _, m := range marks {
		if m.N >= n {
			break
		}
		begin = m
	}
	return begin, nil
}

// whole returns the place before decision 1, or an error that wraps [driver.ErrTrimmed] if the log no longer has it.
func (s *Source) whole(ctx context.Context, partition int32) (driver.Logged, error) {
	at, err := journal.Begin(ctx, s.log, s.machine.Name(), partition)
	if err == nil && at.N > 0 {
		err = fmt.Errorf("%w: %s begins with decision %d of partition %d; begin at a snapshot that has those before, or read an archive of them",
			driver.ErrTrimmed, wire.Journal(s.machine.Name()), at.N+1, partition)
	}
	return at, err
}

// scan calls fn with the decisions of a partition from a point on, in order, until it returns false. Reading,
// decoding and checking the chain run ahead of fn. The places passed are kept, if it comes from the log's beginning to its
// end.
func (s *Source) scan(ctx context.Context, partition int32, from driver.Logged, fn func(*journal.Entry) (bool, error)) error {
	// The chain vouches for every record but the last; for that one the store does. It is asked first, as a service may
	// be writing both.
	var known driver.Progress
	var err error
	if s.store != nil {
		if known, err = s.store.Progress(ctx, partition); err != nil {
			return err
		}
	}
	_, end, err := s.log.Bounds(ctx, wire.Journal(s.machine.Name()), partition)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type chunk struct {
		entries []journal.Entry
		err     error
	}
	ahead := make(chan chunk, 2)
	go func() {
		defer close(ahead)
		r := journal.NewReader(s.log, s.machine.Name(), partition, from)
		for {
			entries, err := r.Next(ctx, end, scanChunk)
			if len(entries) == 0 && err == nil {
				return
			}
			select {
			case ahead <- chunk{entries, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	last := from.N
	var marks []driver.Logged
	for c := range ahead {
		for i := range c.entries {
			e := &c.entries[i]
			last = e.N
			if e.N%markEvery == 0 || len(marks) == 0 {
				marks = append(marks, e.Before())
			}
			more, err := fn(e)
			if err == nil && e.N == known.N && e.Chain != known.Chain {
				err = fmt.Errorf("%w: decision %d in the journal is not the one that the store was given", journal.ErrForked, e.N)
			}
			if err != nil || !more {
				return err
			}
		}
		if c.err != nil {
			return c.err
		}
	}
	if j, ok := s.store.(driver.Joint); ok && j.Joint(s.log) && last < known.N && ctx.Err() == nil {
		return fmt.Errorf("%w: the journal ends at decision %d, the store was given %d", journal.ErrGap, last, known.N)
	}
	if begin, err := journal.Begin(ctx, s.log, s.machine.Name(), partition); err == nil && from.N <= begin.N {
		s.mu.Lock()
		s.marks[partition] = marks
		s.mu.Unlock()
	}
	return ctx.Err()
}

// size returns how many journal records all partitions have.
func (s *Source) size(ctx context.Context) (int64, error) {
	var n int64
	for p := range s.partitions {
		first, end, err := s.log.Bounds(ctx, wire.Journal(s.machine.Name()), p)
		if err != nil {
			return 0, err
		}
		n += end - first
	}
	return n, nil
}

// Beyond returns how many decisions the journal has beyond the store: none, unless the store was lost, or is being
// rebuilt; or there is no store.
func (s *Source) Beyond(ctx context.Context) (int64, error) {
	var beyond int64
	if s.store == nil {
		return 0, nil
	}
	for p := range s.partitions {
		last, err := s.last(ctx, p) // first, as a service may be writing both
		if err != nil {
			return 0, err
		}
		at, err := s.store.Progress(ctx, p)
		if err != nil {
			return 0, err
		}
		beyond += max(last-at.N, 0)
	}
	return beyond, nil
}

// last returns the number of a partition's last decision in the journal.
func (s *Source) last(ctx context.Context, partition int32) (int64, error) {
	at := deja.Position{Topic: wire.Journal(s.machine.Name()), Partition: partition}
	first, end, err := s.log.Bounds(ctx, at.Topic, partition)
	dec := wire.NewDecoder(s.machine.Name())
	for at.Offset = end - 1; err == nil && at.Offset >= first; at.Offset-- {
		recs, err := s.log.Fetch(ctx, at, 1)
		if err != nil {
			return 0, err
		}
		r, err := dec.Record(partition, recs[0].Value)
		if err != nil {
			return 0, fmt.Errorf("journal record at %s: %w", at, err)
		}
		if !r.Marker() {
			return r.N, nil
		}
	}
	return 0, err
}
