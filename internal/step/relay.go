package step

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// Relay appends to the journal what it may not have yet: in order, stopping at the first failure, and never starting
// past a decision that was not acknowledged. So any number of relays and crashes leave the order of first copies
// intact, and readers that know numbers see each decision once, in order.
//
// It first reads what is new in the journal: a worker that slept while another wrote must not add to it.
func (w *Worker) Relay(ctx context.Context) error {
	if w.joint || w.relayed >= w.progress.N {
		return nil
	}
	if err := w.readBack(ctx); err != nil {
		return err
	}
	return w.publish(ctx)
}

// publish appends the kept records after the last one that was acknowledged.
func (w *Worker) publish(ctx context.Context) error {
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
	if err := w.readBack(ctx); err != nil {
		return err
	}
	at := w.reading.Seen()
	if at == w.lease.Logged {
		return nil
	}
	if err := w.cfg.Store.Logged(ctx, w.lease, at); err != nil {
		return fmt.Errorf("note what is logged: %w", err)
	}
	w.lease.Logged = at
	if at.Incarnation != w.progress.Incarnation {
		// The lease is the newest one of this store, so it was no other worker of it.
		return fmt.Errorf("%w: incarnation %d began in %s, and this store lives in %d: another store of the service took over",
			deja.ErrHalted, at.Incarnation.Number, w.journal.Name, w.progress.Incarnation.Number)
	}
	return nil
}

// readBack reads what is new in the journal, which must be this worker's, record by record.
func (w *Worker) readBack(ctx context.Context) error {
	return Halt(w.each(ctx, w.reading, func(entries []journal.Entry) error {
		for _, e := range entries {
			own, err := w.ownChain(ctx, e.N)
			if err != nil {
				return err
			}
			if e.Chain != own {
				return fmt.Errorf("%w: decision %d in the journal is not this worker's", driver.ErrFenced, e.N)
			}
			delete(w.chains, e.N)
			w.released = e.N
		}
		return nil
	}))
}

// ownChain returns the hash of a decision that is not released yet; zero if there is none.
func (w *Worker) ownChain(ctx context.Context, n int64) ([32]byte, error) {
	if h, ok := w.chains[n]; ok || n > w.progress.N {
		return h, nil
	}
	kept, err := w.cfg.Store.Unlogged(ctx, w.cfg.Partition, n-1, 1)
	if err != nil || len(kept) == 0 || kept[0].N != n {
		return [32]byte{}, err
	}
	return wire.Hash(kept[0].Value), nil
}
