package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/filter"
)

// The ledger is kept in segments, numbered from 1, each a table with an index on its keys. Only the newest is written.
// When it is full it is sealed: its set of keys never changes again, which triggers see to, and a filter tells in memory
// which keys are certainly not in it. So a key that is new costs a look into the newest segment's filter and the sealed
// ones', whatever the age of the ledger; without them, into the segments.
//
// deja_ledger has a row for each segment, and is what counts in a transaction; what is held in memory is found by the
// stamp in it, which is random, and changes when the segment is sealed: so nothing in memory can belong to another
// content of the same name.

// segmentRows is the size at which a segment is sealed. Random keys touch a page of the newest segment each, so it must
// not outgrow the cache by much; each sealed one costs every look-up a probe of its filter.
const segmentRows = 1_000_000

// A segment is a part of the ledger.
type segment struct {
	number int64
	stamp  stamp
	rows   int64
}

type stamp [idLen]byte

func newStamp() stamp { return stamp(random()) }

func (s segment) table() string { return segmentTable(s.number) }

func segmentTable(number int64) string { return "deja_ledger_" + strconv.FormatInt(number, 10) }

const selectSegments = "SELECT segment, stamp, rows FROM deja_ledger ORDER BY segment"

func readSegment(st *sqlite.Stmt) (s segment) {
	s.number, s.rows = st.ColumnInt64(0), st.ColumnInt64(2)
	st.ColumnBytes(1, s.stamp[:])
	return s
}

// readSegments returns the segments in order; the last is the newest.
func readSegments(c conn) (segments []segment, err error) {
	err = c.query(selectSegments, func(st *sqlite.Stmt) error {
		segments = append(segments, readSegment(st))
		return nil
	})
	if err == nil && len(segments) == 0 {
		err = fmt.Errorf("%w: the ledger has no segment", ErrNoStore)
	}
	return segments, err
}

// createSegment makes a segment's table, and enters it.
func createSegment(c conn, s segment) error {
	err := c.exec("CREATE TABLE " + s.table() + ` (
		key BLOB PRIMARY KEY, hash BLOB NOT NULL,
		partition INTEGER NOT NULL, offset INTEGER NOT NULL, n INTEGER NOT NULL, status INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`)
	if err != nil {
		return err
	}
	return c.exec("INSERT INTO deja_ledger (segment, stamp, rows) VALUES (?, ?, ?)", s.number, s.stamp[:], s.rows)
}

// emptyLedger leaves the ledger with one segment, empty.
func emptyLedger(c conn) error {
	var tables []string
	err := query(c.Conn, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'deja_ledger_[0-9]*'", func(st *sqlite.Stmt) error {
		if table := st.ColumnText(0); c.part.owns(table) {
			tables = append(tables, table)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, table := range tables {
		if err := exec(c.Conn, `DROP TABLE "`+table+`"`); err != nil {
			return err
		}
	}
	for _, sql := range []string{"DELETE FROM deja_ledger", "DELETE FROM deja_ledger_parked", "DELETE FROM deja_filters"} {
		if err := c.exec(sql); err != nil {
			return err
		}
	}
	return createSegment(c, segment{number: 1, stamp: newStamp()})
}

// sealTable makes the set of a segment's keys unchangeable, so that a filter of it stays right.
func sealTable(c conn, s segment) error {
	for _, t := range sealTriggers {
		if err := c.exec(refusal(s.table(), t.suffix, t.act, "the segment is sealed")); err != nil {
			return err
		}
	}
	return nil
}

var sealTriggers = []struct{ suffix, act string }{{"INSERT", "INSERT"}, {"DELETE", "DELETE"}, {"UPDATE", "UPDATE OF key"}}

// sealed reports whether the triggers stand. Where one does not, the keys may have been changed.
func (s segment) sealed(c conn) (bool, error) {
	n, err := c.queryInt("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?", c.part.table(s.table()))
	return n == int64(len(sealTriggers)), err
}

// A sealing is what memory learns of a seal once it is committed.
type sealing struct {
	old, next  segment
	oldKeys    keySet // of what is sealed; without a filter if none is known whole
	nextFilter *filter.Filter
}

// seal closes the newest segment and opens the next, in the caller's transaction. The filter of what it holds is kept
// where there is one; the others are made later, see [tending].
func (p *part) seal(c conn, newest segment) (*sealing, error) {
	room := int(p.db.segmentRows)
	s := &sealing{old: newest, next: segment{number: newest.number + 1, stamp: newStamp()}, nextFilter: p.ledger.fresh(room)}
	s.old.stamp = newStamp()
	err := c.exec("UPDATE deja_ledger SET stamp = ? WHERE segment = ?", s.old.stamp[:], newest.number)
	if err == nil {
		err = c.exec(fmt.Sprintf("INSERT INTO deja_ledger_parked (key, segment, settled) SELECT key, ?, 0 FROM %s WHERE status = %d",
			newest.table(), deja.Parked), newest.number)
	}
	if err == nil {
		err = sealTable(c, s.old)
	}
	if f := p.ledger.filterOf(newest, room); err == nil && f != nil {
		s.oldKeys, err = s.old.bounds(c)
		s.oldKeys.filter = f
		if err == nil {
			err = saveFilter(c, s.old, f)
		}
	}
	if err == nil {
		err = createSegment(c, s.next)
	}
	if err != nil {
		return nil, fmt.Errorf("seal segment %d of the ledger: %w", newest.number, err)
	}
	return s, nil
}

const entryColumns = "SELECT key, hash, partition, offset, n, status FROM "

func readEntry(st *sqlite.Stmt) (e driver.Entry) {
	st.ColumnBytes(0, e.Key[:])
	st.ColumnBytes(1, e.Hash[:])
	e.Partition, e.Offset, e.N, e.Status = st.ColumnInt32(2), st.ColumnInt64(3), st.ColumnInt64(4), deja.Status(st.ColumnInt64(5))
	return e
}

// manyKeys is how many keys a look-up must have for the filters to be worth loading.
const manyKeys = 64

// Lookup returns the ledger's entries among the keys, in the order of keys.
func (s *store) Lookup(ctx context.Context, keys []deja.ID) (es []driver.Entry, asked int64, err error) {
	if err := s.usable(); err != nil || len(keys) == 0 {
		return nil, 0, err
	}
	keys = slices.Clone(keys)
	slices.SortFunc(keys, compareKeys)
	keys = slices.Compact(keys)
	missing := false
	err = s.readWarm(ctx, func(c conn) error {
		es, asked, missing, err = s.lookup(c, keys)
		return err
	})
	if missing && len(keys) >= manyKeys {
		s.ledger.tend(s.part)
	}
	return es, asked, err
}

func compareKeys(a, b deja.ID) int { return bytes.Compare(a[:], b[:]) }

// lookup asks the segments, in one snapshot, and reports whether a filter was missing.
func (p *part) lookup(c conn, keys []deja.ID) (es []driver.Entry, asked int64, missing bool, err error) {
	segments, err := readSegments(c)
	if err != nil {
		return nil, 0, false, err
	}
	asked = segments[len(segments)-1].number
	q := question{keys: keys}
	for _, s := range segments {
		filtered := p.ledger.ask(s, &q)
		missing = missing || !filtered && s.number != asked
		if es, err = s.lookup(c, q.maybe, es); err != nil {
			return nil, 0, missing, err
		}
	}
	if len(segments) > 1 {
		slices.SortFunc(es, func(a, b driver.Entry) int { return compareKeys(a.Key, b.Key) })
	}
	return es, asked, missing, nil
}

// lookup appends the segment's entries among the keys.
func (s segment) lookup(c conn, keys []deja.ID, es []driver.Entry) ([]driver.Entry, error) {
	if len(keys) == 0 {
		return es, nil
	}
	st, err := c.Prepare(entryColumns + s.table() + " WHERE key = ?")
	if err != nil {
		return es, err
	}
	for i := range keys {
		st.BindBytes(1, keys[i][:])
		found, err := st.Step()
		if err != nil {
			return es, err
		}
		if found {
			es = append(es, readEntry(st))
		}
		if err := st.Reset(); err != nil {
			return es, err
		}
	}
	return es, nil
}

// Find returns entries in a range of keys.
func (s *store) Find(ctx context.Context, lo, hi deja.ID, limit int) (es []driver.Entry, err error) {
	limit = max(limit, 0)
	err = s.read(ctx, func(c conn) error {
		es = nil
		segments, err := readSegments(c)
		if err != nil {
			return err
		}
		for _, s := range segments {
			err := c.query(entryColumns+s.table()+" WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?",
				func(st *sqlite.Stmt) error { es = append(es, readEntry(st)); return nil }, lo[:], hi[:], limit)
			if err != nil {
				return err
			}
			// The first of all are among the first of each.
			slices.SortFunc(es, func(a, b driver.Entry) int { return compareKeys(a.Key, b.Key) })
			es = es[:min(len(es), limit)]
		}
		return nil
	})
	return es, err
}

// A ledgerWriter writes entries in one transaction.
type ledgerWriter struct {
	conn   conn
	newest segment
	sealed *sealing // if the transaction sealed a segment

	insert, replace *sqlite.Stmt
	parked          map[deja.ID]sealedEntry // those of the keys that are parked in sealed segments, or were
	added           []deja.ID
}

// A sealedEntry is that of a message which was parked when its segment was sealed.
type sealedEntry struct {
	segment int64
	settled int64 // the newest segment's number when it was; 0 while it is parked
}

func (t *tx) writeLedger(es []driver.Entry, asked int64) error {
	if len(es) == 0 {
		return nil
	}
	w := ledgerWriter{conn: t.conn, sealed: t.sealed}
	if err := w.begin(); err != nil {
		return err
	}
	order := t.db.order(len(es), func(i, j int32) int { return compareKeys(es[i].Key, es[j].Key) })
	if err := w.ask(es, order, asked); err != nil {
		return err
	}
	for _, i := range order {
		if err := w.write(&es[i]); err != nil {
			return err
		}
	}
	err := w.end()
	t.sealed = w.sealed
	return err
}

// begin finds the newest segment, and seals it if it is full.
func (w *ledgerWriter) begin() error {
	c, p := w.conn, w.conn.part
	err := c.query(selectSegments+" DESC LIMIT 1", func(st *sqlite.Stmt) error { w.newest = readSegment(st); return nil })
	if err != nil {
		return err
	}
	if w.newest.number == 0 {
		return fmt.Errorf("%w: the ledger has no segment", ErrCorrupt)
	}
	if w.newest.rows >= p.db.segmentRows && w.sealed == nil {
		if w.sealed, err = p.seal(c, w.newest); err != nil {
			return err
		}
		w.newest = w.sealed.next
	}
	w.insert, err = c.Prepare("INSERT INTO " + w.newest.table() +
		" (key, hash, partition, offset, n, status) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
	if err != nil {
		return err
	}
	w.replace, err = c.Prepare(replaceEntry(w.newest))
	return err
}

// replaceEntry is the statement that replaces a parked message's entry, and no other.
func replaceEntry(s segment) string {
	return fmt.Sprintf(`UPDATE %s SET hash = ?2, partition = ?3, offset = ?4, n = ?5, status = ?6
		WHERE key = ?1 AND partition = ?3 AND status = %d`, s.table(), deja.Parked)
}

// ask finds what the sealed segments have of the keys: of those from asked on all, as the look-up may not have seen it,
// and of all what is parked, to be replaced where it is, or was so when the look-up saw it.
func (w *ledgerWriter) ask(es []driver.Entry, order []int32, asked int64) error {
	if w.newest.number == 1 {
		return nil
	}
	if err := w.askParked(es, asked); err != nil {
		return err
	}
	keys := make([]deja.ID, 0, len(es))
	for _, i := range order {
		k := es[i].Key
		if was, ok := w.parked[k]; !ok {
			keys = append(keys, k)
		} else if was.settled != 0 {
			return fmt.Errorf("ledger key %s was %w", k, errSettled)
		}
	}
	if asked >= w.newest.number {
		return nil
	}
	return w.askSealed(slices.Compact(keys), asked)
}

// fewParked is how many parked entries are rather read than looked for by key.
const fewParked = 256

const (
	selectParkedEntries = "SELECT key, segment, settled FROM deja_ledger_parked WHERE settled = 0 OR settled >= ? LIMIT ?"
	selectParkedEntry   = "SELECT key, segment, settled FROM deja_ledger_parked WHERE key = ?"
)

func (w *ledgerWriter) askParked(es []driver.Entry, asked int64) error {
	w.parked = map[deja.ID]sealedEntry{}
	row := func(st *sqlite.Stmt) error {
		var k deja.ID
		st.ColumnBytes(0, k[:])
		w.parked[k] = sealedEntry{st.ColumnInt64(1), st.ColumnInt64(2)}
		return nil
	}
	err := w.conn.query(selectParkedEntries, row, max(asked, 1), fewParked)
	if err != nil || len(w.parked) < fewParked {
		return err
	}
	for i := range es {
		if err := w.conn.query(selectParkedEntry, row, es[i].Key[:]); err != nil {
			return err
		}
	}
	return nil
}

func (w *ledgerWriter) askSealed(keys []deja.ID, asked int64) error {
	segments, err := readSegments(w.conn)
	if err != nil {
		return err
	}
	q := question{keys: keys}
	for _, s := range segments[:len(segments)-1] {
		if s.number < asked {
			continue
		}
		w.conn.part.ledger.ask(s, &q)
		found, err := s.lookup(w.conn, q.maybe, nil)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return fmt.Errorf("ledger key %s was %w", found[0].Key, errSettled)
		}
	}
	return nil
}

// write writes an entry: a new one into the newest segment, or one in the place of a parked message's.
func (w *ledgerWriter) write(e *driver.Entry) error {
	if was, ok := w.parked[e.Key]; ok {
		return w.writeSealed(e, segment{number: was.segment})
	}
	bindEntry(w.insert, e)
	if err := run(w.insert); err != nil {
		return err
	}
	if w.conn.Changes() == 1 {
		w.added = append(w.added, e.Key)
		return nil
	}
	return w.put(w.replace, e)
}

func (w *ledgerWriter) writeSealed(e *driver.Entry, s segment) error {
	st, err := w.conn.Prepare(replaceEntry(s))
	if err != nil {
		return err
	}
	if err := w.put(st, e); err != nil || e.Status == deja.Parked {
		return err
	}
	return w.conn.exec("UPDATE deja_ledger_parked SET settled = ? WHERE key = ?", w.newest.number, e.Key[:])
}

// put replaces a parked message's entry.
func (w *ledgerWriter) put(st *sqlite.Stmt, e *driver.Entry) error {
	bindEntry(st, e)
	if err := run(st); err != nil {
		return err
	}
	if w.conn.Changes() != 1 {
		return fmt.Errorf("ledger key %s was %w", e.Key, errSettled)
	}
	return nil
}

func bindEntry(st *sqlite.Stmt, e *driver.Entry) {
	st.BindBytes(1, e.Key[:])
	st.BindBytes(2, e.Hash[:])
	st.BindInt64(3, int64(e.Partition))
	st.BindInt64(4, e.Offset)
	st.BindInt64(5, e.N)
	st.BindInt64(6, int64(e.Status))
}

// end counts what is new. The filter has the keys before they are committed, so it never lacks one that is.
func (w *ledgerWriter) end() error {
	if len(w.added) == 0 {
		return nil
	}
	if w.sealed != nil {
		for _, k := range w.added {
			w.sealed.nextFilter.Add(k)
		}
	} else {
		w.conn.part.ledger.add(w.newest, w.added, int(w.conn.part.db.segmentRows))
	}
	return w.conn.exec("UPDATE deja_ledger SET rows = rows + ? WHERE segment = ?", len(w.added), w.newest.number)
}
