package drivertest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dejalog/deja/driver"
)

var workerCases = []testCase{
	{
		"two workers take turns", "two workers that both think a partition is theirs handle every message once, in any interleaving",
		needs{store: true},
		workersInterleaved,
	},
	{
		"two workers at once", "two workers that take one partition from each other all the time handle every message once",
		needs{store: true},
		workersAtOnce,
	},
	{
		"partitions at once", "partitions are written at the same time, each by its own worker, and none loses anything",
		needs{store: true, partitions: 2},
		partitionsAtOnce,
	},
}

// workersInterleaved lets chance draw whose transaction is next, and whether the other takes over beside it.
func workersInterleaved(b *bench) {
	const messages = 30
	r := rng(5)
	m := newModel()
	var ws [2]*worker
	for m.progress[0].N < messages {
		i := r.IntN(2)
		if ws[i] == nil {
			ws[i] = b.worker("a", 0)
			continue
		}
		w, other := ws[i], 1-i
		batch, to := w.story.next(0, w.at)
		var all sync.WaitGroup
		if r.IntN(3) == 0 { // the other takes over in the middle, or waits until this one is done
			all.Go(func() { ws[other] = b.tryWorker() })
		}
		err := attempt(b.ctx, b.store, w.lease, w.at, batch, to)
		all.Wait()
		switch {
		case err == nil:
			m.commit(0, batch, to)
			w.at = to
			if ws[other] != nil && ws[other].lease.Epoch > w.lease.Epoch {
				equal(b, "progress told by Acquire", ws[other].at.N, to.N)
			}
		case ws[other] != nil && ws[other].lease.Epoch > w.lease.Epoch:
			ws[i] = nil // ErrFenced, or the ledger knew the message first
		default:
			b.Fatal(err)
		}
		b.holds(m)
	}
}

// tryWorker is worker for another goroutine than the test's.
func (b *bench) tryWorker() *worker {
	l, err := b.store.Acquire(b.ctx, b.assignment(0))
	if err != nil {
		b.Error(err)
		return nil
	}
	return &worker{b, "a", l, l.Progress}
}

func workersAtOnce(b *bench) {
	const messages = 40
	var (
		all                sync.WaitGroup
		committed, unknown atomic.Int64
	)
	for i := range 2 {
		all.Go(func() {
			for committed.Load() < messages && b.ctx.Err() == nil && !b.Failed() {
				n, err := b.burst(3 + i)
				committed.Add(n)
				if err != nil && !errors.Is(err, driver.ErrFenced) {
					unknown.Add(1) // the other came first, which the ledger may say before the fence; or the answer to COMMIT was lost
				}
			}
		})
	}
	all.Wait()
	at, err := b.store.Progress(b.ctx, 0)
	b.must(err)
	if at.N < committed.Load() || at.N > committed.Load()+unknown.Load() {
		b.Fatalf("%d decisions were committed, and %d perhaps; the store has %d", committed.Load(), unknown.Load(), at.N)
	}
	m := newModel()
	for m.progress[0].N < at.N {
		batch, to := story("a").next(0, m.progress[0])
		m.commit(0, batch, to)
	}
	b.holds(m)
}

// burst acquires and commits up to a number of decisions.
func (b *bench) burst(decisions int) (committed int64, err error) {
	l, err := b.store.Acquire(b.ctx, b.assignment(0))
	at := l.Progress
	for range decisions {
		if err != nil {
			return committed, err
		}
		batch, to := story("a").next(0, at)
		if err = attempt(b.ctx, b.store, l, at, batch, to); err == nil {
			at = to
			committed++
		}
	}
	return committed, err
}

func partitionsAtOnce(b *bench) {
	const decisions = 20
	var all sync.WaitGroup
	m := newModel()
	for p := range b.inbox.Partitions {
		w := b.worker(story(fmt.Sprint("p", p)), p)
		at := w.at
		all.Go(func() {
			for range decisions {
				batch, to := w.story.next(p, w.at)
				if err := attempt(b.ctx, b.store, w.lease, w.at, batch, to); err != nil {
					b.Error(err)
					return
				}
				w.at = to
			}
		})
		for range decisions {
			batch, to := w.story.next(p, at)
			m.commit(p, batch, to)
			at = to
		}
	}
	all.Wait()
	b.holds(m)
}
