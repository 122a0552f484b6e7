package drivertest

import (
	"bytes"
	"errors"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var ledgerCases = []testCase{
	{
		"ledger refuses a key twice", "a key that is settled is never settled again: the batch fails, and nothing of it is visible",
		needs{store: true},
		ledgerRefuses,
	},
	{
		"ledger replaces what is parked", "the entry of a parked message, and no other, is replaced when it is decided again",
		needs{store: true},
		ledgerReplaces,
	},
	{
		"ledger is one for all partitions", "a key that is settled in one partition is settled in the others",
		needs{store: true, partitions: 2},
		ledgerAcross,
	},
	{
		"lookup of many", "Lookup finds what there is among thousands of keys, and nothing for none",
		needs{store: true},
		lookupMany,
	},
	{
		"find a range", "Find returns the entries from lo to hi, both included, in order of the keys' bytes",
		needs{store: true},
		findRange,
	},
	{
		"parked messages", "Parked returns a partition's messages in order from an offset on, a stream's own where one is given",
		needs{store: true},
		parked,
	},
	{
		"repeats add up", "counts of one key and kind add up, keeping the first offset and the last; the kinds are apart",
		needs{store: true},
		repeats,
	},
}

func ledgerRefuses(b *bench) {
	for _, status := range []deja.Status{deja.Applied, deja.Rejected, deja.Ignored, deja.Conflicted, deja.DeadLetter} {
		m := newModel()
		b := b.fresh()
		w := b.worker("a", 0)
		batch, to := w.story.next(0, w.at)
		batch.Ledger[0].Status = status
		b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
		m.commit(0, batch, to)

		again, further := w.story.next(0, to)
		again.Ledger[0].Key = batch.Ledger[0].Key
		err := attempt(b.ctx, b.store, w.lease, to, again, further)
		if err == nil || errors.Is(err, driver.ErrFenced) {
			b.Errorf("a key settled as %s was settled again: error %v", status, err)
		}
		b.holds(m)
		w = b.worker("a", 0)
		w.decide(m, 1)
		b.holds(m)
	}
}

func ledgerReplaces(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 2)
	key := w.story.messageID(0, 3)
	for _, status := range []deja.Status{deja.Parked, deja.Parked, deja.Applied} {
		batch, to := w.story.next(0, w.at)
		batch.Ledger = []driver.Entry{{Key: key, Hash: w.story.hash(0, to.N), Offset: 3, N: to.N, Status: status}}
		batch.Parked, batch.Unparked = nil, nil
		b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
		m.commit(0, batch, to)
		w.at = to
		b.holds(m)
	}
	batch, to := w.story.next(0, w.at)
	batch.Ledger[0].Key = key
	if attempt(b.ctx, b.store, w.lease, w.at, batch, to) == nil {
		b.Error("a key was settled again that was parked once")
	}
	b.holds(m)
}

func ledgerAcross(b *bench) {
	m := newModel()
	w0, w1 := b.worker("a", 0), b.worker("b", 1)
	w0.decide(m, 1)
	batch, to := w1.story.next(1, w1.at)
	batch.Ledger[0].Key = w0.story.messageID(0, 1)
	if attempt(b.ctx, b.store, w1.lease, w1.at, batch, to) == nil {
		b.Error("a key was settled in two partitions")
	}
	b.holds(m)
}

func lookupMany(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 2)
	var keys []deja.ID
	for n := range int64(5000) {
		keys = append(keys, w.story.messageID(0, n))
	}
	es, _, err := b.store.Lookup(b.ctx, keys)
	b.must(err)
	equal(b, "entries found", len(es), 2)
	for _, keys := range [][]deja.ID{nil, {}, {{}}} {
		es, _, err := b.store.Lookup(b.ctx, keys)
		b.must(err)
		equal(b, "entries found", len(es), 0)
	}
}

func findRange(b *bench) {
	w := b.worker("a", 0)
	batch, to := w.story.next(0, w.at)
	batch.Ledger = nil
	var keys []deja.ID
	for _, first := range []byte{0x00, 0x01, 0x2d, 0x41, 0x61, 0x7f, 0x80, 0xc3, 0xfe, 0xff} {
		for _, last := range []byte{0x00, 0x7f, 0x80, 0xff} {
			keys = append(keys, deja.ID{first, 6: 0x70, 8: 0x80, 15: last})
		}
	}
	for i, j := range rng(7).Perm(len(keys)) {
		batch.Ledger = append(batch.Ledger, driver.Entry{Key: keys[j], Offset: int64(i), N: to.N, Status: deja.Applied})
	}
	b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
	for i, lo := range keys {
		for j, hi := range keys {
			if (i+2*j)%3 > 0 { // a third of the pairs will do
				continue
			}
			most := 1 + (i+j)%6
			es, err := b.store.Find(b.ctx, lo, hi, most)
			b.must(err)
			var got, want []deja.ID
			for _, e := range es {
				got = append(got, e.Key)
			}
			if i <= j {
				want = keys[i:min(i+most, j+1)]
			}
			if !slices.Equal(got, want) {
				b.Fatalf("Find(%s, %s, %d):\n got %v\nwant %v", lo, hi, most, got, want)
			}
		}
	}
	es, err := b.store.Find(b.ctx, deja.ID{0x42}, deja.ID(bytes.Repeat([]byte{0x60}, 16)), 10)
	b.must(err)
	equal(b, "entries found", len(es), 0)
}

func parked(b *bench) {
	m := newModel()
	one, two := deja.Stream{Aggregate: "account", Key: "1"}, deja.Stream{Tenant: "t", Aggregate: "account", Key: "1"}
	var all []driver.Parked
	for p := range min(b.inbox.Partitions, 2) {
		w := b.worker("a", p)
		batch, to := w.story.next(p, w.at)
		for _, offset := range []int64{9, 2, 30, 11, 100} {
			stream := one
			if offset%2 == 0 {
				stream = two
			}
			row := driver.Parked{Stream: stream, Partition: p, Offset: offset, Key: w.story.messageID(p, offset), N: to.N}
			batch.Parked = append(batch.Parked, row)
			all = append(all, row)
		}
		b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
		m.commit(p, batch, to)
	}
	b.holds(m)
	read := func(p int32, s deja.Stream, from int64, most int, want ...int64) {
		b.Helper()
		rows, err := b.store.Parked(b.ctx, p, s, from, most)
		b.must(err)
		var got []int64
		for _, r := range rows {
			got = append(got, r.Offset)
		}
		equal(b, "offsets of parked messages", got, slicesOrNil(want))
	}
	for p := range min(b.inbox.Partitions, 2) {
		read(p, deja.Stream{}, 0, 2, 2, 9)
		read(p, deja.Stream{}, 9, 2, 9, 11)
		read(p, deja.Stream{}, 12, plenty, 30, 100)
		read(p, one, 0, plenty, 9, 11)
		read(p, two, 3, 1, 30)
		read(p, deja.Stream{Aggregate: "account", Key: "2"}, 0, plenty)
	}
	w := b.worker("a", 0)
	batch, to := w.story.next(0, w.at)
	batch.Unparked = []driver.Parked{all[0], all[3]}
	b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
	m.commit(0, batch, to)
	b.holds(m)
}

func repeats(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 1)
	key, other := w.story.messageID(0, 1), w.story.messageID(0, 99) // the other is not in the ledger
	for _, rs := range [][]driver.Repeat{
		{{Key: key, Count: 1, First: 20, Last: 20}, {Key: key, Conflict: true, Count: 2, First: 21, Last: 25}},
		{{Key: key, Count: 3, First: 26, Last: 40}, {Key: other, Count: 1, First: 30, Last: 30}},
		{{Key: key, Conflict: true, Count: 1, First: 50, Last: 50}},
		{{Key: key, Count: 1, First: 1, Last: 1}}, // of an older part of the inbox
	} {
		batch, to := w.story.next(0, w.at)
		batch.Repeats, batch.Parked, batch.Unparked = rs, nil, nil
		batch.Ledger = batch.Ledger[:1]
		b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
		m.commit(0, batch, to)
		w.at = to
		b.holds(m)
	}
}
