// Package bench compares what deja could be built on, side by side in one run. It is a module of its own, so that what
// it compares does not become a dependency of deja.
//
//	go test -run '^$' -bench . -benchtime 3s .
package bench

import (
	"crypto/rand"
	"database/sql"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

const (
	rows   = 1000 // a transaction
	schema = "CREATE TABLE ledger (n INTEGER PRIMARY KEY, id BLOB NOT NULL, hash BLOB NOT NULL, body BLOB NOT NULL)"
	insert = "INSERT INTO ledger VALUES (?, ?, ?, ?)"
)

// row is what both insert: about 250 bytes.
type row struct{ id, hash, body []byte }

func newRow() row { return row{make([]byte, 16), make([]byte, 32), make([]byte, 200)} }

// BenchmarkLowLevel inserts through zombiezen's interface to the engine.
func BenchmarkLowLevel(b *testing.B) {
	c, err := sqlite.OpenConn(filepath.Join(b.TempDir(), "low.db"), sqlite.OpenReadWrite, sqlite.OpenCreate, sqlite.OpenWAL)
	check(b, err)
	defer func() { check(b, c.Close()) }()
	check(b, sqlitex.ExecuteTransient(c, "PRAGMA synchronous = FULL", nil))
	check(b, sqlitex.ExecuteTransient(c, schema, nil))
	st, err := c.Prepare(insert)
	check(b, err)
	r, n := newRow(), int64(0)
	for b.Loop() {
		check(b, sqlitex.Execute(c, "BEGIN IMMEDIATE", nil))
		for range rows {
			_, _ = rand.Read(r.id)
			n++
			st.BindInt64(1, n)
			st.BindBytes(2, r.id)
			st.BindBytes(3, r.hash)
			st.BindBytes(4, r.body)
			_, err := st.Step()
			check(b, err)
			check(b, st.Reset())
		}
		check(b, sqlitex.Execute(c, "COMMIT", nil))
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkDatabaseSQL inserts the same through database/sql and modernc's driver, over the same engine.
func BenchmarkDatabaseSQL(b *testing.B) {
	db, err := sql.Open("sqlite", filepath.Join(b.TempDir(), "sql.db"))
	check(b, err)
	defer func() { check(b, db.Close()) }()
	db.SetMaxOpenConns(1)
	for _, s := range []string{"PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", schema} {
		_, err := db.Exec(s)
		check(b, err)
	}
	r, n := newRow(), int64(0)
	for b.Loop() {
		tx, err := db.Begin()
		check(b, err)
		st, err := tx.Prepare(insert)
		check(b, err)
		for range rows {
			_, _ = rand.Read(r.id)
			n++
			_, err := st.Exec(n, r.id, r.hash, r.body)
			check(b, err)
		}
		check(b, st.Close())
		check(b, tx.Commit())
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
}

func check(b *testing.B, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}
