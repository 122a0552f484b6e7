package relive

import (
	"context"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// Waiting returns the parked messages, and the ledger's entries of them, that are in records of the inbox, in their order.
func Waiting(m *deja.Machine, partitions int32, recs []driver.Record) (ps []driver.Parked, es []driver.Entry) {
	prepare := step.NewPreparer(m, partitions)
	for i := range recs {
		msg := prepare.Open(&recs[i])
		ps = append(ps, driver.Parked{Stream: msg.Env.Stream, Partition: recs[i].Partition, Offset: recs[i].Offset, Key: msg.Key})
		es = append(es, driver.Entry{
			Key: msg.Key, Hash: msg.Hash, Partition: recs[i].Partition, Offset: recs[i].Offset, Status: deja.Parked,
		})
	}
	return ps, es
}

// pageSize is how many rows and parked messages are read at once.
const pageSize = 1000

// Past returns what another world needs to go on from here: all states, and the messages that wait. Those that were settled
// are not in it: none of them may be delivered to that world again.
func (w *World) Past(ctx context.Context) (past Past, err error) {
	for after := (deja.Stream{}); ; {
		rows, err := w.Rows(ctx, after, pageSize)
		if err != nil {
			return past, err
		}
		past.States = append(past.States, rows...)
		if len(rows) < pageSize {
			break
		}
		after = rows[len(rows)-1].Stream
	}
	for p := range w.cfg.Partitions {
		recs, err := w.waiting(ctx, p)
		if err != nil {
			return past, err
		}
		past.Inbox = append(past.Inbox, recs...)
	}
	past.Parked, past.Ledger = Waiting(w.cfg.Machine, w.cfg.Partitions, past.Inbox)
	return past, nil
}

// waiting returns the inbox records of the messages of a partition that wait.
func (w *World) waiting(ctx context.Context, partition int32) (recs []driver.Record, err error) {
	for from := int64(0); ; {
		ps, err := w.store.Parked(ctx, partition, deja.Stream{}, from, pageSize)
		if err != nil || len(ps) == 0 {
			return recs, err
		}
		for _, p := range ps {
			at := deja.Position{Topic: wire.Inbox(w.cfg.Machine.Name()), Partition: partition, Offset: p.Offset}
			found, err := w.log.Fetch(ctx, at, 1)
			if err == nil && found[0].Offset != p.Offset {
				err = errors.New("the record is not there")
			}
			if err != nil {
				return recs, fmt.Errorf("read parked message at %s: %w", at, err)
			}
			recs, from = append(recs, found...), p.Offset+1
		}
	}
}
