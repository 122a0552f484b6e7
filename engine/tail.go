package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// tail reads a partition's journal at its end, for the clients that wait there for decisions: whoever makes them, this
// process or another, what the journal has is what may be told. It reads while somebody waits, and a while longer.
type tail struct {
	p *partition

	mu      sync.Mutex
	waiting map[deja.ID][]*waiter // by ledger key
	watched map[deja.Stream][]*watcher
	reading *reading    // nil while nobody reads
	idle    *time.Timer // ends the reading
}

// reading is one time of reading, from its begin to its end. What it still reads after that is told to nobody.
type reading struct {
	cancel context.CancelFunc
	begin  func()        // closes begun, once
	begun  chan struct{} // closed when what is logged from then on will be told, or the reading has ended
	seen   int64         // the number of the last decision that was read; guarded by the tail's lock
}

const tailIdle = 250 * time.Millisecond

// waiter is told every decision about a ledger key that is logged while it waits.
type waiter struct {
	key  deja.ID
	told chan struct{} // has room for one: there is something new

	// Guarded by the tail's lock.
	records []*wire.Record
	err     error // why nothing more will come
}

// wait registers a waiter, once reading has begun: what is logged from then on it will be told.
func (t *tail) wait(ctx context.Context, key deja.ID) (*waiter, error) {
	w := &waiter{key: key, told: make(chan struct{}, 1)}
	t.mu.Lock()
	if t.waiting == nil {
		t.waiting = map[deja.ID][]*waiter{}
	}
	t.waiting[key] = append(t.waiting[key], w)
	if t.idle != nil {
		t.idle.Stop()
	}
	if t.reading == nil {
		t.start()
	}
	begun := t.reading.begun
	t.mu.Unlock()
	select {
	case <-begun:
	case <-ctx.Done():
		t.leave(w)
		return nil, ctx.Err()
	}
	t.mu.Lock()
	err := w.err
	t.mu.Unlock()
	if err != nil {
		t.leave(w)
		return nil, err
	}
	return w, nil
}

// start begins to read. The lock is held.
func (t *tail) start() {
	ctx, cancel := context.WithCancel(context.Background())
	begun := make(chan struct{})
	r := &reading{cancel: cancel, begin: sync.OnceFunc(func() { close(begun) }), begun: begun}
	t.reading = r
	go func() {
		err := t.read(ctx, r)
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.reading == r {
			t.end(err)
		}
	}()
}

// end ends the reading, and all waits with an error. Who comes later is read for anew. The lock is held.
func (t *tail) end(err error) {
	if t.reading != nil {
		t.reading.cancel()
		t.reading.begin()
		t.reading = nil
	}
	t.fail(err)
}

// fail ends all waits with an error. The lock is held.
func (t *tail) fail(err error) {
	for _, ws := range t.waiting {
		for _, w := range ws {
			w.err = err
			w.wake()
		}
	}
}

// leave ends a wait.
func (t *tail) leave(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := slices.DeleteFunc(t.waiting[w.key], func(other *waiter) bool { return other == w })
	if t.waiting[w.key] = rest; len(rest) == 0 {
		delete(t.waiting, w.key)
	}
	if len(t.waiting) == 0 && t.reading != nil {
		if t.idle != nil {
			t.idle.Stop()
		}
		t.idle = time.AfterFunc(tailIdle, t.rest)
	}
}

// rest ends the reading if nobody waits.
func (t *tail) rest() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.end(nil)
	}
}

// stop ends the reading, and all waits with an error.
func (t *tail) stop(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end(err)
}

// halt ends all waits with an error.
func (t *tail) halt(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fail(err)
}

func (w *waiter) wake() {
	select {
	case w.told <- struct{}{}:
	default:
	}
}

// read tells all decisions from the journal's present end on.
func (t *tail) read(ctx context.Context, r *reading) error {
	from, err := t.p.logged(ctx)
	if err != nil {
		return err
	}
	e := t.p.e
	j := journal.NewReader(e.log, e.machine.Name(), t.p.number, from)
	t.mu.Lock()
	r.seen = from.N
	t.mu.Unlock()
	r.begin()
	for {
		entries, err := j.Wait(ctx, batchSize)
		if err != nil {
			return err
		}
		t.tell(r, entries)
	}
}

// tell gives the waiters what was read.
func (t *tail) tell(r *reading, entries []journal.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reading != r {
		return
	}
	name := t.p.e.machine.Name()
	for i := range entries {
		r.seen = entries[i].N
		for _, w := range t.watched[entries[i].Cause.Stream] {
			w.see(entries[i].Record)
		}
		for _, w := range t.waiting[wire.LedgerKey(name, &entries[i].Cause)] {
			w.records = append(w.records, entries[i].Record)
			w.wake()
		}
	}
}

// watcher is told of the first events of certain types that a stream records.
type watcher struct {
	stream deja.Stream
	types  []string
	told   chan struct{} // has room for one: there is something new

	seen []*wire.Record // decisions with such events; guarded by the tail's lock
}

// maxSeen bounds what a watcher is told before it looks.
const maxSeen = 1000

// see tells the watcher of a decision. The tail's lock is held.
func (w *watcher) see(r *wire.Record) {
	if reached(r, w.types) == nil {
		return
	}
	if len(w.seen) == maxSeen { // the oldest are those before the command
		w.seen = w.seen[1:]
	}
	w.seen = append(w.seen, r)
	select {
	case w.told <- struct{}{}:
	default:
	}
}

// reached returns the first event of a decision that is of one of the types; nil if there is none.
func reached(r *wire.Record, types []string) *deja.Envelope {
	for i := range r.Decided.Events {
		if e := &r.Decided.Events[i]; slices.Contains(types, e.Type) {
			return e
		}
	}
	return nil
}

// watch registers a watcher. It is told while somebody waits, which is to begin after it.
func (t *tail) watch(s deja.Stream, types []string) *watcher {
	w := &watcher{stream: s, types: types, told: make(chan struct{}, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watched == nil {
		t.watched = map[deja.Stream][]*watcher{}
	}
	t.watched[s] = append(t.watched[s], w)
	return w
}

// unwatch ends a watch.
func (t *tail) unwatch(w *watcher) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := slices.DeleteFunc(t.watched[w.stream], func(other *watcher) bool { return other == w })
	if t.watched[w.stream] = rest; len(rest) == 0 {
		delete(t.watched, w.stream)
	}
}

// has reports whether a decision was read: then it is logged.
func (t *tail) has(n int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reading != nil && n <= t.reading.seen
}

// logged returns a mark near the journal's end up to which all is known to be logged, for reading on from there.
func (p *partition) logged(ctx context.Context) (driver.Logged, error) {
	leases, err := p.e.store.Leases(ctx)
	if err != nil {
		return driver.Logged{}, err
	}
	for _, l := range leases {
		switch {
		case l.Partition != p.number:
		case !p.e.joint():
			return l.Logged, nil
		case l.Progress.N > 0:
			last, err := journal.Find(ctx, p.e.log, p.e.machine.Name(), p.number, l.Progress.N, 0)
			if err != nil {
				return driver.Logged{}, err
			}
			return last.After(), nil
		}
	}
	return driver.Logged{}, nil
}
