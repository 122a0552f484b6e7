package replay

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// A Target is a clean database that a replay fills.
type Target struct {
	Log   driver.Log // must be a [driver.Importer]
	Store driver.Store
}

// ErrTarget is returned for a target that cannot be filled with the past that is asked for.
var ErrTarget = errors.New("the target cannot take this past")

// Into fills a clean database with the history up to a moment: inbox, journal, and what a service that had handled
// just that would have in its store, projections included. A target that holds a part of it already, from a run that
// was interrupted or from a snapshot, is filled up.
func (s *Source) Into(ctx context.Context, target Target, opt Options) (Cut, int64, error) {
	begin, err := s.reached(ctx, target.Store, s.emptyPast())
	if err != nil {
		return Cut{}, 0, fmt.Errorf("%w: %w", ErrTarget, err)
	}
	cut, err := s.cut(ctx, opt.To, opt.By, begin)
	if errors.Is(err, errAfter) {
		err = fmt.Errorf("%w: it reaches beyond the moment that is asked for", ErrTarget)
	}
	if err != nil {
		return cut, 0, err
	}
	var total, before int64
	for _, p := range cut.Points {
		total += p.N
	}
	tell := func(n int64) {
		if opt.Progress != nil {
			opt.Progress(before+n, total)
		}
	}
	for _, p := range cut.Points {
		if err := s.copy(ctx, target.Log, p); err != nil {
			return cut, 0, err
		}
		n, err := s.refold(ctx, target, p, (*step.Worker).Takeover, tell)
		if err != nil {
			return cut, 0, err
		}
		before += n
	}
	return cut, total, nil
}

// Rebuild empties a store and folds it anew from the journal of its log; messages after the last decision are then
// handled by the engine as ever. Progress may be nil.
func (s *Source) Rebuild(ctx context.Context, target Target, progress func(done, total int64)) (int64, error) {
	total, err := s.size(ctx)
	if err != nil {
		return 0, err
	}
	var before int64
	tell := func(n int64) {
		if progress != nil {
			progress(before+n, total)
		}
	}
	fold := (*step.Worker).Rebuild
	for p := range s.partitions {
		n, err := s.refold(ctx, target, Point{Partition: p, N: -1}, fold, tell)
		if err != nil {
			return before, err
		}
		before += n
		fold = (*step.Worker).Takeover // the first has emptied the store for all of them
	}
	return before, nil
}

// refold lets a worker take a partition over, which adopts all that the target's journal has, and checks that it
// came to the point.
func (s *Source) refold(ctx context.Context, target Target, to Point, fold func(*step.Worker, context.Context) error, adopted func(int64)) (int64, error) {
	w, err := step.New(ctx, step.Config{
		Machine: s.machine, Log: target.Log, Store: target.Store, Partition: to.Partition, Adopted: adopted,
		NewNonce: func() (n [16]byte) { _, _ = rand.Read(n[:]); return n },
	})
	if err != nil {
		return 0, err
	}
	if err := fold(w, ctx); err != nil {
		return 0, err
	}
	if _, err := w.Ready(ctx); err != nil {
		return 0, err
	}
	at := w.Progress()
	if to.N >= 0 && (at.N != to.N || at.Chain != to.Chain) {
		return at.N, fmt.Errorf("%w: it is at decision %d of partition %d, the past asked for ends at %d", ErrTarget, at.N, to.Partition, to.N)
	}
	return at.N, w.GiveBack(ctx)
}

// copy copies a partition's inbox and journal up to a point into the target's log, from where an earlier run left
// off.
func (s *Source) copy(ctx context.Context, target driver.Log, to Point) error {
	dst, ok := target.(driver.Importer)
	if !ok {
		return fmt.Errorf("%w: its log takes no records from elsewhere", ErrTarget)
	}
	name := s.machine.Name()
	for _, part := range []struct {
		topic string
		last  int64
	}{{wire.Inbox(name), to.Covers}, {wire.Journal(name), to.Offset}} {
		if err := dst.CreateTopic(ctx, part.topic, s.partitions); err != nil {
			return err
		}
		if err := s.copyTopic(ctx, target, dst, deja.Position{Topic: part.topic, Partition: to.Partition, Offset: part.last}); err != nil {
			return fmt.Errorf("copy %s: %w", part.topic, err)
		}
	}
	return nil
}

func (s *Source) copyTopic(ctx context.Context, target driver.Log, dst driver.Importer, last deja.Position) error {
	at := last
	_, end, err := target.Bounds(ctx, at.Topic, at.Partition)
	if err != nil {
		return err
	}
	if end > last.Offset+1 {
		return fmt.Errorf("%w: its %s reaches to offset %d, beyond %d", ErrTarget, at.Topic, end-1, last.Offset)
	}
	if err := s.sameRecord(ctx, target, at, end-1); err != nil {
		return err
	}
	if _, have, err := s.log.Bounds(ctx, at.Topic, at.Partition); err != nil || have <= last.Offset {
		return cmp.Or(err, fmt.Errorf("%w: it ends at offset %d, the past needs %d", driver.ErrBeyondEnd, have-1, last.Offset))
	}
	for at.Offset = end; at.Offset <= last.Offset; {
		recs, err := s.log.Fetch(ctx, at, int(min(scanChunk, last.Offset+1-at.Offset)))
		if err != nil {
			return err
		}
		for len(recs) > 0 && recs[len(recs)-1].Offset > last.Offset {
			recs = recs[:len(recs)-1]
		}
		if len(recs) == 0 {
			return nil
		}
		if err := dst.Import(ctx, at.Topic, recs); err != nil {
			return err
		}
		at.Offset = recs[len(recs)-1].Offset + 1
	}
	return nil
}

// sameRecord checks that the last record which the target has is the source's, too.
func (s *Source) sameRecord(ctx context.Context, target driver.Log, at deja.Position, offset int64) error {
	if offset < 0 {
		return nil
	}
	at.Offset = offset
	var values [2][]byte
	for i, log := range []driver.Log{s.log, target} {
		recs, err := log.Fetch(ctx, at, 1)
		if err != nil {
			return err
		}
		values[i] = recs[0].Value
	}
	if wire.Hash(values[0]) != wire.Hash(values[1]) {
		return fmt.Errorf("%w: its record at %s is not this history's", ErrTarget, at)
	}
	return nil
}
