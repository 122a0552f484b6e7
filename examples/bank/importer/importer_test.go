package importer_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/examples/bank/berka"
	"github.com/dejalog/deja/examples/bank/importer"
)

// rows makes n good rows of seven accounts.
func rows(n int) string {
	var b strings.Builder
	b.WriteString("transaction,account,date,direction,operation,symbol,amount,balance\n")
	for i := range n {
		fmt.Fprintf(&b, "%d,%d,1993-%02d-01,credit,cash_deposit,,100,%d\n", i+1, 1+i%7, 1+i*12/n, (i/7+1)*100)
	}
	return b.String()
}

func read(text string) iter.Seq2[berka.Transaction, error] {
	return berka.Read(strings.NewReader(text))
}

func newFile(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "bank.db")
}

func run(t *testing.T, cfg importer.Config) importer.Report {
	t.Helper()
	r, err := importer.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.Seconds <= 0 || r.PerSecond <= 0 {
		t.Errorf("no rate: %+v", r)
	}
	r.Seconds, r.PerSecond = 0, 0
	return r
}

// balances returns all states.
func balances(t *testing.T, path string) map[string]string {
	t.Helper()
	db, err := importer.File(path)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	states, err := db.Store().States(t.Context(), deja.Stream{}, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, s := range states {
		all[s.Stream.Key] = fmt.Sprintf("%d %s", s.Version, s.Data)
	}
	return all
}

func TestEachTransactionIsAppliedOnce(t *testing.T) {
	path, n := newFile(t), int64(3000)
	got := run(t, importer.Config{Open: importer.File(path), Transactions: read(rows(3000))})
	if want := (importer.Report{Messages: n, Applied: n}); got != want {
		t.Errorf("first import: %+v, want %+v", got, want)
	}
	before := balances(t, path)
	got = run(t, importer.Config{Open: importer.File(path), Transactions: read(rows(3000))})
	if want := (importer.Report{Messages: n, Duplicates: n}); got != want {
		t.Errorf("second import: %+v, want %+v", got, want)
	}
	got = run(t, importer.Config{Open: importer.File(path), Transactions: read(rows(3000)), Redeliver: 1, Conflicts: 5, Seed: 7})
	if want := (importer.Report{Messages: 2*n + 5, Duplicates: 2 * n, Conflicts: 5}); got != want {
		t.Errorf("third import: %+v, want %+v", got, want)
	}
	if after := balances(t, path); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("balances %v, then %v", before, after)
	}
}

func TestBadDeliveryChangesNothing(t *testing.T) {
	quiet, messy := newFile(t), newFile(t)
	run(t, importer.Config{Open: importer.File(quiet), Transactions: read(rows(5000))})
	opened := 0
	var handled, sent int64
	got := run(t, importer.Config{
		Open: func(ctx context.Context) (importer.Database, error) {
			opened++
			return importer.File(messy)(ctx)
		},
		Transactions: read(rows(5000)), Redeliver: 0.5, Conflicts: 20, Seed: 1,
		Progress: func(h, s int64) {
			if h < handled || s < sent || h > s {
				t.Errorf("progress went from %d of %d to %d of %d", handled, sent, h, s)
			}
			handled, sent = h, s
		},
	})
	if got.Applied != 5000 || got.Conflicts != 20 || got.Duplicates < 2400 || got.Duplicates > 2600 {
		t.Errorf("got %+v", got)
	}
	if opened != 2 || handled != got.Messages || sent != got.Messages {
		t.Errorf("opened %d times; progress ended at %d of %d", opened, handled, sent)
	}
	if a, b := balances(t, quiet), balances(t, messy); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("balances %v, after bad delivery %v", a, b)
	}
}

// Re-deliveries come at places of their own, well behind the first delivery, and some of them last of all.
func TestRedeliveriesComeLaterAndInDisorder(t *testing.T) {
	path := newFile(t)
	report := run(t, importer.Config{Open: importer.File(path), Transactions: read(rows(3000)), Redeliver: 0.5, Seed: 3})
	db, err := importer.File(path)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	repeated, late := int64(0), 0
	for tr, err := range read(rows(3000)) {
		if err != nil {
			t.Fatal(err)
		}
		again, err := db.Store().Repeats(t.Context(), tr.ID())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range again {
			first, _, err := db.Store().Lookup(t.Context(), []deja.ID{tr.ID()})
			if err != nil || r.Count != 1 || r.Conflict || r.First <= first[0].Offset {
				t.Fatalf("transaction %d: %+v of %+v, %v", tr.Number, r, first, err)
			}
			repeated++
			if r.First >= 3000+report.Duplicates*7/10 && tr.Number < 1000 {
				late++
			}
		}
	}
	if repeated != report.Duplicates || late < 30 {
		t.Errorf("%d ids repeated, of %d duplicates; %d of the first third came at the very end", repeated, report.Duplicates, late)
	}
}

func TestARowThatCannotBeReadEndsTheImport(t *testing.T) {
	path := newFile(t)
	r, err := importer.Run(t.Context(), importer.Config{
		Open: importer.File(path), Redeliver: 0.1,
		Transactions: read(rows(1500) + "1501,1,1994-01-01,sideways,x,,1,1\n" + "1502,1,1994-01-01,credit,x,,1,1\n"),
	})
	if err == nil || !strings.Contains(err.Error(), "line 1502, column direction") {
		t.Errorf("error %v", err)
	}
	if r.Applied != 1500 || r.Messages != 1500+r.Duplicates {
		t.Errorf("what came before: %+v", r)
	}
}

func TestAnImportThatWasStoppedGoesOn(t *testing.T) {
	path := newFile(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := importer.Run(ctx, importer.Config{Open: importer.File(path), Transactions: func(yield func(berka.Transaction, error) bool) {
		for tr, err := range read(rows(5000)) {
			if tr.Number == 2500 {
				cancel()
			}
			if !yield(tr, err) {
				return
			}
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	got := run(t, importer.Config{Open: importer.File(path), Transactions: read(rows(5000))})
	if got.Messages != 5000 || got.Applied+got.Duplicates != 5000 || got.Duplicates < 1900 || got.Applied < 2500 {
		t.Errorf("second run: %+v", got)
	}
	if s := balances(t, path)["1"]; s != fmt.Sprintf(`715 {"balance":%d,"recorded":%d}`, 71500, 71500) {
		t.Errorf("account 1 is at %s", s)
	}
}

// A fact that does not fit into a balance parks its account, and the others go on.
func TestWhatParksIsCounted(t *testing.T) {
	const huge = "9223372036854775807"
	got := run(t, importer.Config{Open: importer.File(newFile(t)), Transactions: read(rows(7) +
		"8,1,1994-01-01,credit,x,," + huge + ",1\n9,1,1994-01-02,credit,x,,1,1\n10,2,1994-01-02,credit,x,,1,1\n")})
	if want := (importer.Report{Messages: 10, Applied: 8, Parked: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestConfigIsChecked(t *testing.T) {
	_, err := importer.Run(t.Context(), importer.Config{Redeliver: 1.5, Conflicts: -1})
	for _, want := range []string{"Open", "Transactions", "1.5", "-1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

func TestFaultsOfTheDatabaseEndTheImport(t *testing.T) {
	broken := errors.New("broken")
	first := true
	for name, open := range map[string]func(context.Context) (importer.Database, error){
		"at the start": func(context.Context) (importer.Database, error) { return nil, broken },
		"at the restart": func(ctx context.Context) (importer.Database, error) {
			if !first {
				return nil, broken
			}
			first = false
			return importer.File(newFile(t))(ctx)
		},
		"in the store": func(ctx context.Context) (importer.Database, error) {
			db, err := importer.File(newFile(t))(ctx)
			return faulty{db, broken}, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := importer.Run(t.Context(), importer.Config{Open: open, Transactions: read(rows(50)), Conflicts: 1})
			if !errors.Is(err, broken) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// faulty is a database whose log does not append.
type faulty struct {
	importer.Database
	err error
}

func (f faulty) Log() driver.Log { return faultyLog{f.Database.Log(), f.err} }

type faultyLog struct {
	driver.Log
	err error
}

func (l faultyLog) Append(context.Context, string, []driver.Record) ([]deja.Position, error) {
	return nil, l.err
}

func BenchmarkImport(b *testing.B) {
	for b.Loop() {
		data, err := berka.Data()
		if err != nil {
			b.Fatal(err)
		}
		r, err := importer.Run(b.Context(), importer.Config{
			Open: importer.File(filepath.Join(b.TempDir(), "bank.db")), Transactions: berka.Read(data),
		})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(r.PerSecond, "messages/s")
		data.Close()
	}
}
