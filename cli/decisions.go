package cli

import (
	"context"
	"iter"
	"math"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
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

// message reads a message of the inbox.
func (e *Env) message(ctx context.Context, db *Database, offset int64) (*deja.Envelope, error) {
	at := deja.Position{Topic: wire.Inbox(e.app.Service.Name), Partition: partition, Offset: offset}
	recs, err := db.Log.Fetch(ctx, at, 1)
	if err != nil {
		return nil, err
	}
	return e.decode(wire.NewDecoder(e.app.Service.Name), &recs[0])
}

// decode decodes an inbox record.
func (e *Env) decode(dec *wire.Decoder, rec *driver.Record) (*deja.Envelope, error) {
	env, err := dec.Message(rec.Value)
	if err != nil {
		return nil, err
	}
	env.Time = wire.Micro(rec.Time)
	env.Position = deja.Position{Topic: wire.Inbox(e.app.Service.Name), Partition: partition, Offset: rec.Offset}
	return env, nil
}
