package drivertest

import (
	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var markCases = []testCase{
	{
		"settled after the look-up", "a key that is settled after it was looked up is refused, by the mark, in whatever segment it is",
		needs{store: true},
		settledAfterLookup,
	},
	{
		"parked after the look-up", "a parked key that is settled after it was looked up is refused, by the mark, in whatever segment it is",
		needs{store: true},
		unparkedAfterLookup,
	},
	{
		"ledger in segments", "entries of all segments are found, each once, and Reset empties all of them",
		needs{store: true},
		ledgerInSegments,
	},
	{
		"ledger replaces in segments", "a parked entry is replaced in whatever segment it is, and by nothing else",
		needs{store: true},
		replacedInSegments,
	},
}

// between are what may happen between a look-up and the batch that rests on it: s settles the key, r begins a segment.
var between = []string{"s", "sr", "rs", "rsr", "srr"}

// lookup returns the entries of one key, and the mark.
func (b *bench) lookup(key deja.ID) ([]driver.Entry, int64) {
	b.Helper()
	es, asked, err := b.store.Lookup(b.ctx, []deja.ID{key})
	b.must(err)
	return es, asked
}

// entry returns a decision that settles or parks one key, and where the partition is then. It rests on a look-up. A key
// that was parked is given with the message, which waits no more unless it parks again.
func (w *worker) entry(key deja.ID, status deja.Status, asked int64, was ...driver.Parked) (*driver.Batch, driver.Progress) {
	p := w.lease.Partition
	batch, to := w.story.next(p, w.at)
	batch.Repeats, batch.Parked, batch.Unparked, batch.Asked = nil, nil, nil, asked
	e := driver.Entry{Key: key, Hash: w.story.hash(p, to.N), Partition: p, Offset: w.at.Position, N: to.N, Status: status}
	switch {
	case len(was) > 0:
		e.Offset = was[0].Offset
		if status != deja.Parked {
			batch.Unparked = was
		}
	case status == deja.Parked:
		batch.Parked = []driver.Parked{{Stream: w.story.stream(p, to.N), Partition: p, Offset: e.Offset, Key: key, N: to.N}}
	}
	batch.Ledger = []driver.Entry{e}
	return batch, to
}

// settle commits what entry returns.
func (w *worker) settle(m *model, key deja.ID, status deja.Status, asked int64, was ...driver.Parked) *driver.Batch {
	w.b.Helper()
	batch, to := w.entry(key, status, asked, was...)
	w.b.must(attempt(w.b.ctx, w.b.store, w.lease, w.at, batch, to))
	m.commit(w.lease.Partition, batch, to)
	w.at = to
	return batch
}

// refuses fails the case if a worker settles a key, and lets the worker begin anew.
func (w *worker) refuses(m *model, key deja.ID, asked int64, why string) {
	w.b.Helper()
	batch, to := w.entry(key, deja.Applied, asked)
	if attempt(w.b.ctx, w.b.store, w.lease, w.at, batch, to) == nil {
		w.b.Fatalf("a key was settled again: %s", why)
	}
	w.b.holds(m)
	*w = *w.b.worker(w.story, w.lease.Partition)
}

// askers returns a worker for each of up to two partitions. The first is the one that settles.
func (b *bench) askers() []*worker {
	b.Helper()
	ws := []*worker{b.worker("a", 0)}
	if b.inbox.Partitions > 1 {
		ws = append(ws, b.worker("b", 1))
	}
	return ws
}

func settledAfterLookup(b *bench) {
	m := newModel()
	ws := b.askers()
	for _, order := range between {
		for _, w := range ws {
			key, other := deja.NewID(), deja.NewID()
			es, asked := b.lookup(key)
			equal(b, "entries of a new key", len(es), 0)
			for _, event := range order {
				if event == 'r' {
					b.roll()
				} else {
					ws[0].settle(m, key, deja.Applied, asked)
				}
			}
			w.refuses(m, key, asked, "looked up before "+order)
			w.settle(m, other, deja.Applied, asked) // an old mark alone is no error
			_, asked = b.lookup(deja.NewID())
			w.settle(m, deja.NewID(), deja.Applied, asked)
		}
	}
	b.holds(m)
}

func unparkedAfterLookup(b *bench) {
	m := newModel()
	ws := b.askers()
	for _, order := range between {
		for _, w := range ws {
			key := deja.NewID()
			_, asked := b.lookup(key)
			parked := ws[0].settle(m, key, deja.Parked, asked).Parked
			b.roll()
			es, asked := b.lookup(key)
			equal(b, "entries of a parked key", len(es), 1)
			for _, event := range order {
				if event == 'r' {
					b.roll()
				} else {
					ws[0].settle(m, key, deja.Rejected, asked, parked...)
				}
			}
			w.refuses(m, key, asked, "looked up before "+order+", as parked")
		}
	}
	b.holds(m)
}

func ledgerInSegments(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	for range 4 { // the third message parks, and waits in one segment for the fourth in another
		w.decide(m, 3)
		b.roll()
		w.decide(m, 1)
		b.holds(m)
	}
	b.reopen()
	b.holds(m)
	w = b.worker("a", 0)
	w.decide(m, 3)
	b.roll()
	b.must(b.store.Reset(b.ctx, w.lease))
	m.reset()
	b.holds(m)
	w.at = m.progress[0]
	w.decide(m, 9) // of the same keys
	b.roll()
	b.holds(m)
}

func replacedInSegments(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	for rolls := range 3 {
		key := deja.NewID()
		_, before := b.lookup(key)
		parked := w.settle(m, key, deja.Parked, before).Parked
		for _, status := range []deja.Status{deja.Parked, deja.Applied} {
			for range rolls {
				b.roll()
			}
			es, asked := b.lookup(key)
			equal(b, "entries of a parked key", len(es), 1)
			w.settle(m, key, status, asked, parked...)
			b.holds(m)
		}
		w.refuses(m, key, before, "parked twice, and then settled")
		b.roll()
		w.refuses(m, key, before, "parked twice, settled, and in an older segment")
	}
}
