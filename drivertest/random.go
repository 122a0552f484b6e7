package drivertest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// seedFlag repeats one run of the model test.
var seedFlag = flag.Uint64("drivertest.seed", 0, "the one seed that the random model test is to run with; 0 draws them")

var modelCases = []testCase{
	{
		"model", "a store does what a handful of maps do, in any order of calls",
		needs{store: true},
		func(b *bench) { RunModel(b.T, b.h) },
	},
}

// RunModel runs random calls against a store and a simple model of it, for about a second. Run runs it too. A failure
// prints the command that repeats it.
func RunModel(t *testing.T, h Harness) {
	t.Helper()
	if *seedFlag != 0 {
		runSeed(t, h, *seedFlag)
		return
	}
	budget := time.Second
	if testing.Short() {
		budget /= 10
	}
	for start := time.Now(); time.Since(start) < budget && !t.Failed(); {
		runSeed(t, h, rand.Uint64N(1<<32)+1)
	}
}

// runSeed is one run. All that is drawn in it follows from the seed.
func runSeed(t *testing.T, h Harness, seed uint64) {
	t.Helper()
	name := t.Name()
	t.Run("seed", func(t *testing.T) {
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("repeat it: go test -run '^%s$' . -drivertest.seed=%d", pattern(name), seed)
			}
		})
		r := &random{bench: open(t, h), Rand: rng(seed), model: newModel(), workers: map[int32]*worker{}}
		for range 40 {
			r.step()
		}
		r.say("hold everything")
		r.holds(r.model)
	})
}

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// random is a random run: a bench, what its store must hold, and the worker of each partition.
type random struct {
	*bench
	*rand.Rand
	model   *model
	workers map[int32]*worker
	saved   *model // what a backup holds
	restore func(driver.Store)
	steps   int
}

// say logs what a run did; the log shows where it fails.
func (r *random) say(format string, args ...any) {
	r.Logf("%3d %s", r.steps, fmt.Sprintf(format, args...))
}

// step takes one random step.
func (r *random) step() {
	r.steps++
	p := r.Int32N(min(r.inbox.Partitions, 3))
	w := r.workers[p]
	if w == nil || r.IntN(8) == 0 {
		r.acquire(p)
		return
	}
	switch n := r.IntN(24); {
	case n < 9:
		r.decide(w)
	case n < 12:
		r.fenced(w)
	case n < 14:
		r.giveUp(w)
	case n < 16 && !r.joint():
		r.logged(w)
	case n == 16:
		r.reset(w)
	case n == 17 && r.h.Reopen != nil:
		r.say("reopen")
		r.reopen()
		clear(r.workers)
	case n == 18 && r.h.Backup != nil:
		r.backup()
	case n == 19 && r.h.Roll != nil:
		r.say("roll")
		r.roll()
	case n == 20:
		r.attempt(w)
	case n == 21:
		r.release(w)
	case n == 22:
		r.ready(w)
	default:
		r.say("hold everything")
		r.holds(r.model)
	}
}

func (r *random) acquire(p int32) {
	owner := [16]byte{6: 0x70, 8: 0x80, 15: byte(r.IntN(3))} // one of three
	r.say("acquire %d for %d", p, owner[15])
	w := r.owned(p, owner, long)
	r.model.acquire(p, owner)
	equal(r.bench, "tries", w.lease.Tries, r.model.turns[p].tries)
	w.at.Time = r.utc(w.at.Time)
	equal(r.bench, "progress told by Acquire", w.at, r.model.progress[p])
	r.workers[p] = w
}

func (r *random) decide(w *worker) {
	n := 1 + r.IntN(5)
	r.say("decide %d of partition %d after %d", n, w.lease.Partition, w.at.N)
	if r.IntN(2) == 0 {
		w.decide(r.model, n)
		return
	}
	p := w.lease.Partition
	batch, to := w.story.next(p, w.at)
	var keys []deja.ID
	for _, e := range batch.Ledger {
		keys = append(keys, e.Key)
	}
	es, asked, err := r.store.Lookup(r.ctx, keys)
	r.must(err)
	if len(es) > 0 && es[0].Status != deja.Parked || len(es) == len(keys) {
		r.Fatalf("the next message is settled already: %+v", es)
	}
	batch.Asked = asked
	if r.IntN(3) == 0 {
		r.say("roll after the look-up")
		r.roll()
	}
	r.must(attempt(r.ctx, r.store, w.lease, w.at, batch, to))
	r.model.commit(p, batch, to)
	w.at = to
}

// attempt notes an offset out of a few, so that some come again.
func (r *random) attempt(w *worker) {
	p, at := w.lease.Partition, r.Int64N(2)
	want := r.model.attempt(p, w.lease.Owner, at)
	r.say("attempt at %d of partition %d, where %d died", at, p, want)
	equal(r.bench, "owners that died", r.attempted(w, at, at), want)
}

func (r *random) release(w *worker) {
	p := w.lease.Partition
	r.say("release partition %d", p)
	r.must(r.store.Release(r.ctx, w.lease))
	r.model.fresh(p)
	delete(r.workers, p)
	if r.IntN(2) == 0 {
		r.refused(w, r.model, w.lease, w.at)
	}
}

func (r *random) ready(w *worker) {
	r.say("ready in partition %d", w.lease.Partition)
	r.model.ready[w.lease.Partition] = true
	var want []int32
	for p := range r.inbox.Partitions {
		if !r.model.ready[p] {
			want = append(want, p)
		}
	}
	equal(r.bench, "partitions that are not ready", r.waiting(w.lease), want)
}

// fenced tries a transaction that is wrong in one thing.
func (r *random) fenced(w *worker) {
	l, from, d := w.lease, w.at, int64(1+r.IntN(3))
	if r.IntN(2) == 0 {
		d = -d
	}
	kind := r.IntN(5)
	switch kind {
	case 0:
		l.Epoch += d
	case 1:
		l.Nonce[r.IntN(16)] += byte(d)
	case 2:
		from.Position += d
	case 3:
		from.N += d
	case 4:
		from.Chain[r.IntN(32)] += byte(d)
	}
	r.say("fenced in partition %d after %d, kind %d by %d", l.Partition, w.at.N, kind, d)
	batch, to := w.story.next(l.Partition, w.at)
	r.want(attempt(r.ctx, r.store, l, from, batch, to), driver.ErrFenced)
}

// giveUp rolls a transaction back, at any point of it.
func (r *random) giveUp(w *worker) {
	upTo := r.IntN(3)
	r.say("give up in partition %d after %d, at call %d", w.lease.Partition, w.at.N, upTo)
	batch, to := w.story.next(w.lease.Partition, w.at)
	tx, err := r.store.Begin(r.ctx, w.lease)
	r.must(err)
	if upTo > 0 {
		r.must(tx.Write(r.ctx, batch))
	}
	if upTo > 1 {
		r.must(tx.Advance(r.ctx, w.at, to))
	}
	r.must(tx.Rollback(r.ctx))
}

func (r *random) logged(w *worker) {
	p := w.lease.Partition
	n := r.Int64N(r.model.progress[p].N + 1)
	r.say("logged %d of partition %d", n, p)
	r.must(r.store.Logged(r.ctx, w.lease, loggedTo(n, n)))
	if n > r.model.logged[p].N {
		r.model.logged[p] = loggedTo(n, n)
	}
}

func (r *random) reset(w *worker) {
	p := w.lease.Partition
	r.say("reset, under the lease of partition %d", p)
	r.must(r.store.Reset(r.ctx, w.lease))
	r.model.reset()
	w.at = r.model.progress[p]
	for other, o := range r.workers {
		if other != p {
			r.refused(o, r.model, o.lease, r.model.progress[other])
			delete(r.workers, other)
		}
	}
}

// backup takes a backup, or restores the one that was taken: then every worker is somewhere that never was.
func (r *random) backup() {
	if r.restore == nil {
		r.say("backup")
		r.restore, r.saved = r.h.Backup(r.T, r.store), r.model.clone()
		return
	}
	r.say("restore")
	r.restore(r.store)
	r.model, r.restore = r.saved, nil
	if r.h.Tells {
		clear(r.model.ready)
	}
	for p, w := range r.workers {
		if now := r.model.progress[p]; r.h.Tells || w.at.Position != now.Position || w.at.N != now.N || w.at.Chain != now.Chain {
			w.story = "lost" // its messages are new to the ledger, which else might refuse them before the fence does
			r.refused(w, r.model, w.lease, w.at)
		}
		delete(r.workers, p)
	}
}
