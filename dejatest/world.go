package dejatest

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/wire"
)

// partitions is how many partitions a world's topics have: more than one, so that keys are apart.
const partitions = 4

// A World runs a whole service in memory: its handlers and projections over a log and a store that are two things
// apart, as Kafka and a database are, with the very steps that an engine takes. Nothing runs by itself: a request is
// appended, decided, committed, logged and told before the method returns. The world has a clock of its own, which
// begins at 2026-01-01 00:00 UTC and moves on by a second with each request.
//
// What a world does is repeatable: IDs, times and the order of all steps follow from the requests. Projections'
// statements are recorded, not executed, so a projection that reads with Rows fails here: test it on a real store.
//
// A world belongs to one goroutine. Its methods end the test where something is wrong.
type World struct {
	t      testing.TB
	m      *deja.Machine
	live   *life
	script []asked  // all that was asked, in order
	told   []string // what was answered, in order
	seen   map[[32]byte]view
	before func(driver.Store) driver.Store // stands before the store in each life; nil for nothing
}

// asked is a request, one of a world's script, ready to be sent any number of times.
type asked struct {
	env   *deja.Envelope
	id    identity
	place int32
	value []byte // in the inbox
	at    time.Time
}

// identity is what tells a message from others: the ledger key, and the content.
type identity struct {
	key  deja.ID
	hash [32]byte
}

// NewWorld returns a world that runs one service. It ends the test with all faults of the service, and if there is
// more than one: messages between services are not delivered yet.
func NewWorld(tb testing.TB, services ...*deja.Service) *World {
	tb.Helper()
	return newWorld(tb, nil, services...)
}

func newWorld(tb testing.TB, before func(driver.Store) driver.Store, services ...*deja.Service) *World {
	tb.Helper()
	if len(services) != 1 {
		tb.Fatalf("NewWorld: got %d services, want one; more can meet once messages between services are delivered, which comes with sagas", len(services))
	}
	m, err := deja.Compile(services[0])
	if err == nil {
		err = m.CheckPeers(nil)
	}
	if err != nil {
		tb.Fatalf("%v", err)
	}
	w := &World{t: tb, m: m, seen: map[[32]byte]view{}, before: before}
	d := newDisk()
	if w.live, err = w.start(context.Background(), d, d.log, d.store); err != nil {
		tb.Fatalf("start %s: %v", m.Name(), err)
	}
	return w
}

// start begins a life of the service over a disk.
func (w *World) start(ctx context.Context, d *disk, log driver.Log, store driver.Store) (*life, error) {
	if w.before != nil {
		store = w.before(store)
	}
	return start(ctx, w.m, d, log, store)
}

// Do sends a request, waits until it is settled, and answers as [deja.Client.Do] does. A request without an ID gets
// one that follows from its number.
func (w *World) Do(r deja.Request) (deja.Outcome, error) {
	w.t.Helper()
	req, err := w.request(r)
	if err != nil {
		return deja.Outcome{}, err
	}
	a, err := w.live.ask(context.Background(), &req)
	if err != nil {
		w.t.Fatalf("request %d, %s: %v", len(w.script)+1, line(req.env), err)
	}
	w.script, w.told = append(w.script, req), append(w.told, a.String())
	return a.Outcome()
}

// Must sends a request and returns its outcome. It ends the test unless the request was applied, now or before.
func (w *World) Must(r deja.Request) deja.Outcome {
	w.t.Helper()
	out, err := w.Do(r)
	if err != nil {
		w.t.Fatalf("%s for key %s: %v", commandName(r.Command), r.Key, err)
	}
	return out
}

func commandName(c deja.Command) string {
	if c == nil {
		return "no command"
	}
	return c.CommandType()
}

// State decodes the state of a stream into dst, a pointer to it, and returns the stream's version; 0 and an untouched
// dst where nothing was recorded yet.
func (w *World) State(s deja.Stream, dst any) int64 {
	w.t.Helper()
	version, err := w.live.state(context.Background(), s, dst)
	if err != nil {
		w.t.Fatalf("state of %s: %v", s, err)
	}
	return version
}

// Hash returns a hash of all that can be seen of the world: every state with its version, the statements of the
// projections in their order in each partition, and what each request was told. Duplicate deliveries leave it as it
// is; the places of messages in the log are not part of it.
func (w *World) Hash() [32]byte {
	w.t.Helper()
	v := w.view()
	h := v.hash()
	w.seen[h] = v
	return h
}

// WantHash ends the test if the world's hash is another than h, and shows what has changed since Hash returned it.
func (w *World) WantHash(h [32]byte) {
	w.t.Helper()
	now := w.view()
	if now.hash() == h {
		return
	}
	before, ok := w.seen[h]
	if !ok {
		w.t.Fatalf("the world's hash is %x, want %x, which it never was", now.hash(), h)
	}
	w.t.Fatalf("the world is not what it was (- then, + now):%s", diff(before, now))
}

func (w *World) view() view {
	w.t.Helper()
	v, err := w.live.view(context.Background(), w.told)
	if err != nil {
		w.t.Fatalf("look at %s: %v", w.m.Name(), err)
	}
	return v
}

// request makes the next request of the script.
func (w *World) request(r deja.Request) (asked, error) {
	n := len(w.script)
	env, err := message(w.m, r, deja.DeriveID("deja/dejatest/world", strconv.Itoa(n+1)))
	if err != nil {
		return asked{}, fmt.Errorf("%w: %w", deja.ErrInvalid, err)
	}
	hash, err := wire.ContentHash(env)
	if err != nil {
		return asked{}, fmt.Errorf("%w: %s: %w", deja.ErrInvalid, env.Type, err)
	}
	return asked{
		env:   env,
		id:    identity{wire.LedgerKey(w.m.Name(), env), hash},
		place: place.Partition(env.Stream.Key, partitions),
		value: wire.AppendMessage(nil, env),
		at:    began.Add(time.Duration(n) * time.Second),
	}, nil
}
