package sqlite

import (
	"context"
	"sync/atomic"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja/driver"
)

// store is a store in a database: a cache of the log beside it.
type store struct {
	*part
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
func emptyStore(c conn) error {
	if err := dropTables(c); err != nil {
		return err
	}
	if err := emptyLedger(c); err != nil {
		return err
	}
	for _, sql := range []string{"DELETE FROM deja_states", "DELETE FROM deja_parked", "DELETE FROM deja_repeats"} {
		if err := c.exec(sql); err != nil {
			return err
		}
	}
	return c.exec("UPDATE deja_lease SET position = 0, n = 0, chain = zeroblob(32), time = ?, fold = '', ready = 0", zeroTime)
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

// ready returns why the store cannot be used, if so. It makes the tables at the first use.
func (s *store) ready(ctx context.Context) error {
	if err := s.usable(); err != nil {
		return err
	}
	return s.ensure(ctx)
}

func (s *store) write(ctx context.Context, fn func(c conn) error) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.part.write(ctx, fn)
}

func (s *store) read(ctx context.Context, fn func(c conn) error) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.part.read(ctx, fn)
}

// readWarm is read for what the engine looks up before each batch: on the connection that writes, whose cache
// outlives commits. It does not wait for a core transaction.
func (s *store) readWarm(ctx context.Context, fn func(c conn) error) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	db := s.db
	if db.conn == nil || db.inTx.Load() {
		return s.part.read(ctx, fn)
	}
	if err := db.take(ctx); err != nil {
		return err
	}
	defer db.release()
	return db.noted(inSnapshot(db.conn, func(c *sqlite.Conn) error { return fn(s.on(c)) }))
}
