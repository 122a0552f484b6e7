package drivertest

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var commitCases = []testCase{
	{
		"commit writes all", "what a batch holds is there once its transaction committed, every field of it",
		needs{store: true},
		commitAll,
	},
	{
		"commit shows all together", "readers never see a part of a transaction: not before it committed, not while it does",
		needs{store: true},
		commitTogether,
	},
	{
		"commit of a large batch", "a batch of thousands of rows is one transaction like any other",
		needs{store: true},
		commitLarge,
	},
	{
		"commit keeps no argument", "a driver keeps no argument, and what it returns belongs to the caller",
		needs{store: true},
		commitKeepsNothing,
	},
	{
		"commit survives the process", "what committed is there after the process has died, and what did not is not",
		needs{store: true, reopen: true},
		commitDurable,
	},
	{
		"commit appends to a joint log", "what is committed is logged: a joint store's records are in the journal, each once, adopted ones not again",
		needs{log: true, store: true, joint: true},
		commitJointly,
	},
	{
		"rollback", "Rollback gives everything up, and after the end of a transaction does nothing",
		needs{store: true},
		rollback,
	},
	{
		"reset", "Reset empties all partitions but for their incarnations and their kept records, and fences all leases but the one it was called under",
		needs{store: true},
		reset,
	},
	{
		"store closes", "after Close other calls fail",
		needs{store: true},
		storeCloses,
	},
}

func commitAll(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	for range 13 {
		w.decide(m, 1)
		b.holds(m)
	}
}

func commitTogether(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	const decisions = 40
	var all sync.WaitGroup
	defer all.Wait()
	for range 2 {
		all.Go(func() { b.watch(decisions) })
	}
	for range decisions {
		batch, to := w.story.next(0, w.at)
		tx, err := b.store.Begin(b.ctx, w.lease)
		b.must(err)
		b.must(tx.Write(b.ctx, batch))
		b.must(tx.Advance(b.ctx, w.at, to))
		if to.N%8 == 3 {
			b.holds(m)
		}
		b.must(tx.Commit(b.ctx))
		m.commit(0, batch, to)
		w.at = to
	}
	all.Wait()
	b.holds(m)
}

// watch reads until it has seen a number of decisions. A decision makes a ledger entry and moves the progress, and of
// two reads the later sees no less: so entries never outnumber a progress read after them, nor fall behind one read
// before.
func (b *bench) watch(decisions int64) {
	for seen := int64(0); seen < decisions && !b.Failed(); {
		before, err := b.store.Progress(b.ctx, 0)
		es, err2 := b.store.Find(b.ctx, deja.ID{}, deja.ID(bytes.Repeat([]byte{0xff}, 16)), plenty)
		after, err3 := b.store.Progress(b.ctx, 0)
		if err != nil || err2 != nil || err3 != nil {
			b.Errorf("reading: %v, %v, %v", err, err2, err3)
			return
		}
		if n := int64(len(es)); n < before.N || n > after.N {
			b.Errorf("%d ledger entries between decisions %d and %d", n, before.N, after.N)
		}
		seen = after.N
	}
}

func commitLarge(b *bench) {
	const rows = 3000
	m := newModel()
	w := b.worker("a", 0)
	batch := &driver.Batch{}
	for i := range int64(rows) {
		n := i + 1
		stream := deja.Stream{Aggregate: "account", Key: fmt.Sprint("large-", i)}
		batch.Records = append(batch.Records, driver.JournalRecord{N: n, Value: bytes.Repeat([]byte{byte(i)}, int(i%500))})
		batch.Ledger = append(batch.Ledger, driver.Entry{Key: w.story.messageID(0, n), Offset: i, N: n, Status: deja.Rejected})
		batch.States = append(batch.States, driver.State{Stream: stream, Version: n, Data: []byte(`{}`), Position: i, N: n, Open: []byte{byte(i)}})
		batch.Parked = append(batch.Parked, driver.Parked{Stream: stream, Offset: i, Key: w.story.messageID(0, n), N: n})
	}
	to := driver.Progress{Position: rows, N: rows, Chain: w.story.hash(0, rows), Fold: "fold-1"}
	to.Time = w.story.time(rows)
	b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
	m.commit(0, batch, to)
	b.page = 1000
	b.holds(m)
}

func commitKeepsNothing(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	batch, to := w.story.next(0, w.at)
	batch.States[0].Open = []byte("timer")
	m.commit(0, batch, to)
	wanted, waited := bytes.Clone(batch.States[0].Data), bytes.Clone(batch.States[0].Open)
	tx, err := b.store.Begin(b.ctx, w.lease)
	b.must(err)
	b.must(tx.Write(b.ctx, batch))
	clear(batch.Records[0].Value)
	clear(batch.States[0].Data)
	clear(batch.States[0].Open)
	clear(batch.Ledger)
	clear(batch.Repeats)
	b.must(tx.Advance(b.ctx, w.at, to))
	b.must(tx.Commit(b.ctx))
	copy(batch.States[0].Data, wanted) // the model's are the same bytes
	copy(batch.States[0].Open, waited)
	for range 2 {
		b.holds(m)
		sts, err := b.store.Load(b.ctx, []deja.Stream{w.story.stream(0, 1)})
		b.must(err)
		rs, err := b.store.Unlogged(b.ctx, 0, 0, 10)
		b.must(err)
		for _, st := range append(sts, b.openStates(0, plenty)...) {
			clear(st.Data)
			clear(st.Open)
		}
		for _, r := range rs {
			clear(r.Value)
		}
	}
}

func commitDurable(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 7)
	batch, to := w.story.next(0, w.at)
	tx, err := b.store.Begin(b.ctx, w.lease)
	b.must(err)
	b.must(tx.Write(b.ctx, batch))
	b.must(tx.Advance(b.ctx, w.at, to))
	b.reopen() // in the middle of it
	b.holds(m)
	b.worker("a", 0).decide(m, 2)
	b.holds(m)
	if b.joint() {
		b.holdsJournal(m)
	}
}

func commitJointly(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 3)
	b.holdsJournal(m)
	wrong := w.at
	wrong.Position++
	b.refused(w, m, w.lease, wrong)
	b.holdsJournal(m)

	batch, to := w.story.next(0, w.at)
	_, err := b.log.Append(b.ctx, b.journal.Name, []driver.Record{{Value: batch.Records[0].Value}})
	b.must(err)
	batch.Logged = true // as if another life of the store had decided it
	b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
	m.commit(0, batch, to)
	w.at = to
	w.decide(m, 2)
	b.holds(m)
	b.holdsJournal(m)
}

// holdsJournal fails the case unless partition 0 of the journal holds the model's decisions, each once.
func (b *bench) holdsJournal(m *model) {
	b.Helper()
	first, end, err := b.log.Bounds(b.ctx, b.journal.Name, 0)
	b.must(err)
	var want []string
	for n := int64(1); n <= m.progress[0].N; n++ {
		want = append(want, m.records[place{0, n}])
	}
	equal(b, "records in the journal", end-first, int64(len(want)))
	equal(b, "journal", slicesOrNil(values(fetchTopic(b, b.journal.Name, 0, first, len(want)))), want)
}

func rollback(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	for i := range 4 {
		batch, to := w.story.next(0, w.at)
		tx, err := b.store.Begin(b.ctx, w.lease)
		b.must(err)
		if i > 0 {
			b.must(tx.Write(b.ctx, batch))
		}
		if i > 1 {
			b.must(tx.Advance(b.ctx, w.at, to))
		}
		if i > 2 {
			b.must(tx.Commit(b.ctx))
			m.commit(0, batch, to)
			w.at = to
		}
		b.must(tx.Rollback(b.ctx))
		b.must(tx.Rollback(b.ctx))
		if err := tx.Commit(b.ctx); err == nil {
			b.Error("a transaction that had ended was committed")
		}
		b.holds(m)
	}
	w.decide(m, 2)
	b.holds(m)
}

func reset(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 7)
	var others []*worker
	for p := int32(1); p < b.inbox.Partitions; p++ {
		o := b.worker("a", p)
		o.decide(m, 7)
		others = append(others, o)
	}
	b.must(b.store.Reset(b.ctx, w.lease))
	m.reset()
	b.holds(m)
	w.at = m.progress[0]
	w.decide(m, 5) // the lease holds on
	b.holds(m)
	for _, o := range others {
		b.refused(o, m, o.lease, o.at)
		b.refused(o, m, o.lease, m.progress[o.lease.Partition]) // not by knowing where it is now
		o = b.worker("a", o.lease.Partition)
		equal(b, "progress told by Acquire", o.at, m.progress[o.lease.Partition])
		o.decide(m, 3)
	}
	b.holds(m)
	equal(b, "progress told by Acquire", b.worker("a", 0).at.N, w.at.N)
}

func storeCloses(b *bench) {
	w := b.worker("a", 0)
	store := b.store
	b.store = nil
	b.must(store.Close())
	if _, err := store.Acquire(b.ctx, b.assignment(0)); err == nil {
		b.Error("Acquire after Close")
	}
	if _, err := store.Progress(b.ctx, 0); err == nil {
		b.Error("Progress after Close")
	}
	batch, to := w.story.next(0, w.at)
	if attempt(b.ctx, store, w.lease, w.at, batch, to) == nil {
		b.Error("a transaction committed after Close")
	}
}
