package engine

import (
	"context"
	"errors"
	"fmt"
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
	seen    int64                 // the number of the last decision that was read
	cancel  context.CancelFunc    // of the reading; nil while nobody reads
	started chan struct{}         // closed when reading has begun, or failed
	idle    *time.Timer           // ends the reading
}

const tailIdle = 500 * time.Millisecond

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
	if t.cancel == nil {
		t.start()
	}
	started := t.started
	t.mu.Unlock()
	select {
	case <-started:
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
	t.cancel, t.started = cancel, make(chan struct{})
	started := t.started
	go func() {
		err := t.read(ctx, started)
		cancel()
		t.ended(started, err)
	}()
}

// leave ends a wait.
func (t *tail) leave(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := t.waiting[w.key][:0:0]
	for _, other := range t.waiting[w.key] {
		if other != w {
			rest = append(rest, other)
		}
	}
	if t.waiting[w.key] = rest; len(rest) == 0 {
		delete(t.waiting, w.key)
	}
	if len(t.waiting) == 0 && t.cancel != nil {
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
	if len(t.waiting) == 0 && t.cancel != nil {
		t.cancel()
	}
}

// stop ends the reading, and all waits with an error.
func (t *tail) stop(err error) {
	t.fail(err)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		t.cancel()
	}
}

// fail ends all waits with an error.
func (t *tail) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ws := range t.waiting {
		for _, w := range ws {
			w.err = err
			w.wake()
		}
	}
}

// ended notes that nobody reads any more. Who came while it ended is read for anew.
func (t *tail) ended(started chan struct{}, err error) {
	if !errors.Is(err, context.Canceled) {
		t.fail(fmt.Errorf("%w (%w)", deja.ErrPending, err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel, t.seen = nil, 0
	for _, ws := range t.waiting {
		for _, w := range ws {
			if w.err == nil {
				w.err = errStopped
				w.wake()
			}
		}
	}
	select {
	case <-started:
	default:
		close(started)
	}
}

func (w *waiter) wake() {
	select {
	case w.told <- struct{}{}:
	default:
	}
}

// read tells all decisions from the journal's present end on.
func (t *tail) read(ctx context.Context, started chan struct{}) error {
	from, err := t.p.logged(ctx)
	if err != nil {
		return err
	}
	e := t.p.e
	r := journal.NewReader(e.log, e.machine.Name(), t.p.number, from)
	t.mu.Lock()
	t.seen = from.N
	t.mu.Unlock()
	close(started)
	for {
		entries, err := r.Wait(ctx, batchSize)
		if err != nil {
			return err
		}
		t.tell(entries)
	}
}

// tell gives the waiters what was read.
func (t *tail) tell(entries []journal.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := t.p.e.machine.Name()
	for i := range entries {
		t.seen = entries[i].N
		for _, w := range t.waiting[wire.LedgerKey(name, &entries[i].Cause)] {
			w.records = append(w.records, entries[i].Record)
			w.wake()
		}
	}
}

// has reports whether a decision was read: then it is logged.
func (t *tail) has(n int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n <= t.seen
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
			return driver.Logged{Offset: last.Offset + 1, N: last.N, Chain: last.Chain, Incarnation: last.Incarnation}, err
		}
	}
	return driver.Logged{}, nil
}
