package sqlite

import (
	"context"
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

// Unlogged returns nothing: what is committed is in the journal.
func (s *store) Unlogged(ctx context.Context, _ int32, _ int64, _ int) ([]driver.JournalRecord, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	return nil, ctx.Err()
}

// emptyStore deletes all that is folded from the journals, and what knows how far that is.
func emptyStore(c *sqlite.Conn) error {
	if err := dropTables(c); err != nil {
		return err
	}
	if err := emptyLedger(c); err != nil {
		return err
	}
	for _, sql := range []string{"DELETE FROM deja_states", "DELETE FROM deja_parked", "DELETE FROM deja_repeats"} {
		if err := exec(c, sql); err != nil {
			return err
		}
	}
	return exec(c, "UPDATE deja_lease SET position = 0, n = 0, chain = zeroblob(32), time = ?, fold = '', ready = 0", zeroTime)
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
