package engine

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// doUntil sends a message as do does and then waits until its stream has recorded one of the point's events: at or after
// the message's decision.
func (c *client) doUntil(ctx context.Context, env *deja.Envelope, point deja.Point) (deja.Outcome, error) {
	types, err := point.Events(c.e.machine, env.Stream.Aggregate)
	if err != nil {
		return deja.Outcome{}, invalid(err)
	}
	p, err := c.partition(ctx, env.Stream)
	if err != nil {
		return deja.Outcome{}, err
	}
	watch := p.tail.watch(env.Stream, types)
	defer p.tail.unwatch(watch)
	w, err := p.tail.wait(ctx, deja.NewID()) // for nothing of its own: it keeps the reading going, from before the message is sent
	if err != nil {
		return deja.Outcome{}, cmp.Or(p.haltedBy(), err)
	}
	defer p.tail.leave(w)
	a, err := c.ask(ctx, env)
	if err != nil {
		return deja.Outcome{ID: env.ID}, err
	}
	out, err := a.Outcome()
	if err != nil {
		return out, err
	}
	if out.Reached = reached(a.Record, types); out.Reached == nil && a.Duplicate {
		out.Reached, err = c.since(ctx, p, a.Record, types)
	}
	if err != nil || out.Reached != nil {
		return out, err
	}
	out.Reached, err = p.watched(ctx, watch, w, a.Record.N)
	return out, err
}

// watched waits until a watcher has seen an event of a decision after n.
func (p *partition) watched(ctx context.Context, watch *watcher, w *waiter, n int64) (*deja.Envelope, error) {
	for {
		p.tail.mu.Lock()
		seen, err := watch.seen, w.err
		watch.seen = nil
		p.tail.mu.Unlock()
		for _, r := range seen {
			if r.N > n {
				return reached(r, watch.types), nil
			}
		}
		if halted := p.haltedBy(); halted != nil {
			return nil, halted
		}
		if err != nil {
			return nil, pending(err)
		}
		select {
		case <-watch.told:
		case <-w.told: // the reading has ended
		case <-ctx.Done():
			return nil, pending(ctx.Err())
		}
	}
}

// since looks for one of the events among the decisions after one that was made before: in the last one that changed the
// stream's row, where most sagas have their end, else in all. It returns nil if there is none up to the journal's end.
func (c *client) since(ctx context.Context, p *partition, first *wire.Record, types []string) (*deja.Envelope, error) {
	e := c.e
	name, s := e.machine.Name(), first.Cause.Stream
	latest, err := e.latest(ctx, p.number)
	if err != nil {
		return nil, err
	}
	rows, err := e.store.Load(ctx, []deja.Stream{s})
	if err != nil {
		return nil, err
	}
	if len(rows) > 0 && rows[0].N > first.N {
		last, err := journal.Find(ctx, e.log, name, p.number, rows[0].N, latest)
		if ev := reachedIn(&last, types); err == nil && ev != nil { // else it may not be logged yet
			return ev, nil
		}
	}
	begin, err := journal.Find(ctx, e.log, name, p.number, first.N, latest)
	if err != nil {
		return nil, fmt.Errorf("decision %d: %w", first.N, err)
	}
	r := journal.NewReader(e.log, name, p.number, begin.After())
	_, end, err := e.log.Bounds(ctx, wire.Journal(name), p.number)
	for err == nil {
		var entries []journal.Entry
		if entries, err = r.Next(ctx, end, batchSize); len(entries) == 0 {
			break
		}
		for i := range entries {
			if entries[i].Cause.Stream != s {
				continue
			}
			if ev := reached(entries[i].Record, types); ev != nil {
				return ev, nil
			}
		}
	}
	return nil, err
}

func reachedIn(e *journal.Entry, types []string) *deja.Envelope {
	if e.Record == nil {
		return nil
	}
	return reached(e.Record, types)
}

// awaitEvery is how often the store is asked by one that waits for it.
const awaitEvery = 5 * time.Millisecond

// Await implements [deja.Client].
func (c *client) Await(ctx context.Context, positions ...deja.Position) error {
	for _, pos := range positions {
		if err := c.await(ctx, pos); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) await(ctx context.Context, pos deja.Position) error {
	ps, err := c.e.partitions(ctx)
	if err != nil {
		return err
	}
	if inbox := wire.Inbox(c.e.machine.Name()); pos.Topic != inbox || pos.Partition < 0 || int(pos.Partition) >= len(ps) {
		return invalid(fmt.Errorf("position %s is not one of %s, which has %d partitions", pos, inbox, len(ps)))
	}
	p := ps[pos.Partition]
	for wait := awaitEvery; ; wait = min(2*wait, 20*awaitEvery) {
		news := p.news()
		at, err := c.e.store.Progress(ctx, pos.Partition)
		if err != nil || at.Position > pos.Offset {
			return err
		}
		if err := p.haltedBy(); err != nil {
			return err
		}
		select {
		case <-news: // this process handles it
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
