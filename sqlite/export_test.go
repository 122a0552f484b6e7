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

// SealAt lets segments of the ledgers be sealed at a number of rows.
func (db *DB) SealAt(rows int64) { db.segmentRows = rows }

// Filters returns how many sealed segments have a filter in memory, and whether the newest has one of all its keys.
func (db *DB) Filters() (sealed int, newest bool) {
	l := &db.part("").ledger
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.sealed), l.whole
}

// TendFilters does at once what is done beside all else.
func (db *DB) TendFilters(ctx context.Context) error { return db.part("").tendFilters(ctx) }

// Roll seals the newest segment of a store's ledger.
func Roll(of driver.Store) error {
	p := of.(*store).part
	var s *sealing
	err := p.write(context.Background(), func(c conn) error {
		segments, err := readSegments(c)
		if err == nil {
			s, err = p.seal(c, segments[len(segments)-1])
		}
		return err
	})
	if err == nil {
		p.ledger.committed(s, p)
	}
	return err
}

// Fill writes a sealed segment of such keys in front of the newest, which is empty. Its rows are in order, which is fast.
func (db *DB) Fill(keys []deja.ID) error {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, compareKeys)
	p := db.part("")
	err := p.write(context.Background(), func(c conn) error {
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
		p.ledger.add(segments[len(segments)-1], keys, int(db.segmentRows))
		return c.exec("UPDATE deja_ledger SET rows = ? WHERE segment = ?", len(keys), segments[len(segments)-1].number)
	})
	if err != nil {
		return err
	}
	return Roll(db.Store())
}

// backedUp are the store's tables that a backup of it holds, beside the segments of the ledger.
var backedUp = []string{
	"deja_lease", "deja_ledger", "deja_ledger_parked", "deja_filters", "deja_states", "deja_parked", "deja_repeats",
}

// saved is what a table's copy is called, in the file.
func (c conn) saved(table string) string { return `"saved_` + c.part.table(table) + `"` }

// Backup copies the tables of a store, but not those of the log, within the file.
func Backup(of driver.Store) error {
	return of.(*store).write(context.Background(), func(c conn) error {
		segments, err := readSegments(c)
		if err != nil {
			return err
		}
		tables := backedUp
		for _, s := range segments {
			tables = append(tables, s.table())
		}
		for _, table := range tables {
			if err := exec(c.Conn, "DROP TABLE IF EXISTS "+c.saved(table)); err != nil {
				return err
			}
			if err := exec(c.Conn, "CREATE TABLE "+c.saved(table)+` AS SELECT * FROM "`+c.part.table(table)+`"`); err != nil {
				return err
			}
		}
		return nil
	})
}

// restore fills a table with its copy.
func (c conn) restore(table string) error {
	return exec(c.Conn, `INSERT INTO "`+c.part.table(table)+`" SELECT * FROM `+c.saved(table))
}

// Restore puts a store back to where it was when Backup copied it: it goes back, its journal does not.
func Restore(of driver.Store) error {
	return of.(*store).write(context.Background(), func(c conn) error {
		if err := emptyLedger(c); err != nil {
			return err
		}
		if err := c.exec("DROP TABLE deja_ledger_1"); err != nil {
			return err
		}
		for _, table := range backedUp {
			if err := c.exec("DELETE FROM " + table); err != nil {
				return err
			}
			if err := c.restore(table); err != nil {
				return err
			}
		}
		segments, err := readSegments(c)
		if err != nil {
			return err
		}
		for i, s := range segments {
			err := c.exec("DELETE FROM deja_ledger WHERE segment = ?", s.number)
			if err == nil {
				err = createSegment(c, s)
			}
			if err == nil {
				err = c.restore(s.table())
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
