package sqlite

import (
	"fmt"
	"testing"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja/driver"
)

// Exec runs a statement on the connection that writes, as somebody who tampers with the file would. It must not run
// beside a transaction.
func (db *DB) Exec(sql string) error { return exec(db.conn, sql) }

// Int returns what a query gives, on the connection that writes.
func (db *DB) Int(sql string) (int64, error) { return queryInt(db.conn, sql) }

// LimitPages makes the disk full once the file has n pages more than now.
func (db *DB) LimitPages(n int64) error {
	pages, err := queryInt(db.conn, "PRAGMA page_count")
	if err != nil {
		return err
	}
	return exec(db.conn, fmt.Sprintf("PRAGMA max_page_count = %d", pages+n))
}

// FailSync does what a failed sync in a commit does.
func (db *DB) FailSync() error { return db.noted(sqlite.ResultIOErrFsync.ToError()) }

// Abandon closes a database in which a transaction may have been left open, as the death of the process leaves one.
// Nobody may use the database any more.
func (db *DB) Abandon() error {
	if db.inTx.Swap(false) {
		db.rollback()
		db.release()
	}
	return db.Close()
}

// Of returns the database that a store is in.
func Of(s driver.Store) *DB { return s.(*store).db }

// RollBack rolls the open transaction back without its knowledge, as the engine does on a full disk.
func (db *DB) RollBack() { db.rollback() }

// StoreTables are the store's tables that a backup of it holds.
var StoreTables = []string{"deja_lease", "deja_ledger", "deja_states", "deja_parked", "deja_repeats"}

// Pragma returns a setting of the connection that writes.
func (db *DB) Pragma(tb testing.TB, name string) string {
	tb.Helper()
	text, err := queryText(db.conn, "PRAGMA "+name)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}
