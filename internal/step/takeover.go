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

// How many records the steps read or write at once. What is adopted goes in larger pieces: a state that changed often in
// one is encoded and written once.
const (
	chunk        = 1000
	adoptChunk   = 8000   // are read at once; a transaction ends once it has as many states, repeats or events to project,
	adoptAtATime = 30_000 // or so many decisions
)

// Takeover makes the worker the partition's only writer and brings store and journal together: a store behind the
// journal adopts the journal's decisions without deciding again; one ahead publishes again; one that went back, or
// was copied, first begins a new life with a marker in the journal, so that nothing an older life still writes
// counts. It halts where the two tell different histories.
func (w *Worker) Takeover(ctx context.Context) error { return w.takeOver(ctx, false) }

// Rebuild takes over, empties the store, and folds it anew from the journal. Where log and store are two, it does so
// whatever the store says: it is the way out where the two tell different histories. Decisions that were never logged
// are given up; their messages are decided anew.
func (w *Worker) Rebuild(ctx context.Context) error { return w.takeOver(ctx, true) }

func (w *Worker) takeOver(ctx context.Context, rebuild bool) error {
	w.forget()
	w.reading, w.chains, w.fresh, w.flying, w.appended = nil, map[int64][32]byte{}, freshRecords{}, nil, 0
	w.recent = recentDecisions{}
	lease, err := w.cfg.Store.Acquire(ctx, driver.Assignment{
		Inbox: w.inbox, Journal: w.journal, Partition: w.cfg.Partition, Tables: w.cfg.Machine.Tables(),
		Owner: w.cfg.Owner, TTL: w.cfg.TTL,
	})
	if err != nil {
		return Halt(fmt.Errorf("acquire: %w", err))
	}
	w.lease, w.progress, w.next, w.noted = lease, lease.Progress, lease.Progress, lease.Logged
	err = Halt(w.meet(ctx, rebuild))
	if errors.Is(err, deja.ErrHalted) {
		// Taken over in the middle, a worker compares an old progress with a newer journal. Only the newest lease may
		// say that something is wrong.
		if fenced := w.cfg.Store.Logged(ctx, lease, lease.Logged); errors.Is(fenced, driver.ErrFenced) {
			return fenced
		}
	}
	if err == nil {
		w.ahead(w.progress)
	}
	return err
}

// meet compares store and journal and brings them together.
func (w *Worker) meet(ctx context.Context, rebuild bool) error {
	from, found := driver.Logged{}, survey{}
	var err error
	if !rebuild || w.joint { // one database has one history: where it contradicts itself, rebuilding would hide that
		if from, err = w.readFrom(ctx); err != nil {
			return err
		}
	}
	if !rebuild {
		if found, err = w.survey(ctx, from); err != nil {
			return err
		}
	}
	if rebuild && !w.joint {
		found = survey{back: true, void: true} // what the store has beyond the journal is given up, and may still be on its way
	}
	stale := w.progress.N > 0 && w.progress.Fold != w.cfg.Machine.FoldVersion()
	reset := rebuild || stale || found.void
	if found.back || reset {
		if err := w.publishOld(ctx, found); err != nil {
			return err
		}
	}
	if reset { // before the new life: once that is announced, what the store has must be of it, or in the journal
		if err := w.reset(ctx); err != nil {
			return err
		}
		from = driver.Logged{}
	}
	r := journal.NewReader(w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, from)
	if found.back {
		if err := w.beginLife(ctx, r); err != nil {
			return err
		}
	}
	if err := w.adopt(ctx, r, found.back); err != nil {
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
	w.next, w.last = w.progress, driver.Progress{}
	return nil
}

// readFrom returns where reading the journal begins: where it was read up to, or, if log and store are one, at the
// last decision. A journal that is not the same up to that point lost records, or is another; then it is read from its
// beginning.
func (w *Worker) readFrom(ctx context.Context) (driver.Logged, error) {
	if !w.joint {
		at := w.lease.Logged
		if at.N > w.progress.N || at.Incarnation != w.progress.Incarnation {
			return driver.Logged{}, nil
		}
		if ok, err := journal.Holds(ctx, w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, at); !ok {
			return driver.Logged{}, err
		}
		return at, nil
	}
	p := w.progress
	if p.N == 0 {
		return driver.Logged{}, nil
	}
	last, err := journal.FindChain(ctx, w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, p.N, p.Chain)
	if err != nil {
		return driver.Logged{}, err
	}
	return last.After(), nil
}

// survey is what a take-over finds in the journal.
type survey struct {
	end  driver.Logged // how far it goes
	back bool          // the store is older than what it has published, or has a twin
	void bool          // the store has decisions that a later life began without: they never were
}

// survey looks for signs that the store went back: decisions in the journal that it does not have, a life that it did
// not begin, or less in it than this worker has seen. Where log and store are one database they go back together,
// and only a copy has a twin.
func (w *Worker) survey(ctx context.Context, from driver.Logged) (survey, error) {
	p := w.progress
	if w.joint {
		return survey{end: from, back: w.lease.Copied || p.Incarnation.Number > from.Incarnation.Number && p.N > 0}, nil
	}
	if p.N == 0 {
		begun, err := w.used(ctx)
		return survey{back: begun || w.lease.Copied}, err
	}
	foreign := func(life driver.Incarnation) bool {
		return life.Number > p.Incarnation.Number || life.Number == p.Incarnation.Number && life != p.Incarnation
	}
	ahead, later := false, int64(-1) // the last decision before a life later than the store's
	r := journal.NewReader(w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, from)
	err := w.each(ctx, r, func(entries []journal.Entry) error {
		for _, e := range entries {
			ahead = ahead || e.N > p.N
			if later < 0 && foreign(e.Incarnation) {
				later = e.N - 1
			}
			if e.N == p.N && e.Chain != p.Chain && later < 0 {
				return fmt.Errorf("%w: decision %d of the store is not the journal's", journal.ErrForked, p.N)
			}
		}
		return nil
	})
	end := r.Mark()
	if later < 0 && foreign(end.Incarnation) {
		later = end.N
	}
	back := ahead || end.Incarnation != p.Incarnation || w.lease.Copied ||
		w.last.N > p.N || w.last.N == p.N && w.last.Chain != p.Chain
	return survey{end: end, back: back, void: later >= 0 && p.N > later}, err
}

// used reports whether a store without decisions may be one that was lost, or emptied: then a worker of the old one may
// still be about to publish. There is nothing to tell it from one that is new, but that there was something to decide.
func (w *Worker) used(ctx context.Context) (bool, error) {
	end, err := w.end(ctx)
	if err != nil || end > 0 {
		return end > 0, err
	}
	_, end, err = w.cfg.Log.Bounds(ctx, w.inbox.Name, w.cfg.Partition)
	return end > 0, err
}

// publishOld publishes what the store keeps beyond the journal, before a new life begins or the store is emptied: after
// that it would not count, or not be there, any more.
func (w *Worker) publishOld(ctx context.Context, found survey) error {
	if w.joint || found.void || found.end.N >= w.progress.N {
		return nil
	}
	if err := w.follows(ctx, found.end); err != nil {
		return err
	}
	w.relayed = found.end.N
	return w.publish(ctx)
}

// end returns the journal's end.
func (w *Worker) end(ctx context.Context) (int64, error) {
	_, end, err := w.cfg.Log.Bounds(ctx, w.journal.Name, w.cfg.Partition)
	return end, err
}

// beginLife begins a new life: first it is announced in the store, under the lease, then its marker goes into the
// journal. So a worker that was taken over in between writes a marker of a lower number than its successor's, and a
// marker that the store's newest worker does not know is another store's. Between the two the store adopts what the
// journal has, so that a long journal is read once; only then is it known which numbers were used.
func (w *Worker) beginLife(ctx context.Context, r *journal.Reader) error {
	if err := w.announce(ctx, r.Mark().Incarnation); err != nil {
		return err
	}
	if err := w.adoptAll(ctx, r); err != nil {
		return err
	}
	if used := r.Mark().Incarnation; used.Number >= w.progress.Incarnation.Number {
		if err := w.announce(ctx, used); err != nil {
			return err
		}
	}
	end := r.Mark()
	marker := driver.Record{
		Partition: w.cfg.Partition,
		Value: wire.AppendRecord(nil, &wire.Record{
			Kind: wire.KindMarker, N: end.N, Prev: end.Chain, Incarnation: w.progress.Incarnation, Time: w.progress.Time, Build: w.cfg.Build,
		}),
	}
	if _, err := w.cfg.Log.Append(ctx, w.journal.Name, []driver.Record{marker}); err != nil {
		return fmt.Errorf("begin incarnation %d: %w", w.progress.Incarnation.Number, err)
	}
	return nil
}

// announce notes in the store a life of a higher number than those that are known to be used.
func (w *Worker) announce(ctx context.Context, used driver.Incarnation) error {
	b := w.newBatch()
	b.to.Incarnation = driver.Incarnation{
		Number: max(used.Number, w.progress.Incarnation.Number) + 1,
		Nonce:  w.cfg.NewNonce(),
	}
	w.decided(b)
	return w.commit(ctx, b)
}

// each calls fn with all decisions up to the journal's present end.
func (w *Worker) each(ctx context.Context, r *journal.Reader, fn func([]journal.Entry) error) error {
	end, err := w.end(ctx)
	for err == nil {
		var entries []journal.Entry
		if entries, err = r.Next(ctx, end, adoptChunk); err != nil || len(entries) == 0 {
			break
		}
		err = fn(entries)
	}
	return err
}

// adopt takes into the store what the journal has beyond it. begun says that this store has begun a life of its own,
// which the journal must then be in; else the store takes on the journal's.
func (w *Worker) adopt(ctx context.Context, r *journal.Reader, begun bool) error {
	err := w.adoptAll(ctx, r)
	life := r.Mark().Incarnation
	if err != nil || life == w.progress.Incarnation {
		return err
	}
	if begun {
		return fmt.Errorf("%w: %s is in incarnation %d, and this store began %d: another store of the service is alive",
			deja.ErrHalted, w.journal.Name, life.Number, w.progress.Incarnation.Number)
	}
	b := w.newBatch()
	b.to.Incarnation = life
	w.decided(b)
	return w.commit(ctx, b)
}

// adoptAll takes into the store the decisions up to the journal's present end that it does not have.
func (w *Worker) adoptAll(ctx context.Context, r *journal.Reader) error {
	b := w.newAdoption()
	err := w.each(ctx, r, func(entries []journal.Entry) error {
		for len(entries) > 0 && entries[0].N <= w.progress.N {
			entries = entries[1:]
		}
		if len(entries) == 0 {
			return nil
		}
		if err := b.redoAll(ctx, entries); err != nil || !b.full() {
			return err
		}
		err := w.adopted(ctx, b)
		b = w.newAdoption()
		return err
	})
	if err == nil && b.to.N > b.from.N {
		err = w.adopted(ctx, b)
	}
	return err
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
	return w.follows(ctx, at)
}

// follows checks that what the store keeps goes on where the journal ends.
func (w *Worker) follows(ctx context.Context, at driver.Logged) error {
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
