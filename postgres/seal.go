package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/filter"
)

// rowsPerPage is about how many of the ledger's rows are in a page.
const rowsPerPage = 81

// full reports whether a segment of so many pages is to be sealed.
func (db *DB) full(pages int64) bool { return pages*rowsPerPage >= db.config.segment }

// sealSoon seals a segment and makes its filter, in the background.
func (db *DB) sealSoon(n int64) {
	db.background(func(ctx context.Context) {
		if !db.ledger.sealing.TryLock() {
			return // whoever is at it will be told again, by the next commit
		}
		defer db.ledger.sealing.Unlock()
		err := db.seal(ctx, n)
		if err == nil {
			db.ledger.failed.Store(0)
			return
		}
		if ctx.Err() == nil {
			db.config.logger.WarnContext(ctx, "the ledger's segment was not sealed; it will be tried again", "segment", n, "error", err)
			db.ledger.failed.Add(1)
			_ = sleep(ctx, time.Second) // each try holds the others up
		}
	})
}

// seal begins a new segment if n is the newest. It waits for the core transactions that are open, and holds up those that
// begin meanwhile, for a quarter of a second at most; after tries that failed longer, up to two seconds.
func (db *DB) seal(ctx context.Context, n int64) error {
	err := db.transact(ctx, func(tx pgx.Tx) error {
		lock := fmt.Sprintf("SET LOCAL lock_timeout = %d; LOCK TABLE deja_segments IN EXCLUSIVE MODE", 250<<min(db.ledger.failed.Load(), 3))
		if _, err := tx.Exec(ctx, lock); err != nil {
			return err
		}
		var newest int64
		if err := tx.QueryRow(ctx, "SELECT newest FROM deja_catalog").Scan(&newest); err != nil || newest != n {
			return err // another process was faster
		}
		_, err := tx.Exec(ctx, sealSegment(n)+createSegment(n+1)+setNewest(n+1))
		return err
	})
	if err != nil {
		return fmt.Errorf("seal segment %d: %w", n, err)
	}
	_, err = db.loadCatalog(ctx, db.pool)
	return err
}

// pause is how long a filter that could not be made is let alone.
const pause = 5 * time.Second

// wantFilters has the missing filters read or made, in the background. It never waits. Who only looks does without.
func (db *DB) wantFilters() {
	if db.readOnly {
		return
	}
	l := &db.ledger
	select {
	case l.wanted <- struct{}{}:
		db.background(func(ctx context.Context) {
			defer func() { <-l.wanted }()
			if err := db.completeFilters(ctx); err != nil && ctx.Err() == nil {
				db.config.logger.WarnContext(ctx, "a filter of the ledger is missing; its segment is asked for every id", "error", err)
				_ = sleep(ctx, pause)
			}
		})
	default: // somebody is at it
	}
}

// completeFilters reads or makes the filters that are missing, one after the other, until none is.
func (db *DB) completeFilters(ctx context.Context) error {
	for s := db.withoutFilter(); s != nil; s = db.withoutFilter() {
		if err := db.completeFilter(ctx, *s); err != nil {
			return fmt.Errorf("segment %d: %w", s.n, err)
		}
	}
	return nil
}

// withoutFilter returns a segment whose filter is missing, if there is one.
func (db *DB) withoutFilter() *segment {
	c := db.ledger.current()
	if c == nil {
		return nil
	}
	i := slices.IndexFunc(c.segments, func(s segment) bool { return s.lacking() })
	if i < 0 {
		return nil
	}
	return &c.segments[i]
}

var errNoFilter = errors.New("no filter is stored")

// completeFilter reads a segment's filter, or, if that is missing or wrong, makes it anew from the segment.
func (db *DB) completeFilter(ctx context.Context, s segment) error {
	f, err := db.readFilter(ctx, s)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, errNoFilter) {
			db.config.logger.WarnContext(ctx, "a filter of the ledger is wrong and is made anew", "segment", s.n, "error", err)
		}
		if f, err = db.makeFilter(ctx, s); err != nil || f == nil {
			return err
		}
	}
	db.ledger.mu.Lock()
	if db.ledger.filters == nil {
		db.ledger.filters = map[[16]byte]*filter.Filter{}
	}
	db.ledger.filters[s.id] = f
	db.ledger.mu.Unlock()
	_, err = db.loadCatalog(ctx, db.pool)
	return err
}

// readFilter returns a segment's stored filter, unless it is not the filter of just the keys that the segment has.
func (db *DB) readFilter(ctx context.Context, s segment) (*filter.Filter, error) {
	var (
		stored          []byte
		rows            *int64
		lo, hi          *[16]byte
		count           int64
		lowest, highest *[16]byte
	)
	err := db.pool.QueryRow(ctx, "SELECT rows, lo, hi, filter FROM deja_segments WHERE id = $1", s.id).Scan(&rows, &lo, &hi, &stored)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && (stored == nil || rows == nil || lo == nil || hi == nil) {
		return nil, errNoFilter
	}
	if err != nil {
		return nil, err
	}
	rest, own := bytes.CutPrefix(stored, s.id[:])
	if !own {
		return nil, errors.New("it is another segment's")
	}
	f, err := filter.Parse(rest)
	if err != nil {
		return nil, err
	}
	err = db.pool.QueryRow(ctx, fmt.Sprintf(`SELECT (SELECT count(*) FROM deja_ledger_%[1]d),
		(SELECT key FROM deja_ledger_%[1]d ORDER BY key LIMIT 1), (SELECT key FROM deja_ledger_%[1]d ORDER BY key DESC LIMIT 1)`, s.n)).
		Scan(&count, &lowest, &highest)
	switch {
	case err != nil:
		return nil, err
	case int64(f.Len()) != count || *rows != count:
		return nil, fmt.Errorf("it is of %d keys, noted as %d, and the segment has %d", f.Len(), *rows, count)
	case count > 0 && (*lowest != *lo || *highest != *hi):
		return nil, errors.New("it is of another range of keys than the segment's")
	}
	return f, nil
}

// makeFilter makes a segment's filter and stores it. While another process does that it waits, and returns none: the
// caller finds it stored. The segment is let go of before the filter is stored: Reset locks the two the other way round.
func (db *DB) makeFilter(ctx context.Context, s segment) (*filter.Filter, error) {
	var (
		f      *filter.Filter
		lo, hi deja.ID
		free   bool
	)
	err := db.transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0"); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock($1, $2)", db.locks, lockFilter).Scan(&free)
		if err == nil && free {
			f, lo, hi, err = db.scanKeys(ctx, tx, s.n)
		}
		return err
	})
	if err == nil && !free {
		return nil, sleep(ctx, 200*time.Millisecond)
	}
	if err == nil {
		var b batch
		b.exec("UPDATE deja_segments SET rows = $2, lo = $3, hi = $4, filter = $5 WHERE id = $1",
			s.id, f.Len(), [16]byte(lo), [16]byte(hi), append(s.id[:], f.Bytes()...)) // whose it is stands before it
		b.exec("UPDATE deja_catalog SET version = gen_random_uuid()")
		_, err = send(ctx, db.pool, &b)
	}
	if err != nil {
		return nil, fmt.Errorf("make the filter: %w", err)
	}
	return f, nil
}

// scanKeys makes a filter of all keys in a segment's table.
func (db *DB) scanKeys(ctx context.Context, q querier, n int64) (f *filter.Filter, lo, hi deja.ID, err error) {
	var count int
	if err := q.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM deja_ledger_%d", n)).Scan(&count); err != nil {
		return nil, lo, hi, err
	}
	f = db.ledger.newFilter(count)
	err = each(ctx, q, func(r pgx.Rows) error {
		key := deja.ID(r.RawValues()[0])
		if f.Len() == 0 || compareIDs(key, lo) < 0 {
			lo = key
		}
		if f.Len() == 0 || compareIDs(key, hi) > 0 {
			hi = key
		}
		f.Add(key)
		return nil
	}, fmt.Sprintf("SELECT key FROM deja_ledger_%d", n))
	return f, lo, hi, err
}
