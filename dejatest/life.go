package dejatest

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/request"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// disk is what outlives a process: its log, its store, and the time.
type disk struct {
	log   *memory.Log
	store *memory.Store
	now   time.Time
}

func newDisk() *disk {
	d := &disk{now: began}
	d.log = memory.NewLog(memory.LogConfig{Partitions: partitions, Now: func() time.Time { return d.now }})
	d.store = memory.NewStore(memory.Nonces(counter()))
	return d
}

// counter returns a source of nonces that are never equal, and the same each time.
func counter() func() [16]byte {
	var n uint64
	return func() (nonce [16]byte) {
		n++
		binary.BigEndian.PutUint64(nonce[8:], n)
		return nonce
	}
}

// A life is a process that runs the service over a disk, from its start until it crashes, and its client with it.
type life struct {
	m       *deja.Machine
	disk    *disk
	log     driver.Log // the disk's, or what stands before it
	store   driver.Store
	workers []*step.Worker
	prepare *step.Preparer
	dec     *wire.Decoder
}

// start begins a life: it takes all partitions over, and handles what waits in the inbox.
func start(ctx context.Context, m *deja.Machine, d *disk, log driver.Log, store driver.Store) (*life, error) {
	l := &life{
		m: m, disk: d, log: log, store: store,
		workers: make([]*step.Worker, partitions), prepare: step.NewPreparer(m, partitions), dec: wire.NewDecoder(m.Name()),
	}
	nonces := counter()
	for p := range l.workers {
		w, err := step.New(ctx, step.Config{
			Machine: m, Log: log, Store: store, Partition: int32(p), Build: "dejatest", NewNonce: nonces,
		})
		if err != nil {
			return nil, err
		}
		l.workers[p] = w
		if err := w.Takeover(ctx); err != nil {
			return nil, fmt.Errorf("take over: %w", err)
		}
		if err := l.release(ctx, w); err != nil {
			return nil, err
		}
		_, end, err := log.Bounds(ctx, wire.Inbox(m.Name()), int32(p))
		if err != nil {
			return nil, err
		}
		if _, err := l.handle(ctx, int32(p), end, 1000); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// release logs what was decided. After it all may be told.
func (l *life) release(ctx context.Context, w *step.Worker) error {
	if err := w.Relay(ctx); err != nil {
		return err
	}
	if err := w.Release(ctx); err != nil {
		return err
	}
	if w.Released() != w.Progress().N {
		return fmt.Errorf("decision %d is committed, but the journal has only %d", w.Progress().N, w.Released())
	}
	return nil
}

// handle settles what is in the inbox below an offset, up to max messages a transaction.
func (l *life) handle(ctx context.Context, partition int32, end int64, max int) ([]step.Settlement, error) {
	var all []step.Settlement
	w := l.workers[partition]
	for w.Position().Offset < end {
		recs, err := l.log.Fetch(ctx, w.Position(), max)
		if err != nil {
			return nil, err
		}
		done, err := w.Handle(ctx, l.prepare.Prepare(recs))
		if err != nil {
			return nil, err
		}
		if err := l.release(ctx, w); err != nil {
			return nil, err
		}
		all = append(all, done...)
	}
	return all, nil
}

// ask sends a request and waits for the answer. The clock does not go back for one that is asked again.
func (l *life) ask(ctx context.Context, r *asked) (*answer, error) {
	if r.at.After(l.disk.now) {
		l.disk.now = r.at
	}
	at, err := l.log.Append(ctx, wire.Inbox(l.m.Name()), []driver.Record{
		{Partition: r.place, Key: r.env.Stream.Key, Value: r.value},
	})
	if err != nil {
		return nil, err
	}
	done, err := l.handle(ctx, r.place, at[0].Offset+1, 1000)
	if err != nil {
		return nil, err
	}
	for i := range done {
		if done[i].Offset == at[0].Offset {
			return l.answer(ctx, r.place, &done[i])
		}
	}
	return nil, fmt.Errorf("the message at %s was not settled", at[0])
}

// answer makes of a settlement what is told: of a duplicate, the first delivery's outcome.
func (l *life) answer(ctx context.Context, partition int32, s *step.Settlement) (*answer, error) {
	if s.Record != nil {
		return &answer{request.Decided(s.Record)}, nil
	}
	life := l.workers[partition].Progress().Incarnation.Number
	e, err := journal.Find(ctx, l.log, l.m.Name(), s.Entry.Partition, s.Entry.N, life)
	return &answer{request.Answer{Record: e.Record, Duplicate: true}}, err
}

// state reads a state as clients do.
func (l *life) state(ctx context.Context, s deja.Stream, dst any) (int64, error) {
	if err := s.Valid(); err != nil {
		return 0, err
	}
	if _, err := l.m.NewState(s); err != nil {
		return 0, err
	}
	rows, err := l.store.Load(ctx, []deja.Stream{s})
	if err != nil || len(rows) == 0 || rows[0].Version == 0 {
		return 0, err
	}
	return rows[0].Version, json.Unmarshal(rows[0].Data, dst)
}

// decisions counts what the journal has, but for conflicts: each delivery of a conflicting message is one of its own.
func (l *life) decisions(ctx context.Context) (int, error) {
	count := 0
	for p := range l.workers {
		_, end, err := l.log.Bounds(ctx, wire.Journal(l.m.Name()), int32(p))
		if err != nil {
			return 0, err
		}
		r := journal.NewReader(l.log, l.m.Name(), int32(p), driver.Logged{})
		for {
			entries, err := r.Next(ctx, end, 1000)
			if err != nil {
				return 0, err
			}
			if len(entries) == 0 {
				break
			}
			for _, e := range entries {
				if e.Decided.Status != deja.Conflicted {
					count++
				}
			}
		}
	}
	return count, nil
}

// inbox returns all that was ever delivered.
func (l *life) inbox(ctx context.Context) ([]driver.Record, error) {
	var all []driver.Record
	topic := wire.Inbox(l.m.Name())
	for p := range l.workers {
		at := deja.Position{Topic: topic, Partition: int32(p)}
		_, end, err := l.log.Bounds(ctx, topic, at.Partition)
		if err != nil {
			return nil, err
		}
		for at.Offset < end {
			recs, err := l.log.Fetch(ctx, at, 1000)
			if err != nil {
				return nil, err
			}
			all = append(all, recs...)
			at.Offset = recs[len(recs)-1].Offset + 1
		}
	}
	return all, nil
}

// answer is what a request is told.
type answer struct{ request.Answer }

// String returns all of an answer that must be the same each time it is given: not that it is a duplicate, nor where
// in the log messages are.
func (a *answer) String() string {
	r := a.Record
	text := fmt.Sprintf("%s %s for %s: %s", r.Cause.ID, r.Cause.Type, r.Cause.Stream, verdict(&r.Decided))
	if r.Decided.Status == deja.Conflicted {
		return fmt.Sprintf("%s (%v)", text, r.Paths)
	}
	text += fmt.Sprintf(", version %d", r.Version)
	for i := range r.Decided.Events {
		e := &r.Decided.Events[i]
		text += fmt.Sprintf("; %s %s at %s version %d", e.ID, line(e), e.Time.Format(time.RFC3339Nano), e.Version)
	}
	return text
}
