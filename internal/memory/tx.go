package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var (
	errEnded      = errors.New("the transaction has ended")
	errAdvanced   = errors.New("the transaction has advanced, which comes last")
	errNotAdvance = errors.New("the transaction has not advanced")
)

// Tx is a core transaction: what it is to write, until it commits.
type Tx struct {
	store      *Store
	lease      driver.Lease
	gone       chan struct{} // closed when the partition is free again
	batches    []driver.Batch
	statements []Statement
	step       *step
	ended      bool
	err        error // of the projections' side; it cannot commit
}

// step is what Advance was asked for.
type step struct{ from, to driver.Progress }

var _ driver.Tx = (*Tx)(nil)

// Begin implements [driver.Store]. It waits for the partition's open transaction. One under a lease that is fenced
// already waits for nothing and keeps nobody waiting, or a zombie could hold up the partition's new owner.
func (s *Store) Begin(ctx context.Context, l driver.Lease) (driver.Tx, error) {
	for {
		tx, busy, err := s.begin(ctx, l)
		if err != nil {
			return nil, err
		}
		if busy == nil {
			return tx, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// begin returns a transaction, or what is closed when the partition is free.
func (s *Store) begin(ctx context.Context, l driver.Lease) (tx *Tx, busy <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return nil, nil, err
	}
	tx = &Tx{store: s, lease: l, gone: make(chan struct{})}
	if !s.tables.row(l.Partition).holds(l) {
		return tx, nil, nil
	}
	if open := s.open[l.Partition]; open != nil {
		return nil, open.gone, nil
	}
	s.open[l.Partition] = tx
	return tx, nil, nil
}

// Write implements [driver.Tx].
func (tx *Tx) Write(ctx context.Context, b *driver.Batch) error {
	if err := tx.usable(ctx); err != nil {
		return err
	}
	if tx.step != nil {
		return errAdvanced
	}
	tx.batches = append(tx.batches, copyBatch(b))
	tx.store.mu.RLock()
	defer tx.store.mu.RUnlock()
	tx.err = tx.store.tables.check(tx.batches)
	return tx.err
}

// copyBatch takes a batch out of its caller's hands.
func copyBatch(b *driver.Batch) driver.Batch {
	c := *b
	c.Ledger = slices.Clone(b.Ledger)
	c.Parked = slices.Clone(b.Parked)
	c.Unparked = slices.Clone(b.Unparked)
	c.Repeats = slices.Clone(b.Repeats)
	c.States = own(slices.Clone(b.States))
	c.Records = slices.Clone(b.Records)
	for i := range c.Records {
		c.Records[i].Value = clone(c.Records[i].Value)
	}
	return c
}

// Advance implements [driver.Tx].
func (tx *Tx) Advance(ctx context.Context, from, to driver.Progress) error {
	if err := tx.usable(ctx); err != nil {
		return err
	}
	if tx.step != nil {
		return errAdvanced
	}
	tx.store.mu.RLock()
	defer tx.store.mu.RUnlock()
	tx.step = &step{from, to}
	return tx.fence()
}

// fence returns ErrFenced unless the step may be taken now. The caller holds the store's lock.
func (tx *Tx) fence() error {
	s := tx.store
	row := s.tables.row(tx.lease.Partition)
	if s.open[tx.lease.Partition] != tx || s.wentBack() || !row.holds(tx.lease) || !row.at(tx.step.from) {
		return driver.ErrFenced
	}
	return nil
}

// Commit implements [driver.Tx]. Without Advance before it, it fails and nothing is written: nothing would fence it.
func (tx *Tx) Commit(ctx context.Context) error {
	if tx.ended {
		return errEnded
	}
	s := tx.store
	s.mu.Lock()
	defer s.mu.Unlock()
	defer tx.end()
	if err := s.usable(ctx); err != nil {
		return err
	}
	if tx.err != nil {
		return fmt.Errorf("commit: %w", tx.err)
	}
	if tx.step == nil {
		return errNotAdvance
	}
	if err := tx.fence(); err != nil {
		return err
	}
	if err := s.tables.check(tx.batches); err != nil { // another partition may have been first
		return fmt.Errorf("commit: %w", err)
	}
	if s.joint == nil {
		tx.apply()
		return nil
	}
	return tx.applyJointly(ctx)
}

// apply writes the transaction; it cannot fail.
func (tx *Tx) apply() {
	ts := tx.store.tables
	row := ts.row(tx.lease.Partition)
	row.copied = row.copied && row.Incarnation == tx.step.to.Incarnation
	row.Progress, row.tries, row.tried = tx.step.to, 0, deja.ID{}
	ts.progress[tx.lease.Partition] = row
	for _, b := range tx.batches {
		ts.apply(b)
		if tx.store.joint == nil {
			ts.keep(tx.lease.Partition, b)
		}
	}
	ts.executed = append(ts.executed, tx.statements...)
}

// Rollback implements [driver.Tx].
func (tx *Tx) Rollback(context.Context) error {
	tx.store.mu.Lock()
	defer tx.store.mu.Unlock()
	tx.end()
	return nil
}

func (tx *Tx) usable(ctx context.Context) error {
	if tx.ended {
		return errEnded
	}
	return cmp.Or(tx.err, ctx.Err())
}

// end frees the partition, unless the transaction was lost and another has it. The caller holds the store's lock.
func (tx *Tx) end() {
	tx.ended = true
	if tx.store.open[tx.lease.Partition] == tx {
		tx.store.lose(tx.lease.Partition)
	}
}

// SQL implements [driver.Tx].
func (tx *Tx) SQL() deja.Tx { return recorder{tx} }
