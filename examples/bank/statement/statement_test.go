package statement_test

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	zombiezen "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/bank/berka"
	"github.com/dejalog/deja/examples/bank/importer"
	"github.com/dejalog/deja/examples/bank/service"
	"github.com/dejalog/deja/sqlite"
)

type key struct{ account, month string }

type line struct{ credits, debits, transactions, version int64 }

// table reads the statement with SQLite alone, as a user would.
func table(t *testing.T, path string) map[key]line {
	t.Helper()
	c, err := zombiezen.OpenConn(path, zombiezen.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all := map[key]line{}
	err = sqlitex.ExecuteTransient(c, "SELECT account, month, credits, debits, transactions, last_version FROM bank_statement", &sqlitex.ExecOptions{
		ResultFunc: func(s *zombiezen.Stmt) error {
			all[key{s.ColumnText(0), s.ColumnText(1)}] = line{s.ColumnInt64(2), s.ColumnInt64(3), s.ColumnInt64(4), s.ColumnInt64(5)}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Each transaction counts once, in the month of its date, however often it is delivered.
func TestTheStatementFollowsTheData(t *testing.T) {
	data, err := berka.Data()
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	want, versions := map[key]line{}, map[string]int64{}
	path, n := filepath.Join(t.TempDir(), "bank.db"), 0
	_, err = importer.Run(t.Context(), importer.Config{
		Open: importer.File(path), Redeliver: 0.3, Conflicts: 10,
		Transactions: func(yield func(berka.Transaction, error) bool) {
			for tr, err := range berka.Read(data) {
				if n++; n > 5000 || !yield(tr, err) {
					return
				}
				acc := strconv.FormatInt(tr.Account, 10)
				k := key{acc, tr.Date.Format("2006-01")}
				l := want[k]
				if tr.Direction == account.Credit {
					l.credits += tr.Amount
				} else {
					l.debits += tr.Amount
				}
				versions[acc]++
				l.transactions, l.version = l.transactions+1, versions[acc]
				want[k] = l
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := table(t, path); !maps.Equal(got, want) || len(got) < 1000 {
		t.Errorf("%d lines differ from the %d wanted", len(got), len(want))
	}
}

// Own transactions have no business time: they count in the month in which they were decided.
func TestOwnTransactionsCountWhenTheyWereDecided(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bank.db")
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	eng, err := engine.New(engine.Config{Service: service.Service(), Log: db.Log(), Store: db.Store()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- eng.Run(ctx) }()
	want := map[key]line{}
	for _, c := range []deja.Command{account.Deposit{Amount: 70}, account.Withdraw{Amount: 30}} {
		out, err := eng.Client().Do(t.Context(), deja.Request{Key: "1", Command: c})
		if err != nil {
			t.Fatal(err)
		}
		k := key{"1", out.Events[0].Time.Format("2006-01")}
		l := want[k] // the month may turn between the two
		l.transactions, l.version = l.transactions+1, out.Version
		switch c := c.(type) {
		case account.Deposit:
			l.credits += c.Amount
		case account.Withdraw:
			l.debits += c.Amount
		}
		want[k] = l
	}
	old := deja.Request{Key: "1", Command: account.Deposit{Amount: 5}, BusinessTime: time.Date(1999, 12, 31, 23, 59, 0, 0, time.UTC)}
	if _, err := eng.Client().Do(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	want[key{"1", "1999-12"}] = line{credits: 5, transactions: 1, version: 3}
	stop()
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if got := table(t, path); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
