package postgres

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/filter"
)

// The ledger is in segments, tables of their own. Only the newest takes new keys. When it is large it is sealed: no key
// comes into it or leaves it any more, and a filter is made of its keys, so that it need not be asked for most that it
// has not got. What an id costs then depends on the size of the newest segment alone, however old the ledger is.
//
// That no key is taken for new which is not rests on this. A core transaction holds deja_segments in a weak lock from its
// beginning to its end, and sealing takes a strong one: so a transaction writes into the segment that was the newest when
// it began, and that one is sealed only after its end. Who looks a key up reads first which segment is the newest, then
// asks it and all before it: that number is the mark. Within the newest segment its unique index is the arbiter; those
// that were the newest since the mark are asked again by the transaction that writes.

// A segment is what is known of one table of the ledger.
type segment struct {
	n      int64
	id     [16]byte // given when it was made, and anew when it was sealed: a number may come again, after the schema went back
	sealed bool
	rows   *int64 // of those sealed, once a filter was made; with the lowest and the highest key
	lo, hi deja.ID

	filter *filter.Filter // nil: it is not known yet, and the segment is asked for every key
}

// within reports whether any key of a range may be in the segment.
func (s *segment) within(lo, hi deja.ID) bool {
	return s.filter == nil || bytes.Compare(lo[:], s.hi[:]) <= 0 && bytes.Compare(hi[:], s.lo[:]) >= 0
}

// lacking reports whether the segment's filter is to be read or made.
func (s *segment) lacking() bool { return s.sealed && s.filter == nil }

// A catalog is the segments as they were at a version. It does not change.
type catalog struct {
	version  [16]byte
	segments []segment // in order; the last is the newest
}

func (c *catalog) newest() int64 { return c.segments[len(c.segments)-1].n }

// ledger is what a process knows of the segments.
type ledger struct {
	mu      sync.Mutex
	catalog *catalog
	filters map[[16]byte]*filter.Filter // by the segments' ids
	waiting *filter.Filter              // the keys that a look-up found parked in a sealed segment; nil at first

	sealing sync.Mutex    // held by the only one of the process that seals
	failed  atomic.Int32  // how often that failed in turn
	wanted  chan struct{} // has room for the only one that reads and makes filters
}

func (l *ledger) current() *catalog {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.catalog
}

// noteParked remembers a key that was found parked in a sealed segment. A mark says that all but the newest segments were
// asked, and found without the key. Of such a key that is not so: whoever writes it must ask all again.
func (l *ledger) noteParked(key deja.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil {
		l.waiting = filter.New(1 << 16)
	}
	l.waiting.Add(key)
}

// suspectParked marks the lines whose keys may have been found parked.
func (l *ledger) suspectParked(ls []line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range ls {
		ls[i].suspect = ls[i].suspect || l.waiting != nil && l.waiting.Has(ls[i].Key)
	}
}

// newFilter returns an empty filter with room for n keys, of the same seed as the others where there are any.
func (l *ledger) newFilter(n int) *filter.Filter {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.filters {
		return f.Like(n)
	}
	return filter.New(n)
}

const selectVersion = "SELECT version, newest FROM deja_catalog"

// loadCatalog reads the segments anew.
func (db *DB) loadCatalog(ctx context.Context, q querier) (*catalog, error) {
	c := &catalog{}
	err := q.QueryRow(ctx, "SELECT version FROM deja_catalog").Scan(&c.version)
	if err != nil {
		return nil, err
	}
	err = each(ctx, q, func(r pgx.Rows) error {
		var (
			s      segment
			lo, hi *[16]byte
		)
		if err := r.Scan(&s.n, &s.id, &s.sealed, &s.rows, &lo, &hi); err != nil {
			return err
		}
		if lo != nil && hi != nil {
			s.lo, s.hi = *lo, *hi
		}
		c.segments = append(c.segments, s)
		return nil
	}, "SELECT n, id, sealed, rows, lo, hi FROM deja_segments ORDER BY n")
	if err == nil && len(c.segments) == 0 {
		err = fmt.Errorf("the ledger of schema %s has lost its segments", db.config.schema)
	}
	if err != nil {
		return nil, err
	}
	db.adopt(c)
	return c, nil
}

// adopt makes a catalog the current one, with the filters that are known. Those of segments that are no more are
// forgotten.
func (db *DB) adopt(c *catalog) {
	l := &db.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	filters := map[[16]byte]*filter.Filter{}
	for i := range c.segments {
		s := &c.segments[i]
		if f := l.filters[s.id]; f != nil && s.rows != nil && int64(f.Len()) == *s.rows {
			s.filter, filters[s.id] = f, f
		}
	}
	l.catalog, l.filters = c, filters
}

// asking runs fn with a batch for the segments of a catalog, and again where that has changed meanwhile. fn adds the
// statements, and forgets what an earlier call read.
func (db *DB) asking(ctx context.Context, q querier, fn func(c *catalog, b *batch)) (err error) {
	c := db.ledger.current()
	for range 10 {
		if c == nil {
			if c, err = db.loadCatalog(ctx, q); err != nil {
				return err
			}
		}
		var (
			b       batch
			version [16]byte
			newest  int64
		)
		b.row([]any{&version, &newest}, selectVersion) // before the others: what it says is no younger than what they find
		fn(c, &b)
		_, err = send(ctx, q, &b)
		switch {
		case err == nil && version == c.version:
			return nil
		case err != nil && code(err) != codeUndefinedTable: // the ledger was emptied
			return err
		}
		c = nil
	}
	if err == nil {
		err = fmt.Errorf("the ledger's segments do not stop changing")
	}
	return err
}

const (
	entryColumns = "key, hash, partition, off, n, status"

	// lookupEntries finds keys in a segment; see loadStates.
	lookupEntries = `SELECT %[1]d::bigint AS segment, e.* FROM unnest($%[2]d::uuid[]) AS k (key),
		LATERAL (SELECT ` + entryColumns + ` FROM deja_ledger_%[1]d l WHERE l.key = k.key OFFSET 0) e`
)

// scanEntry reads entryColumns, after what else is before them.
func scanEntry(r pgx.Row, e *driver.Entry, before ...any) error {
	var (
		hash   []byte
		status int16
	)
	err := r.Scan(append(before, (*[16]byte)(&e.Key), &hash, &e.Partition, &e.Offset, &e.N, &status)...)
	copy(e.Hash[:], hash)
	e.Status = deja.Status(status)
	return err
}

// Lookup returns the ledger's entries among the keys. It asks the newest segment, and of the others those that may have a
// key.
func (s *store) Lookup(ctx context.Context, keys []deja.ID) (es []driver.Entry, asked int64, err error) {
	if err := s.usable(); err != nil {
		return nil, 0, err
	}
	keys = slices.Clone(keys)
	slices.SortFunc(keys, compareIDs)
	keys = slices.Compact(keys)
	err = s.db.asking(ctx, s.db.pool, func(c *catalog, b *batch) {
		es, asked = nil, c.newest()
		q := &question{keys: keys}
		c.lookup(b, func(*segment) *question { return q }, func(e driver.Entry, segment int64) {
			es = append(es, e)
			if segment != asked && e.Status == deja.Parked {
				s.db.ledger.noteParked(e.Key)
			}
		})
		if slices.ContainsFunc(c.segments, func(s segment) bool { return s.lacking() }) {
			s.db.wantFilters()
		}
	})
	if err != nil {
		return nil, 0, fmt.Errorf("look up in the ledger: %w", err)
	}
	return es, asked, nil
}

// together is how many segments are asked by one statement. Which ones these are depends on their places alone, so that
// the server knows the statement already.
const together = 16

// lookup adds the queries for the keys that each segment is to be asked for and may have.
func (c *catalog) lookup(b *batch, ask func(*segment) *question, found func(e driver.Entry, segment int64)) {
	sealed := len(c.segments) - 1
	for at := 0; at < sealed; at += together {
		queueLookup(b, c.segments[at:min(at+together, sealed)], ask, found)
	}
	queueLookup(b, c.segments[sealed:], ask, found)
}

func queueLookup(b *batch, segments []segment, ask func(*segment) *question, found func(e driver.Entry, segment int64)) {
	var (
		parts []string
		args  []any
		asked bool
	)
	for i := range segments {
		some := segments[i].among(ask(&segments[i]))
		asked = asked || len(some) > 0
		parts = append(parts, fmt.Sprintf(lookupEntries, segments[i].n, i+1))
		args = append(args, some)
	}
	if !asked {
		return
	}
	b.rows(func(r pgx.Rows) error {
		var (
			e       driver.Entry
			segment int64
		)
		if err := scanEntry(r, &e, &segment); err != nil {
			return err
		}
		found(e, segment)
		return nil
	}, strings.Join(parts, " UNION ALL "), args...)
}

// A question is keys in order, with their sums for the filters of one seed.
type question struct {
	keys []deja.ID
	of   *filter.Filter // one of that seed
	sums []filter.Sum
}

// sumsFor returns the keys' sums for a filter. Most filters have one seed.
func (q *question) sumsFor(f *filter.Filter) []filter.Sum {
	if q.of == nil || !q.of.SameSums(f) {
		q.of, q.sums = f, make([]filter.Sum, len(q.keys))
		for i := range q.keys {
			q.sums[i] = f.Sum(q.keys[i])
		}
	}
	return q.sums
}

// among returns which keys of a question may be in the segment; never nil.
func (s *segment) among(q *question) [][16]byte {
	some := [][16]byte{}
	if s.filter == nil {
		for _, k := range q.keys {
			some = append(some, k)
		}
		return some
	}
	from, _ := slices.BinarySearchFunc(q.keys, s.lo, compareIDs)
	until, found := slices.BinarySearchFunc(q.keys, s.hi, compareIDs)
	if found {
		until++
	}
	if from >= until {
		return some
	}
	sums := q.sumsFor(s.filter)
	for i := from; i < until; i++ {
		if s.filter.HasSum(sums[i]) {
			some = append(some, q.keys[i])
		}
	}
	return some
}

// Find returns entries in a range of keys.
func (s *store) Find(ctx context.Context, lo, hi deja.ID, limit int) (es []driver.Entry, err error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	if compareIDs(lo, hi) > 0 || limit < 1 {
		return nil, ctx.Err()
	}
	err = s.db.asking(ctx, s.db.pool, func(c *catalog, b *batch) {
		es = nil
		var parts []string
		for i := range c.segments {
			if s := &c.segments[i]; s.within(lo, hi) {
				parts = append(parts, fmt.Sprintf("(SELECT "+entryColumns+" FROM deja_ledger_%d WHERE key BETWEEN $1 AND $2 ORDER BY key LIMIT $3)", s.n))
			}
		}
		b.rows(func(r pgx.Rows) error {
			var e driver.Entry
			err := scanEntry(r, &e)
			es = append(es, e)
			return err
		}, "SELECT * FROM ("+strings.Join(parts, " UNION ALL ")+") e ORDER BY key LIMIT $3", [16]byte(lo), [16]byte(hi), limit)
	})
	return es, err
}

func compareIDs(a, b deja.ID) int { return bytes.Compare(a[:], b[:]) }

// emptyLedger makes the ledger anew, in the caller's transaction, which holds deja_segments. Numbers go on rising: a mark of
// a look-up made before must not be taken for one made since.
func (db *DB) emptyLedger(ctx context.Context, tx pgx.Tx) error {
	c, err := db.loadCatalog(ctx, tx)
	if err != nil {
		return err
	}
	var sql strings.Builder
	for _, s := range c.segments {
		fmt.Fprintf(&sql, "DROP TABLE IF EXISTS deja_ledger_%d; DELETE FROM deja_segments WHERE n = %[1]d;", s.n)
	}
	sql.WriteString(createSegment(c.newest() + 1))
	sql.WriteString(setNewest(c.newest() + 1))
	_, err = tx.Exec(ctx, sql.String())
	return err
}

func setNewest(n int64) string {
	return fmt.Sprintf("UPDATE deja_catalog SET version = gen_random_uuid(), newest = %d;", n)
}
