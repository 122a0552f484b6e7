package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/transfers/orders"
	"github.com/dejalog/deja/internal/wire"
)

// client sends the orders, as somebody who knows what he has sent but not what came of it: after a crash he sends again
// what he does not know to be in the log.
type client struct {
	*task
	log              driver.Log
	accounts, ledger side
	out              *json.Encoder // to the process that started this one
	told             time.Time     // when it last heard of progress
	sent             int
}

// side is one of the services, as a client sees it.
type side struct {
	name   string
	engine *engine.Engine
	store  driver.Store
}

// A word is what a worker process has to tell.
type word string

const (
	began    word = "began" // to send orders
	progress word = "progress"
	reached  word = "reached"  // a point
	quiet    word = "quiet"    // all transfers have ended
	finished word = "finished" // its task
)

// said is what a worker process tells.
type said struct {
	What      word    `json:"what"`
	Sent      int     `json:"sent,omitempty"`
	Decisions int     `json:"decisions,omitempty"`
	Took      []int64 `json:"took,omitempty"` // of each of the transfers that were sent one by one, in microseconds
}

const (
	chunk   = 500                   // orders sent at once, for each partition
	ahead   = 2000                  // messages that may wait for the accounts when more are sent, for each partition
	few     = 1000                  // transfers that may be over soon
	slow    = 5 * time.Millisecond  // between two looks at what has happened
	quick   = time.Millisecond / 2  // where that may be over soon
	telling = 20 * time.Millisecond // between two words about progress
)

func (c *client) run(ctx context.Context) error {
	var err error
	switch c.phase {
	case prepare:
		err = c.prepare(ctx)
	case single:
		err = c.single(ctx)
	default:
		err = c.load(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// prepare asks for all that is to be so before the first transfer, and waits until it is.
func (c *client) prepare(ctx context.Context) error {
	for _, ask := range []struct {
		of side
		rs []deja.Request
	}{{c.accounts, c.plan.Deposits()}, {c.ledger, c.plan.Stops()}} {
		if _, err := ask.of.engine.Client().Send(ctx, ask.rs...); err != nil {
			return err
		}
		if err := c.settled(ctx, ask.of); err != nil {
			return err
		}
	}
	return c.out.Encode(said{What: finished})
}

// ready waits until the accounts' engine has taken its partitions over: how long that takes at first is not what a run is
// about.
func (c *client) ready(ctx context.Context) error {
	for {
		h, err := c.accounts.engine.Health(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(h.Partitions, func(p engine.PartitionHealth) bool { return p.State != "idle" && p.State != "working" }) {
			return nil
		}
		if err := sleep(ctx, slow); err != nil {
			return err
		}
	}
}

// settled waits until a service has handled all that it was sent.
func (c *client) settled(ctx context.Context, s side) error {
	for {
		behind, err := c.behind(ctx, s)
		if err != nil || behind == 0 {
			return err
		}
		if err := sleep(ctx, slow); err != nil {
			return err
		}
	}
}

// load sends the orders as fast as the services take them in, and waits until all transfers have ended and the journals tell of it.
func (c *client) load(ctx context.Context) error {
	pause := slow
	if c.plan.Transfers < few {
		pause = quick
	}
	c.sent = c.from
	next, stop := iter.Pull(c.plan.Orders(c.from))
	defer stop()
	if c.from == 0 {
		if err := c.ready(ctx); err != nil {
			return err
		}
	}
	if err := c.out.Encode(said{What: began}); err != nil {
		return err
	}
	for {
		behind, err := c.behind(ctx, c.accounts)
		if err != nil {
			return err
		}
		if behind < int64(ahead*c.partitions()) {
			if err := c.send(ctx, next); err != nil {
				return err
			}
		}
		if err := c.tell(ctx); err != nil {
			return err
		}
		if c.sent == c.plan.Transfers && len(c.points) == 0 && behind == 0 {
			over, err := c.over(ctx)
			if err != nil {
				return err
			}
			if over {
				break
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	if err := c.out.Encode(said{What: quiet}); err != nil {
		return err
	}
	if err := c.logged(ctx); err != nil {
		return err
	}
	return c.out.Encode(said{What: finished})
}

// send sends the next orders.
func (c *client) send(ctx context.Context, next func() (orders.Order, bool)) error {
	var rs []deja.Request
	for len(rs) < chunk*c.partitions() {
		o, ok := next()
		if !ok {
			break
		}
		rs = append(rs, c.plan.Request(o))
	}
	if len(rs) == 0 {
		return nil
	}
	if _, err := c.accounts.engine.Client().Send(ctx, rs...); err != nil {
		return err
	}
	c.sent += len(rs)
	return nil
}

// tell tells the process that started this one how far all is, and of points that were reached. This process is killed for
// the first that is not the ledger's.
func (c *client) tell(ctx context.Context) error {
	n, err := c.decisions(ctx)
	if err != nil {
		return err
	}
	for len(c.points) > 0 && n >= c.points[0].decisions {
		if err := c.out.Encode(said{What: reached, Sent: c.sent, Decisions: n}); err != nil {
			return err
		}
		if !c.points[0].ledger {
			<-ctx.Done()
			return ctx.Err()
		}
		c.points = c.points[1:]
	}
	if time.Since(c.told) < telling {
		return nil
	}
	c.told = time.Now()
	return c.out.Encode(said{What: progress, Sent: c.sent, Decisions: n})
}

// single sends the orders one by one: each when the one before it has ended.
func (c *client) single(ctx context.Context) error {
	s := said{What: finished}
	for o := range c.plan.Orders(0) {
		r := c.plan.Request(o)
		r.Until = deja.AtEnd()
		from := time.Now()
		if _, err := c.accounts.engine.Client().Do(ctx, r); err != nil {
			return fmt.Errorf("transfer %s: %w", o.Key, err)
		}
		s.Took = append(s.Took, time.Since(from).Microseconds())
	}
	return c.out.Encode(s)
}

// decisions returns how many decisions both services have made.
func (c *client) decisions(ctx context.Context) (sum int, err error) {
	for _, s := range []side{c.accounts, c.ledger} {
		leases, err := s.store.Leases(ctx)
		if err != nil {
			return 0, err
		}
		for _, l := range leases {
			sum += int(l.Progress.N)
		}
	}
	return sum, nil
}

// behind returns how many messages in a service's inbox are not handled.
func (c *client) behind(ctx context.Context, s side) (sum int64, err error) {
	leases, err := s.store.Leases(ctx)
	if err != nil {
		return 0, err
	}
	inbox := wire.Inbox(s.name)
	topic, err := c.log.Topic(ctx, inbox)
	if err != nil {
		return 0, err
	}
	for p := range topic.Partitions {
		_, end, err := c.log.Bounds(ctx, inbox, p)
		if err != nil {
			return 0, err
		}
		sum += end
	}
	for _, l := range leases {
		sum -= l.Progress.Position
	}
	return sum, nil
}

// over reports whether nothing waits for anything: no message in an inbox, no saga for a reply or a timer, and no effect
// for its result.
func (c *client) over(ctx context.Context) (bool, error) {
	for _, s := range []side{c.accounts, c.ledger} {
		behind, err := c.behind(ctx, s)
		if err != nil || behind > 0 {
			return false, err
		}
		topic, err := c.log.Topic(ctx, wire.Inbox(s.name))
		if err != nil {
			return false, err
		}
		for p := range topic.Partitions {
			waiting, err := s.store.Open(ctx, p, deja.Stream{}, 1)
			if err != nil || len(waiting) > 0 {
				return false, err
			}
		}
	}
	return true, nil
}

// logged waits until the services' journals are known to have all that the stores have. A process that is killed right before
// all is over leaves decisions that only the next one logs, when it has taken its partitions over.
func (c *client) logged(ctx context.Context) error {
	for _, s := range []side{c.accounts, c.ledger} {
		for {
			h, err := s.engine.Health(ctx)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(h.Partitions, func(p engine.PartitionHealth) bool { return p.Logged < p.N }) {
				break
			}
			if err := sleep(ctx, slow); err != nil {
				return err
			}
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
