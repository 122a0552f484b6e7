package history

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// inboxReader reads inbox records, ahead where they lie close to each other. It is not safe for concurrent use.
type inboxReader struct {
	h     *History
	ahead []driver.Record // of one partition, in order
	last  deja.Position
}

// near is up to how far behind the last record one is read together with those between.
const near = 64

// at returns the record at a position.
func (r *inboxReader) at(ctx context.Context, p deja.Position) (driver.Record, error) {
	p.Topic = wire.Inbox(r.h.machine.Name())
	for i := range r.ahead {
		if a := &r.ahead[i]; a.Partition == p.Partition && a.Offset == p.Offset {
			r.ahead, r.last = r.ahead[i:], p
			return *a, nil
		}
	}
	most := 1
	if r.last.Partition == p.Partition && p.Offset > r.last.Offset && p.Offset <= r.last.Offset+near {
		most = 1000
	}
	recs, err := r.h.log.Fetch(ctx, p, most)
	if err != nil {
		return driver.Record{}, fmt.Errorf("read %s: %w", p, err)
	}
	if recs[0].Offset != p.Offset {
		return driver.Record{}, fmt.Errorf("read %s: %w", p, driver.ErrTrimmed)
	}
	r.ahead, r.last = recs, p
	return recs[0], nil
}

// again returns the offsets at which messages of some ledger keys were delivered in a partition, from an offset on and up to
// another.
func (h *History) again(ctx context.Context, partition int32, keys map[deja.ID]bool, from, to int64) ([]driver.Record, error) {
	var found []driver.Record
	at := deja.Position{Topic: wire.Inbox(h.machine.Name()), Partition: partition, Offset: from}
	dec := wire.NewDecoder(h.machine.Name())
	for at.Offset <= to {
		recs, err := h.log.Fetch(ctx, at, 2000)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", at, err)
		}
		for _, rec := range recs {
			at.Offset = rec.Offset + 1
			if rec.Offset > to {
				break
			}
			if env, err := dec.Message(rec.Value); err == nil && keys[wire.LedgerKey(h.machine.Name(), env)] {
				found = append(found, rec)
			}
		}
	}
	return found, nil
}
