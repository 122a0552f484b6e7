package drivertest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// A story names a course of events: the same decisions of two stories differ in all that they write but their places.
type story string

// messageID is the ledger key of the message that a decision settles.
func (s story) messageID(partition int32, n int64) deja.ID {
	return deja.DeriveID("drivertest", fmt.Sprint(s, partition, n))
}

func (s story) hash(partition int32, n int64) [32]byte {
	return sha256.Sum256(fmt.Append(nil, s, partition, n))
}

func (s story) stream(partition int32, n int64) deja.Stream {
	return deja.Stream{Aggregate: "account", Key: fmt.Sprintf("%d-%d", partition, n%3)}
}

func (s story) time(n int64) time.Time {
	return time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * 1001 * time.Microsecond)
}

// next returns the decision after a progress: something for each table, and where the partition is then. Of every
// four messages the third parks, and the fourth settles it.
func (s story) next(partition int32, at driver.Progress) (*driver.Batch, driver.Progress) {
	n, offset := at.N+1, at.Position
	key, stream := s.messageID(partition, n), s.stream(partition, n)
	to := driver.Progress{
		Position:    offset + 1 + n%2, // inbox offsets may have gaps
		N:           n,
		Chain:       s.hash(partition, -n),
		Time:        s.time(n),
		Incarnation: driver.Incarnation{Number: 1 + n/10, Nonce: [16]byte(key)},
		Fold:        "fold-1",
	}
	entry := driver.Entry{
		Key: key, Hash: s.hash(partition, n), Partition: partition, Offset: offset, N: n, Status: deja.Applied,
	}
	state := driver.State{
		Stream: stream, Partition: partition, Version: n, Data: fmt.Appendf(nil, `{"story":%q,"n":%d}`, s, n), Position: offset, N: n,
	}
	b := &driver.Batch{
		Records: []driver.JournalRecord{{N: n, Value: fmt.Appendf(nil, "%s/%d/%d", s, partition, n)}},
		Repeats: []driver.Repeat{{
			Key: s.messageID(partition, 1), Partition: partition, Conflict: n%2 == 0, Count: n, First: offset, Last: offset + n,
		}},
	}
	if n%5 > 1 { // the streams that wait change with each decision
		state.Open = fmt.Appendf(nil, "%s waits since %d", s, n)
	}
	if n%5 > 2 {
		state.Due = s.time(100 - n%3) // some at the same time
	}
	switch n % 4 {
	case 3:
		entry.Status, state.Parked = deja.Parked, 1
		b.Parked = []driver.Parked{{Stream: stream, Partition: partition, Offset: offset, Key: key, N: n}}
	case 0:
		parked := driver.Parked{
			Stream: s.stream(partition, n-1), Partition: partition, Offset: s.offset(n - 1), Key: s.messageID(partition, n-1), N: n - 1,
		}
		b.Unparked = []driver.Parked{parked}
		b.Ledger = []driver.Entry{{
			Key: parked.Key, Hash: s.hash(partition, n-1), Partition: partition, Offset: parked.Offset, N: n, Status: deja.DeadLetter,
		}}
	}
	b.Ledger = append(b.Ledger, entry)
	b.States = append(b.States, state)
	return b, to
}

// offset returns the inbox offset of the n-th decision's message in a story that began at zero.
func (s story) offset(n int64) int64 {
	var at int64
	for i := int64(1); i < n; i++ {
		at += 1 + i%2
	}
	return at
}

// worker holds a lease, and knows where it is.
type worker struct {
	b     *bench
	story story
	lease driver.Lease
	at    driver.Progress
}

func (b *bench) assignment(partition int32) driver.Assignment {
	a := driver.Assignment{Inbox: b.inbox, Journal: b.journal, Partition: partition}
	if b.h.SQL {
		a.Tables = []deja.TableDef{sqlTable}
	}
	return a
}

func (b *bench) worker(s story, partition int32) *worker {
	b.Helper()
	l, err := b.store.Acquire(b.ctx, b.assignment(partition))
	b.must(err)
	return &worker{b, s, l, l.Progress}
}

// decide commits a number of decisions, in transactions of one each, and notes them in the model.
func (w *worker) decide(m *model, decisions int) {
	w.b.Helper()
	for range decisions {
		batch, to := w.story.next(w.lease.Partition, w.at)
		w.b.must(attempt(w.b.ctx, w.b.store, w.lease, w.at, batch, to))
		m.commit(w.lease.Partition, batch, to)
		w.at = to
	}
}

// attempt runs one core transaction. It commits even after ErrFenced from Advance: nothing may come of that.
func attempt(ctx context.Context, s driver.Store, l driver.Lease, from driver.Progress, b *driver.Batch, to driver.Progress) error {
	tx, err := s.Begin(ctx, l)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := tx.Write(ctx, b); err != nil {
		return err
	}
	if err := tx.Advance(ctx, from, to); err != nil {
		if !errors.Is(err, driver.ErrFenced) {
			return err
		}
		if tx.Commit(ctx) == nil {
			return fmt.Errorf("committed after %w", err)
		}
		return err
	}
	return tx.Commit(ctx)
}
