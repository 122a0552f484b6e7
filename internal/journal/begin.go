package journal

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// Before returns the mark right before a decision.
func (e *Entry) Before() driver.Logged {
	return driver.Logged{Offset: e.Offset, N: e.N - 1, Chain: e.Prev, Incarnation: e.Incarnation}
}

// After returns the mark right behind a decision.
func (e *Entry) After() driver.Logged {
	return driver.Logged{Offset: e.Offset + 1, N: e.N, Chain: e.Chain, Incarnation: e.Incarnation}
}

// Begin returns the mark before the first decision that a log still has: a zero one for a journal that was never trimmed.
// What a trimmed one begins with has no witness.
func Begin(ctx context.Context, log driver.Log, service string, partition int32) (driver.Logged, error) {
	at := deja.Position{Topic: wire.Journal(service), Partition: partition}
	first, end, err := log.Bounds(ctx, at.Topic, partition)
	if err != nil || first == 0 {
		return driver.Logged{}, err
	}
	dec := wire.NewDecoder(service)
	for at.Offset = first; at.Offset < end; {
		recs, err := log.Fetch(ctx, at, 1)
		if err != nil {
			return driver.Logged{}, fmt.Errorf("read %s: %w", at, err)
		}
		r, err := dec.Record(partition, recs[0].Value)
		if err != nil {
			return driver.Logged{}, fmt.Errorf("journal record at %s: %w: %w", at, ErrUnreadable, err)
		}
		if !r.Marker() {
			e := Entry{Record: r, Offset: recs[0].Offset}
			return e.Before(), nil
		}
		at.Offset = recs[0].Offset + 1
	}
	return driver.Logged{Offset: end}, nil
}

// FindChain returns decision n of a partition, the one with a hash: of records of one number, which several lives may have
// written, the hash tells which is meant. The error wraps [ErrForked] if there are only others, and [ErrGap] if there are
// none.
func FindChain(ctx context.Context, log driver.Log, service string, partition int32, n int64, chain [32]byte) (Entry, error) {
	var found Entry
	missing := ErrGap
	err := eachOf(ctx, log, service, partition, n, func(e Entry) bool {
		if e.Chain == chain {
			found = e
			return false
		}
		missing = ErrForked
		return true
	})
	if err == nil && found.Record == nil {
		err = fmt.Errorf("decision %d as it is known is not in %s of partition %d: %w", n, wire.Journal(service), partition, missing)
	}
	return found, err
}
