package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/request"
	"github.com/dejalog/deja/internal/step"
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
	return c.do(ctx, env)
}

func invalid(err error) error { return fmt.Errorf("%w: %w", deja.ErrInvalid, err) }

func (c *client) do(ctx context.Context, env *deja.Envelope) (deja.Outcome, error) {
	m, err := c.outgoing(env)
	if err != nil {
		return deja.Outcome{}, invalid(err)
	}
	// The first outcome of a known message is the answer, whatever else waits to be handled. The delivery is
	// recorded all the same.
	first, known, err := c.known(ctx, m)
	if err != nil {
		return deja.Outcome{}, err
	}
	at, err := c.append(ctx, []outgoing{m})
	if known {
		return first.Outcome()
	}
	if err != nil {
		return deja.Outcome{}, err
	}
	ps, err := c.e.partitions(ctx)
	if err != nil {
		return deja.Outcome{}, err
	}
	s, err := ps[at[0].Partition].wait(ctx, at[0].Offset)
	if err != nil {
		return deja.Outcome{ID: env.ID}, err
	}
	v, err := c.answer(ctx, m, at[0], s)
	if err != nil {
		return deja.Outcome{ID: env.ID}, fmt.Errorf("%w (%w)", deja.ErrPending, err)
	}
	return v.Outcome()
}

// Send implements [deja.Client].
func (c *client) Send(ctx context.Context, rs ...deja.Request) ([]deja.ID, error) {
	ids, ms := make([]deja.ID, len(rs)), make([]outgoing, len(rs))
	for i := range rs {
		env, err := request.Message(c.e.machine, &rs[i])
		if err == nil {
			ms[i], err = c.outgoing(env)
		}
		if err != nil {
			return nil, fmt.Errorf("request %d: %w", i, invalid(err))
		}
		ids[i] = env.ID
	}
	if _, err := c.append(ctx, ms); err != nil {
		return nil, err
	}
	return ids, nil
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
	ps, err := c.e.partitions(ctx)
	if err != nil {
		return err
	}
	return ps[place.Partition(s.Key, int32(len(ps)))].ready(ctx)
}

func (c *client) outgoing(env *deja.Envelope) (outgoing, error) {
	hash, err := wire.ContentHash(env)
	if err != nil {
		return outgoing{}, fmt.Errorf("%s: %w", env.Type, err)
	}
	return outgoing{env, wire.LedgerKey(c.e.machine.Name(), env), hash}, nil
}

// append puts messages into the inbox, durably.
func (c *client) append(ctx context.Context, ms []outgoing) ([]deja.Position, error) {
	ps, err := c.e.partitions(ctx)
	if err != nil {
		return nil, err
	}
	recs := make([]driver.Record, len(ms))
	for i, m := range ms {
		recs[i] = driver.Record{
			Partition: place.Partition(m.env.Stream.Key, int32(len(ps))),
			Key:       m.env.Stream.Key,
			Value:     wire.AppendMessage(make([]byte, 0, 256), m.env),
		}
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

// known looks for a logged outcome of a message that the ledger knows. A parked message has none yet, and a conflict
// must go through the inbox to be recorded.
func (c *client) known(ctx context.Context, m outgoing) (request.Answer, bool, error) {
	es, _, err := c.e.store.Lookup(ctx, []deja.ID{m.key})
	if err != nil || len(es) == 0 || es[0].Hash != m.hash || es[0].Status == deja.Parked {
		return request.Answer{}, false, err
	}
	if ok, err := c.released(ctx, es[0]); !ok {
		return request.Answer{}, false, err
	}
	r, err := c.recorded(ctx, es[0])
	if errors.Is(err, journal.ErrGap) {
		return request.Answer{}, false, nil // decided, not logged yet
	}
	return request.Answer{Record: r, Duplicate: true}, err == nil, err
}

// released reports whether a decision may be told: where log and store are two, this engine must have read it back, as
// a record may lie behind the marker of a later life.
func (c *client) released(ctx context.Context, e driver.Entry) (bool, error) {
	if c.joint() {
		return true, nil
	}
	ps, err := c.e.partitions(ctx)
	if err != nil || int(e.Partition) >= len(ps) {
		return false, err
	}
	return ps[e.Partition].hasReleased(e.N), nil
}

func (c *client) joint() bool {
	j, ok := c.e.store.(driver.Joint)
	return ok && j.Joint(c.e.log)
}

// recorded reads the decision of a ledger entry from the journal.
func (c *client) recorded(ctx context.Context, e driver.Entry) (*wire.Record, error) {
	at, err := c.e.store.Progress(ctx, e.Partition)
	if err != nil {
		return nil, err
	}
	latest := at.Incarnation.Number
	if c.joint() {
		latest = 0
	}
	found, err := journal.Find(ctx, c.e.log, c.e.machine.Name(), e.Partition, e.N, latest)
	return found.Record, err
}

// answer turns a settlement into what is told; without one the ledger has it.
func (c *client) answer(ctx context.Context, m outgoing, at deja.Position, s *step.Settlement) (request.Answer, error) {
	switch {
	case s == nil:
		return c.fromLedger(ctx, m, at)
	case s.Record != nil:
		return request.Decided(s.Record), nil
	}
	r, err := c.recorded(ctx, s.Entry)
	return request.Answer{Record: r, Duplicate: true}, err
}

// fromLedger answers for a message that was settled unseen: by a transaction whose commit looked failed.
func (c *client) fromLedger(ctx context.Context, m outgoing, at deja.Position) (request.Answer, error) {
	es, _, err := c.e.store.Lookup(ctx, []deja.ID{m.key})
	if err != nil {
		return request.Answer{}, err
	}
	if len(es) == 0 {
		return request.Answer{}, fmt.Errorf("message %s is below the handled position, but not in the ledger", m.env.ID)
	}
	r, err := c.recorded(ctx, es[0])
	if err != nil {
		return request.Answer{}, err
	}
	a := request.Answer{Record: r, Duplicate: es[0].Offset != at.Offset}
	if es[0].Hash != m.hash {
		first := deja.Position{Topic: at.Topic, Partition: es[0].Partition, Offset: es[0].Offset}
		a.Conflict = &deja.Conflict{ID: m.env.ID, First: first, Second: at, Paths: c.differ(ctx, first, m.env)}
	}
	return a, nil
}

// differ names what differs from the first message; nil where it cannot be read.
func (c *client) differ(ctx context.Context, first deja.Position, env *deja.Envelope) []string {
	recs, err := c.e.log.Fetch(ctx, first, 1)
	if err != nil {
		return nil
	}
	old, err := wire.NewDecoder(c.e.machine.Name()).Message(recs[0].Value)
	if err != nil {
		return nil
	}
	return step.Differ(old, env)
}
