package replay

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
)

// An Index tells where decisions are. A [Source] without one reads the journal instead, which takes as long as it is. It is
// safe for concurrent use.
type Index interface {
	// Last returns the number of a partition's last decision.
	Last(ctx context.Context, partition int32) (int64, error)

	// Decision returns a decision.
	Decision(ctx context.Context, partition int32, n int64) (Found, error)

	// Messages returns the last decisions of up to max messages with lo ≤ ID ≤ hi, in order of IDs. Conflicts are not counted.
	Messages(ctx context.Context, lo, hi deja.ID, max int) ([]Found, error)

	// Version returns the decision that brought a stream to a version. Where none did it is zero, and highest the version
	// that the stream has.
	Version(ctx context.Context, s deja.Stream, version int64) (f Found, highest int64, err error)

	// Key yields the decisions of a stream with N ≤ last of their partition, in order; the last first, if back says so.
	Key(ctx context.Context, s deja.Stream, last []int64, back bool) iter.Seq2[Found, error]

	// DecidedBy returns the number of the last decision of a partition with Time ≤ t; 0 if there is none.
	DecidedBy(ctx context.Context, partition int32, t time.Time) (int64, error)

	// Handled returns the number of the last decision up to a position in inbox or journal; 0 if there is none.
	Handled(ctx context.Context, at deja.Position) (int64, error)

	// Entry reads a decision.
	Entry(ctx context.Context, partition int32, n int64) (journal.Entry, error)
}

// Found is a decision, as much of it as leads to others.
type Found struct {
	Stream       deja.Stream
	Partition    int32
	N            int64
	ID, Cause    deja.ID // the message, and what caused it
	Applied      bool
	BusinessTime time.Time
}

// With returns a source of the same history that asks an index. What the index does not have is not seen.
func (s *Source) With(x Index) *Source {
	return &Source{machine: s.machine, log: s.log, store: s.store, partitions: s.partitions, marks: map[int32][]driver.Logged{}, index: x}
}

// found returns what leads to others.
func found(e *journal.Entry) Found {
	return Found{
		Stream: e.Cause.Stream, Partition: e.Cause.Position.Partition, N: e.N, ID: e.Cause.ID, Cause: e.Cause.CausationID,
		Applied: e.Decided.Status == deja.Applied, BusinessTime: e.Cause.BusinessTime,
	}
}

// finder returns the index, or what takes its place.
func (s *Source) finder() Index {
	if s.index != nil {
		return s.index
	}
	return &noIndex{s}
}

// Handled returns the number of the last decision up to a position in inbox or journal; 0 if there is none.
func (s *Source) Handled(ctx context.Context, at deja.Position) (int64, error) {
	return s.finder().Handled(ctx, at)
}

// noIndex finds decisions in the journal.
type noIndex struct{ source *Source }

// each calls fn with every decision of a partition, until it returns false.
func (x *noIndex) each(ctx context.Context, partition int32, fn func(*journal.Entry) bool) error {
	for e, err := range x.source.Decisions(ctx, partition, 1) {
		if err != nil {
			return err
		}
		if !fn(e) {
			return nil
		}
	}
	return nil
}

// Last implements [Index].
func (x *noIndex) Last(ctx context.Context, partition int32) (n int64, err error) {
	err = x.each(ctx, partition, func(e *journal.Entry) bool { n = e.N; return true })
	return n, err
}

// Decision implements [Index].
func (x *noIndex) Decision(ctx context.Context, partition int32, n int64) (Found, error) {
	e, err := x.source.Decision(ctx, partition, n)
	if err != nil {
		return Found{}, err
	}
	return found(&e), nil
}

// Messages implements [Index]. The ledger has most of them at once: the messages of the service's own clients. Others, which
// have another key there than their ID, are looked for in the journal.
func (x *noIndex) Messages(ctx context.Context, lo, hi deja.ID, most int) ([]Found, error) {
	if x.source.store == nil {
		return x.search(ctx, lo, hi, most)
	}
	entries, err := x.source.store.Find(ctx, lo, hi, most)
	if err == nil && len(entries) == 0 {
		return x.search(ctx, lo, hi, most)
	}
	if err != nil {
		return nil, err
	}
	fs := make([]Found, len(entries))
	for i, e := range entries {
		if fs[i], err = x.Decision(ctx, e.Partition, e.N); err != nil {
			return nil, err
		}
	}
	return fs, nil
}

// search looks for messages in the journal.
func (x *noIndex) search(ctx context.Context, lo, hi deja.ID, most int) ([]Found, error) {
	all := map[deja.ID]Found{}
	last := hi // above it there are enough smaller ones
	for p := range x.source.partitions {
		err := x.each(ctx, p, func(e *journal.Entry) bool {
			id := e.Cause.ID
			if e.Decided.Status == deja.Conflicted || compareIDs(id, lo) < 0 || compareIDs(id, last) > 0 {
				return true
			}
			if all[id] = found(e); len(all) > 2*most {
				ids := slices.SortedFunc(maps.Keys(all), compareIDs)
				for _, id := range ids[most:] {
					delete(all, id)
				}
				last = ids[most-1]
			}
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	fs := slices.SortedFunc(maps.Values(all), func(a, b Found) int { return compareIDs(a.ID, b.ID) })
	return fs[:min(len(fs), most)], nil
}

// Version implements [Index].
func (x *noIndex) Version(ctx context.Context, s deja.Stream, version int64) (f Found, highest int64, err error) {
	for p := range x.source.partitions {
		err := x.each(ctx, p, func(e *journal.Entry) bool {
			if e.Cause.Stream == s && e.Version > highest {
				highest, f = e.Version, found(e)
			}
			return highest < version
		})
		if err != nil || highest >= version {
			return f, highest, err
		}
	}
	return Found{}, highest, nil
}

// Key implements [Index]. It holds all that it yields.
func (x *noIndex) Key(ctx context.Context, s deja.Stream, last []int64, back bool) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		var all []Found
		for p := range x.source.partitions {
			err := x.each(ctx, p, func(e *journal.Entry) bool {
				if e.N <= last[p] && e.Cause.Stream == s {
					all = append(all, found(e))
				}
				return e.N < last[p]
			})
			if err != nil {
				yield(Found{}, err)
				return
			}
		}
		for i := range all {
			if back {
				i = len(all) - 1 - i
			}
			if !yield(all[i], nil) {
				return
			}
		}
	}
}

// DecidedBy implements [Index].
func (x *noIndex) DecidedBy(ctx context.Context, partition int32, t time.Time) (n int64, err error) {
	err = x.each(ctx, partition, func(e *journal.Entry) bool {
		if e.Time.After(t) {
			return false
		}
		n = e.N
		return true
	})
	return n, err
}

// Handled implements [Index].
func (x *noIndex) Handled(ctx context.Context, at deja.Position) (n int64, err error) {
	err = x.each(ctx, at.Partition, func(e *journal.Entry) bool {
		if beyond(e, at) {
			return false
		}
		n = e.N
		return true
	})
	return n, err
}

// Entry implements [Index].
func (x *noIndex) Entry(ctx context.Context, partition int32, n int64) (journal.Entry, error) {
	return x.source.Decision(ctx, partition, n)
}
