package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
)

// A service's router carries, from its own journal, the commands that its aggregates send, to whoever owns theirs; and into
// its own inbox the replies to them and the events that its aggregates react to, from its own journal and from those of
// other services. So a service need not know who asks it, or who hears of it.
//
// There is a cursor for each partition of a journal and each inbox: one that takes nothing stops nobody else. The log keeps
// them; each is set now and then, and never ahead of what the inbox has acknowledged. One that rests is set again, as logs
// forget cursors that were not set for days.
const (
	cursorEvery = 250 * time.Millisecond
	cursorAgain = time.Hour
)

// limit returns how large a message to another service's aggregate may be; 0 if that is not known.
func (e *Engine) limit(aggregate string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.limits[e.cfg.Peers[aggregate]]
}

// learnLimits asks for the limits of the inboxes that messages are sent to.
func (e *Engine) learnLimits(ctx context.Context) {
	for _, s := range e.talks.Targets {
		if t, err := e.log.Topic(ctx, wire.Inbox(s)); err == nil { // else its router says so, and learns it later
			e.learned(s, t)
		}
	}
}

// learned notes the limit of a service's inbox.
func (e *Engine) learned(service string, inbox driver.Topic) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.limits == nil {
		e.limits = map[string]int{}
	}
	e.limits[service] = inbox.MaxRecord
}

// carrying is a route at work: it appends to an inbox, and keeps the cursor.
type carrying struct {
	e       *Engine
	route   route.Route
	inbox   driver.Topic
	cursors driver.Cursors
	reader  string
	source  deja.Position // of the cursor, without offset

	at, set int64     // what the cursor is to be, and what it is
	when    time.Time // it was set

	routes string    // names the cursor that says since when there are these routes; empty if there is none
	begun  int64     // what that is
	again  time.Time // it was set
}

// newCarrying returns a route from a partition of a journal, with its cursor.
func (e *Engine) newCarrying(ctx context.Context, from string, partition int32, to string) (*carrying, error) {
	c := &carrying{
		e:       e,
		route:   route.Route{Machine: e.machine, Peers: e.cfg.Peers, From: from, To: to},
		cursors: e.log.(driver.Cursors),
		reader:  route.Reader(e.machine.Name(), to),
		source:  deja.Position{Topic: wire.Journal(from), Partition: partition},
		when:    time.Now(),
	}
	var err error
	if c.inbox, err = e.log.Topic(ctx, wire.Inbox(to)); err != nil {
		return nil, fmt.Errorf("inbox of %s: %w", to, err)
	}
	e.learned(to, c.inbox)
	if c.at, err = c.cursors.Cursor(ctx, c.reader, c.source.Topic, partition); err != nil {
		return nil, err
	}
	c.set = c.at
	return c, nil
}

// since notes where in the journal this build's aggregates begin to react to events, unless that is noted already: right
// behind the decision n, where the cursor is. What was carried before a deploy is not carried again for an aggregate that
// is new to it.
func (c *carrying) since(ctx context.Context, n int64) error {
	if c.route.To != c.e.machine.Name() || c.e.talks.Routes == "" {
		return nil
	}
	c.routes = c.e.machine.Name() + ".routes." + c.e.talks.Routes
	begun, err := c.cursors.Cursor(ctx, c.routes, c.source.Topic, c.source.Partition)
	if err == nil && begun == 0 {
		begun = n + 1
		err = c.cursors.SetCursor(ctx, c.routes, c.source.Topic, c.source.Partition, begun)
	}
	c.begun, c.again = begun, time.Now()
	c.route.Since = begun - 1
	return err
}

// carry appends what follows from decisions. Then the cursor may go to at.
func (c *carrying) carry(ctx context.Context, recs []*wire.Record, at int64) error {
	var out []driver.Record
	for _, rec := range recs {
		ms, err := c.route.Messages(rec)
		if err != nil {
			return fmt.Errorf("decision %d of %s/%d: %w", rec.N, c.source.Topic, c.source.Partition, err)
		}
		for i := range ms {
			out = append(out, route.Record(&ms[i], c.inbox.Partitions))
		}
	}
	if len(out) > 0 {
		if _, err := c.e.log.Append(ctx, c.inbox.Name, out); err != nil {
			return fmt.Errorf("append to %s: %w", c.inbox.Name, err)
		}
	}
	c.at = at
	return c.note(ctx, false)
}

// note sets the cursor, if it is time to or must be.
func (c *carrying) note(ctx context.Context, now bool) error {
	rested := time.Since(c.when)
	if c.at == c.set && rested < cursorAgain || !now && rested < cursorEvery {
		return nil
	}
	if err := c.cursors.SetCursor(ctx, c.reader, c.source.Topic, c.source.Partition, c.at); err != nil {
		return err
	}
	c.set, c.when = c.at, time.Now()
	if c.routes == "" || time.Since(c.again) < cursorAgain {
		return nil
	}
	c.again = c.when
	return c.cursors.SetCursor(ctx, c.routes, c.source.Topic, c.source.Partition, c.begun)
}

// waiting bounds a wait for more, so that a cursor which is behind, or rests, is set while nothing comes.
func (c *carrying) waiting(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.at == c.set {
		return context.WithTimeout(ctx, cursorAgain)
	}
	return context.WithTimeout(ctx, cursorEvery)
}

// idle handles the end of a wait: it sets the cursor if only the wait has ended, and returns what else has.
func (c *carrying) idle(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return c.note(ctx, true)
	}
	return err
}

// carryOwn carries from the partition's own journal into a service's inbox. Its cursor counts decisions.
func (p *partition) carryOwn(ctx context.Context, f follower, to string) {
	name := p.e.machine.Name()
	p.e.keep(ctx, fmt.Sprintf("route %s/%d into %s", wire.Journal(name), p.number, wire.Inbox(to)), func(ctx context.Context, well func()) error {
		c, err := p.e.newCarrying(ctx, name, p.number, to)
		if err != nil {
			return err
		}
		if n := f.w.Released(); c.at > n {
			return fmt.Errorf("%w: decision %d was carried, and the journal has %d", driver.ErrBeyondEnd, c.at, n)
		} else if c.at == n {
			well()
		}
		if err := c.since(ctx, c.at); err != nil {
			return err
		}
		f.at, f.r = c.at, nil
		for {
			waiting, cancel := c.waiting(ctx)
			recs, err := f.next(waiting)
			cancel()
			if err != nil {
				if err := c.idle(ctx, err); err != nil {
					return err
				}
				continue
			}
			if err := c.carry(ctx, recs, f.at); err != nil {
				return err
			}
			well()
		}
	})
}

// carryFrom carries from the journal of another service into the own inbox: the partitions of it that fall to this one.
func (p *partition) carryFrom(ctx context.Context, from string) {
	topic := wire.Journal(from)
	p.e.keep(ctx, fmt.Sprintf("route %s beside partition %d", topic, p.number), func(ctx context.Context, well func()) error {
		ps, err := p.e.partitions(ctx)
		if err != nil {
			return err
		}
		t, err := p.e.log.Topic(ctx, topic)
		if err != nil {
			return fmt.Errorf("journal of %s: %w", from, err)
		}
		well()
		var all sync.WaitGroup
		for n := p.number; n < t.Partitions; n += int32(len(ps)) {
			all.Go(func() {
				p.e.keep(ctx, fmt.Sprintf("route %s/%d", topic, n), func(ctx context.Context, well func()) error {
					return p.e.carryPartition(ctx, from, n, well)
				})
			})
		}
		all.Wait()
		<-ctx.Done()
		return ctx.Err()
	})
}

// carryPartition carries from one partition of another service's journal. Its cursor is an offset.
func (e *Engine) carryPartition(ctx context.Context, from string, number int32, well func()) error {
	c, err := e.newCarrying(ctx, from, number, e.machine.Name())
	if err != nil {
		return err
	}
	mark, err := journal.MarkAt(ctx, e.log, from, number, c.at)
	if err != nil {
		return err
	}
	if err := c.since(ctx, mark.N); err != nil {
		return err
	}
	if _, end, err := e.log.Bounds(ctx, c.source.Topic, number); err != nil {
		return err
	} else if mark.Offset >= end {
		well()
	}
	r := journal.NewReader(e.log, from, number, mark)
	for {
		waiting, cancel := c.waiting(ctx)
		entries, err := r.Wait(waiting, batchSize)
		cancel()
		if err != nil {
			if err := c.idle(ctx, err); err != nil {
				return err
			}
			continue
		}
		if err := c.carry(ctx, recordsOf(entries), r.Seen().Offset); err != nil {
			return err
		}
		well()
	}
}
