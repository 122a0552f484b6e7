package memory

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// Progress implements [driver.Reader].
func (s *Store) Progress(ctx context.Context, partition int32) (driver.Progress, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tables.row(partition).Progress, s.usable(ctx)
}

// Leases implements [driver.Reader].
func (s *Store) Leases(ctx context.Context) ([]driver.Lease, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tables.leases(s.now()), s.usable(ctx)
}

// Lookup implements [driver.Reader].
func (s *Store) Lookup(ctx context.Context, keys []deja.ID) (es []driver.Entry, asked int64, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return lookup(s.tables.ledger, keys), 0, s.usable(ctx) // Write and Commit ask all of the ledger again
}

// Find implements [driver.Reader].
func (s *Store) Find(ctx context.Context, lo, hi deja.ID, max int) ([]driver.Entry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	es := page(s.tables.ledger, max, func(e driver.Entry) bool {
		return bytes.Compare(lo[:], e.Key[:]) <= 0 && bytes.Compare(e.Key[:], hi[:]) <= 0
	}, func(a, b driver.Entry) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	return es, s.usable(ctx)
}

// Load implements [driver.Reader].
func (s *Store) Load(ctx context.Context, streams []deja.Stream) ([]driver.State, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return own(lookup(s.tables.states, streams)), s.usable(ctx)
}

// States implements [driver.Reader].
func (s *Store) States(ctx context.Context, after deja.Stream, max int) ([]driver.State, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	sts := page(s.tables.states, max, func(st driver.State) bool {
		return st.Stream.Compare(after) > 0
	}, func(a, b driver.State) int { return a.Stream.Compare(b.Stream) })
	return own(sts), s.usable(ctx)
}

// Open implements [driver.Reader].
func (s *Store) Open(ctx context.Context, partition int32, after deja.Stream, max int) ([]driver.State, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	sts := page(s.tables.states, max, func(st driver.State) bool {
		return st.Partition == partition && len(st.Open) > 0 && st.Stream.Compare(after) > 0
	}, func(a, b driver.State) int { return a.Stream.Compare(b.Stream) })
	return own(sts), s.usable(ctx)
}

// Due implements [driver.Reader].
func (s *Store) Due(ctx context.Context, partition int32, until time.Time, after driver.State, max int) ([]driver.State, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	sts := page(s.tables.states, max, func(st driver.State) bool {
		return st.Partition == partition && !st.Due.IsZero() && !st.Due.After(until) && compareDue(st, after) > 0
	}, compareDue)
	return own(sts), s.usable(ctx)
}

func compareDue(a, b driver.State) int {
	return cmp.Or(a.Due.Compare(b.Due), a.Stream.Compare(b.Stream))
}

// Parked implements [driver.Reader].
func (s *Store) Parked(ctx context.Context, partition int32, stream deja.Stream, from int64, max int) ([]driver.Parked, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ps := page(s.tables.parked, max, func(p driver.Parked) bool {
		return p.Partition == partition && p.Offset >= from && (stream == (deja.Stream{}) || p.Stream == stream)
	}, func(a, b driver.Parked) int { return cmp.Compare(a.Offset, b.Offset) })
	return ps, s.usable(ctx)
}

// Repeats implements [driver.Reader].
func (s *Store) Repeats(ctx context.Context, key deja.ID) ([]driver.Repeat, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return lookup(s.tables.repeats, []repeatKey{{key, false}, {key, true}}), s.usable(ctx)
}

// lookup returns each row that a key names, once.
func lookup[K comparable, V any](table map[K]V, keys []K) []V {
	var vs []V
	seen := make(map[K]bool, len(keys))
	for _, k := range keys {
		if v, ok := table[k]; ok && !seen[k] {
			vs = append(vs, v)
			seen[k] = true
		}
	}
	return vs
}

// page returns the first rows in order that belong to it.
func page[K comparable, V any](table map[K]V, max int, belongs func(V) bool, order func(a, b V) int) []V {
	var vs []V
	for _, v := range table {
		if belongs(v) {
			vs = append(vs, v)
		}
	}
	slices.SortFunc(vs, order)
	return first(vs, max)
}

// own gives the rows bytes of their own: what a store returns belongs to the caller.
func own(sts []driver.State) []driver.State {
	for i := range sts {
		sts[i].Data, sts[i].Open = clone(sts[i].Data), clone(sts[i].Open)
	}
	return sts
}
