package drivertest

import (
	"errors"
	"slices"
	"sync"

	"github.com/dejalog/deja/driver"
)

var fenceCases = []testCase{
	{
		"fenced by a later lease", "once a partition was acquired again, no earlier lease writes anything",
		needs{store: true},
		fencedByLease,
	},
	{
		"fenced by epoch", "the lease's epoch must be the store's: neither an older nor a newer one passes",
		needs{store: true},
		fencedBy(func(l *driver.Lease, _ *driver.Progress, d int64) { l.Epoch += d }),
	},
	{
		"fenced by nonce", "of two leases with one epoch, as a store that went back issues, only the last holds",
		needs{store: true},
		fencedBy(func(l *driver.Lease, _ *driver.Progress, d int64) { l.Nonce[15] += byte(d) }),
	},
	{
		"fenced by position", "the position must be where the worker left it: neither behind nor ahead, never <=",
		needs{store: true},
		fencedBy(func(_ *driver.Lease, p *driver.Progress, d int64) { p.Position += d }),
	},
	{
		"fenced by number", "the number of the last decision must be the one the worker made",
		needs{store: true},
		fencedBy(func(_ *driver.Lease, p *driver.Progress, d int64) { p.N += d }),
	},
	{
		"fenced by chain", "position and number may be right and the history another: the chain tells",
		needs{store: true},
		fencedBy(func(_ *driver.Lease, p *driver.Progress, d int64) { p.Chain[0] += byte(d) }),
	},
	{
		"fenced by another transaction", "of two transactions begun from one progress, one commits and the other is fenced",
		needs{store: true},
		fencedByTransaction,
	},
	{
		"fenced when the engine rolled back", "a transaction that the engine rolled back by itself is noticed: what follows in it does not commit piecemeal",
		needs{store: true, interrupt: true},
		fencedByInterrupt,
	},
	{
		"fenced outside transactions", "Logged, Ready, Attempt, Release and Reset under an old lease, or one with another nonce, are ErrFenced and change nothing",
		needs{store: true},
		fencedOutside,
	},
	{
		"fenced where the store went back", "a store that went back under a worker is noticed by its next Advance, though its lease is the newest again",
		needs{store: true, backup: true},
		fencedByRestore,
	},
	{
		"whole where the store went back", "a store that went back takes nothing before the next Acquire; then all leases are fenced, all partitions are copied, and none is ready",
		needs{store: true, backup: true, tells: true, partitions: 2},
		wholeAfterRestore,
	},
	{
		"fenced where an epoch came again", "an epoch that is issued again, after the store went back, does not give the old lease its right back",
		needs{store: true, backup: true},
		fencedByRepeatedEpoch,
	},
}

func fencedByLease(b *bench) {
	m := newModel()
	old := b.worker("old", 0)
	old.decide(m, 3)
	now := b.worker("new", 0)
	b.refused(old, m, old.lease, old.at)
	now.decide(m, 1)
	b.refused(old, m, old.lease, old.at)
	b.refused(old, m, old.lease, now.at) // not by knowing where the new one is
	now.decide(m, 2)
	b.holds(m)
}

// fencedBy returns a case in which a worker is wrong in one thing by d, either way, and right in all others.
func fencedBy(change func(l *driver.Lease, from *driver.Progress, d int64)) func(*bench) {
	return func(b *bench) {
		m := newModel()
		w := b.worker("right", 0)
		for range 3 {
			for _, d := range []int64{-1, 1} {
				l, from := w.lease, w.at
				change(&l, &from, d)
				b.refused(&worker{b, "wrong", l, w.at}, m, l, from)
			}
			w.decide(m, 1)
		}
		b.holds(m)
	}
}

// refused fails the case unless the worker's next transaction is fenced and leaves nothing.
func (b *bench) refused(w *worker, m *model, l driver.Lease, from driver.Progress) {
	b.Helper()
	batch, to := w.story.next(l.Partition, from)
	batch.Parked = slices.DeleteFunc(batch.Parked, func(p driver.Parked) bool { // parked already, and not new
		_, ok := m.parked[place{p.Partition, p.Offset}]
		return ok
	})
	b.want(attempt(b.ctx, b.store, l, from, batch, to), driver.ErrFenced)
	b.holds(m)
}

func fencedByTransaction(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	for range 2 { // the third decision would park the same message twice
		var (
			all  sync.WaitGroup
			errs [2]error
		)
		stories := [2]story{"b", "c"}
		for i, s := range stories {
			all.Go(func() {
				batch, to := s.next(0, w.at)
				errs[i] = attempt(b.ctx, b.store, w.lease, w.at, batch, to)
			})
		}
		all.Wait()
		winner := slices.Index(errs[:], nil)
		if winner < 0 || !errors.Is(errs[1-winner], driver.ErrFenced) {
			b.Fatalf("errors %v, want nil once and %v once", errs, driver.ErrFenced)
		}
		batch, to := stories[winner].next(0, w.at)
		m.commit(0, batch, to)
		w.at = to
		b.holds(m)
	}
}

func fencedByInterrupt(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 1)
	batch, to := w.story.next(0, w.at)
	half := &driver.Batch{Records: batch.Records, Ledger: batch.Ledger}
	rest := &driver.Batch{States: batch.States, Repeats: batch.Repeats}
	for _, when := range []string{"before anything was written", "after something was written", "after it has advanced"} {
		err := func() error {
			tx, err := b.store.Begin(b.ctx, w.lease)
			b.must(err)
			defer func() { _ = tx.Rollback(b.ctx) }()
			if when == "before anything was written" {
				b.h.Interrupt(b.T, b.store, tx)
			}
			err = tx.Write(b.ctx, half)
			if when == "after something was written" {
				b.h.Interrupt(b.T, b.store, tx)
			}
			err = errors.Join(err, tx.Write(b.ctx, rest), tx.Advance(b.ctx, w.at, to)) // whatever the errors: a driver must stop it
			if when == "after it has advanced" {
				b.h.Interrupt(b.T, b.store, tx)
			}
			return errors.Join(err, tx.Commit(b.ctx))
		}()
		if err == nil {
			b.Errorf("a transaction committed that the engine rolled back %s", when)
		}
		b.holds(m)
	}
	w = b.worker("a", 0)
	w.decide(m, 1)
	b.holds(m)
}

func fencedOutside(b *bench) {
	m := newModel()
	old := b.worker("a", 0)
	old.decide(m, 3)
	now := b.worker("a", 0)
	other := now.lease
	other.Nonce[0]++
	for _, l := range []driver.Lease{old.lease, other} {
		b.fencedCalls(l)
	}
	b.holds(m)
	again := b.lease(0)
	equal(b, "epoch", again.Epoch, now.lease.Epoch)
	equal(b, "careful", again.Careful, 0)
	equal(b, "logged", again.Logged, now.lease.Logged)
	if b.inbox.Partitions > 1 {
		equal(b, "partitions that are not ready", b.waiting(b.worker("a", 1).lease)[0], 0)
	}
	now.decide(m, 1) // it was not released
	b.holds(m)
}

func fencedByRestore(b *bench) {
	m := newModel()
	w := b.worker("lost", 0)
	w.decide(m, 3)
	restore := b.h.Backup(b.T, b.store)
	backup := m.clone()
	w.decide(m, 3)
	restore(b.store)
	b.holds(backup)
	b.refused(w, backup, w.lease, w.at)
	now := b.worker("kept", 0)
	now.at.Time = b.utc(now.at.Time)
	equal(b, "progress told by Acquire", now.at, backup.progress[0])
}

func wholeAfterRestore(b *bench) {
	m := newModel()
	changed, same := b.worker("a", 0), b.worker("b", 1)
	changed.decide(m, 2)
	same.decide(m, 2)
	for p, w := range []*worker{changed, same} {
		waiting, err := b.store.Ready(b.ctx, w.lease)
		b.must(err)
		equal(b, "partitions that are not ready", slices.Contains(waiting, int32(p)), false)
	}
	restore := b.h.Backup(b.T, b.store)
	backup := m.clone()
	changed.decide(m, 1)
	restore(b.store)
	b.refused(same, backup, same.lease, same.at) // though it is where it was, and its lease the newest
	changed = b.worker("c", 0)
	equal(b, "copied", changed.lease.Copied, true)
	waiting, err := b.store.Ready(b.ctx, changed.lease)
	b.must(err)
	equal(b, "partition 1 is waited for", slices.Contains(waiting, 1), true)
	b.refused(same, backup, same.lease, same.at)
	_, err = b.store.Ready(b.ctx, same.lease)
	b.want(err, driver.ErrFenced)
	same = b.worker("d", 1)
	equal(b, "copied", same.lease.Copied, true)
	same.decide(backup, 1)
	changed.decide(backup, 1)
	b.holds(backup)
}

func fencedByRepeatedEpoch(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 1)
	restore := b.h.Backup(b.T, b.store)
	lost := b.worker("lost", 0)
	restore(b.store)
	now := b.worker("a", 0)
	b.refused(lost, m, lost.lease, lost.at)
	b.refused(lost, m, w.lease, now.at)
	now.decide(m, 2)
	b.holds(m)
}
