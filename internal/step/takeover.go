package step

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// chunk is how many records the steps read or write at once.
const chunk = 1000

// Takeover makes the worker the partition's only writer and brings store and journal together: a store behind the
// journal adopts the journal's decisions without deciding again; one ahead publishes again; one that went back, or
// was copied, first begins a new life with a marker in the journal, so that nothing an older life still writes
// counts. It halts where the two tell different histories.
func (w *Worker) Takeover(ctx context.Context) error { return w.takeOver(ctx, false) }

// Rebuild takes over, empties the store, and folds it anew from the journal.
func (w *Worker) Rebuild(ctx context.Context) error { return w.takeOver(ctx, true) }

func (w *Worker) takeOver(ctx context.Context, rebuild bool) error {
	w.forget()
	w.reading = nil
	lease, err := w.cfg.Store.Acquire(ctx, driver.Assignment{
		Inbox: w.inbox, Journal: w.journal, Partition: w.cfg.Partition, Tables: w.cfg.Machine.Tables(),
	})
	if err != nil {
		return Halt(fmt.Errorf("acquire: %w", err))
	}
	w.lease, w.progress = lease, lease.Progress
	return Halt(w.meet(ctx, rebuild))
}

// meet compares store and journal and brings them together.
func (w *Worker) meet(ctx context.Context, rebuild bool) error {
	from, err := w.readFrom(ctx)
	if err != nil {
		return err
	}
	back, err := w.wentBack(ctx, from)
	if err != nil {
		return err
	}
	r := journal.NewReader(w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, from)
	life := w.progress.Incarnation
	if back {
		if life, err = w.beginLife(ctx, r.Mark()); err != nil {
			return err
		}
	}
	if rebuild || w.progress.N > 0 && w.progress.Fold != w.cfg.Machine.FoldVersion() {
		if err := w.reset(ctx); err != nil {
			return err
		}
		r = journal.NewReader(w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, driver.Logged{})
	}
	if err := w.adopt(ctx, r, life); err != nil {
		return err
	}
	return w.publishFrom(ctx, r)
}

// reset empties the store, to be folded again by this build from the beginning.
func (w *Worker) reset(ctx context.Context) error {
	if err := w.cfg.Store.Reset(ctx, w.lease); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	w.progress = driver.Progress{Incarnation: w.progress.Incarnation}
	w.last = driver.Progress{}
	return nil
}

// readFrom returns where reading the journal begins: where it was read up to, or, if log and store are one, at the
// last decision. A journal that ends before that point lost records; then it is read from its beginning.
func (w *Worker) readFrom(ctx context.Context) (driver.Logged, error) {
	_, end, err := w.cfg.Log.Bounds(ctx, w.journal.Name, w.cfg.Partition)
	if err != nil {
		return driver.Logged{}, err
	}
	if !w.joint {
		if w.lease.Logged.Offset > end || w.lease.Logged.N > w.progress.N {
			return driver.Logged{}, nil
		}
		return w.lease.Logged, nil
	}
	p := w.progress
	if p.N == 0 {
		return driver.Logged{}, nil
	}
	last, err := journal.Find(ctx, w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, p.N, 0)
	if err != nil {
		return driver.Logged{}, err
	}
	if last.Chain != p.Chain {
		return driver.Logged{}, fmt.Errorf("%w: decision %d of the store is not the journal's", journal.ErrForked, p.N)
	}
	return driver.Logged{Offset: last.Offset + 1, N: p.N, Chain: p.Chain, Incarnation: last.Incarnation}, nil
}

// wentBack looks for signs that the store is older than what it has published, or has a twin: decisions in the
// journal that it does not have, a life that it did not begin, or less than this worker has seen in it. Where log and
// store are one database they go back together, and only a copy has a twin.
func (w *Worker) wentBack(ctx context.Context, from driver.Logged) (bool, error) {
	if w.lease.Copied || w.joint {
		return w.lease.Copied, nil
	}
	p := w.progress
	if w.last.N > p.N || w.last.N == p.N && w.last.Chain != p.Chain {
		return true, nil
	}
	r := journal.NewReader(w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, from)
	ahead := false
	err := w.each(ctx, r, func(entries []journal.Entry) error {
		for _, e := range entries {
			ahead = ahead || e.N > p.N
			if e.N == p.N && e.Chain != p.Chain {
				return fmt.Errorf("%w: decision %d of the store is not the journal's", journal.ErrForked, p.N)
			}
		}
		return nil
	})
	return ahead || r.Mark().Incarnation != p.Incarnation, err
}

// end returns the journal's end.
func (w *Worker) end(ctx context.Context) (int64, error) {
	_, end, err := w.cfg.Log.Bounds(ctx, w.journal.Name, w.cfg.Partition)
	return end, err
}

// beginLife writes a new life's marker into the journal.
func (w *Worker) beginLife(ctx context.Context, from driver.Logged) (driver.Incarnation, error) {
	r := journal.NewReader(w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, from)
	if err := w.each(ctx, r, func([]journal.Entry) error { return nil }); err != nil {
		return driver.Incarnation{}, err
	}
	life := driver.Incarnation{
		Number: max(r.Mark().Incarnation.Number, w.progress.Incarnation.Number) + 1,
		Nonce:  w.cfg.NewNonce(),
	}
	marker := driver.Record{
		Partition: w.cfg.Partition,
		Value:     wire.AppendRecord(nil, &wire.Record{Incarnation: life}),
	}
	if _, err := w.cfg.Log.Append(ctx, w.journal.Name, []driver.Record{marker}); err != nil {
		return life, fmt.Errorf("begin incarnation %d: %w", life.Number, err)
	}
	return life, nil
}

// each calls fn with all decisions up to the journal's present end.
func (w *Worker) each(ctx context.Context, r *journal.Reader, fn func([]journal.Entry) error) error {
	end, err := w.end(ctx)
	for err == nil {
		var entries []journal.Entry
		if entries, err = r.Next(ctx, end, chunk); err != nil || len(entries) == 0 {
			break
		}
		err = fn(entries)
	}
	return err
}

// adopt takes into the store what the journal has beyond it, then the journal's life.
func (w *Worker) adopt(ctx context.Context, r *journal.Reader, life driver.Incarnation) error {
	err := w.each(ctx, r, func(entries []journal.Entry) error {
		for len(entries) > 0 && entries[0].N <= w.progress.N {
			entries = entries[1:]
		}
		if len(entries) == 0 {
			return nil
		}
		return w.redo(ctx, entries)
	})
	if err != nil {
		return err
	}
	now := r.Mark().Incarnation
	if life != w.progress.Incarnation && now != life {
		return fmt.Errorf("%w: %s began incarnation %d while this store began %d: another store of the service is alive",
			deja.ErrHalted, w.journal.Name, now.Number, life.Number)
	}
	if now == w.progress.Incarnation {
		return nil
	}
	b := w.newBatch()
	b.to.Incarnation = now
	return w.commit(ctx, b)
}

// publishFrom prepares relay and release: the journal has all up to the reader's mark, and the store must still keep
// what comes after it.
func (w *Worker) publishFrom(ctx context.Context, r *journal.Reader) error {
	if w.joint {
		w.released = w.progress.N
		return nil
	}
	at := r.Mark()
	w.reading, w.released, w.relayed = r, at.N, at.N
	if at.N >= w.progress.N {
		return nil
	}
	kept, err := w.kept(ctx, at.N)
	if err != nil {
		return err
	}
	first, err := w.dec.Record(w.cfg.Partition, kept[0].Value)
	if err != nil {
		return err
	}
	if first.Prev != at.Chain {
		return fmt.Errorf("%w: decision %d of the store does not follow from the journal's", journal.ErrForked, first.N)
	}
	return nil
}

// kept returns the kept records after decision n, of which there must be some.
func (w *Worker) kept(ctx context.Context, n int64) ([]driver.JournalRecord, error) {
	recs, err := w.cfg.Store.Unlogged(ctx, w.cfg.Partition, n, chunk)
	if err != nil {
		return nil, fmt.Errorf("read kept records: %w", err)
	}
	if len(recs) == 0 || recs[0].N != n+1 {
		return nil, fmt.Errorf("%w: the journal ends at decision %d, the store at %d, and it no longer keeps what is between",
			journal.ErrGap, n, w.progress.N)
	}
	return recs, nil
}
