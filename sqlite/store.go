package sqlite

import (
	"context"
	"fmt"
	"sync/atomic"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja/driver"
)

// store is the store in a database: a cache of the log beside it.
type store struct {
	db     *DB
	closed atomic.Bool
}

var (
	_ driver.Store = (*store)(nil)
	_ driver.Joint = (*store)(nil)
)

// Joint reports whether l is the log in the same database, opened by the same Open.
func (s *store) Joint(l driver.Log) bool {
	own, ok := l.(*log)
	return ok && own.db == s.db
}

// Acquire takes the only partition over. It waits for a core transaction in flight.
func (s *store) Acquire(ctx context.Context, a driver.Assignment) (driver.Lease, error) {
	l := driver.Lease{Assignment: a}
	err := s.write(ctx, func(c *sqlite.Conn) error {
		if a.Partition != 0 {
			return fmt.Errorf("no partition %d: an embedded store has one, 0", a.Partition)
		}
		if err := s.db.belongs(c, "inbox", a.Inbox); err != nil {
			return err
		}
		if err := s.db.belongs(c, "journal", a.Journal); err != nil {
			return err
		}
		if err := s.db.createTables(c, a.Tables); err != nil {
			return err
		}
		if err := exec(c, "UPDATE deja_lease SET epoch = epoch + 1, nonce = ?, token = zeroblob(16)", random()); err != nil {
			return err
		}
		return readLease(c, &l)
	})
	if err != nil {
		return driver.Lease{}, fmt.Errorf("acquire: %w", err)
	}
	return l, nil
}

// belongs checks that a topic is of this database, and the one that the store was bound to under a role; the first
// is bound.
func (db *DB) belongs(c *sqlite.Conn, role string, t driver.Topic) error {
	own := db.topics.get(t.Name)
	if own == nil || own.id != t.ID || t.Cluster != db.id {
		return fmt.Errorf("%w: %s %q (%s of %s) is not a topic of %s", driver.ErrIdentity, role, t.Name, t.ID, t.Cluster, db.path)
	}
	if err := exec(c, "INSERT INTO deja_binding VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		role, t.Name, t.Cluster, t.ID, t.Partitions); err != nil {
		return err
	}
	return query(c, "SELECT name, cluster, id, partitions FROM deja_binding WHERE role = ?", func(st *sqlite.Stmt) error {
		was := driver.Topic{Name: st.ColumnText(0), Cluster: st.ColumnText(1), ID: st.ColumnText(2), Partitions: st.ColumnInt32(3), MaxRecord: t.MaxRecord}
		if was != t {
			return fmt.Errorf("%w: its %s is %+v, not %+v", driver.ErrIdentity, role, was, t)
		}
		return nil
	}, role)
}

// Ready has nobody to wait for: there is one partition.
func (s *store) Ready(ctx context.Context, l driver.Lease) ([]int32, error) {
	return nil, s.write(ctx, func(c *sqlite.Conn) error {
		return fenced(c, "UPDATE deja_lease SET epoch = epoch WHERE epoch = ? AND nonce = ?", l.Epoch, l.Nonce[:])
	})
}

// Attempt notes that a message is about to be handled.
func (s *store) Attempt(ctx context.Context, l driver.Lease, offset, careful int64) (int64, error) {
	return 1, ctx.Err()
}

// Release gives the lease back.
func (s *store) Release(ctx context.Context, l driver.Lease) error {
	return s.write(ctx, func(c *sqlite.Conn) error {
		return fenced(c, "UPDATE deja_lease SET epoch = epoch + 1, nonce = ? WHERE epoch = ? AND nonce = ?", random(), l.Epoch, l.Nonce[:])
	})
}

// Unlogged returns nothing: what is committed is in the journal.
func (s *store) Unlogged(ctx context.Context, _ int32, _ int64, _ int) ([]driver.JournalRecord, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	return nil, ctx.Err()
}

// Logged notes how far the journal was read back.
func (s *store) Logged(ctx context.Context, l driver.Lease, to driver.Logged) error {
	return s.write(ctx, func(c *sqlite.Conn) error {
		return fenced(c, `UPDATE deja_lease SET logged_n = max(logged_n, ?), logged_offset = max(logged_offset, ?)
			WHERE epoch = ? AND nonce = ?`, to.N, to.Offset, l.Epoch, l.Nonce[:])
	})
}

// Reset empties the store, and makes the projections' tables of the lease anew.
func (s *store) Reset(ctx context.Context, l driver.Lease) error {
	return s.write(ctx, func(c *sqlite.Conn) error {
		if err := fenced(c, "UPDATE deja_lease SET token = zeroblob(16) WHERE epoch = ? AND nonce = ?", l.Epoch, l.Nonce[:]); err != nil {
			return err
		}
		if err := emptyStore(c); err != nil {
			return err
		}
		return s.db.createTables(c, l.Tables)
	})
}

// emptyStore deletes all that is folded from the journal, and what knows how far that is.
func emptyStore(c *sqlite.Conn) error {
	if err := dropTables(c); err != nil {
		return err
	}
	for _, sql := range []string{
		"DELETE FROM deja_ledger", "DELETE FROM deja_states", "DELETE FROM deja_parked", "DELETE FROM deja_repeats",
	} {
		if err := exec(c, sql); err != nil {
			return err
		}
	}
	return exec(c, "UPDATE deja_lease SET position = 0, n = 0, chain = zeroblob(32), time = ?, fold = ''", zeroTime)
}

// fenced runs a statement that changes the lease's row if the caller holds the lease.
func fenced(c *sqlite.Conn, sql string, args ...any) error {
	if err := exec(c, sql, args...); err != nil {
		return err
	}
	if c.Changes() != 1 {
		return driver.ErrFenced
	}
	return nil
}

// Close ends the use of this store; what it refers to lives as long as its [DB].
func (s *store) Close() error {
	s.closed.Store(true)
	return nil
}

func (s *store) usable() error {
	if s.closed.Load() {
		return ErrClosed
	}
	return s.db.usable()
}

func (s *store) write(ctx context.Context, fn func(c *sqlite.Conn) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	return s.db.write(ctx, fn)
}

func (s *store) read(ctx context.Context, fn func(c *sqlite.Conn) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	return s.db.read(ctx, fn)
}
