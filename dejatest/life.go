package dejatest

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/request"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// member is a service of a world.
type member struct {
	m     *deja.Machine
	peers map[string]string // who owns the aggregates of other services
	talks route.Topology
}

func (m *member) name() string { return m.m.Name() }

// A life is a process that runs a service over a disk, from its start until it crashes, and its client with it.
type life struct {
	*member
	disk     *disk
	kept     *memory.Store // the disk's
	log      driver.Log    // the disk's, or what stands before it
	store    driver.Store
	workers  []*step.Worker
	prepare  *step.Preparer
	carriers []*carrier
	effects  []*effect

	marks []watermark      // of each partition
	fired map[deja.ID]bool // the timers whose messages were delivered
}

// start begins a life: it takes all partitions over. What waits in the inbox is left to the steps.
func start(ctx context.Context, m *member, d *disk, kept *memory.Store, log driver.Log, store driver.Store) (*life, error) {
	l := &life{
		member: m, disk: d, kept: kept, log: log, store: store,
		workers: make([]*step.Worker, partitions), prepare: step.NewPreparer(m.m, partitions),
		marks: make([]watermark, partitions), fired: map[deja.ID]bool{},
	}
	nonces := counter()
	for p := range l.workers {
		w, err := step.New(ctx, step.Config{
			Machine: m.m, Log: log, Store: store, Partition: int32(p), Build: "dejatest", NewNonce: nonces,
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
		if len(m.m.Effects()) > 0 {
			if err := l.unanswered(ctx, int32(p)); err != nil {
				return nil, err
			}
		}
	}
	for _, to := range m.talks.Targets {
		l.carry(m.name(), to)
	}
	for _, from := range m.talks.Sources {
		l.carry(from, m.name())
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

// end returns the end of a partition of the inbox.
func (l *life) end(partition int32) int64 { return l.disk.end(wire.Inbox(l.name()), partition) }

// waiting reports whether there are messages to handle in a partition.
func (l *life) waiting(partition int32) bool {
	return l.workers[partition].Position().Offset < l.end(partition)
}

// handle settles up to max messages that wait, in one transaction.
func (l *life) handle(ctx context.Context, partition int32, max int) ([]step.Settlement, error) {
	w := l.workers[partition]
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
	for i := range done {
		if r := done[i].Record; r != nil {
			l.follow(r)
		}
	}
	return done, nil
}

// answer makes of a settlement what is told: of a duplicate, the first delivery's outcome.
func (l *life) answer(ctx context.Context, partition int32, s *step.Settlement) (*answer, error) {
	if s.Record != nil {
		return &answer{request.Decided(s.Record)}, nil
	}
	life := l.workers[partition].Progress().Incarnation.Number
	e, err := journal.Find(ctx, l.log, l.name(), s.Entry.Partition, s.Entry.N, life)
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

// decisions calls fn with all that the journal has.
func (l *life) decisions(ctx context.Context, fn func(*wire.Record)) error {
	for p := range l.workers {
		end := l.disk.end(wire.Journal(l.name()), int32(p))
		r := journal.NewReader(l.disk.log, l.name(), int32(p), driver.Logged{})
		for {
			entries, err := r.Next(ctx, end, 1000)
			if err != nil {
				return err
			}
			if len(entries) == 0 {
				break
			}
			for _, e := range entries {
				fn(e.Record)
			}
		}
	}
	return nil
}

// inbox returns all that was ever delivered to a service.
func (d *disk) inbox(ctx context.Context, service string) ([]driver.Record, error) {
	var all []driver.Record
	topic := wire.Inbox(service)
	for p := range int32(partitions) {
		at := deja.Position{Topic: topic, Partition: p}
		for end := d.end(topic, p); at.Offset < end; {
			recs, err := d.log.Fetch(ctx, at, 1000)
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
