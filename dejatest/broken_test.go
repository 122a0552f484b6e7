package dejatest_test

import (
	"context"
	"maps"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/driver"
)

// broken is a store that keeps the ledger elsewhere than its other tables.
type broken struct {
	driver.Store
	ledger map[deja.ID]driver.Entry // nil: nowhere
}

func (s *broken) Lookup(_ context.Context, keys []deja.ID) ([]driver.Entry, int64, error) {
	var found []driver.Entry
	for _, k := range keys {
		if e, ok := s.ledger[k]; ok {
			found = append(found, e)
		}
	}
	return found, 0, nil
}

func (s *broken) Begin(ctx context.Context, l driver.Lease) (driver.Tx, error) {
	tx, err := s.Store.Begin(ctx, l)
	return &brokenTx{Tx: tx, store: s, ledger: map[deja.ID]driver.Entry{}}, err
}

type brokenTx struct {
	driver.Tx
	store  *broken
	ledger map[deja.ID]driver.Entry
}

func (tx *brokenTx) Write(ctx context.Context, b *driver.Batch) error {
	for _, e := range b.Ledger {
		tx.ledger[e.Key] = e
	}
	without := *b
	without.Ledger = nil
	return tx.Tx.Write(ctx, &without)
}

func (tx *brokenTx) Commit(ctx context.Context) error {
	err := tx.Tx.Commit(ctx)
	if err == nil && tx.store.ledger != nil {
		maps.Copy(tx.store.ledger, tx.ledger)
	}
	return err
}

// deposits is a scenario without repeats, so that only a world can bring them in.
func deposits(tb testing.TB, before func(driver.Store) driver.Store) *dejatest.World {
	tb.Helper()
	w := dejatest.NewWorldOn(tb, before, service(aggregate()))
	w.Must(deja.Request{Key: "1", Command: Open{"ana"}})
	w.Must(deja.Request{Key: "1", Command: Deposit{100}})
	w.Must(deja.Request{Key: "1", Command: Withdraw{30}})
	return w
}

func TestRedeliverAllNoticesAServiceWithoutALedger(t *testing.T) {
	nowhere := func(s driver.Store) driver.Store { return &broken{s, nil} }
	wantFailure(t, func(tb *recorder) { deposits(tb, nowhere).RedeliverAll() }, "was decided again")
}

// Ids that are kept in memory alone are the mistake that no redelivery to a living process shows.
func TestCrashAtEveryWriteNoticesALedgerInMemory(t *testing.T) {
	inMemory := func(s driver.Store) driver.Store { return &broken{s, map[deja.ID]driver.Entry{}} }
	deposits(t, inMemory).RedeliverAll()
	wantFailure(t, func(tb *recorder) { deposits(tb, inMemory).CrashAtEveryWrite() }, "crash at call ", "tx.Commit", "after it")
}
