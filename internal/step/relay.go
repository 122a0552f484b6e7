package step

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
)

// Relay appends to the journal what it may not have yet: in order, stopping at the first failure, and never starting
// past a decision that was not acknowledged. So any number of relays and crashes leave the order of first copies
// intact, and readers that know numbers see each decision once, in order.
func (w *Worker) Relay(ctx context.Context) error {
	if w.joint {
		return nil
	}
	for w.relayed < w.progress.N {
		kept, err := w.kept(ctx, w.relayed)
		if err != nil {
			return Halt(err)
		}
		recs := make([]driver.Record, len(kept))
		for i, k := range kept {
			if k.N != w.relayed+int64(i)+1 {
				return Halt(fmt.Errorf("%w: the store keeps decision %d after %d", journal.ErrGap, k.N, w.relayed+int64(i)))
			}
			recs[i] = driver.Record{Partition: w.cfg.Partition, Value: k.Value}
		}
		if _, err := w.cfg.Log.Append(ctx, w.journal.Name, recs); err != nil {
			return fmt.Errorf("relay decisions from %d on: %w", kept[0].N, err)
		}
		w.relayed = kept[len(kept)-1].N
	}
	return nil
}

// Release reads the journal back. What it has read may be told: a produce acknowledgement alone releases nothing, as
// a record may lie behind a newer life's marker.
func (w *Worker) Release(ctx context.Context) error {
	if w.joint {
		return nil
	}
	err := w.each(ctx, w.reading, func(entries []journal.Entry) error {
		last := entries[len(entries)-1]
		if last.N > w.progress.N || last.N == w.progress.N && last.Chain != w.progress.Chain {
			return fmt.Errorf("%w: decision %d in the journal is not this worker's", driver.ErrFenced, last.N)
		}
		w.released = last.N
		return nil
	})
	if err != nil {
		return Halt(err)
	}
	at := w.reading.Mark()
	if at.Incarnation != w.progress.Incarnation {
		return fmt.Errorf("%w: incarnation %d began in %s, and this store lives in %d: another store of the service took over",
			deja.ErrHalted, at.Incarnation.Number, w.journal.Name, w.progress.Incarnation.Number)
	}
	if err := w.cfg.Store.Logged(ctx, w.lease, at); err != nil {
		return fmt.Errorf("note what is logged: %w", err)
	}
	return nil
}
