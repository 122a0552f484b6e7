// Package relive lets a part of a service's past be lived again, in memory: messages are decided by the very steps that an
// engine takes, over a log and a store that nobody else has. What it decides goes nowhere, and projections are not run.
package relive

import (
	"context"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// Config says what is lived.
type Config struct {
	Machine    *deja.Machine
	Partitions int32  // of the service's topics
	MaxRecord  int    // the largest record that its journal takes; 0: 1 MiB
	Build      string // noted in the decisions

	// Decided is called with each decision, in order, also with those that an operator's act brings about; or nil. Of a
	// duplicate there is none.
	Decided func(Decision)
}

// A Decision is a decision as it is made now. Its number counts what this world has decided of its partition, from 1.
type Decision struct {
	*wire.Record
	Changes []canon.Change // what it changed in the state, in order of paths
}

// A Past is what was before the first message that a world lives: all that its messages may depend on. The zero Past is
// an empty service.
type Past struct {
	States []driver.State  // of the streams; Parked counts those of theirs that wait
	Parked []driver.Parked // those that wait
	Ledger []driver.Entry  // of the messages that must be known: the parked ones, and those that may come again
	Inbox  []driver.Record // the records of all of these, in order of offsets
}

// A World is one life of a service. It is not safe for concurrent use, and after an error it is at its end.
type World struct {
	cfg     Config
	log     *memory.Log
	store   *memory.Store
	workers []*step.Worker // by partition; nil before its first message
	prepare *step.Preparer
}

// batch is how many messages one transaction settles: enough for it to cost nothing, few enough to notice that ctx ended.
const batch = 1000

// New returns a world that goes on from a past.
func New(ctx context.Context, cfg Config, past Past) (*World, error) {
	w := &World{cfg: cfg, workers: make([]*step.Worker, cfg.Partitions), prepare: step.NewPreparer(cfg.Machine, cfg.Partitions)}
	w.log = memory.NewLog(memory.LogConfig{Partitions: cfg.Partitions, MaxRecord: cfg.MaxRecord})
	w.store = memory.NewStore(memory.Joint(w.log))
	if err := w.log.Import(ctx, wire.Inbox(cfg.Machine.Name()), past.Inbox); err != nil {
		return nil, err
	}
	if err := w.begin(ctx, past); err != nil {
		return nil, fmt.Errorf("begin with the past: %w", err)
	}
	return w, nil
}

// begin puts a past into the store, as of before its first decision.
func (w *World) begin(ctx context.Context, past Past) error {
	if len(past.States)+len(past.Ledger)+len(past.Parked) == 0 {
		return nil
	}
	b := driver.Batch{
		States: append([]driver.State(nil), past.States...),
		Ledger: append([]driver.Entry(nil), past.Ledger...),
		Parked: append([]driver.Parked(nil), past.Parked...),
	}
	for i := range b.States {
		b.States[i].N = 0
	}
	for i := range b.Ledger {
		b.Ledger[i].N = 0
	}
	for i := range b.Parked {
		b.Parked[i].N = 0
	}
	a := driver.Assignment{}
	var err error
	if a.Inbox, err = w.log.Topic(ctx, wire.Inbox(w.cfg.Machine.Name())); err != nil {
		return err
	}
	if a.Journal, err = w.log.Topic(ctx, wire.Journal(w.cfg.Machine.Name())); err != nil {
		return err
	}
	lease, err := w.store.Acquire(ctx, a)
	if err != nil {
		return err
	}
	tx, err := w.store.Begin(ctx, lease)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := tx.Write(ctx, &b); err != nil {
		return err
	}
	if err := tx.Advance(ctx, driver.Progress{}, driver.Progress{}); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// worker returns the worker of a partition.
func (w *World) worker(ctx context.Context, p int32) (*step.Worker, error) {
	if p < 0 || p >= w.cfg.Partitions {
		return nil, fmt.Errorf("there is no partition %d; there are %d", p, w.cfg.Partitions)
	}
	if w.workers[p] != nil {
		return w.workers[p], nil
	}
	c := step.Config{Machine: w.cfg.Machine, Log: w.log, Store: w.store, Partition: p, Build: w.cfg.Build, NoProjections: true}
	if told := w.cfg.Decided; told != nil {
		c.Settled = func(done []step.Settlement) {
			for i := range done {
				if done[i].Record != nil {
					told(Decision{done[i].Record, done[i].Changes})
				}
			}
		}
	}
	sw, err := step.New(ctx, c)
	if err == nil {
		err = sw.Takeover(ctx)
	}
	if err != nil {
		return nil, err
	}
	w.workers[p] = sw
	return sw, nil
}

// A Message is an inbox record, ready to be lived: any number of times, in any worlds of the same machine and partitions.
type Message struct {
	rec driver.Record
	m   step.Message
}

// Envelope returns the message; it must not be changed. What is no message has no type.
func (m *Message) Envelope() *deja.Envelope { return m.m.Env }

// Key returns the message's key in the ledger.
func (m *Message) Key() deja.ID { return m.m.Key }

// Hash returns the hash of the message's content.
func (m *Message) Hash() [32]byte { return m.m.Hash }

// NotBefore returns the message, to be decided no earlier than at a time: for one that was decided later than it was
// appended, because of messages that are not lived.
func (m Message) NotBefore(t time.Time) Message {
	m.m.NotBefore = t
	return m
}

// Prepare makes a record ready. Offset, partition and time are as in the inbox.
func (w *World) Prepare(rec driver.Record) Message { return Message{rec, w.prepare.Open(&rec)} }

// Killed makes a record ready of which so many processes died: it is not decided, but parked as it was then.
func (w *World) Killed(rec driver.Record, processes int64) Message {
	return Message{rec, w.prepare.Killed(&rec, processes)}
}

// Live decides messages, in their order. In each partition the offsets must rise, from one call to the next too; gaps are
// messages that are not lived.
func (w *World) Live(ctx context.Context, ms []Message) error {
	var recs []driver.Record
	var ready []step.Message
	for len(ms) > 0 {
		n := 1
		for n < len(ms) && n < batch && ms[n].rec.Partition == ms[0].rec.Partition {
			n++
		}
		recs, ready = recs[:0], ready[:0]
		for i := range ms[:n] {
			recs = append(recs, ms[i].rec)
			ready = append(ready, w.prepare.Decode(ms[i].m))
		}
		sw, err := w.worker(ctx, ms[0].rec.Partition)
		if err != nil {
			return err
		}
		if err := w.log.Import(ctx, wire.Inbox(w.cfg.Machine.Name()), recs); err != nil {
			return err
		}
		if _, err := sw.Handle(ctx, ready); err != nil {
			return err
		}
		ms = ms[n:]
	}
	return nil
}

// Row returns a stream's row as it is now; of one that was never changed, an empty one.
func (w *World) Row(ctx context.Context, s deja.Stream) (driver.State, error) {
	rows, err := w.store.Load(ctx, []deja.Stream{s})
	if err != nil || len(rows) == 0 {
		return driver.State{Stream: s}, err
	}
	return rows[0], nil
}

// State returns a stream's state as it is now.
func (w *World) State(ctx context.Context, s deja.Stream) (*deja.State, error) {
	row, err := w.Row(ctx, s)
	if err != nil {
		return nil, err
	}
	return w.cfg.Machine.DecodeState(s, row.Version, row.Data)
}

// Rows returns up to max rows after a stream, in order of streams.
func (w *World) Rows(ctx context.Context, after deja.Stream, max int) ([]driver.State, error) {
	return w.store.States(ctx, after, max)
}
