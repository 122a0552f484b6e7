package sqlite_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/sqlite"
)

// entries are new ones of keys from first to last.
func entries(first, last int) []driver.Entry {
	var es []driver.Entry
	for n := first; n <= last; n++ {
		es = append(es, driver.Entry{Key: id(n), N: 1, Status: deja.Applied})
	}
	return es
}

// ledgerOf makes a ledger of the keys 1 to n in segments of ten rows, the last of which is not full. It is closed.
func ledgerOf(t testing.TB, n int) string {
	t.Helper()
	path := newPath(t)
	db := open(t, path)
	db.SealAt(10)
	l := acquire(t, db)
	for i := 1; i <= n; i += 5 {
		l = step(t, db, l, &driver.Batch{Ledger: entries(i, min(i+4, n))})
	}
	must(t, db.Close())
	return path
}

// wantLedger fails the test unless the ledger has the keys 1 to n, and none of the next thousand.
func wantLedger(t testing.TB, db *sqlite.DB, n int) {
	t.Helper()
	var keys []deja.ID
	for i := 1; i <= n+1000; i++ {
		keys = append(keys, id(i))
	}
	es, _, err := db.Store().Lookup(t.Context(), keys)
	must(t, err)
	got := make([]deja.ID, len(es))
	for i := range es {
		got[i] = es[i].Key
	}
	if !slices.Equal(got, keys[:n]) {
		t.Fatalf("the ledger has %d of %d keys: %v", len(got), n, got)
	}
}

// refusesAll fails the test unless each of the keys 1 to n is refused as settled, though the look-up is one of none.
func refusesAll(t testing.TB, db *sqlite.DB, n int) {
	t.Helper()
	l := acquire(t, db)
	for i := 1; i <= n; i++ {
		tx, err := db.Store().Begin(t.Context(), l)
		must(t, err)
		must(t, tx.Write(t.Context(), &driver.Batch{Ledger: entries(i, i)}))
		if err := tx.Advance(t.Context(), l.Progress, after(l.Progress)); err == nil || !strings.Contains(err.Error(), "settled already") {
			t.Fatalf("key %d was settled again: %v", i, err)
		}
		must(t, tx.Rollback(t.Context()))
	}
}

func TestLedgerIsSealed(t *testing.T) {
	db := open(t, ledgerOf(t, 33))
	n, err := db.Int("SELECT count(*) FROM deja_ledger WHERE rows = 10")
	must(t, err)
	filters, err := db.Int("SELECT count(*) FROM deja_filters")
	must(t, err)
	if n != 3 || filters != 3 {
		t.Fatalf("%d segments are full and %d filters stored, want 3", n, filters)
	}
	wantLedger(t, db, 33)
	refusesAll(t, db, 33)
	for _, sql := range []string{
		"INSERT INTO deja_ledger_2 VALUES (x'00', x'00', 0, 0, 0, 1)", "DELETE FROM deja_ledger_2", "UPDATE deja_ledger_2 SET key = x'00'",
	} {
		if err := db.Exec(sql); err == nil || !strings.Contains(err.Error(), "sealed") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	must(t, db.Exec("DELETE FROM deja_ledger_4")) // the newest is as any table
}

// Whatever happened to a filter, no key is taken for new that is not, before the filter was made anew and after.
func TestFiltersAreMadeAnew(t *testing.T) {
	for name, damage := range map[string][]string{
		"as it was": {"SELECT 1"},
		"lost":      {"DELETE FROM deja_filters WHERE segment = 2"},
		"all lost":  {"DROP TABLE deja_filters"},
		"damaged": {
			"UPDATE deja_filters SET filter = CAST(substr(filter, 1, 60) || x'ff' || substr(filter, 62) AS BLOB) WHERE segment = 2",
		},
		"cut":                       {"UPDATE deja_filters SET filter = substr(filter, 1, 80) WHERE segment = 2"},
		"another's":                 {"UPDATE deja_filters SET (filter, stamp) = (SELECT filter, stamp FROM deja_filters WHERE segment = 1) WHERE segment = 2"},
		"of another number of rows": {"UPDATE deja_filters SET rows = 9 WHERE segment = 2"},
		"of a segment that changed": {
			"DROP TRIGGER deja_ledger_2_INSERT",
			"INSERT INTO deja_ledger_2 SELECT x'00000000000000228000000000000000', hash, partition, offset, n, status FROM deja_ledger_2 LIMIT 1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := ledgerOf(t, 33)
			n := 33
			for _, sql := range damage {
				tamper(t, path, sql)
				if strings.Contains(sql, "INSERT INTO") {
					n++ // the key of number 34
				}
			}
			reader, err := sqlite.OpenReadOnly(t.Context(), path)
			must(t, err)
			wantLedger(t, reader, n)
			_ = reader.TendFilters(t.Context()) // it can mend nothing
			wantLedger(t, reader, n)
			must(t, reader.Close())

			db := open(t, path)
			wantLedger(t, db, n)
			must(t, db.TendFilters(t.Context()))
			if sealed, newest := db.Filters(); sealed != 3 || !newest {
				t.Fatalf("%d sealed segments have a filter, want 3; the newest: %t", sealed, newest)
			}
			wantLedger(t, db, n)
			refusesAll(t, db, n)
			must(t, db.Close())

			again, err := sqlite.OpenReadOnly(t.Context(), path)
			must(t, err)
			must(t, again.TendFilters(t.Context()))
			if sealed, _ := again.Filters(); sealed != 3 {
				t.Errorf("%d filters are in the file, want 3", sealed)
			}
			wantLedger(t, again, n)
			must(t, again.Close())
		})
	}
}

// A transaction that seals and is given up, or dies, has sealed nothing.
func TestGivenUpWhileSealing(t *testing.T) {
	db := open(t, newPath(t))
	db.SealAt(10)
	l := step(t, db, acquire(t, db), &driver.Batch{Ledger: entries(1, 10)})
	for name, end := range map[string]func(driver.Tx) *sqlite.DB{
		"rolled back": func(tx driver.Tx) *sqlite.DB { must(t, tx.Rollback(t.Context())); return db },
		"died":        func(driver.Tx) *sqlite.DB { return afterCrash(t, db) },
	} {
		tx, err := db.Store().Begin(t.Context(), l)
		must(t, err)
		must(t, tx.Write(t.Context(), &driver.Batch{Ledger: entries(11, 12)}))
		now := end(tx)
		must(t, tx.Rollback(t.Context()))
		now.SealAt(10)
		wantLedger(t, now, 10)
		if n, err := now.Int("SELECT count(*) FROM deja_ledger"); n != 1 || err != nil {
			t.Fatalf("%s: %d segments, %v", name, n, err)
		}
	}
	l = step(t, db, l, &driver.Batch{Ledger: entries(11, 12)})
	step(t, db, l, &driver.Batch{Ledger: entries(13, 40)})
	wantLedger(t, db, 40)
	if sealed, newest := db.Filters(); sealed != 1 || !newest {
		t.Errorf("%d filters, the newest's: %t", sealed, newest)
	}
}

// A reader of the file has filters of what was there, and must not believe them of what is there now.
func TestReaderBesideSealing(t *testing.T) {
	path := ledgerOf(t, 33)
	db := open(t, path)
	db.SealAt(10)
	reader, err := sqlite.OpenReadOnly(t.Context(), path)
	must(t, err)
	defer func() { must(t, reader.Close()) }()
	must(t, reader.TendFilters(t.Context()))
	wantLedger(t, reader, 33)
	l := step(t, db, acquire(t, db), &driver.Batch{Ledger: entries(34, 60)})
	l = step(t, db, l, &driver.Batch{Ledger: entries(61, 70)})
	wantLedger(t, reader, 70)
	must(t, db.Store().Reset(t.Context(), l))
	wantLedger(t, reader, 0)
	l = acquire(t, db)
	for i := range 5 { // the same tables, with other keys in them
		l = step(t, db, l, &driver.Batch{Ledger: entries(41-10*i, 50-10*i)})
	}
	wantLedger(t, reader, 50)
	wantLedger(t, db, 50)
}

// A parked message is decided in the segment that it is in, and from then on is settled there.
func TestParkedInSealedSegments(t *testing.T) {
	db := open(t, newPath(t))
	db.SealAt(2)
	l := acquire(t, db)
	for i := range 400 { // more than are read at once
		e := driver.Entry{Key: id(i), N: 1, Status: deja.Parked}
		l = step(t, db, l, &driver.Batch{Ledger: []driver.Entry{e}})
	}
	for _, status := range []deja.Status{deja.Parked, deja.Applied} {
		for i := range 400 {
			l = step(t, db, l, &driver.Batch{Asked: 1 << 40, Ledger: []driver.Entry{{Key: id(i), N: int64(i), Status: status}}})
		}
	}
	es, err := db.Store().Find(t.Context(), id(0), id(400), 1000)
	must(t, err)
	for i := range es {
		if want := (driver.Entry{Key: id(i), N: int64(i), Status: deja.Applied}); es[i] != want {
			t.Fatalf("entry %+v, want %+v", es[i], want)
		}
	}
	if len(es) != 400 {
		t.Fatalf("%d entries", len(es))
	}
}

// Look-ups beside a writer that seals all the time, and beside the work on filters, see all that was committed before them.
func TestLookupsBesideSealing(t *testing.T) {
	db := open(t, newPath(t))
	db.SealAt(20)
	l := acquire(t, db)
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		done int
	)
	committed := func() int {
		mu.Lock()
		defer mu.Unlock()
		return done
	}
	const last = 2000
	for range 2 {
		all.Go(func() {
			for n := 0; n < last && !t.Failed(); {
				n = committed()
				keys := []deja.ID{id(1 << 40)}
				for range 100 {
					keys = append(keys, id(1+rand.IntN(max(n, 1))))
				}
				slices.SortFunc(keys, func(a, b deja.ID) int { return strings.Compare(a.String(), b.String()) })
				keys = slices.Compact(keys)
				es, _, err := db.Store().Lookup(t.Context(), keys)
				if err != nil || n > 0 && len(es) != len(keys)-1 {
					t.Errorf("%d of %d keys were found after %d: %v", len(es), len(keys)-1, n, err)
				}
			}
		})
	}
	all.Go(func() {
		for committed() < last && !t.Failed() {
			if err := db.TendFilters(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	for i := 1; i <= last && !t.Failed(); i += 10 {
		l = step(t, db, l, &driver.Batch{Ledger: entries(i, i+9)})
		mu.Lock()
		done = i + 9
		mu.Unlock()
	}
	all.Wait()
	wantLedger(t, db, last)
}

func TestCreateTopic(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	im := db.Log().(driver.Importer)
	must(t, im.CreateTopic(t.Context(), "in", 3))
	must(t, im.CreateTopic(t.Context(), "out", 3))
	must(t, im.CreateTopic(t.Context(), "in", 3))
	wantErr(t, im.CreateTopic(t.Context(), "in", 2), driver.ErrPartitions)
	for _, n := range []int32{0, -1, 1 << 20} {
		if im.CreateTopic(t.Context(), "other", n) == nil {
			t.Errorf("a topic of %d partitions was made", n)
		}
	}
	rs := values("a", "b", "c", "d")
	for i := range rs {
		rs[i].Partition = int32(i % 3)
	}
	at, err := db.Log().Append(t.Context(), "in", rs)
	must(t, err)
	if at[3] != (deja.Position{Topic: "in", Offset: 1}) || at[2] != (deja.Position{Topic: "in", Partition: 2}) {
		t.Errorf("positions %v", at)
	}
	_, err = db.Log().Append(t.Context(), "in", []driver.Record{{Partition: 3}})
	if err == nil || !strings.Contains(err.Error(), "no partition 3") {
		t.Errorf("append to a partition that is not there: %v", err)
	}
	a := assignment(t, db)
	for p := range int32(3) {
		a.Partition = p
		l, err := db.Store().Acquire(t.Context(), a)
		must(t, err)
		step(t, db, l, &driver.Batch{Records: []driver.JournalRecord{{N: 1, Value: fmt.Append(nil, p)}}})
	}
	must(t, db.Close())
	db = open(t, path)
	for p := range int32(3) {
		rs, err := db.Log().Fetch(t.Context(), deja.Position{Topic: "out", Partition: p}, 9)
		must(t, err)
		if len(rs) != 1 || string(rs[0].Value) != fmt.Sprint(p) || rs[0].Partition != p {
			t.Errorf("journal of partition %d: %v", p, rs)
		}
	}
	must(t, db.Close())
	tamper(t, path, "DROP TABLE deja_log_6")
	openFails(t, path, sqlite.ErrCorrupt)
}
