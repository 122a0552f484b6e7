package cli

import (
	"context"
	"fmt"
	"iter"
	"math"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

// chunk is how many records are read at once.
const chunk = 1000

// everything stands for the number of a decision that is not yet made.
const everything = math.MaxInt64

// decisions yields decisions first to last, in order, as far as they are there.
func (e *Env) decisions(ctx context.Context, db *Database, first, last int64) iter.Seq2[*journal.Entry, error] {
	return func(yield func(*journal.Entry, error) bool) {
		name := e.app.Service.Name
		_, end, err := db.Log.Bounds(ctx, wire.Journal(name), partition)
		var mark driver.Logged
		if err == nil && first > 1 {
			mark, err = e.before(ctx, db, first)
		}
		r := journal.NewReader(db.Log, name, partition, mark)
		for err == nil {
			var entries []journal.Entry
			if entries, err = r.Next(ctx, end, chunk); err == nil && len(entries) == 0 {
				return
			}
			for i := range entries {
				if entries[i].N > last || !yield(&entries[i], nil) {
					return
				}
			}
		}
		yield(nil, err)
	}
}

// before returns the place in the journal right before a decision.
func (e *Env) before(ctx context.Context, db *Database, n int64) (driver.Logged, error) {
	d, err := e.numbered(ctx, db, n)
	if err != nil {
		return driver.Logged{}, err
	}
	return driver.Logged{Offset: d.Offset, N: n - 1, Chain: d.Prev, Incarnation: d.Incarnation}, nil
}

// message reads a delivery in the inbox. What is no message has an identity of its own.
func (e *Env) message(ctx context.Context, db *Database, offset int64) (step.Message, error) {
	first, end, err := db.Log.Bounds(ctx, wire.Inbox(e.app.Service.Name), partition)
	if err != nil {
		return step.Message{}, err
	}
	if offset < first || offset >= end {
		return step.Message{}, fmt.Errorf("%w: %s has the offsets %d to %d", replay.ErrNotFound, wire.Inbox(e.app.Service.Name), first, end-1)
	}
	recs, err := db.Log.Fetch(ctx, e.inbox(offset), 1)
	if err != nil {
		return step.Message{}, err
	}
	return step.NewPreparer(e.machine).Prepare(recs[:1])[0], nil
}

// inbox returns a position in the inbox.
func (e *Env) inbox(offset int64) deja.Position {
	return deja.Position{Topic: wire.Inbox(e.app.Service.Name), Partition: partition, Offset: offset}
}
