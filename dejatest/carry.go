package dejatest

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
)

// A carrier is a route at work, from one partition of a journal into an inbox. Its cursor is an offset in the journal.
type carrier struct {
	route  route.Route
	from   deja.Position // without offset
	name   string        // the cursor's
	reader *journal.Reader

	ahead *journal.Reader // reads before the carrier does
	found int64           // and has found a decision right below this offset that something follows from
}

// carry adds the carriers from a service's journal into a service's inbox.
func (l *life) carry(from, to string) {
	for p := range int32(partitions) {
		l.carriers = append(l.carriers, &carrier{
			route: route.Route{Machine: l.m, Peers: l.peers, From: from, To: to},
			from:  deja.Position{Topic: wire.Journal(from), Partition: p},
			name:  route.Reader(l.name(), to),
		})
	}
}

// String names the carrier, such as "bank.journal/2 to ledger".
func (c *carrier) String() string {
	return fmt.Sprintf("%s/%d to %s", c.from.Topic, c.from.Partition, c.route.To)
}

// behind reports whether there is a decision that a carrier has not seen and that something follows from for its inbox. To
// see that is no call of the service.
func (l *life) behind(c *carrier) (bool, error) {
	ctx := context.Background()
	var at int64
	var err error
	if c.reader != nil {
		at = c.reader.Mark().Offset
	} else if at, err = l.disk.log.Cursor(ctx, c.name, c.from.Topic, c.from.Partition); err != nil {
		return false, err
	}
	if c.found > at {
		return true, nil
	}
	end := l.disk.end(c.from.Topic, c.from.Partition)
	if c.ahead == nil {
		mark, err := journal.MarkAt(ctx, l.disk.log, c.route.From, c.from.Partition, at)
		if err != nil {
			return false, err
		}
		c.ahead = journal.NewReader(l.disk.log, c.route.From, c.from.Partition, mark)
	}
	for c.ahead.Mark().Offset < end {
		entries, err := c.ahead.Next(ctx, end, 1)
		if err != nil {
			return false, err
		}
		for i := range entries {
			ms, err := c.messages(&entries[i])
			if err != nil {
				return false, err
			}
			if len(ms) > 0 {
				c.found = entries[i].Offset + 1
				return true, nil
			}
		}
	}
	return false, nil
}

// messages returns what follows from a decision.
func (c *carrier) messages(e *journal.Entry) ([]deja.Envelope, error) {
	ms, err := c.route.Messages(e.Record)
	if err != nil {
		return nil, fmt.Errorf("decision %d of %s/%d: %w", e.N, c.from.Topic, c.from.Partition, err)
	}
	return ms, nil
}

// carryOn delivers what follows from up to max decisions that a carrier has not seen, and at least until something does. It
// returns what it has delivered.
func (l *life) carryOn(ctx context.Context, c *carrier, max int) ([]deja.Envelope, error) {
	cursors := l.log.(driver.Cursors)
	if c.reader == nil {
		at, err := cursors.Cursor(ctx, c.name, c.from.Topic, c.from.Partition)
		if err != nil {
			return nil, err
		}
		mark, err := journal.MarkAt(ctx, l.log, c.route.From, c.from.Partition, at)
		if err != nil {
			return nil, err
		}
		c.reader = journal.NewReader(l.log, c.route.From, c.from.Partition, mark)
	}
	_, end, err := l.log.Bounds(ctx, c.from.Topic, c.from.Partition)
	if err != nil {
		return nil, err
	}
	var all []deja.Envelope
	for len(all) == 0 && c.reader.Mark().Offset < end {
		entries, err := c.reader.Next(ctx, end, max)
		if err != nil {
			return nil, err
		}
		for i := range entries {
			ms, err := c.messages(&entries[i])
			if err != nil {
				return nil, err
			}
			all = append(all, ms...)
		}
	}
	if len(all) > 0 {
		recs := make([]driver.Record, len(all))
		for i := range all {
			recs[i] = route.Record(&all[i], partitions)
		}
		if _, err := l.disk.deliver(ctx, l.log, c.route.To, recs); err != nil {
			return nil, err
		}
	}
	return all, cursors.SetCursor(ctx, c.name, c.from.Topic, c.from.Partition, c.reader.Seen().Offset)
}

// lose sets a carrier's cursor back to the beginning.
func (l *life) lose(ctx context.Context, c *carrier) error {
	c.reader, c.ahead, c.found = nil, nil, 0
	return l.disk.log.SetCursor(ctx, c.name, c.from.Topic, c.from.Partition, 0)
}
