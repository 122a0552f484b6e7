package proof_test

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/sqlite"
)

// moveInto opens a file for both services, each with a store of its own there.
func (w *world) moveInto(t *testing.T, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	w.log, w.accounts, w.ledger = db.Log(), db.StoreOf(accounts.Name), db.StoreOf(ledger.Name)
	for _, service := range []string{accounts.Name, ledger.Name} {
		for _, topic := range []string{service + ".inbox", service + ".journal"} {
			if err := w.log.(driver.Importer).CreateTopic(t.Context(), topic, partitions); err != nil {
				t.Fatal(err)
			}
		}
	}
	return db
}

// Two services that share a file speak to each other as those on servers do, and go on where they were.
func TestBothServicesInOneFile(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "shared.db")
	db := w.moveInto(t, path)
	w.rush = true
	w.run(t, func(ctx context.Context, accounts, ledger deja.Client) {
		w.orders(ctx, t, accounts, ledger)
		for at := (driver.Progress{}); at.N < 20; time.Sleep(time.Millisecond) { // some transfers are under way
			var err error
			if at, err = w.ledger.Progress(ctx, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	db = w.moveInto(t, path)
	w.rush = false
	w.run(t, func(context.Context, deja.Client, deja.Client) {})
	if v := w.check(t); !v.OK() || v.Stuck != 0 || v.MoneyAfter != w.plan.Money() || v.Performed != v.Completed {
		t.Errorf("%+v", v)
	}
	if services, err := db.Stores(t.Context()); err != nil || !slices.Equal(services, []string{accounts.Name, ledger.Name}) {
		t.Errorf("stores of %q, error %v", services, err)
	}
}
