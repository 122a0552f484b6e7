package replay

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// Recall returns what a store would hold that had handled all of the history, as the log alone tells: for those who have
// no store. Each question about keys reads the journal, and one about repeats the inbox, which takes no more memory than
// the answer; the states are folded at the first question about them, and stay in memory.
func (s *Source) Recall() driver.Reader { return &recalled{source: s} }

type recalled struct {
	source *Source

	mu     sync.Mutex
	folded *present
}

// present is a history folded to its end.
type present struct {
	progress []driver.Progress
	rows     []driver.State // in order of streams
	parked   map[int32][]driver.Parked
}

// present folds the history, once.
func (r *recalled) present(ctx context.Context) (*present, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.folded != nil {
		return r.folded, nil
	}
	s := r.source
	out := &present{progress: make([]driver.Progress, s.partitions), parked: map[int32][]driver.Parked{}}
	past := s.emptyPast()
	for p := range s.partitions {
		waiting := map[int64]driver.Parked{}
		from, err := s.whole(ctx, p)
		if err != nil {
			return nil, err
		}
		err = s.scan(ctx, p, from, func(e *journal.Entry) (bool, error) {
			out.progress[p] = progressAt(e)
			offset := e.Cause.Position.Offset
			switch {
			case e.Parks() > 0:
				waiting[offset] = driver.Parked{
					Stream: e.Cause.Stream, Partition: p, Offset: offset, Key: wire.LedgerKey(s.machine.Name(), &e.Cause), N: e.N,
				}
			case e.Parks() < 0:
				delete(waiting, offset)
			}
			return true, past.fold(e)
		})
		if err != nil {
			return nil, err
		}
		out.parked[p] = slices.SortedFunc(maps.Values(waiting), func(a, b driver.Parked) int { return cmp.Compare(a.Offset, b.Offset) })
	}
	for stream, f := range past.states {
		row := driver.State{Stream: stream, Partition: f.partition, Version: f.state.Version, Position: f.position.Offset, Parked: f.parked, Open: f.open.Append(nil), Due: f.open.Due()}
		if row.Version > 0 {
			var err error
			if row.Data, err = f.state.Encode(); err != nil {
				return nil, err
			}
		}
		out.rows = append(out.rows, row)
	}
	slices.SortFunc(out.rows, func(a, b driver.State) int { return a.Stream.Compare(b.Stream) })
	r.folded = out
	return out, nil
}

func progressAt(e *journal.Entry) driver.Progress {
	return driver.Progress{Position: e.Covers + 1, N: e.N, Chain: e.Chain, Time: e.Time, Incarnation: e.Incarnation, Fold: e.Fold}
}

// Progress implements [driver.Reader]: up to the last decision. Duplicates after it were perhaps handled, too.
func (r *recalled) Progress(ctx context.Context, partition int32) (driver.Progress, error) {
	at, err := r.present(ctx)
	if err != nil || partition < 0 || partition >= r.source.partitions {
		return driver.Progress{}, err
	}
	return at.progress[partition], nil
}

// Leases implements [driver.Reader]: a log knows of none.
func (r *recalled) Leases(context.Context) ([]driver.Lease, error) { return nil, nil }

// Lookup implements [driver.Reader].
func (r *recalled) Lookup(ctx context.Context, keys []deja.ID) ([]driver.Entry, int64, error) {
	asked := make(map[deja.ID]bool, len(keys))
	for _, k := range keys {
		asked[k] = true
	}
	found := map[deja.ID]driver.Entry{}
	err := r.source.entries(ctx, func(e driver.Entry) {
		if asked[e.Key] {
			found[e.Key] = e
		}
	})
	return slices.Collect(maps.Values(found)), 0, err
}

// Find implements [driver.Reader].
func (r *recalled) Find(ctx context.Context, lo, hi deja.ID, max int) ([]driver.Entry, error) {
	return r.source.find(ctx, lo, hi, max)
}

// find returns up to max ledger entries with lo ≤ key ≤ hi, in order of keys, as the journal tells.
func (s *Source) find(ctx context.Context, lo, hi deja.ID, most int) ([]driver.Entry, error) {
	found := map[deja.ID]driver.Entry{}
	limit := hi // above it there are enough smaller ones
	err := s.entries(ctx, func(e driver.Entry) {
		if bytes.Compare(e.Key[:], lo[:]) < 0 || bytes.Compare(e.Key[:], limit[:]) > 0 {
			return
		}
		found[e.Key] = e
		if len(found) > 2*most {
			keys := slices.SortedFunc(maps.Keys(found), compareIDs)
			for _, k := range keys[most:] {
				delete(found, k)
			}
			limit = keys[most-1]
		}
	})
	es := slices.SortedFunc(maps.Values(found), func(a, b driver.Entry) int { return compareIDs(a.Key, b.Key) })
	return es[:min(len(es), most)], err
}

func compareIDs(a, b deja.ID) int { return bytes.Compare(a[:], b[:]) }

// entries calls fn with the ledger entry of each decision that has one; a later one of a key replaces the earlier.
func (s *Source) entries(ctx context.Context, fn func(driver.Entry)) error {
	for p := range s.partitions {
		from, err := journal.Begin(ctx, s.log, s.machine.Name(), p)
		if err != nil {
			return err
		}
		err = s.scan(ctx, p, from, func(e *journal.Entry) (bool, error) {
			if e.Decided.Status != deja.Conflicted {
				fn(driver.Entry{
					Key: wire.LedgerKey(s.machine.Name(), &e.Cause), Hash: e.Hash, Partition: p,
					Offset: e.Cause.Position.Offset, N: e.N, Status: e.Decided.Status,
				})
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Load implements [driver.Reader].
func (r *recalled) Load(ctx context.Context, streams []deja.Stream) ([]driver.State, error) {
	at, err := r.present(ctx)
	if err != nil {
		return nil, err
	}
	var rows []driver.State
	for _, s := range streams {
		if i, ok := slices.BinarySearchFunc(at.rows, s, compareRow); ok {
			rows = append(rows, at.rows[i])
		}
	}
	return rows, nil
}

// States implements [driver.Reader].
func (r *recalled) States(ctx context.Context, after deja.Stream, max int) ([]driver.State, error) {
	at, err := r.present(ctx)
	if err != nil {
		return nil, err
	}
	i, found := slices.BinarySearchFunc(at.rows, after, compareRow)
	if found {
		i++
	}
	return slices.Clone(at.rows[i:min(i+max, len(at.rows))]), nil
}

func compareRow(row driver.State, s deja.Stream) int { return row.Stream.Compare(s) }

// Open implements [driver.Reader].
func (r *recalled) Open(ctx context.Context, partition int32, after deja.Stream, max int) ([]driver.State, error) {
	return r.some(ctx, max, func(row driver.State) bool {
		return row.Partition == partition && len(row.Open) > 0 && row.Stream.Compare(after) > 0
	})
}

// Due implements [driver.Reader].
func (r *recalled) Due(ctx context.Context, partition int32, until time.Time, after driver.State, max int) ([]driver.State, error) {
	order := func(a, b driver.State) int { return cmp.Or(a.Due.Compare(b.Due), a.Stream.Compare(b.Stream)) }
	rows, err := r.some(ctx, math.MaxInt, func(row driver.State) bool {
		return row.Partition == partition && !row.Due.IsZero() && !row.Due.After(until) && order(row, after) > 0
	})
	slices.SortFunc(rows, order)
	return rows[:min(max, len(rows))], err
}

// some returns up to max rows that belong, in order of streams.
func (r *recalled) some(ctx context.Context, max int, belongs func(driver.State) bool) ([]driver.State, error) {
	at, err := r.present(ctx)
	var rows []driver.State
	for i := 0; err == nil && i < len(at.rows) && len(rows) < max; i++ {
		if belongs(at.rows[i]) {
			rows = append(rows, at.rows[i])
		}
	}
	return rows, err
}

// Parked implements [driver.Reader].
func (r *recalled) Parked(ctx context.Context, partition int32, stream deja.Stream, from int64, max int) ([]driver.Parked, error) {
	at, err := r.present(ctx)
	if err != nil {
		return nil, err
	}
	var ps []driver.Parked
	for _, p := range at.parked[partition] {
		if p.Offset >= from && (stream == deja.Stream{} || stream == p.Stream) && len(ps) < max {
			ps = append(ps, p)
		}
	}
	return ps, nil
}

// Repeats implements [driver.Reader]: it reads the whole inbox. What was repeated in several partitions counts for the
// first of them.
func (r *recalled) Repeats(ctx context.Context, key deja.ID) ([]driver.Repeat, error) {
	entries, _, err := r.Lookup(ctx, []deja.ID{key})
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	first := entries[0]
	counts := map[bool]*driver.Repeat{}
	err = r.source.deliveries(ctx, func(m step.Message) {
		at := m.Env.Position
		if m.Key != key || at.Partition == first.Partition && at.Offset == first.Offset {
			return
		}
		conflict := m.Hash != first.Hash
		c, ok := counts[conflict]
		if !ok {
			c = &driver.Repeat{Key: key, Partition: at.Partition, Conflict: conflict, First: at.Offset}
			counts[conflict] = c
		}
		c.Count++
		if c.Partition == at.Partition {
			c.Last = at.Offset
		}
	})
	var rs []driver.Repeat
	for _, c := range counts {
		rs = append(rs, *c)
	}
	return rs, err
}

// deliveries calls fn with each message of the inbox that the log still has.
func (s *Source) deliveries(ctx context.Context, fn func(step.Message)) error {
	prepare := step.NewPreparer(s.machine, s.partitions)
	for p := range s.partitions {
		at := deja.Position{Topic: wire.Inbox(s.machine.Name()), Partition: p}
		first, end, err := s.log.Bounds(ctx, at.Topic, p)
		if errors.Is(err, driver.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for at.Offset = first; at.Offset < end; {
			recs, err := s.log.Fetch(ctx, at, int(min(scanChunk, end-at.Offset, math.MaxInt32)))
			if err != nil {
				return err
			}
			at.Offset = recs[len(recs)-1].Offset + 1
			for _, m := range prepare.Prepare(recs) {
				fn(m)
			}
		}
	}
	return nil
}
