package fault

import (
	"context"
	"iter"
	"sync"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// tx is a transaction of a process that may die. Its owner holds mu while it is in a call, so that a crash in another
// goroutine rolls it back between two calls, not in one.
type tx struct {
	in    *Injector
	inner driver.Tx
	on    string
	depth int   // calls that the owner is in: a projection queues while it reads
	err   error // of the projections' side; it cannot commit

	mu sync.Mutex
}

func (in *Injector) opened(inner driver.Tx, on string) *tx {
	t := &tx{in: in, inner: inner, on: on}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.open[t] = struct{}{}
	return t
}

func (t *tx) enter() {
	if t.depth == 0 {
		t.mu.Lock()
	}
	t.depth++
}

func (t *tx) leave() {
	t.depth--
	if t.depth == 0 {
		t.mu.Unlock()
		t.in.settle()
	}
}

// abandon rolls back what its owner will not.
func (t *tx) abandon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rollback()
}

// rollback gives the transaction up, which is all that anybody can do about an error of it.
func (t *tx) rollback() {
	_ = t.inner.Rollback(context.Background())
	t.closed()
}

func (t *tx) closed() {
	t.in.mu.Lock()
	defer t.in.mu.Unlock()
	delete(t.in.open, t)
}

func (t *tx) step(call string, do func() error) error {
	t.enter()
	defer t.leave()
	_, err := perform(t.in, Step{call, t.on, false}, nothing(do))
	return err
}

func (t *tx) Write(ctx context.Context, b *driver.Batch) error {
	return t.step("tx.Write", func() error { return t.inner.Write(ctx, b) })
}

func (t *tx) Advance(ctx context.Context, from, to driver.Progress) error {
	return t.step("tx.Advance", func() error { return t.inner.Advance(ctx, from, to) })
}

// Commit ends the transaction at a fault too: what did not commit is rolled back.
func (t *tx) Commit(ctx context.Context) error {
	t.enter()
	defer t.leave()
	defer t.rollback()
	_, err := perform(t.in, Step{"tx.Commit", t.on, false}, nothing(func() error {
		if t.err != nil {
			return t.err
		}
		return t.inner.Commit(ctx)
	}))
	return err
}

// Rollback is no step: whoever rolls back has given up already.
func (t *tx) Rollback(ctx context.Context) error {
	t.enter()
	defer t.leave()
	defer t.closed()
	return t.inner.Rollback(ctx)
}

func (t *tx) SQL() deja.Tx { return sqlTx{t} }

// sqlTx is the projections' side of a transaction. Only its queries are steps: what is queued goes nowhere yet.
type sqlTx struct{ tx *tx }

func (q sqlTx) Queue(sql string, args ...any) {
	q.tx.enter()
	defer q.tx.leave()
	if q.tx.err == nil && !q.tx.in.Crashed() {
		q.tx.inner.SQL().Queue(sql, args...)
	}
}

func (q sqlTx) Rows(sql string, args ...any) iter.Seq2[deja.Row, error] {
	return func(yield func(deja.Row, error) bool) {
		q.tx.enter()
		defer q.tx.leave()
		if q.tx.err == nil {
			_, q.tx.err = perform(q.tx.in, Step{"tx.Rows", q.tx.on, true}, nothing(func() error { return nil }))
		}
		if q.tx.err != nil {
			yield(nil, q.tx.err)
			return
		}
		for r, err := range q.tx.inner.SQL().Rows(sql, args...) {
			if !yield(r, err) {
				return
			}
		}
	}
}
