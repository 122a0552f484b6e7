package cli

import (
	"context"
	"fmt"
	"iter"
	"math"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

// chunk is how many records are read at once.
const chunk = 1000

// everything stands for the number of a decision that is not yet made.
const everything = math.MaxInt64

// extent is a part of a partition's decisions, by their numbers.
type extent struct{ first, last int64 }

// all returns the extents of whole partitions.
func (db *Database) all() []extent {
	of := make([]extent, db.Source.Partitions())
	for p := range of {
		of[p] = extent{1, everything}
	}
	return of
}

// decisions yields the decisions in extents, one of each partition, as far as they are there. Those of one partition come in
// order; those of several by their times, and of equal times by partition, so that the order is always the same.
func (db *Database) decisions(ctx context.Context, of []extent) iter.Seq2[*journal.Entry, error] {
	return func(yield func(*journal.Entry, error) bool) {
		heads := make([]*head, 0, len(of))
		defer func() {
			for _, h := range heads {
				h.stop()
			}
		}()
		for p, x := range of {
			h := &head{last: x.last}
			h.next, h.stop = iter.Pull2(db.Source.Decisions(ctx, int32(p), x.first))
			heads = append(heads, h)
			h.advance()
		}
		for {
			var first *head
			for _, h := range heads {
				if h.err != nil {
					yield(nil, h.err)
					return
				}
				if h.entry != nil && (first == nil || h.entry.Time.Before(first.entry.Time)) {
					first = h
				}
			}
			if first == nil || !yield(first.entry, nil) {
				return
			}
			first.advance()
		}
	}
}

// head is the next decision of a partition.
type head struct {
	next  func() (*journal.Entry, error, bool)
	stop  func()
	last  int64
	entry *journal.Entry // nil at the end
	err   error
}

func (h *head) advance() {
	entry, err, ok := h.next()
	if !ok || err == nil && entry.N > h.last {
		entry = nil
	}
	h.entry, h.err = entry, err
}

// message reads a delivery in the inbox. What is no message has an identity of its own.
func (e *Env) message(ctx context.Context, db *Database, at deja.Position) (step.Message, error) {
	if at.Partition >= db.Source.Partitions() {
		return step.Message{}, fmt.Errorf("%w: there is no partition %d; there are %d", replay.ErrNotFound, at.Partition, db.Source.Partitions())
	}
	first, end, err := db.Log.Bounds(ctx, at.Topic, at.Partition)
	if err != nil {
		return step.Message{}, err
	}
	if at.Offset < first || at.Offset >= end {
		return step.Message{}, fmt.Errorf("%w: %s has the offsets %d to %d%s", replay.ErrNotFound, at.Topic, first, end-1, db.inPartition(at.Partition))
	}
	recs, err := db.Log.Fetch(ctx, at, 1)
	if err != nil {
		return step.Message{}, err
	}
	if recs[0].Offset != at.Offset {
		return step.Message{}, fmt.Errorf("%w: there is no record at %s; the next one is at offset %d", replay.ErrNotFound, at, recs[0].Offset)
	}
	return step.NewPreparer(e.machine, db.Source.Partitions()).Prepare(recs[:1])[0], nil
}

// inPartition names a partition, where there are several.
func (db *Database) inPartition(p int32) string {
	if db.Source.Partitions() == 1 {
		return ""
	}
	return fmt.Sprintf(" in partition %d", p)
}

// inbox returns a position in the inbox.
func (e *Env) inbox(partition int32, offset int64) deja.Position {
	return e.position(wire.Inbox, partition, offset)
}

func (e *Env) position(topic func(service string) string, partition int32, offset int64) deja.Position {
	return deja.Position{Topic: topic(e.app.Service.Name), Partition: partition, Offset: offset}
}
