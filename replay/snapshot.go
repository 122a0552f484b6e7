package replay

import (
	"context"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// ErrSnapshot is returned for a snapshot that is damaged, or of another history.
var ErrSnapshot = errors.New("the snapshot cannot be used")

// A Snapshot is a past that was written to a database of its own: states at a point, from which a replay goes on.
// It is a cache: it is used only if its states have the hash that was noted when it was made, and its last decision
// is the history's.
type Snapshot struct {
	Log   driver.Log
	Store driver.Reader
	Hash  Hash // noted when it was made
}

// Check returns an error if the snapshot's states are not those that were noted.
func (sn *Snapshot) Check(ctx context.Context, m *deja.Machine) error {
	got, err := HashStore(ctx, m, sn.Store)
	if err == nil && got != sn.Hash {
		return fmt.Errorf("%w: its states have the hash %s, and had %s when it was made", ErrSnapshot, got, sn.Hash)
	}
	return err
}

// load verifies the snapshot and loads its states; it returns the last decision that it has of each partition, nil for
// none.
func (sn *Snapshot) load(ctx context.Context, s *Source, past *Past) ([]*journal.Entry, error) {
	if err := sn.Check(ctx, s.machine); err != nil {
		return nil, err
	}
	begin, err := s.reached(ctx, sn.Store, past)
	if err != nil {
		return nil, err
	}
	return begin, EachState(ctx, sn.Store, func(row driver.State) error {
		st, err := s.machine.DecodeState(row.Stream, row.Version, row.Data)
		if err != nil {
			return err
		}
		open, err := wire.DecodeOpen(s.machine.Name(), row.Stream, row.Open)
		if err != nil {
			return err
		}
		past.states[row.Stream] = &foldedState{
			state: st, partition: row.Partition, parked: row.Parked, open: open,
			position: deja.Position{Topic: wire.Inbox(s.machine.Name()), Partition: row.Partition, Offset: row.Position},
		}
		return nil
	})
}

// reached finds the last decision of each partition that a store has, which must be the history's, and counts the decisions.
func (s *Source) reached(ctx context.Context, store driver.Reader, past *Past) ([]*journal.Entry, error) {
	begin := make([]*journal.Entry, s.partitions)
	for p := range s.partitions {
		at, err := store.Progress(ctx, p)
		if err != nil {
			return nil, err
		}
		if at.N == 0 {
			continue
		}
		if at.Fold != s.machine.FoldVersion() {
			return nil, fmt.Errorf("%w: it was folded by another fold version; make it anew with this build", ErrSnapshot)
		}
		e, err := journal.FindChain(ctx, s.log, s.machine.Name(), p, at.N, at.Chain)
		if err != nil {
			return nil, fmt.Errorf("%w: its decision %d of partition %d is not the history's: %w", ErrSnapshot, at.N, p, err)
		}
		begin[p] = &e
		past.Messages += at.N
	}
	return begin, nil
}
