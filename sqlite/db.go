package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/dejalog/deja/driver"
)

// A DB is an open database. It is safe for concurrent use.
type DB struct {
	path string
	id   string // the file's, in hex

	// The connection that writes belongs to whoever holds the gate, which has room for one. All three, and the lock,
	// are nil in a database that is open for reading.
	gate  chan struct{}
	conn  *sqlite.Conn
	guard *guard
	lock  *lockfile

	pool        *sqlitex.Pool
	topics      topics
	appends     appendQueue
	parts       parts       // what the stores have of the file
	segmentRows int64       // at which a segment of a ledger is sealed
	scratch     []int32     // of whoever holds the gate: an order to write rows in
	inTx        atomic.Bool // the gate's holder is a core transaction, which may take a while

	closing chan struct{} // closed by Close
	halting chan struct{} // closed when the database halts
	once    sync.Once
	closed  error // what Close returned
	halted  atomic.Pointer[error]
}

func newDB(path string) *DB {
	return &DB{
		path: path, gate: make(chan struct{}, 1), closing: make(chan struct{}), halting: make(chan struct{}),
		segmentRows: segmentRows,
	}
}

// Path returns the database's path, made absolute.
func (db *DB) Path() string { return db.path }

// Log returns the log in the file. Its Close ends the use of that
// value alone: the file is closed by [DB.Close].
func (db *DB) Log() driver.Log { return newLog(db) }

// Store returns the file's store without a name, which is a [driver.Joint] of the file's log. Its Close ends the use of
// that value alone: the file is closed by [DB.Close].
func (db *DB) Store() driver.Store { return &store{part: db.part("")} }

// StoreOf returns the store of a service of that name: one with tables of its own in the file, so that several services
// can share the file and its log. Otherwise it is as [DB.Store]. The tables are made at its first use, if the file is
// open for writing; if it is not, and they are not there, calls give [ErrNoStore].
//
// Which of its stores a file keeps a service in is for good: [driver.Store.Acquire] on another gives an error that wraps
// [driver.ErrUnusable]. Projections of all services in a file need tables of different names.
func (db *DB) StoreOf(service string) driver.Store {
	return &store{part: db.part(service)}
}

// Size returns the bytes on disk, with those of the write-ahead log.
func (db *DB) Size(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var sum int64
	for _, name := range []string{db.path, db.path + "-wal"} {
		info, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name != db.path:
		case err != nil:
			return 0, err
		default:
			sum += info.Size()
		}
	}
	return sum, nil
}

// Close waits for the transaction in flight, writes the write-ahead log back into the file and gives the lock up.
// Calls that wait end with [ErrClosed], as do later ones. Closing again returns what the first call returned.
func (db *DB) Close() error {
	db.once.Do(func() {
		close(db.closing)
		for _, p := range db.parts.all() {
			p.ledger.tending.close()
		}
		if db.conn == nil {
			db.closed = db.pool.Close()
			return
		}
		db.gate <- struct{}{} // never given back
		if db.halted.Load() != nil {
			// The last connection to go would write the log back, which after a failed sync proves nothing: it must be one
			// that cannot write.
			db.closed = errors.Join(db.conn.Close(), db.pool.Close(), db.lock.release(false))
			return
		}
		err := db.pool.Close()
		if err == nil {
			err = errors.Join(err, exec(db.conn, "PRAGMA wal_checkpoint(TRUNCATE)"))
			// Without a write-ahead log, whoever reads the file at rest needs no file beside it. While others read, it
			// stays; that does no harm.
			db.conn.SetBusyTimeout(0)
			_ = exec(db.conn, "PRAGMA journal_mode = DELETE")
		}
		for _, p := range db.parts.all() {
			for _, st := range p.statements {
				_ = st.Finalize() // gives the last step's error again
			}
		}
		db.closed = errors.Join(err, db.conn.Close(), db.lock.release(false))
	})
	return db.closed
}

// usable returns why the database cannot be used, if so.
func (db *DB) usable() error {
	select {
	case <-db.closing:
		return ErrClosed
	default:
	}
	if err := db.halted.Load(); err != nil {
		return *err
	}
	return nil
}

// take waits for the connection that writes. Whoever has it must release it.
func (db *DB) take(ctx context.Context) error {
	if db.conn == nil {
		return fmt.Errorf("%s: %w", db.path, ErrReadOnly)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case db.gate <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.closing:
		return ErrClosed
	}
	if err := db.usable(); err != nil {
		db.release()
		return err
	}
	return nil
}

func (db *DB) release() { <-db.gate }

// write runs fn in a transaction of the connection that writes. A context that ends later does not interrupt it: an
// interrupted write may roll the transaction back by itself.
func (db *DB) write(ctx context.Context, fn func(c *sqlite.Conn) error) error {
	if err := db.take(ctx); err != nil {
		return err
	}
	defer db.release()
	if err := exec(db.conn, "BEGIN IMMEDIATE"); err != nil {
		return db.noted(err)
	}
	if err := fn(db.conn); err != nil {
		db.rollback()
		return db.noted(err)
	}
	return db.commit()
}

// commit ends the transaction of the gate's holder. Any error but errRolledBack leaves it unknown whether it is
// durable.
func (db *DB) commit() error {
	if db.conn.AutocommitEnabled() {
		return errRolledBack
	}
	if err := exec(db.conn, "COMMIT"); err != nil {
		db.rollback()
		if failedIO(err) {
			return db.halt(err)
		}
		return db.noted(err)
	}
	db.checkpoint()
	return nil
}

// rollback ends whatever transaction there still is.
func (db *DB) rollback() {
	if !db.conn.AutocommitEnabled() {
		_ = exec(db.conn, "ROLLBACK") // if it fails, the next BEGIN does
	}
}

// noted returns err, and halts the database if it says that a write may be lost.
func (db *DB) noted(err error) error {
	if undurable(err) {
		return db.halt(err)
	}
	return err
}

func (db *DB) halt(err error) error {
	halted := fmt.Errorf("%s: %w: open the file anew, after a look at the disk (%w)", db.path, ErrHaltedIO, err)
	if db.halted.CompareAndSwap(nil, &halted) {
		close(db.halting)
	}
	return halted
}

// checkpointFrames is how many pages the write-ahead log may grow by before they are written back. Twenty times
// SQLite's own figure: a page that changes often is then written back once instead of many times.
const checkpointFrames = 20_000

// checkpoint writes the write-ahead log back when it has grown enough. SQLite would do so by itself, but keeps the
// error of the sync in it to itself. What was committed stays so: an error halts the calls to come.
func (db *DB) checkpoint() {
	var pending int64
	err := query(db.conn, "PRAGMA wal_checkpoint(NOOP)", func(st *sqlite.Stmt) error {
		pending = st.ColumnInt64(1) - st.ColumnInt64(2)
		return nil
	})
	if err == nil && pending >= checkpointFrames {
		err = exec(db.conn, "PRAGMA wal_checkpoint(PASSIVE)")
	}
	if failedIO(err) {
		_ = db.halt(err)
	}
}

// read runs fn on a connection of its own, which never waits for the one that writes, and in one transaction: all
// that fn reads is of one moment.
func (db *DB) read(ctx context.Context, fn func(c *sqlite.Conn) error) error {
	if err := db.usable(); err != nil {
		return err
	}
	c, err := db.pool.Take(ctx)
	if err != nil {
		return cmp.Or(ctx.Err(), db.usable(), err)
	}
	defer db.pool.Put(c)
	if err := inSnapshot(c, fn); err != nil {
		// An interrupted statement's error says nothing of who interrupted it.
		return cmp.Or(ctx.Err(), db.usable(), err)
	}
	return nil
}

func inSnapshot(c *sqlite.Conn, fn func(c *sqlite.Conn) error) error {
	if err := exec(c, "BEGIN"); err != nil {
		return err
	}
	err := fn(c)
	if err == nil {
		err = exec(c, "COMMIT")
	}
	if err != nil && !c.AutocommitEnabled() {
		// The interrupt of a cancelled context would stop this too.
		old := c.SetInterrupt(nil)
		err = errors.Join(err, exec(c, "ROLLBACK"))
		c.SetInterrupt(old)
	}
	return err
}
