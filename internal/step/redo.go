package step

import (
	"context"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// newAdoption begins a transaction that takes recorded decisions into the store: they are folded, never decided again.
func (w *Worker) newAdoption() *Batch {
	b := w.newBatch()
	b.out.Logged = true
	return b
}

// full reports whether a transaction that adopts has enough.
func (b *Batch) full() bool {
	return b.to.N-b.from.N >= adoptAtATime || max(len(b.w.changed), len(b.events), len(b.out.Repeats)) >= adoptChunk
}

// redoAll takes in recorded decisions.
func (b *Batch) redoAll(ctx context.Context, entries []journal.Entry) error {
	w, streams := b.w, map[deja.Stream]bool{}
	for _, e := range entries {
		if !e.Touches() {
			continue
		}
		if _, err := w.cfg.Machine.NewState(e.Cause.Stream); err != nil {
			return fmt.Errorf("decision %d: %w: %w", e.N, &deja.UnknownEventError{Type: e.Cause.Type, Stream: e.Cause.Stream}, err)
		}
		streams[e.Cause.Stream] = true
	}
	if err := w.load(ctx, streams, b.committed); err != nil {
		return err
	}
	if err := b.recount(ctx, entries); err != nil {
		return err
	}
	if w.contested { // which is rare, so the ledger is asked only once a take-over has failed
		keys := make([]deja.ID, len(entries))
		for i := range entries {
			keys[i] = wire.LedgerKey(w.cfg.Machine.Name(), &entries[i].Cause)
		}
		if err := b.settledElsewhere(ctx, keys); err != nil {
			return err
		}
	}
	for _, e := range entries {
		if err := b.redo(e); err != nil {
			return err
		}
	}
	return nil
}

// adopted commits what was taken in.
func (w *Worker) adopted(ctx context.Context, b *Batch) error {
	for _, h := range w.changed {
		if err := h.encode(); err != nil {
			return err
		}
		h.encodeOpen()
	}
	w.decided(b)
	if err := w.commit(ctx, b); err != nil {
		w.contested = !errors.Is(err, driver.ErrFenced) // perhaps
		return err
	}
	if w.cfg.Adopted != nil {
		w.cfg.Adopted(b.to.N)
	}
	return nil
}

// redo takes in one recorded decision.
func (b *Batch) redo(e journal.Entry) error {
	w, m := b.w, Message{Env: &e.Cause, Key: wire.LedgerKey(b.w.cfg.Machine.Name(), &e.Cause), Hash: e.Hash}
	h := w.states[e.Cause.Stream]
	for i := range e.Decided.Events {
		ev := &e.Decided.Events[i]
		if err := w.cfg.Machine.Fold(h.state, ev); err != nil { // the same each time
			return fmt.Errorf("%w: decision %d: %w", deja.ErrHalted, e.N, err)
		}
		if h.state.Version != ev.Version {
			return fmt.Errorf("decision %d: %s is at version %d, its event says %d: %w", e.N, ev.Stream, h.state.Version, ev.Version, journal.ErrForked)
		}
		b.project(e.Decided.Events[i : i+1])
		h.row.Position = e.Through()
	}
	b.to.Chain, b.to.N, b.to.Time, b.to.Fold = e.Chain, e.N, e.Time, w.cfg.Machine.FoldVersion()
	b.to.Position = e.Covers + 1
	if e.Opens() {
		h.opened(e.Record, w.cfg.Machine)
	}
	if len(e.Decided.Events) > 0 || e.Opens() {
		b.touch(h)
	}
	switch {
	case e.Decided.Status == deja.Conflicted:
		b.repeat(m.Key, e.Cause.Position.Offset, true)
		return nil
	case e.Parks() > 0:
		b.park(m, h)
	case e.Parks() < 0:
		b.unpark(driver.Parked{Stream: e.Cause.Stream, Partition: w.cfg.Partition, Offset: e.Cause.Position.Offset, Key: m.Key}, h)
	}
	if first, ok := b.known[m.Key]; ok && first.Partition != w.cfg.Partition {
		return nil
	}
	b.out.Ledger = append(b.out.Ledger, driver.Entry{
		Key: m.Key, Hash: e.Hash, Partition: w.cfg.Partition, Offset: e.Cause.Position.Offset, N: e.N, Status: e.Decided.Status,
	})
	return nil
}

// settledElsewhere notes which of the keys another partition has settled. That happens where an ID was used in two
// partitions, and the second of them decided while the store, gone back unnoticed, did not know the first: both decisions
// are history, and the ledger keeps the one that it has. The mark of this look-up is none for the batch, which may hold
// keys that were looked up before, or not at all.
func (b *Batch) settledElsewhere(ctx context.Context, keys []deja.ID) error {
	found, _, err := b.w.cfg.Store.Lookup(ctx, keys)
	if err != nil {
		return fmt.Errorf("look up the ledger: %w", err)
	}
	for _, e := range found {
		if e.Partition != b.w.cfg.Partition {
			b.known[e.Key] = e
		}
	}
	return nil
}

// recount counts the duplicates among the inbox records that the entries cover: the journal has no decision of them.
// An inbox that no longer goes back so far leaves them uncounted.
func (b *Batch) recount(ctx context.Context, entries []journal.Entry) error {
	_, end, err := b.w.cfg.Log.Bounds(ctx, b.w.inbox.Name, b.w.cfg.Partition)
	if err != nil {
		return err
	}
	from, to := b.to.Position, min(entries[len(entries)-1].Covers, end-1)
	decided := make(map[int64]bool, len(entries))
	for _, e := range entries {
		decided[e.Cause.Position.Offset] = true
	}
	prepare := NewPreparer(b.w.cfg.Machine, b.w.inbox.Partitions)
	at := deja.Position{Topic: b.w.inbox.Name, Partition: b.w.cfg.Partition, Offset: from}
	for at.Offset <= to {
		recs, err := b.w.cfg.Log.Fetch(ctx, at, int(min(chunk, to+1-at.Offset)))
		if errors.Is(err, driver.ErrTrimmed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", at, err)
		}
		for _, rec := range recs {
			if rec.Offset <= to && !decided[rec.Offset] {
				b.repeat(prepare.one(&rec).Key, rec.Offset, false)
			}
			at.Offset = rec.Offset + 1
		}
	}
	return nil
}
