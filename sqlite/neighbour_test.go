package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/sqlite"
)

// A neighbour is a service that works in its own store of a database while a test works in another, on rows of the same
// keys. When it leaves, its store must hold what it wrote, and nothing else.
type neighbour struct {
	t       testing.TB
	db      *sqlite.DB
	service string
	store   driver.Store
	lease   driver.Lease
	n       int64 // decisions that were committed
	adopted bool  // the database was, since it left

	stop context.CancelFunc
	done chan error
}

// moveIn starts a neighbour. One that comes from another copy of the database goes on where it was.
func moveIn(t testing.TB, db *sqlite.DB, service string, before *neighbour) *neighbour {
	t.Helper()
	n := &neighbour{t: t, db: db, service: service, store: db.StoreOf(service), done: make(chan error, 1)}
	n.acquire()
	if before != nil {
		n.n = before.n
		if n.lease.Copied != before.adopted || n.lease.Epoch != before.lease.Epoch+1 {
			t.Errorf("the neighbour's lease is %+v, after %+v", n.lease, before.lease)
		}
	}
	if n.lease.Progress.N != n.n {
		t.Errorf("the neighbour is at %d, not %d", n.lease.Progress.N, n.n)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	n.stop = stop
	go func() { n.done <- n.work(ctx) }()
	return n
}

func (n *neighbour) acquire() {
	n.t.Helper()
	a := driver.Assignment{Tables: []deja.TableDef{{Name: "neighbours", DDL: "CREATE TABLE neighbours (n INTEGER PRIMARY KEY)"}}}
	var err error
	a.Inbox, err = n.db.Log().Topic(n.t.Context(), n.service+".inbox")
	must(n.t, err)
	a.Journal, err = n.db.Log().Topic(n.t.Context(), n.service+".journal")
	must(n.t, err)
	n.lease, err = n.store.Acquire(n.t.Context(), a)
	must(n.t, err)
}

func (n *neighbour) work(ctx context.Context) error {
	for {
		err := n.decide(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// at returns the key and the stream of a decision.
func (n *neighbour) at(number int64) (deja.ID, deja.Stream) {
	return deja.DeriveID("drivertest", fmt.Sprint("a", 0, number)), deja.Stream{Aggregate: "account", Key: fmt.Sprintf("0-%d", number%3)}
}

func (n *neighbour) decide(ctx context.Context) error {
	to := after(n.lease.Progress)
	to.Incarnation.Number = n.lease.Epoch // a life for each copy
	key, stream := n.at(to.N)
	b := &driver.Batch{
		Records: []driver.JournalRecord{{N: to.N, Value: []byte("neighbour")}},
		Ledger:  []driver.Entry{{Key: key, N: to.N, Offset: to.N, Status: deja.Applied}},
		States:  []driver.State{{Stream: stream, Version: to.N, Data: []byte("neighbour"), N: to.N, Open: []byte("waits"), Due: to.Time}},
		Parked:  []driver.Parked{{Stream: stream, Offset: to.N, Key: key, N: to.N}},
		Repeats: []driver.Repeat{{Key: key, Count: to.N, First: to.N, Last: to.N}},
	}
	tx, err := n.store.Begin(ctx, n.lease)
	if err != nil {
		return err
	}
	err = tx.Write(ctx, b)
	tx.SQL().Queue("INSERT INTO neighbours VALUES ($1)", to.N)
	if err = errors.Join(err, tx.Advance(ctx, n.lease.Progress, to)); err == nil {
		err = tx.Commit(ctx)
	}
	if err != nil {
		return errors.Join(err, tx.Rollback(ctx))
	}
	n.lease.Progress, n.n = to, to.N
	return nil
}

// leave ends the neighbour's work, and looks at what it has.
func (n *neighbour) leave() {
	n.t.Helper()
	n.stop()
	if err := <-n.done; err != nil {
		n.t.Errorf("the neighbour failed: %v", err)
		return
	}
	if err := n.look(context.WithoutCancel(n.t.Context())); err != nil {
		n.t.Errorf("the neighbour's store: %v", err)
	}
}

func (n *neighbour) look(ctx context.Context) error {
	last := deja.ID(bytes.Repeat([]byte{0xff}, 16))
	es, err := n.store.Find(ctx, deja.ID{}, last, 1_000_000)
	if err != nil {
		return err
	}
	numbers := make([]int64, 0, len(es))
	for _, e := range es {
		numbers = append(numbers, e.N)
		if key, _ := n.at(e.N); key != e.Key {
			return fmt.Errorf("entry %+v", e)
		}
	}
	slices.Sort(numbers)
	for i, number := range numbers {
		if number != int64(i+1) {
			return fmt.Errorf("entries of decisions %v", numbers)
		}
	}
	ss, err := n.store.States(ctx, deja.Stream{}, 1_000_000)
	for _, s := range ss {
		if string(s.Data) != "neighbour" {
			return fmt.Errorf("state %+v", s)
		}
	}
	open, err2 := n.store.Open(ctx, 0, deja.Stream{}, 1_000_000)
	due, err3 := n.store.Due(ctx, 0, n.lease.Progress.Time, driver.State{}, 1_000_000)
	ps, err4 := n.store.Parked(ctx, 0, deja.Stream{}, 0, 1_000_000)
	at, err5 := n.store.Progress(ctx, 0)
	_, end, err6 := n.db.Log().Bounds(ctx, n.service+".journal", 0)
	key, _ := n.at(n.n)
	rs, err7 := n.store.Repeats(ctx, key)
	if err := errors.Join(err, err2, err3, err4, err5, err6, err7); err != nil {
		return err
	}
	streams, repeats := min(n.n, 3), min(n.n, 1)
	for what, got := range map[string][2]int64{
		"entries": {int64(len(es)), n.n}, "states": {int64(len(ss)), streams}, "open states": {int64(len(open)), streams},
		"due states": {int64(len(due)), streams}, "parked messages": {int64(len(ps)), n.n}, "decisions": {at.N, n.n},
		"records": {end, n.n}, "repeats": {int64(len(rs)), repeats},
	} {
		if got[0] != got[1] {
			return fmt.Errorf("%d %s, not %d", got[0], what, got[1])
		}
	}
	return nil
}
