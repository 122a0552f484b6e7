package drivertest

import (
	"bytes"
	"slices"

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
		"records are told in parts", "the bytes of one answer of Unlogged are bounded, however many records are asked for; one is always told",
		needs{store: true, apart: true},
		recordsBounded,
	},
	{
		"records by partition", "partitions keep their records and marks apart",
		needs{store: true, apart: true, partitions: 2},
		recordsByPartition,
	},
}

// loggedTo returns the mark of a decision that was read back.
func loggedTo(n, next int64) driver.Logged {
	return driver.Logged{
		N: n, Offset: next, Chain: story("logged").hash(0, n), Incarnation: driver.Incarnation{Number: 1 + n/2, Nonce: [16]byte{byte(n)}},
	}
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
	b.must(b.store.Logged(b.ctx, w.lease, loggedTo(3, 7)))
	m.logged[0] = loggedTo(3, 7)
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
	high := loggedTo(4, 9)
	for _, to := range []driver.Logged{loggedTo(2, 3), high, high, {}, loggedTo(3, 5)} {
		b.must(b.store.Logged(b.ctx, w.lease, to))
		if to.N > m.logged[0].N {
			m.logged[0] = to
		}
		b.holds(m)
		equal(b, "logged", b.lease(0).Logged, m.logged[0])
	}
	w = b.worker("a", 0)
	equal(b, "logged", w.lease.Logged, high)
	marker := high // a new life of the store begins in a record without a number
	marker.Offset, marker.Incarnation.Number = 12, high.Incarnation.Number+1
	b.must(b.store.Logged(b.ctx, w.lease, marker))
	equal(b, "logged", b.worker("a", 0).lease.Logged, marker)
}

func recordsBounded(b *bench) {
	w := b.worker("a", 0)
	all := b.large(b.journal.MaxRecord)
	for few := range slices.Chunk(all, 8) {
		batch, to := &driver.Batch{}, w.at
		for _, v := range few {
			to.N++
			batch.Records = append(batch.Records, driver.JournalRecord{N: to.N, Value: v})
		}
		to.Position, to.Chain, to.Time = to.N, w.story.hash(0, to.N), w.story.time(to.N)
		b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
		w.at = to
	}
	for i := 0; i < len(all); {
		rs, err := b.store.Unlogged(b.ctx, 0, int64(i), len(all))
		b.must(err)
		b.bounded(i, len(rs), all)
		for _, r := range rs {
			if r.N != int64(i+1) || !bytes.Equal(r.Value, all[i]) {
				b.Fatalf("record %d is another, number %d", i+1, r.N)
			}
			i++
		}
	}
}

func recordsByPartition(b *bench) {
	m := newModel()
	w0, w1 := b.worker("a", 0), b.worker("a", 1)
	w0.decide(m, 2)
	w1.decide(m, 3)
	m.logged[1] = loggedTo(2, 2)
	b.must(b.store.Logged(b.ctx, w1.lease, m.logged[1]))
	b.holds(m)
	equal(b, "logged", b.worker("a", 0).lease.Logged, driver.Logged{})
	equal(b, "logged", b.worker("a", 1).lease.Logged, m.logged[1])
}
