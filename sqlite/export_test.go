package sqlite

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
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

// SealAt lets segments of the ledger be sealed at a number of rows.
func (db *DB) SealAt(rows int64) { db.segmentRows = rows }

// Filters returns how many sealed segments have a filter in memory, and whether the newest has one of all its keys.
func (db *DB) Filters() (sealed int, newest bool) {
	db.ledger.mu.RLock()
	defer db.ledger.mu.RUnlock()
	return len(db.ledger.sealed), db.ledger.whole
}

// TendFilters does at once what is done beside all else.
func (db *DB) TendFilters(ctx context.Context) error { return db.tendFilters(ctx) }

// Roll seals the newest segment of the ledger.
func (db *DB) Roll() error {
	var s *sealing
	err := db.write(context.Background(), func(c *sqlite.Conn) error {
		segments, err := readSegments(c)
		if err == nil {
			s, err = db.seal(c, segments[len(segments)-1])
		}
		return err
	})
	if err == nil {
		db.ledger.committed(s, db)
	}
	return err
}

// Fill writes a sealed segment of such keys in front of the newest, which is empty. Its rows are in order, which is fast.
func (db *DB) Fill(keys []deja.ID) error {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, compareKeys)
	err := db.write(context.Background(), func(c *sqlite.Conn) error {
		segments, err := readSegments(c)
		if err != nil {
			return err
		}
		st, err := c.Prepare("INSERT INTO " + segments[len(segments)-1].table() + " VALUES (?, ?, ?, ?, ?, ?)")
		if err != nil {
			return err
		}
		for i, k := range keys {
			bindEntry(st, &driver.Entry{Key: k, Offset: int64(i), N: int64(i), Status: deja.Applied})
			if err := run(st); err != nil {
				return err
			}
		}
		db.ledger.add(segments[len(segments)-1], keys, int(db.segmentRows))
		return exec(c, "UPDATE deja_ledger SET rows = ? WHERE segment = ?", len(keys), segments[len(segments)-1].number)
	})
	if err != nil {
		return err
	}
	return db.Roll()
}

// backedUp are the store's tables that a backup of it holds, beside the segments of the ledger.
var backedUp = []string{
	"deja_lease", "deja_ledger", "deja_ledger_parked", "deja_filters", "deja_states", "deja_parked", "deja_repeats",
}

// Backup copies the tables of the store, but not those of the log, within the file.
func (db *DB) Backup() error {
	return db.write(context.Background(), func(c *sqlite.Conn) error {
		segments, err := readSegments(c)
		if err != nil {
			return err
		}
		tables := backedUp
		for _, s := range segments {
			tables = append(tables, s.table())
		}
		for _, table := range tables {
			if err := exec(c, "DROP TABLE IF EXISTS saved_"+table); err != nil {
				return err
			}
			if err := exec(c, "CREATE TABLE saved_"+table+" AS SELECT * FROM "+table); err != nil {
				return err
			}
		}
		return nil
	})
}

// Restore puts the store back to where it was when Backup copied it: it goes back, its journal does not.
func (db *DB) Restore() error {
	return db.write(context.Background(), func(c *sqlite.Conn) error {
		if err := emptyLedger(c); err != nil {
			return err
		}
		if err := exec(c, "DROP TABLE deja_ledger_1"); err != nil {
			return err
		}
		for _, table := range backedUp {
			if err := exec(c, "DELETE FROM "+table); err != nil {
				return err
			}
			if err := exec(c, "INSERT INTO "+table+" SELECT * FROM saved_"+table); err != nil {
				return err
			}
		}
		segments, err := readSegments(c)
		if err != nil {
			return err
		}
		for i, s := range segments {
			err := exec(c, "DELETE FROM deja_ledger WHERE segment = ?", s.number)
			if err == nil {
				err = createSegment(c, s)
			}
			if err == nil {
				err = exec(c, "INSERT INTO "+s.table()+" SELECT * FROM saved_"+s.table())
			}
			if err == nil && i < len(segments)-1 {
				err = sealTable(c, s)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Pragma returns a setting of the connection that writes.
func (db *DB) Pragma(tb testing.TB, name string) string {
	tb.Helper()
	text, err := queryText(db.conn, "PRAGMA "+name)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}
