package drivertest

import (
	"github.com/dejalog/deja/driver"
)

var recordCases = []testCase{
	{
		"records are kept", "a decision's record is kept until it is logged, and told in order of numbers",
		needs{store: true, apart: true},
		recordsKept,
	},
	{
		"logged never goes back", "the mark how far the journal was read back rises, and a lower one changes nothing",
		needs{store: true, apart: true},
		loggedRises,
	},
	{
		"records by partition", "partitions keep their records and marks apart",
		needs{store: true, apart: true, partitions: 2},
		recordsByPartition,
	},
}

// unlogged returns the numbers of partition 0's kept records.
func (b *bench) unlogged(after int64, most int) []int64 {
	b.Helper()
	rs, err := b.store.Unlogged(b.ctx, 0, after, most)
	b.must(err)
	var ns []int64
	for _, r := range rs {
		ns = append(ns, r.N)
	}
	return ns
}

func recordsKept(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	equal(b, "records of an empty store", b.unlogged(0, 10), nil)
	w.decide(m, 5)
	equal(b, "records", b.unlogged(0, 3), []int64{1, 2, 3})
	equal(b, "records", b.unlogged(3, 3), []int64{4, 5})
	equal(b, "records", b.unlogged(5, 3), nil)
	b.must(b.store.Logged(b.ctx, w.lease, driver.Logged{N: 3, Offset: 7}))
	m.logged[0] = driver.Logged{N: 3, Offset: 7}
	equal(b, "records", b.unlogged(3, 3), []int64{4, 5})
	b.holds(m)
	w.decide(m, 2)
	equal(b, "records", b.unlogged(3, 10), []int64{4, 5, 6, 7})
	b.holds(m)

	batch, to := w.story.next(0, w.at)
	for n := to.N + 1; n < to.N+4; n++ { // several decisions in one transaction
		batch.Records = append(batch.Records, driver.JournalRecord{N: n, Value: []byte{byte(n)}})
	}
	to.N += 3
	b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
	m.commit(0, batch, to)
	equal(b, "records", b.unlogged(8, 10), []int64{9, 10, 11})
	b.holds(m)
}

func loggedRises(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 5)
	high := driver.Logged{N: 4, Offset: 9}
	for _, to := range []driver.Logged{{N: 2, Offset: 3}, high, high, {}, {N: 3, Offset: 5}} {
		b.must(b.store.Logged(b.ctx, w.lease, to))
		m.logged[0] = driver.Logged{N: max(m.logged[0].N, to.N), Offset: max(m.logged[0].Offset, to.Offset)}
		b.holds(m)
	}
	w = b.worker("a", 0)
	equal(b, "logged", w.lease.Logged, high)
	marker := driver.Logged{N: 4, Offset: 12} // a record without a number was read
	b.must(b.store.Logged(b.ctx, w.lease, marker))
	equal(b, "logged", b.worker("a", 0).lease.Logged, marker)
}

func recordsByPartition(b *bench) {
	m := newModel()
	w0, w1 := b.worker("a", 0), b.worker("a", 1)
	w0.decide(m, 2)
	w1.decide(m, 3)
	m.logged[1] = driver.Logged{N: 2, Offset: 2}
	b.must(b.store.Logged(b.ctx, w1.lease, m.logged[1]))
	b.holds(m)
	equal(b, "logged", b.worker("a", 0).lease.Logged, driver.Logged{})
	equal(b, "logged", b.worker("a", 1).lease.Logged, m.logged[1])
}
