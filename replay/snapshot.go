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

// begin verifies the snapshot and loads its states; it returns where each partition goes on.
func (sn *Snapshot) begin(ctx context.Context, s *Source, past *Past, to Cut) ([]driver.Logged, error) {
	if err := sn.Check(ctx, s.machine); err != nil {
		return nil, err
	}
	from := make([]driver.Logged, s.partitions)
	for p := range s.partitions {
		at, err := sn.Store.Progress(ctx, p)
		if err != nil {
			return nil, err
		}
		if at.N == 0 {
			continue
		}
		if at.N > to.Points[p].N {
			return nil, fmt.Errorf("%w: it was made after the moment that is asked for; begin at an earlier one, or at none", ErrSnapshot)
		}
		past.Messages += at.N
		if at.Fold != s.machine.FoldVersion() {
			return nil, fmt.Errorf("%w: it was folded by another fold version; make it anew with this build", ErrSnapshot)
		}
		e, err := journal.Find(ctx, s.log, s.machine.Name(), p, at.N, at.Incarnation.Number)
		if err != nil || e.Chain != at.Chain {
			return nil, fmt.Errorf("%w: its decision %d is not the history's (%w)", ErrSnapshot, at.N, errors.Join(err, journal.ErrForked))
		}
		from[p] = driver.Logged{Offset: e.Offset + 1, N: e.N, Chain: e.Chain, Incarnation: e.Incarnation}
		past.Cut.Points[p].reach(&e)
	}
	return from, EachState(ctx, sn.Store, func(row driver.State) error {
		st, err := s.machine.DecodeState(row.Stream, row.Version, row.Data)
		if err != nil {
			return err
		}
		past.states[row.Stream] = &foldedState{
			state: st, parked: row.Parked,
			position: deja.Position{Topic: wire.Inbox(s.machine.Name()), Partition: row.Partition, Offset: row.Position},
		}
		return nil
	})
}
