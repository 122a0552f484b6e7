package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/filter"
)

// ledger is what is held in memory of a ledger: filters, by the stamps of the segments that they belong to. Any of them
// may be missing; its segment is then asked.
type ledger struct {
	mu      sync.RWMutex
	sealed  map[stamp]keySet
	newest  stamp          // of the segment that is written; zero before that is known
	growing *filter.Filter // of the keys written to it since this is there, committed or not
	whole   bool           // and of all that it had before

	tending tending
}

// A keySet is what is known of a segment's keys: where they begin and end, which tells new ids from those of long ago if
// ids are ordered by time, and a filter.
type keySet struct {
	filter *filter.Filter // nil if nothing is known
	lo, hi deja.ID
}

// allKeys are the bounds of a set that may still grow.
var allKeys = keySet{hi: deja.ID(bytes.Repeat([]byte{0xff}, idLen))}

// A question is about keys, in order, to one segment after the other.
type question struct {
	keys  []deja.ID
	maybe []deja.ID      // those that the segment asked last may have
	like  *filter.Filter // that the sums are of
	sums  []filter.Sum
}

// ask narrows the keys to those that a segment may have. Without a filter of it that is all, and it returns false.
func (l *ledger) ask(s segment, q *question) (filtered bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	set := l.sealed[s.stamp]
	if s.stamp == l.newest && l.whole {
		set = allKeys
		set.filter = l.growing
	}
	if set.filter == nil {
		q.maybe = append(q.maybe[:0], q.keys...)
		return false
	}
	from, _ := slices.BinarySearchFunc(q.keys, set.lo, compareKeys)
	to, _ := slices.BinarySearchFunc(q.keys, set.hi, func(k, hi deja.ID) int { return cmp.Or(compareKeys(k, hi), -1) })
	q.maybe = q.maybe[:0]
	if from >= to {
		return true
	}
	q.sum(set.filter)
	for i := from; i < to; i++ {
		if set.filter.HasSum(q.sums[i]) {
			q.maybe = append(q.maybe, q.keys[i])
		}
	}
	return true
}

// sum makes the sums for a filter. Most often the last one's will do.
func (q *question) sum(f *filter.Filter) {
	if q.like != nil && q.like.SameSums(f) {
		return
	}
	q.like, q.sums = f, q.sums[:0]
	for i := range q.keys {
		q.sums = append(q.sums, f.Sum(q.keys[i]))
	}
}

// fresh returns an empty filter, with the seed of those there are.
func (l *ledger) fresh(room int) *filter.Filter {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.freshLocked(room)
}

func (l *ledger) freshLocked(room int) *filter.Filter {
	if l.growing != nil {
		return l.growing.Like(room)
	}
	for _, set := range l.sealed {
		return set.filter.Like(room)
	}
	return filter.New(room)
}

// add adds keys that are about to be committed to the newest segment.
func (l *ledger) add(s segment, keys []deja.ID, room int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.newest != s.stamp {
		l.grow(s, room)
	}
	for i := range keys {
		l.growing.Add(keys[i])
	}
}

// grow begins a filter of the newest segment. The caller holds the lock.
func (l *ledger) grow(s segment, room int) {
	l.newest, l.growing, l.whole = s.stamp, l.freshLocked(room), s.rows == 0
}

// filterOf returns the filter of the newest segment, if it is of all its keys and not too full to be of use.
func (l *ledger) filterOf(s segment, room int) *filter.Filter {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.newest != s.stamp || !l.whole || l.growing.Len() > room+room/4 {
		return nil
	}
	return l.growing
}

// committed takes note of a seal that is durable.
func (l *ledger) committed(s *sealing, p *part) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.oldKeys.filter != nil {
		l.keep(s.old, s.oldKeys)
	} else {
		l.tend(p)
	}
	l.newest, l.growing, l.whole = s.next.stamp, s.nextFilter, true
}

// keep keeps a sealed segment's filter. The caller holds the lock.
func (l *ledger) keep(s segment, set keySet) {
	if l.sealed == nil {
		l.sealed = map[stamp]keySet{}
	}
	l.sealed[s.stamp] = set
}

// lacking returns the sealed segments of which there is no filter, and forgets those of segments that are gone.
func (l *ledger) lacking(segments []segment) (without []segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.sealed
	l.sealed = nil
	for _, s := range segments[:len(segments)-1] {
		if set, ok := old[s.stamp]; ok {
			l.keep(s, set)
		} else {
			without = append(without, s)
		}
	}
	return without
}

// tending is the work on filters beside all else: reading those that are in the file, making those that are not.
type tending struct {
	mu      sync.Mutex
	running bool
	stop    context.CancelFunc // ends it for good, once it was set
	closed  bool
	again   time.Time // not before: the last attempt failed
	done    sync.WaitGroup
	work    sync.Mutex // held by whoever does it
}

// tendAgain is the time between two attempts of which the first failed.
const tendAgain = 10 * time.Second

// tend starts the work, unless it goes on already. Whoever finds a filter missing calls it.
func (l *ledger) tend(p *part) {
	t := &l.tending
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.running || time.Now().Before(t.again) {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.running, t.stop = true, cancel
	t.done.Go(func() {
		defer cancel()
		err := p.tendFilters(ctx)
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.running = false; err != nil {
			t.again = time.Now().Add(tendAgain)
		}
	})
}

// close ends the work and waits for it.
func (t *tending) close() {
	t.mu.Lock()
	t.closed = true
	if t.stop != nil {
		t.stop()
	}
	t.mu.Unlock()
	t.done.Wait()
}

// tendFilters gives every sealed segment its filter, and the newest one its own, which grows from then on. Without a
// connection that writes it only reads what there is.
func (p *part) tendFilters(ctx context.Context) error {
	p.ledger.tending.work.Lock()
	defer p.ledger.tending.work.Unlock()
	var segments []segment
	err := p.read(ctx, func(c conn) (err error) {
		segments, err = readSegments(c)
		return err
	})
	if err != nil {
		return err
	}
	var failed error
	for _, s := range p.ledger.lacking(segments) {
		set, err := p.loadFilter(ctx, s)
		if set.filter == nil && p.db.conn != nil {
			s, set, err = p.makeFilter(ctx, s)
		}
		if set.filter != nil {
			p.ledger.mu.Lock()
			p.ledger.keep(s, set)
			p.ledger.mu.Unlock()
		}
		failed = errors.Join(failed, err)
	}
	if p.db.conn != nil {
		failed = errors.Join(failed, p.completeNewest(ctx, segments[len(segments)-1]))
	}
	return failed
}

func saveFilter(c conn, s segment, f *filter.Filter) error {
	return c.exec("INSERT OR REPLACE INTO deja_filters (segment, stamp, rows, filter) VALUES (?, ?, ?, ?)",
		s.number, s.stamp[:], s.rows, f.Bytes())
}

// loadFilter reads a segment's filter from the file. It belongs to the segment if stamp and number of rows are the
// segment's, and the segment has taken no change since.
func (p *part) loadFilter(ctx context.Context, s segment) (set keySet, err error) {
	var stored []byte
	err = p.read(ctx, func(c conn) error {
		sealed, err := s.sealed(c)
		if err != nil || !sealed {
			return err
		}
		if set, err = s.bounds(c); err != nil {
			return err
		}
		return c.query("SELECT filter FROM deja_filters WHERE segment = ? AND stamp = ? AND rows = ?", func(st *sqlite.Stmt) error {
			stored = make([]byte, st.ColumnLen(0))
			st.ColumnBytes(0, stored)
			return nil
		}, s.number, s.stamp[:], s.rows)
	})
	if err != nil || stored == nil {
		return keySet{}, err
	}
	set.filter, err = filter.Parse(stored)
	if err == nil && int64(set.filter.Len()) < s.rows {
		err = errors.New("it has fewer ids")
	}
	if err != nil {
		return keySet{}, fmt.Errorf("filter of segment %d: %w", s.number, err)
	}
	return set, nil
}

// bounds returns a set with the segment's least and greatest key, and no filter.
func (s segment) bounds(c conn) (set keySet, err error) {
	err = c.query("SELECT min(key), (SELECT max(key) FROM "+s.table()+") FROM "+s.table(), func(st *sqlite.Stmt) error {
		st.ColumnBytes(0, set.lo[:])
		st.ColumnBytes(1, set.hi[:])
		return nil
	})
	return set, err
}

// makeFilter makes a segment's filter from its keys, and stores it. The segment it returns is the one that the filter
// belongs to.
func (p *part) makeFilter(ctx context.Context, s segment) (segment, keySet, error) {
	// First of all the keys must stand still. If they did not, the stamp is a new one: somebody may have a filter of the
	// old.
	err := p.write(ctx, func(c conn) error {
		sealed, err := s.sealed(c)
		if err != nil || sealed {
			return err
		}
		if err := sealTable(c, s); err != nil {
			return err
		}
		old := s.stamp
		s.stamp = newStamp()
		return fenced(c, "UPDATE deja_ledger SET stamp = ? WHERE segment = ? AND stamp = ?", s.stamp[:], s.number, old[:])
	})
	if err != nil {
		return s, keySet{}, err
	}
	f := p.ledger.fresh(int(s.rows))
	s.rows, err = p.scanKeys(ctx, s, func(keys []deja.ID) {
		for i := range keys {
			f.Add(keys[i])
		}
	})
	if err != nil {
		return s, keySet{}, err
	}
	var set keySet
	err = p.write(ctx, func(c conn) (err error) {
		if set, err = s.bounds(c); err != nil {
			return err
		}
		set.filter = f
		err = fenced(c, "UPDATE deja_ledger SET rows = ? WHERE segment = ? AND stamp = ?", s.rows, s.number, s.stamp[:])
		if err != nil {
			return err
		}
		return saveFilter(c, s, f)
	})
	return s, set, err
}

// completeNewest adds to the newest segment's filter what the segment had before this database was opened. What is
// written meanwhile its writer adds.
func (p *part) completeNewest(ctx context.Context, s segment) error {
	l := &p.ledger
	l.mu.Lock()
	if l.newest == (stamp{}) {
		l.grow(s, int(p.db.segmentRows))
	}
	f, todo := l.growing, l.newest == s.stamp && !l.whole
	l.mu.Unlock()
	if !todo {
		return nil
	}
	_, err := p.scanKeys(ctx, s, func(keys []deja.ID) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for i := range keys {
			f.Add(keys[i])
		}
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.growing == f {
		l.whole = true
	}
	return nil
}

// scanPage is how many keys are read at a time: readers are not kept waiting for a connection, nor the write-ahead log
// from being written back.
const scanPage = 10_000

// scanKeys reads all keys of a segment, and returns how many there are.
func (p *part) scanKeys(ctx context.Context, s segment, add func([]deja.ID)) (rows int64, err error) {
	var (
		after deja.ID
		page  []deja.ID
	)
	for {
		page = page[:0]
		err := p.read(ctx, func(c conn) error {
			return c.query("SELECT key FROM "+s.table()+" WHERE key > ? ORDER BY key LIMIT ?", func(st *sqlite.Stmt) error {
				var k deja.ID
				st.ColumnBytes(0, k[:])
				page = append(page, k)
				return nil
			}, after[:], scanPage)
		})
		if err != nil {
			return rows, err
		}
		add(page)
		rows += int64(len(page))
		if len(page) < scanPage {
			return rows, nil
		}
		after = page[len(page)-1]
	}
}
