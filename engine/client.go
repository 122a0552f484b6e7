package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/request"
	"github.com/dejalog/deja/internal/wire"
)

// client sends to the engine's own service.
type client struct{ e *Engine }

// outgoing is a message on its way into the inbox.
type outgoing struct {
	env  *deja.Envelope
	key  deja.ID // in the ledger
	hash [32]byte
}

// Do implements [deja.Client].
func (c *client) Do(ctx context.Context, r deja.Request) (deja.Outcome, error) {
	env, err := request.Message(c.e.machine, &r)
	if err != nil {
		return deja.Outcome{}, invalid(err)
	}
	if r.Until.IsZero() {
		return c.do(ctx, env)
	}
	return c.doUntil(ctx, env, r.Until)
}

func invalid(err error) error { return fmt.Errorf("%w: %w", deja.ErrInvalid, err) }

// do sends a message and waits for its decision in the journal: whoever makes it, this process or another.
func (c *client) do(ctx context.Context, env *deja.Envelope) (deja.Outcome, error) {
	a, err := c.ask(ctx, env)
	if err != nil {
		return deja.Outcome{ID: env.ID}, err
	}
	return a.Outcome()
}

// ask sends a message and waits for the decision that answers it.
func (c *client) ask(ctx context.Context, env *deja.Envelope) (request.Answer, error) {
	m, err := c.outgoing(env)
	if err != nil {
		return request.Answer{}, invalid(err)
	}
	p, err := c.partition(ctx, env.Stream)
	if err != nil {
		return request.Answer{}, err
	}
	// First it waits, and then it looks and sends: what is not in the ledger yet will be told.
	w, err := p.tail.wait(ctx, m.key)
	if err != nil {
		return request.Answer{}, cmp.Or(p.haltedBy(), err)
	}
	defer p.tail.leave(w)
	// The first outcome of a known message is the answer, whatever else waits to be handled. The delivery is
	// recorded all the same.
	first, known, err := c.known(ctx, m)
	if err != nil {
		return request.Answer{}, err
	}
	at, err := c.append(ctx, []outgoing{m})
	if known {
		return first, nil
	}
	if err != nil {
		return request.Answer{}, err
	}
	return c.answer(ctx, p, w, m, at[0])
}

// lookAgain is how often one that waits asks the ledger: were its message a duplicate of one that the ledger did not
// know yet, as while the store is made anew, nothing would be logged of it.
const lookAgain = 2 * time.Second

// answer waits for the decision that answers a message: its own, or that of the first delivery.
func (c *client) answer(ctx context.Context, p *partition, w *waiter, m outgoing, at deja.Position) (request.Answer, error) {
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		p.tail.mu.Lock()
		records, err := w.records, w.err
		w.records = nil
		p.tail.mu.Unlock()
		for _, r := range records {
			switch {
			case r.Cause.Position.Offset == at.Offset:
				return request.Decided(r), nil
			case r.Decided.Status != deja.Conflicted && r.Hash == m.hash:
				return request.Answer{Record: r, Duplicate: true}, nil
			}
		}
		if err := p.haltedBy(); err != nil {
			return request.Answer{}, err
		}
		if err != nil {
			return request.Answer{}, pending(err)
		}
		select {
		case <-w.told:
		case <-again.C:
			first, known, err := c.known(ctx, m)
			if err == nil && known { // a fault is no answer: what is to be told comes from the journal all the same
				first.Duplicate = first.Record.Cause.Position != at
				return first, nil
			}
		case <-ctx.Done():
			return request.Answer{}, pending(ctx.Err())
		}
	}
}

func pending(why error) error { return fmt.Errorf("%w (%w)", deja.ErrPending, why) }

// Send implements [deja.Client].
func (c *client) Send(ctx context.Context, rs ...deja.Request) ([]deja.ID, error) {
	ms, ids, err := c.outgoings(rs)
	if err != nil {
		return nil, err
	}
	if _, err := c.append(ctx, ms); err != nil {
		return nil, err
	}
	return ids, nil
}

// outgoings makes messages of requests; all of them are valid, or none is returned.
func (c *client) outgoings(rs []deja.Request) ([]outgoing, []deja.ID, error) {
	ids, ms := make([]deja.ID, len(rs)), make([]outgoing, len(rs))
	for i := range rs {
		env, err := request.Message(c.e.machine, &rs[i])
		if err == nil {
			ms[i], err = c.outgoing(env)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("request %d: %w", i, invalid(err))
		}
		ids[i] = env.ID
	}
	return ms, ids, nil
}

// State implements [deja.Client].
func (c *client) State(ctx context.Context, s deja.Stream, dst any) (int64, error) {
	if err := s.Valid(); err != nil {
		return 0, invalid(err)
	}
	if _, err := c.e.machine.NewState(s); err != nil {
		return 0, invalid(err)
	}
	if err := c.ready(ctx, s); err != nil {
		return 0, err
	}
	rows, err := c.e.store.Load(ctx, []deja.Stream{s})
	if err != nil || len(rows) == 0 || rows[0].Version == 0 {
		return 0, err
	}
	if err := json.Unmarshal(rows[0].Data, dst); err != nil {
		return 0, fmt.Errorf("state of %s into %T: %w", s, dst, err)
	}
	return rows[0].Version, nil
}

// ready waits, while the engine runs, until the stream's partition was taken over: before, the store may be on its way
// through the past, as when another fold version is folded in.
func (c *client) ready(ctx context.Context, s deja.Stream) error {
	if !c.e.running.Load() {
		return nil
	}
	p, err := c.partition(ctx, s)
	if err != nil {
		return err
	}
	return p.ready(ctx)
}

// partition returns the one that a stream's messages go to.
func (c *client) partition(ctx context.Context, s deja.Stream) (*partition, error) {
	ps, err := c.e.partitions(ctx)
	if err != nil {
		return nil, err
	}
	return ps[place.Partition(s.Key, int32(len(ps)))], nil
}

func (c *client) outgoing(env *deja.Envelope) (outgoing, error) {
	hash, err := wire.ContentHash(env)
	if err != nil {
		return outgoing{}, fmt.Errorf("%s: %w", env.Type, err)
	}
	return outgoing{env, wire.LedgerKey(c.e.machine.Name(), env), hash}, nil
}

// record returns the inbox record of a message, not placed yet.
func (m outgoing) record() driver.Record {
	return driver.Record{
		Key: m.env.Stream.Key, Value: wire.AppendMessage(make([]byte, 0, 256), m.env), Headers: wire.MessageHeaders(m.env),
	}
}

// append puts messages into the inbox, durably.
func (c *client) append(ctx context.Context, ms []outgoing) ([]deja.Position, error) {
	ps, err := c.e.partitions(ctx)
	if err != nil {
		return nil, err
	}
	recs := make([]driver.Record, len(ms))
	for i, m := range ms {
		recs[i] = m.record()
		recs[i].Partition = place.Partition(m.env.Stream.Key, int32(len(ps)))
	}
	at, err := c.e.log.Append(ctx, wire.Inbox(c.e.machine.Name()), recs)
	if errors.Is(err, driver.ErrTooLarge) {
		return nil, invalid(err) // and nothing was appended
	}
	if err != nil {
		return nil, fmt.Errorf("append to the inbox of %s: %w", c.e.machine.Name(), err)
	}
	return at, nil
}

// known looks for a logged outcome of a message that the ledger knows. A conflict must go through the inbox to be
// recorded.
func (c *client) known(ctx context.Context, m outgoing) (request.Answer, bool, error) {
	es, _, err := c.e.store.Lookup(ctx, []deja.ID{m.key})
	if err != nil || len(es) == 0 || es[0].Hash != m.hash {
		return request.Answer{}, false, err
	}
	if ok, err := c.released(ctx, es[0]); !ok {
		return request.Answer{}, false, err
	}
	r, err := c.recorded(ctx, es[0])
	if errors.Is(err, journal.ErrGap) {
		return request.Answer{}, false, nil // decided, not logged yet
	}
	if err != nil {
		return request.Answer{}, false, err
	}
	// Where store and journal tell two histories, the decision of that number may be another message's.
	same := wire.LedgerKey(c.e.machine.Name(), &r.Cause) == m.key && r.Hash == m.hash
	return request.Answer{Record: r, Duplicate: true}, same, nil
}

// released reports whether a decision may be told: where log and store are two, it must have been read in the journal,
// as a record may lie behind the marker of a later life.
func (c *client) released(ctx context.Context, e driver.Entry) (bool, error) {
	if c.e.joint() {
		return true, nil
	}
	ps, err := c.e.partitions(ctx)
	if err != nil || int(e.Partition) >= len(ps) {
		return false, err
	}
	t := &ps[e.Partition].tail
	if t.has(e.N) {
		return true, nil
	}
	at, err := ps[e.Partition].logged(ctx)
	return e.N <= at.N, err
}

// joint reports whether log and store are one database.
func (e *Engine) joint() bool {
	j, ok := e.store.(driver.Joint)
	return ok && j.Joint(e.log)
}

// latest returns the number of the newest life in a partition's journal, where it can hold several; else 0.
func (e *Engine) latest(ctx context.Context, partition int32) (int64, error) {
	if e.joint() {
		return 0, nil
	}
	at, err := e.store.Progress(ctx, partition)
	return at.Incarnation.Number, err
}

// recorded reads the decision of a ledger entry from the journal.
func (c *client) recorded(ctx context.Context, e driver.Entry) (*wire.Record, error) {
	latest, err := c.e.latest(ctx, e.Partition)
	if err != nil {
		return nil, err
	}
	found, err := journal.Find(ctx, c.e.log, c.e.machine.Name(), e.Partition, e.N, latest)
	return found.Record, err
}
