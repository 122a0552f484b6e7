package sqlite

import (
	"context"
	"errors"
	"fmt"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// tx is a core transaction. It holds the connection that writes, from Begin to its end.
//
// After any error it is done for: SQLite may have rolled it back, and the statements that follow would be committed
// one by one. So it keeps its first error and refuses everything else.
type tx struct {
	db       *DB
	conn     conn
	lease    driver.Lease
	token    []byte
	sql      projector
	journal  *partition // that records were appended to
	writer   writer
	sealed   *sealing // a segment of the ledger, if one was
	err      error
	advanced bool
	ended    bool
}

var _ driver.Tx = (*tx)(nil)

var (
	errEnded    = errors.New("the transaction has ended")
	errAdvanced = errors.New("the transaction has advanced: nothing may be written after that")
	errSettled  = errors.New("settled already")
	errNoCommit = errors.New("commit before advance")
)

// Begin waits until no other transaction writes. Under a lease that was taken over it begins one in which every call
// gives ErrFenced; else the fence holds from here on, as nobody can acquire before the end.
func (s *store) Begin(ctx context.Context, l driver.Lease) (driver.Tx, error) {
	db := s.db
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	if err := db.take(ctx); err != nil {
		return nil, err
	}
	if err := exec(db.conn, "BEGIN IMMEDIATE"); err != nil {
		db.release()
		return nil, db.noted(err)
	}
	t := &tx{db: db, conn: s.on(db.conn), lease: l, token: random()}
	t.sql.tx = t
	err := underLease(t.conn, l, "UPDATE deja_lease SET token = ?", t.token)
	if err != nil && !errors.Is(err, driver.ErrFenced) {
		db.rollback()
		db.release()
		return nil, db.noted(err)
	}
	t.err = err
	db.inTx.Store(true)
	return t, nil
}

// check returns why nothing can be written any more.
func (t *tx) check(ctx context.Context) error {
	switch {
	case t.ended:
		return errEnded
	case t.err != nil:
		return t.err
	case t.advanced:
		return t.fail(errAdvanced)
	case ctx.Err() != nil:
		return t.fail(ctx.Err())
	case t.db.conn.AutocommitEnabled():
		return t.fail(errRolledBack)
	}
	return nil
}

// fail keeps the first error, and returns it.
func (t *tx) fail(err error) error {
	if err != nil && t.err == nil {
		t.err = t.db.noted(err)
	}
	return t.err
}

// Write writes a batch at once. That a row contradicts one that is there comes from Advance: if somebody else has
// decided the same messages meanwhile, it is no fault of the batch.
func (t *tx) Write(ctx context.Context, b *driver.Batch) error {
	if err := t.check(ctx); err != nil {
		return err
	}
	err := t.fail(t.write(b))
	if sqlite.ErrCode(err).ToPrimary() == sqlite.ResultConstraint || errors.Is(err, errSettled) {
		return nil
	}
	return err
}

// SQL returns the projections' side of the transaction.
func (t *tx) SQL() deja.Tx { return &t.sql }

// Advance moves the progress on.
func (t *tx) Advance(ctx context.Context, from, to driver.Progress) error {
	if err := t.check(ctx); err != nil {
		if !t.ended && t.elsewhere(from) {
			return driver.ErrFenced
		}
		return err
	}
	l := &t.lease
	err := fenced(t.conn, advance,
		to.Position, to.N, to.Chain[:], micros(to.Time), to.Incarnation.Number, to.Incarnation.Nonce[:], to.Fold,
		l.Partition, l.Epoch, l.Nonce[:], t.token, from.Position, from.N, from.Chain[:])
	if err == nil && from.Incarnation != to.Incarnation {
		err = t.conn.exec(renewed, l.Partition)
	}
	t.advanced = err == nil
	return t.fail(err)
}

// elsewhere reports whether it is certain that the store is not where the caller left it.
func (t *tx) elsewhere(from driver.Progress) bool {
	there, err := t.conn.queryInt("SELECT count(*) FROM deja_lease WHERE partition = ? AND position = ? AND n = ? AND chain = ?",
		t.lease.Partition, from.Position, from.N, from.Chain[:])
	return err == nil && there == 0
}

// Commit makes the transaction durable, and wakes those that wait for its journal.
func (t *tx) Commit(ctx context.Context) error {
	switch {
	case t.ended:
		return errEnded
	case t.err == nil && !t.advanced:
		t.err = errNoCommit
	case t.err == nil && ctx.Err() != nil:
		t.err = ctx.Err()
	}
	if t.err != nil {
		t.end()
		return fmt.Errorf("commit: nothing was written: %w", t.err)
	}
	if err := t.db.commit(); err != nil {
		t.err = err
		t.end()
		return fmt.Errorf("commit: %w", err)
	}
	if t.sealed != nil {
		t.conn.part.ledger.committed(t.sealed, t.conn.part)
	}
	t.end()
	if t.journal != nil {
		t.journal.appended()
	}
	return nil
}

// Rollback gives everything up, whatever the context says: the connection is needed.
func (t *tx) Rollback(context.Context) error {
	if !t.ended {
		t.end()
	}
	return nil
}

// end gives the connection back, with no transaction on it.
func (t *tx) end() {
	t.ended = true
	t.sql.close()
	t.db.rollback()
	t.db.inTx.Store(false)
	t.db.release()
}
