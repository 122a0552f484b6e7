package journal

import (
	"context"
	"fmt"
	"time"

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

// Since returns a mark such that all decisions of a partition that were made at a time or later, and few others, come after
// it: what [Begin] gives, if no more than near records would be saved. A reader from there may meet copies of records that
// were appended again, and fail with [ErrGap] or [ErrForked] where one from the beginning does not.
//
// The times of a life's decisions never fall, so it is looked for by halves; and is in the newest life, or at the beginning.
func Since(ctx context.Context, log driver.Log, service string, partition int32, t time.Time, near int64) (driver.Logged, error) {
	begin, err := Begin(ctx, log, service, partition)
	if err != nil || t.IsZero() {
		return begin, err
	}
	at := deja.Position{Topic: wire.Journal(service), Partition: partition}
	_, end, err := log.Bounds(ctx, at.Topic, partition)
	if err != nil || end-begin.Offset <= near {
		return begin, err
	}
	dec := wire.NewDecoder(service)
	read := func(offset int64) (*wire.Record, int64, error) {
		at.Offset = offset
		recs, err := log.Fetch(ctx, at, 1)
		if err != nil {
			return nil, 0, fmt.Errorf("read %s: %w", at, err)
		}
		r, err := dec.Record(partition, recs[0].Value)
		if err != nil {
			return nil, 0, fmt.Errorf("journal record at %s: %w: %w", at, ErrUnreadable, err)
		}
		return r, recs[0].Offset, nil
	}
	last, _, err := read(end - 1)
	if err != nil {
		return begin, err
	}
	before, after := begin.Offset-1, end // the offset of a record that was made before, and one from which on all were not
	for after-before > max(near, 1) {
		r, offset, err := read(before + (after-before)/2)
		if err != nil {
			return begin, err
		}
		if r.Time.Before(t) {
			before = offset
		} else {
			after = min(offset, after-1)
		}
	}
	if before < begin.Offset {
		return begin, nil
	}
	mark, err := MarkAt(ctx, log, service, partition, before+1)
	if err == nil && mark.Incarnation != last.Incarnation {
		return begin, nil
	}
	return mark, err
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
