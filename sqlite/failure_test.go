package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/sqlite"
)

// A killed process has lost nothing that it acknowledged, and left no gap.
func TestKilledWhileAppending(t *testing.T) {
	path := newPath(t)
	for range 3 {
		writer := start(t, "append", path)
		var last int64
		for range 20 {
			n, err := strconv.ParseInt(writer.line(), 10, 64)
			must(t, err)
			last = n
		}
		must(t, writer.Process.Kill())
		for s := writer.line(); s != ""; s = writer.line() { // acknowledged, but not read yet
			if n, err := strconv.ParseInt(s, 10, 64); err == nil {
				last = max(last, n)
			}
		}
		_ = writer.Wait() // killed
		db, err := sqlite.Open(t.Context(), path)
		must(t, err)
		next, seen := int64(0), time.Time{}
		_, end, err := db.Log().Bounds(t.Context(), "in", 0)
		must(t, err)
		for next < end {
			rs, err := db.Log().Fetch(t.Context(), deja.Position{Topic: "in", Offset: next}, 1000)
			must(t, err)
			for i := range rs {
				if want := fmt.Sprintf("%0200d", next%50); rs[i].Offset != next || string(rs[i].Value) != want || rs[i].Time.Before(seen) {
					t.Fatalf("record %+v, want number %d", rs[i], next)
				}
				next, seen = next+1, rs[i].Time
			}
		}
		if next <= last || next%50 != 0 {
			t.Fatalf("%d records after %d were acknowledged", next, last+1)
		}
		must(t, db.Close())
	}
}

func TestLogIsAppendOnly(t *testing.T) {
	db := open(t, newPath(t))
	_, err := db.Log().Append(t.Context(), "in", values("x"))
	must(t, err)
	for _, sql := range []string{"UPDATE deja_log_1 SET value = x'00'", "DELETE FROM deja_log_1"} {
		if err := db.Exec(sql); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// Callers at once share transactions; every record gets a position of its own, and each caller's are in order.
func TestGroupCommit(t *testing.T) {
	const callers, calls = 16, 20
	db := open(t, newPath(t))
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		seen = map[int64]string{}
	)
	for c := range callers {
		all.Go(func() {
			for i := range calls {
				text := fmt.Sprint(c, " ", i)
				at, err := db.Log().Append(t.Context(), "in", values(text+" a", text+" b"))
				if err != nil || at[1].Offset != at[0].Offset+1 {
					t.Errorf("append: %v, %v", at, err)
					return
				}
				mu.Lock()
				seen[at[0].Offset], seen[at[1].Offset] = text+" a", text+" b"
				mu.Unlock()
			}
		})
	}
	all.Wait()
	rs, err := db.Log().Fetch(t.Context(), deja.Position{Topic: "in"}, 10_000)
	must(t, err)
	if len(rs) != 2*callers*calls || len(seen) != len(rs) {
		t.Fatalf("%d records, %d positions", len(rs), len(seen))
	}
	for i := range rs {
		if string(rs[i].Value) != seen[rs[i].Offset] {
			t.Fatalf("at %d is %q, want %q", rs[i].Offset, rs[i].Value, seen[rs[i].Offset])
		}
	}
}

// A caller that gives up while it waits has appended nothing.
func TestAppendGivesUp(t *testing.T) {
	db := open(t, newPath(t))
	l := acquire(t, db)
	tx, err := db.Store().Begin(t.Context(), l)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = db.Log().Append(ctx, "in", values("x"))
	wantErr(t, err, context.DeadlineExceeded)
	must(t, tx.Rollback(t.Context()))
	if _, end, err := db.Log().Bounds(t.Context(), "in", 0); end != 0 || err != nil {
		t.Fatal(end, err)
	}
}

func TestFullDisk(t *testing.T) {
	db := open(t, newPath(t))
	_, err := db.Log().Append(t.Context(), "in", values("first"))
	must(t, err)
	must(t, db.LimitPages(3))
	big := make([]driver.Record, 100)
	for i := range big {
		big[i].Value = make([]byte, 4000)
	}
	if _, err := db.Log().Append(t.Context(), "in", big); err == nil || !strings.Contains(err.Error(), "full") {
		t.Fatal(err)
	}
	if _, end, err := db.Log().Bounds(t.Context(), "in", 0); end != 1 || err != nil {
		t.Fatal(end, err)
	}
	must(t, db.LimitPages(1000)) // space was made: nothing need be opened anew
	at, err := db.Log().Append(t.Context(), "in", big)
	must(t, err)
	if at[0].Offset != 1 {
		t.Fatal(at[0])
	}
}

// SQLite rolls the transaction back when the disk is full, and what follows would be committed statement by
// statement. A projection that does not look at its errors must not bring that about.
func TestFullDiskInProjection(t *testing.T) {
	db := open(t, newPath(t))
	l := acquire(t, db, deja.TableDef{Name: "rows", DDL: "CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB)"})
	must(t, db.LimitPages(20))
	entry := driver.Entry{Key: id(1), N: 1, Status: deja.Applied}
	tx, err := db.Store().Begin(t.Context(), l)
	must(t, err)
	must(t, tx.Write(t.Context(), &driver.Batch{
		Records: []driver.JournalRecord{{N: 1, Value: []byte("decision")}},
		Ledger:  []driver.Entry{entry},
	}))
	for i := range 100 {
		tx.SQL().Queue("INSERT INTO rows VALUES ($1, $2)", i, make([]byte, 100_000)) // fails, and the rest is ignored
	}
	tx.SQL().Queue("INSERT INTO rows VALUES ($1, $2)", 1000, nil)
	if err := tx.Write(t.Context(), &driver.Batch{Ledger: []driver.Entry{{Key: id(2), N: 1, Status: deja.Applied}}}); err == nil {
		t.Error("write after the failure")
	}
	if err := tx.Advance(t.Context(), l.Progress, after(l.Progress)); err == nil {
		t.Error("advance after the failure")
	}
	if err := tx.Commit(t.Context()); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("commit: %v", err)
	}
	must(t, db.LimitPages(1000))
	es, err := db.Store().Find(t.Context(), deja.ID{}, id(9), 9)
	must(t, err)
	rows, err := db.Int("SELECT count(*) FROM rows")
	must(t, err)
	_, end, err := db.Log().Bounds(t.Context(), "out", 0)
	must(t, err)
	if p := acquire(t, db).Progress; len(es) > 0 || rows > 0 || end > 0 || p != (driver.Progress{}) {
		t.Fatalf("something was committed: %v, %d rows, journal to %d, %+v", es, rows, end, p)
	}
}

func TestCancelledTx(t *testing.T) {
	db := open(t, newPath(t))
	l := acquire(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	tx, err := db.Store().Begin(ctx, l)
	must(t, err)
	must(t, tx.Write(ctx, &driver.Batch{Ledger: []driver.Entry{{Key: id(1), N: 1, Status: deja.Applied}}}))
	cancel()
	wantErr(t, tx.Advance(ctx, l.Progress, after(l.Progress)), context.Canceled)
	wantErr(t, tx.Commit(t.Context()), context.Canceled)
	step(t, db, l, &driver.Batch{Ledger: []driver.Entry{{Key: id(1), N: 1, Status: deja.Applied}}})
}

func TestFailedSyncHalts(t *testing.T) {
	path := newPath(t)
	db := open(t, path)
	l := acquire(t, db)
	wantErr(t, db.FailSync(), sqlite.ErrHaltedIO)
	_, appending := db.Log().Append(t.Context(), "in", values("x"))
	_, fetching := db.Log().Fetch(t.Context(), deja.Position{Topic: "in"}, 1)
	_, beginning := db.Store().Begin(t.Context(), l)
	_, _, looking := db.Store().Lookup(t.Context(), []deja.ID{id(1)})
	_, reading := db.Store().Progress(t.Context(), 0)
	for _, err := range []error{appending, fetching, beginning, looking, reading} {
		wantErr(t, err, sqlite.ErrHaltedIO)
	}
	must(t, db.Close())
	acquire(t, open(t, path))
}

// Look-ups go on while a core transaction is open, and see what was committed.
func TestLookupBesideTx(t *testing.T) {
	db := open(t, newPath(t))
	l := step(t, db, acquire(t, db), &driver.Batch{Ledger: []driver.Entry{{Key: id(1), N: 1, Status: deja.Applied}}})
	tx, err := db.Store().Begin(t.Context(), l)
	must(t, err)
	must(t, tx.Write(t.Context(), &driver.Batch{Ledger: []driver.Entry{{Key: id(2), N: 2, Status: deja.Applied}}}))
	es, _, err := db.Store().Lookup(t.Context(), []deja.ID{id(1), id(2)})
	must(t, err)
	if len(es) != 1 || es[0].Key != id(1) {
		t.Fatal(es)
	}
	must(t, tx.Rollback(t.Context()))
}

func TestWriteAheadLogIsWrittenBack(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 100 MB")
	}
	db := open(t, newPath(t))
	rs := make([]driver.Record, 32)
	for i := range rs {
		rs[i].Value = make([]byte, 1<<19)
	}
	for range 12 {
		_, err := db.Log().Append(t.Context(), "in", rs)
		must(t, err)
	}
	size, err := db.Size(t.Context())
	must(t, err)
	if whole := int64(12 * 32 << 19); size > whole+120<<20 {
		t.Errorf("%d bytes on disk for %d bytes of records", size, whole)
	}
}

func TestProjection(t *testing.T) {
	db := open(t, newPath(t))
	l := acquire(t, db, deja.TableDef{
		Name: "balances",
		DDL:  "CREATE TABLE balances (id TEXT PRIMARY KEY, cents INTEGER, open INTEGER, rate REAL, at TEXT, raw BLOB); CREATE INDEX by_cents ON balances (cents);",
	})
	tx, err := db.Store().Begin(t.Context(), l)
	must(t, err)
	q := tx.SQL()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	const insert = "INSERT INTO balances VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO UPDATE SET cents = balances.cents + excluded.cents + $2 - $2"
	q.Queue(insert, "a", uint16(5), true, 1.5, at, []byte{1})
	q.Queue(insert, "a", 2, true, 1.5, at, nil)
	q.Queue(insert, "b", int8(9), false, 2, at, nil)
	var keys []string
	for r, err := range q.Rows("SELECT id, cents, open, rate, at, raw FROM balances ORDER BY id") {
		must(t, err)
		var (
			key   string
			cents int64
			open  bool
			rate  float64
			when  time.Time
			raw   []byte
		)
		must(t, r.Scan(&key, &cents, &open, &rate, &when, &raw))
		keys = append(keys, fmt.Sprintf("%s%d %t %v %t %v", key, cents, open, rate, when.Equal(at), raw))
		if r.Scan(&cents) == nil || r.Scan(&cents, &cents, &open, &rate, &when, &raw) == nil {
			t.Error("scanned into something else")
		}
		for n, err := range q.Rows("SELECT count(*) FROM (SELECT id FROM balances WHERE id <= $1)", key) { // inside the other
			must(t, err)
			must(t, n.Scan(&cents))
		}
	}
	if want := []string{"a7 true 1.5 true [1]", "b9 false 2 true []"}; !slices.Equal(keys, want) {
		t.Errorf("rows %q, want %q", keys, want)
	}
	must(t, tx.Advance(t.Context(), l.Progress, after(l.Progress)))
	must(t, tx.Commit(t.Context()))
}

func TestProjectionIsKeptIn(t *testing.T) {
	db := open(t, newPath(t))
	l := acquire(t, db, deja.TableDef{Name: "mine", DDL: "CREATE TABLE mine (x INTEGER)"})
	for _, sql := range []string{
		"INSERT INTO deja_ledger_1 VALUES (x'00', x'00', 0, 0, 0, 1)", "SELECT count(*) FROM deja_lease", "SELECT * FROM DEJA_states",
		"UPDATE deja_lease SET n = 9", "DELETE FROM deja_log_1", "INSERT INTO mine SELECT n FROM deja_ledger_1",
		"ATTACH DATABASE 'x' AS y", "PRAGMA synchronous = OFF", "COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT s",
		"CREATE TABLE yours (x)", "DROP TABLE mine", "ALTER TABLE mine ADD y", "CREATE TEMP TABLE t (x)", "VACUUM",
		"SELECT name FROM sqlite_schema", "INSERT INTO mine VALUES (1); DELETE FROM mine",
		"INSERT INTO mine VALUES (random())", "INSERT INTO mine VALUES (unixepoch('now'))", "UPDATE mine SET x = CURRENT_TIMESTAMP",
		"INSERT INTO mine VALUES ($1)", "INSERT INTO mine VALUES (?)", "INSERT INTO mine VALUES (:x)",
	} {
		tx, err := db.Store().Begin(t.Context(), l)
		must(t, err)
		tx.SQL().Queue(sql)
		var failed error
		for _, err := range tx.SQL().Rows("SELECT x FROM mine") {
			failed = err
		}
		if failed == nil || !strings.Contains(failed.Error(), sql) {
			t.Errorf("%s: error %v", sql, failed)
		}
		if err := tx.Advance(t.Context(), l.Progress, after(l.Progress)); err == nil {
			t.Errorf("%s: advanced", sql)
		}
		must(t, tx.Rollback(t.Context()))
	}
	for _, ddl := range []string{"CREATE TABLE other (x)", "SELECT 1", "CREATE TABLE t AS SELECT * FROM deja_ledger_1", "DROP TABLE mine", "", "CREATE TABLE t (x DEFAULT current_date)", "CREATE TABLE t (x); CREATE TABLE u (x)"} {
		if _, err := db.Store().Acquire(t.Context(), assignment(t, db, deja.TableDef{Name: "t", DDL: ddl})); err == nil {
			t.Errorf("%q made a table", ddl)
		}
	}
	for _, name := range []string{"deja_x", "sqlite_x", `a"b`, ""} {
		if _, err := db.Store().Acquire(t.Context(), assignment(t, db, deja.TableDef{Name: name, DDL: "CREATE TABLE x (x)"})); err == nil {
			t.Errorf("a table may be called %q", name)
		}
	}
}

func TestResetMakesTablesAnew(t *testing.T) {
	db := open(t, newPath(t))
	acquire(t, db, deja.TableDef{Name: "old", DDL: "CREATE TABLE old (x)"}, deja.TableDef{Name: "mine", DDL: "CREATE TABLE mine (x)"})
	l := acquire(t, db, deja.TableDef{Name: "mine", DDL: "CREATE TABLE mine (x, y)"})
	must(t, db.Store().Reset(t.Context(), l))
	must(t, db.Exec("SELECT x, y FROM mine"))
	if err := db.Exec("SELECT 1 FROM old"); err == nil {
		t.Error("a table that is not declared any more is still there")
	}
	if !errors.Is(db.Store().Reset(t.Context(), driver.Lease{}), driver.ErrFenced) {
		t.Error("reset without a lease")
	}
}
