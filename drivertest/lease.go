package drivertest

import (
	"errors"
	"time"

	"github.com/dejalog/deja/driver"
)

var leaseCases = []testCase{
	{
		"acquire", "Acquire issues a rising epoch and a fresh nonce, and tells what was committed, at first nothing",
		needs{store: true},
		acquire,
	},
	{
		"acquire by partition", "a lease of one partition fences none of another",
		needs{store: true, partitions: 2},
		acquireByPartition,
	},
	{
		"acquire is bound", "a store is bound to its topics: others are ErrIdentity, and the error says in what; limits may change",
		needs{store: true},
		acquireBound,
	},
	{
		"acquire after reopening", "epochs go on rising, and progress is what was committed, after the process has died",
		needs{store: true, reopen: true},
		acquireReopened,
	},
	{
		"acquire of a copy", "the leases of a copy that was adopted say so, until a new incarnation has begun",
		needs{log: true, store: true, copied: true},
		acquireCopied,
	},
	{
		"acquire beside a commit", "Acquire waits for a commit in flight or fences it: what it tells is final",
		needs{store: true},
		acquireBesideCommit,
	},
}

func acquire(b *bench) {
	m := newModel()
	b.holds(m)
	var last driver.Lease
	nonces := map[[16]byte]bool{}
	for range 4 {
		w := b.worker("a", 0)
		equal(b, "assignment", w.lease.Assignment, b.assignment(0))
		w.at.Time = b.utc(w.at.Time)
		equal(b, "progress", w.at, m.progress[0])
		if w.lease.Epoch <= last.Epoch {
			b.Errorf("epoch %d after %d", w.lease.Epoch, last.Epoch)
		}
		if nonces[w.lease.Nonce] || w.lease.Nonce == [16]byte{} {
			b.Errorf("nonce %x is not fresh", w.lease.Nonce)
		}
		nonces[w.lease.Nonce] = true
		last = w.lease
		w.decide(m, 2)
		b.holds(m)
	}
}

func acquireByPartition(b *bench) {
	m := newModel()
	w0, w1 := b.worker("a", 0), b.worker("a", 1)
	w0.decide(m, 2)
	w1.decide(m, 1)
	b.worker("a", 1)
	w0.decide(m, 1)
	b.holds(m)
}

func acquireBound(b *bench) {
	b.worker("a", 0)
	good := b.assignment(0)
	for name, other := range map[string]struct {
		change func(*driver.Topic)
		want   error
	}{
		"id":         {func(t *driver.Topic) { t.ID += "0" }, driver.ErrRecreated},
		"cluster":    {func(t *driver.Topic) { t.Cluster += "0" }, driver.ErrCluster},
		"name":       {func(t *driver.Topic) { t.Name += "0" }, driver.ErrIdentity},
		"partitions": {func(t *driver.Topic) { t.Partitions++ }, driver.ErrPartitions},

		// What differs because of another difference is not what is told.
		"cluster, and so id": {func(t *driver.Topic) { t.Cluster += "0"; t.ID += "0" }, driver.ErrCluster},
		"id, and partitions": {func(t *driver.Topic) { t.ID += "0"; t.Partitions++ }, driver.ErrRecreated},
	} {
		for _, topics := range []string{"inbox", "journal", "both"} {
			a := good
			if topics != "journal" {
				other.change(&a.Inbox)
			}
			if topics != "inbox" {
				other.change(&a.Journal)
			}
			_, err := b.store.Acquire(b.ctx, a)
			if !errors.Is(err, other.want) || !errors.Is(err, driver.ErrIdentity) {
				b.Errorf("acquired with another %s of %s: got error %v, want %v", name, topics, err, other.want)
			}
		}
	}
	if good.Partition++; good.Partition < b.inbox.Partitions {
		good.Inbox.ID += "0"
		_, err := b.store.Acquire(b.ctx, good)
		b.want(err, driver.ErrIdentity)
	}
	limits := b.assignment(0)
	limits.Inbox.MaxRecord++
	_, err := b.store.Acquire(b.ctx, limits)
	b.must(err)
	b.worker("a", 0).decide(newModel(), 1)
}

func acquireReopened(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 5)
	logged := loggedTo(2, 3)
	if !b.joint() {
		b.must(b.store.Logged(b.ctx, w.lease, logged))
	}
	b.reopen()
	again := b.worker("a", 0)
	if again.lease.Epoch <= w.lease.Epoch || again.lease.Nonce == w.lease.Nonce {
		b.Errorf("epoch %d and nonce %x after %d and %x", again.lease.Epoch, again.lease.Nonce, w.lease.Epoch, w.lease.Nonce)
	}
	if !b.joint() {
		m.logged[0] = logged
		equal(b, "logged", again.lease.Logged, logged)
	}
	again.decide(m, 3)
	b.holds(m)
	b.reopen()
	b.holds(m)
}

func acquireCopied(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	equal(b, "copied", w.lease.Copied, false)
	w.decide(m, 5)
	b.log, b.store = b.h.Copy(b.T, b.log, b.store)
	for name, topic := range map[string]*driver.Topic{b.inbox.Name: &b.inbox, b.journal.Name: &b.journal} {
		var err error
		*topic, err = b.log.Topic(b.ctx, name) // they may be other topics now
		b.must(err)
	}
	b.holds(m)
	for range 2 {
		w = b.worker("a", 0)
		equal(b, "copied", w.lease.Copied, true)
	}
	batch, to := w.story.next(0, w.at)
	for _, incarnation := range []driver.Incarnation{w.at.Incarnation, {Number: w.at.Incarnation.Number + 1, Nonce: [16]byte{1}}} {
		to.Incarnation = incarnation
		b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
		m.commit(0, batch, to)
		same := incarnation == w.at.Incarnation
		w = b.worker("a", 0)
		equal(b, "copied", w.lease.Copied, same)
		batch, to = w.story.next(0, w.at)
	}
	b.holds(m)
}

func acquireBesideCommit(b *bench) {
	m := newModel()
	for i := range 6 {
		w := b.worker("a", 0)
		batch, to := w.story.next(0, w.at)
		tx, err := b.store.Begin(b.ctx, w.lease)
		b.must(err)
		b.must(tx.Write(b.ctx, batch))
		if i%2 == 0 {
			b.must(tx.Advance(b.ctx, w.at, to))
		}
		type answer struct {
			lease driver.Lease
			err   error
		}
		acquired := make(chan answer, 1)
		go func() { // it may have to wait for what follows here
			l, err := b.store.Acquire(b.ctx, b.assignment(0))
			acquired <- answer{l, err}
		}()
		time.Sleep(time.Duration(i/2) * aMoment / 2)
		if i%2 == 1 {
			err = tx.Advance(b.ctx, w.at, to)
		}
		if err == nil {
			err = tx.Commit(b.ctx)
		}
		b.must(tx.Rollback(b.ctx))
		a := <-acquired
		b.must(a.err)
		if err == nil {
			m.commit(0, batch, to)
		}
		a.lease.Progress.Time = b.utc(a.lease.Progress.Time)
		equal(b, "progress told by Acquire", a.lease.Progress, m.progress[0])
		b.holds(m)
	}
}
