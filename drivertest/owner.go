package drivertest

import (
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var ownerCases = []testCase{
	{
		"leases", "Leases tells in order, of each partition that was ever acquired, whose it is and where it is",
		needs{store: true},
		leases,
	},
	{
		"a lease runs out", "a lease is held until its time is over; that is told and fences nobody, and a held one can be acquired",
		needs{store: true},
		leaseRunsOut,
	},
	{
		"leases after reopening", "whose a lease is, its tries and attempts survive the process",
		needs{store: true, reopen: true},
		leasesReopened,
	},
	{
		"tries", "tries count the owners that in turn acquired the partition since it last advanced or was released",
		needs{store: true},
		tries,
	},
	{
		"attempts", "Attempt counts the other owners that noted the same inbox offset, until another is noted, and sets how far to be careful",
		needs{store: true},
		attempts,
	},
	{
		"release", "a lease that was given back is nobody's, and fenced like one that was taken over",
		needs{store: true},
		release,
	},
	{
		"ready", "Ready tells which partitions have not been ready since the store was made or reset, in order",
		needs{store: true},
		ready,
	},
	{
		"ready after reopening", "a partition that was ready is so after the process has died",
		needs{store: true, reopen: true},
		readyReopened,
	},
}

// long is a time to live that does not run out in a case, short one that does.
const (
	long  = time.Hour
	short = 200 * time.Millisecond
)

// owned takes a partition over for an owner.
func (b *bench) owned(partition int32, owner deja.ID, ttl time.Duration) *worker {
	b.Helper()
	a := b.assignment(partition)
	a.Owner, a.TTL = owner, ttl
	l, err := b.store.Acquire(b.ctx, a)
	b.must(err)
	equal(b, "owner", l.Owner, owner)
	return &worker{b, "a", l, l.Progress}
}

// holder is what Leases tells that Acquire did not.
type holder struct {
	owner deja.ID
	held  bool
	tries int64
}

// lease returns what Leases tells of a partition.
func (b *bench) lease(partition int32) driver.Lease {
	b.Helper()
	ls, err := b.store.Leases(b.ctx)
	b.must(err)
	i := slices.IndexFunc(ls, func(l driver.Lease) bool { return l.Partition == partition })
	if i < 0 {
		b.Fatalf("Leases has no partition %d: %+v", partition, ls)
	}
	return ls[i]
}

func (b *bench) heldBy(partition int32, want holder) {
	b.Helper()
	l := b.lease(partition)
	equal(b, "whose the partition is", holder{l.Owner, l.Held, l.Tries}, want)
}

// fencedCalls fails the case unless each call outside transactions is fenced under a lease.
func (b *bench) fencedCalls(l driver.Lease) {
	b.Helper()
	b.want(b.store.Reset(b.ctx, l), driver.ErrFenced)
	b.want(b.store.Logged(b.ctx, l, loggedTo(1, 1)), driver.ErrFenced)
	b.want(b.store.Release(b.ctx, l), driver.ErrFenced)
	_, err := b.store.Ready(b.ctx, l)
	b.want(err, driver.ErrFenced)
	_, err = b.store.Attempt(b.ctx, l, 1, 1)
	b.want(err, driver.ErrFenced)
}

func leases(b *bench) {
	m := newModel()
	ls, err := b.store.Leases(b.ctx)
	b.must(err)
	equal(b, "leases of an empty store", len(ls), 0)
	var newest []driver.Lease
	for p := b.inbox.Partitions - 1; p >= 0; p-- { // told in order, not as they came
		b.worker("a", p)
		w := b.owned(p, deja.NewID(), long)
		w.decide(m, int(p)+1)
		newest = slices.Insert(newest, 0, w.lease)
		ls, err := b.store.Leases(b.ctx)
		b.must(err)
		equal(b, "number of leases", len(ls), len(newest))
		for i, l := range ls {
			want := newest[i]
			equal(b, "partition", l.Partition, want.Partition)
			equal(b, "epoch", l.Epoch, want.Epoch)
			equal(b, "nonce", l.Nonce, want.Nonce)
			l.Progress.Time = b.utc(l.Progress.Time)
			equal(b, "progress", l.Progress, m.progress[l.Partition])
			b.heldBy(l.Partition, holder{want.Owner, true, 0})
		}
	}
	if b.joint() {
		return
	}
	to := loggedTo(1, 4)
	b.must(b.store.Logged(b.ctx, newest[0], to))
	equal(b, "logged", b.lease(0).Logged, to)
}

func leaseRunsOut(b *bench) {
	m := newModel()
	w := b.owned(0, deja.NewID(), short)
	b.until("the lease to run out", func() bool { return !b.lease(0).Held })
	w.decide(m, 1) // time is a matter of liveness
	one := b.owned(0, deja.NewID(), long)
	b.heldBy(0, holder{one.lease.Owner, true, 1})
	b.refused(w, m, w.lease, w.at)
	two := b.owned(0, deja.NewID(), long)
	b.heldBy(0, holder{two.lease.Owner, true, 2})
	b.refused(one, m, one.lease, one.at)
	b.worker("tool", 0).decide(m, 1)
	b.heldBy(0, holder{}) // a tool holds it against nobody
	b.refused(two, m, two.lease, two.at)
	b.holds(m)
}

func leasesReopened(b *bench) {
	owner := deja.NewID()
	b.owned(0, deja.NewID(), long)
	w := b.owned(0, owner, long)
	equal(b, "owners that died", b.attempted(w, 8, 9), 0)
	b.reopen()
	b.heldBy(0, holder{owner, true, 2})
	equal(b, "careful", b.lease(0).Careful, 9)
	w = b.owned(0, deja.NewID(), long)
	equal(b, "tries", w.lease.Tries, 3)
	equal(b, "careful", w.lease.Careful, 9)
	equal(b, "owners that died", b.attempted(w, 8, 9), 1)
}

func tries(b *bench) {
	m := newModel()
	check := func(w *worker, want int64) {
		b.Helper()
		equal(b, "tries told by Acquire", w.lease.Tries, want)
		equal(b, "tries told by Leases", b.lease(0).Tries, want)
	}
	one, two := deja.NewID(), deja.NewID()
	check(b.owned(0, one, long), 1)
	check(b.owned(0, one, long), 1) // it is still its turn
	check(b.owned(0, two, short), 2)
	check(b.worker("a", 0), 2) // a tool's does not count
	check(b.owned(0, one, long), 3)
	w := b.owned(0, two, long)
	check(w, 4)
	wrong := w.at
	wrong.Position++
	b.refused(w, m, w.lease, wrong)
	b.attempted(w, 0, 0)
	check(w, 4)
	w.decide(m, 1)
	equal(b, "tries after an advance", b.lease(0).Tries, 0)
	check(b.owned(0, two, long), 1)
	w = b.owned(0, one, long)
	check(w, 2)
	b.must(b.store.Release(b.ctx, w.lease))
	equal(b, "tries after a release", b.lease(0).Tries, 0)
	check(b.owned(0, one, long), 1)
}

// attempted notes an attempt, and returns how many died in theirs.
func (b *bench) attempted(w *worker, offset, careful int64) int64 {
	b.Helper()
	n, err := b.store.Attempt(b.ctx, w.lease, offset, careful)
	b.must(err)
	return n
}

func attempts(b *bench) {
	m := newModel()
	one, two, three := deja.NewID(), deja.NewID(), deja.NewID()
	var w *worker
	for _, s := range []struct {
		owner                 deja.ID
		offset, careful, died int64
	}{
		{one, 0, 3, 0},
		{two, 0, 3, 1},
		{one, 5, 10, 0},
		{one, 5, 10, 0}, // it lives
		{two, 5, 12, 1},
		{one, 5, 12, 1}, // it asks itself
		{three, 5, 12, 2},
		{three, 6, 12, 0},
		{three, 5, 12, 0}, // another was noted in between
		{two, 5, 4, 1},
	} {
		if w == nil || w.lease.Owner != s.owner {
			w = b.owned(0, s.owner, long)
		}
		equal(b, "owners that died", b.attempted(w, s.offset, s.careful), s.died)
		equal(b, "careful", b.lease(0).Careful, s.careful)
	}
	b.holds(m)
	now := b.owned(0, one, long)
	equal(b, "careful", now.lease.Careful, 4)
	_, err := b.store.Attempt(b.ctx, w.lease, 7, 20)
	b.want(err, driver.ErrFenced)
	equal(b, "careful", b.lease(0).Careful, 4)
	equal(b, "owners that died", b.attempted(now, 5, 4), 2)
	if b.inbox.Partitions > 1 {
		other := b.owned(1, three, long)
		equal(b, "owners that died in another partition", b.attempted(other, 5, 30), 0)
		equal(b, "careful", b.lease(0).Careful, 4)
	}
	now.decide(m, 1) // the lease holds on
	b.holds(m)
}

func release(b *bench) {
	m := newModel()
	w := b.owned(0, deja.NewID(), long)
	w.decide(m, 2)
	b.must(b.store.Release(b.ctx, w.lease))
	b.heldBy(0, holder{})
	b.refused(w, m, w.lease, w.at)
	b.fencedCalls(w.lease)
	b.holds(m)

	now := b.owned(0, deja.NewID(), long)
	equal(b, "progress told by Acquire", now.at.N, w.at.N)
	b.want(b.store.Release(b.ctx, w.lease), driver.ErrFenced)
	b.heldBy(0, holder{now.lease.Owner, true, 1})
	now.decide(m, 1)
	b.holds(m)
}

// waiting notes that a lease's partition is ready, and returns those that are not.
func (b *bench) waiting(l driver.Lease) []int32 {
	b.Helper()
	ps, err := b.store.Ready(b.ctx, l)
	b.must(err)
	return slicesOrNil(ps)
}

// partitions returns those from a first one on, up to before an end.
func partitions(first, end int32) []int32 {
	var ps []int32
	for p := first; p < end; p++ {
		ps = append(ps, p)
	}
	return ps
}

func ready(b *bench) {
	m := newModel()
	all := b.inbox.Partitions
	var last *worker
	for p := all - 1; p >= 0; p-- {
		b.worker("a", p) // an acquisition alone makes nobody ready, and changes nothing about it
		last = b.worker("a", p)
		for range 2 {
			equal(b, "partitions that are not ready", b.waiting(last.lease), partitions(0, p))
		}
	}
	last = b.worker("a", 0)
	equal(b, "partitions that are not ready", b.waiting(last.lease), nil)

	other := b.worker("a", all-1)
	b.must(b.store.Reset(b.ctx, other.lease))
	if all > 1 {
		b.fencedCalls(last.lease)
	}
	equal(b, "partitions that are not ready after a reset", b.waiting(other.lease), partitions(0, all-1))
	for p := range all {
		last = b.worker("a", p)
		equal(b, "partitions that are not ready", b.waiting(last.lease), partitions(p+1, all-1))
	}
	last.decide(m, 1)
	b.holds(m)
}

func readyReopened(b *bench) {
	all := b.inbox.Partitions
	b.waiting(b.worker("a", all-1).lease)
	b.reopen()
	equal(b, "partitions that are not ready", b.waiting(b.worker("a", 0).lease), partitions(1, all-1))
}
