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
}

// carry adds the carriers from a service's journal into a service's inbox.
func (l *life) carry(from, to string) {
	for p := range int32(partitions) {
		l.carriers = append(l.carriers, &carrier{
			route: route.Route{Machine: l.m, Peers: l.peers, From: from, To: to},
			from:  deja.Position{Topic: wire.Journal(from), Partition: p},
			name:  l.name() + ".route." + to,
		})
	}
}

// String names the carrier, such as "bank.journal/2 to ledger".
func (c *carrier) String() string {
	return fmt.Sprintf("%s/%d to %s", c.from.Topic, c.from.Partition, c.route.To)
}

// behind reports whether there are decisions that a carrier has not seen.
func (l *life) behind(c *carrier) bool {
	end := l.disk.end(c.from.Topic, c.from.Partition)
	if c.reader != nil {
		return c.reader.Mark().Offset < end
	}
	at, err := l.disk.log.Cursor(context.Background(), c.name, c.from.Topic, c.from.Partition)
	return err == nil && at < end
}

// carryOn delivers what follows from up to max decisions that a carrier has not seen, and returns it.
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
	entries, err := c.reader.Next(ctx, end, max)
	if err != nil {
		return nil, err
	}
	var all []deja.Envelope
	var recs []driver.Record
	for i := range entries {
		ms, err := c.route.Messages(entries[i].Record)
		if err != nil {
			return nil, fmt.Errorf("decision %d of %s/%d: %w", entries[i].N, c.from.Topic, c.from.Partition, err)
		}
		for j := range ms {
			recs = append(recs, route.Record(&ms[j], partitions))
		}
		all = append(all, ms...)
	}
	if len(recs) > 0 {
		if _, err := l.disk.deliver(ctx, l.log, c.route.To, recs); err != nil {
			return nil, err
		}
	}
	return all, cursors.SetCursor(ctx, c.name, c.from.Topic, c.from.Partition, c.reader.Seen().Offset)
}

// lose sets a carrier's cursor back to the beginning.
func (l *life) lose(ctx context.Context, c *carrier) error {
	c.reader = nil
	return l.disk.log.SetCursor(ctx, c.name, c.from.Topic, c.from.Partition, 0)
}
