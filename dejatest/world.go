package dejatest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
)

// partitions is how many partitions a world's topics have: more than one, so that keys are apart.
const partitions = 4

// A World runs whole services in memory: their handlers and projections over a log and stores that are things apart, as
// Kafka and databases are, with the very steps that engines take. What a service sends is carried to the one that has the
// aggregate, replies are carried back, and timers fire when the world's clock has come to their time. Nothing runs by
// itself: before a method returns, all has happened that can without time going by.
//
// The clock begins at 2026-01-01 00:00 UTC, and moves on by a second with each request, and by [World.Advance].
//
// Effects stay open, see [World.Effects], unless [World.Perform] says how they are performed. Aggregates that none of the
// services has are played by the test, see [World.Sent] and [World.Happened].
//
// What a world does is repeatable: IDs, times and the order of all steps follow from what is asked of it. Projections'
// statements are recorded, not executed, so a projection that reads with Rows fails here: test it on a real store.
//
// A world belongs to one goroutine. Its methods end the test where something is wrong.
type World struct {
	t       testing.TB
	members []*member
	course  *course
	script  []entry // all that came from outside, in order
	seen    map[[32]byte]view
	before  func(driver.Store) driver.Store // stands before the stores in each life; nil for nothing
	over    bool                            // it may only be looked at
}

// identity is what tells a message from others: the ledger key, and the content.
type identity struct {
	service int
	key     deja.ID
	hash    [32]byte
}

// NewWorld returns a world that runs services. It ends the test with all faults of the services.
func NewWorld(tb testing.TB, services ...*deja.Service) *World {
	tb.Helper()
	return newWorld(tb, nil, services...)
}

func newWorld(tb testing.TB, before func(driver.Store) driver.Store, services ...*deja.Service) *World {
	tb.Helper()
	w := &World{t: tb, seen: map[[32]byte]view{}, before: before, members: members(tb, services)}
	w.course = newCourse(w)
	if err := w.course.startAll(context.Background()); err != nil {
		tb.Fatalf("%v", err)
	}
	return w
}

// members compiles services, and finds out who owns which aggregate.
func members(tb testing.TB, services []*deja.Service) []*member {
	tb.Helper()
	if len(services) == 0 {
		tb.Fatalf("NewWorld: got 0 services, want at least one")
	}
	var ms []*member
	owners := map[string]string{}
	for _, s := range services {
		m, err := deja.Compile(s)
		if err != nil {
			tb.Fatalf("%v", err)
		}
		if m.Name() == played || slices.ContainsFunc(ms, func(o *member) bool { return o.name() == m.Name() }) {
			tb.Fatalf("NewWorld: the name of service %s is taken", m.Name())
		}
		for _, a := range m.Aggregates() {
			if owner := owners[a]; owner != "" {
				tb.Fatalf("NewWorld: services %s and %s both have an aggregate %s", owner, m.Name(), a)
			}
			owners[a] = m.Name()
		}
		ms = append(ms, &member{m: m})
	}
	for _, m := range ms {
		m.peers = map[string]string{}
		sends, replies, events := m.m.Counterparts()
		for _, a := range slices.Concat(sends, replies, events) {
			if owners[a] == "" {
				m.peers[a] = played
			} else {
				m.peers[a] = owners[a]
			}
		}
		if err := m.m.CheckPeers(m.peers); err != nil {
			tb.Fatalf("%v", err)
		}
		m.talks = route.NewTopology(m.m, m.peers)
	}
	return ms
}

// Do sends a request to the service that has the command's aggregate, lets everything happen that follows without time going
// by, and answers as [deja.Client.Do] does: with an error that wraps [deja.ErrPending] if the point that Until names was
// not reached. A request without an ID gets one that follows from its number.
func (w *World) Do(r deja.Request) (deja.Outcome, error) {
	w.t.Helper()
	e, err := w.request(r)
	if err != nil {
		return deja.Outcome{}, fmt.Errorf("%w: %w", deja.ErrInvalid, err)
	}
	m := w.members[e.service].m
	var until []string
	if !r.Until.IsZero() {
		if until, err = r.Until.Events(m, e.request.Stream.Aggregate); err != nil {
			return deja.Outcome{}, fmt.Errorf("%w: %w", deja.ErrInvalid, err)
		}
	}
	w.come(e)
	first := w.course.last
	out, err := first.Outcome()
	if err != nil || until == nil {
		return out, err
	}
	err = w.course.lives[e.service].decisions(context.Background(), func(rec *wire.Record) {
		for i := range rec.Decided.Events {
			ev := &rec.Decided.Events[i]
			if out.Reached == nil && ev.Stream == first.Record.Cause.Stream && rec.N >= first.Record.N && slices.Contains(until, ev.Type) {
				out.Reached = ev
			}
		}
	})
	if err != nil {
		w.t.Fatalf("read the journal of %s: %v", m.Name(), err)
	}
	if out.Reached == nil {
		return out, fmt.Errorf("%w: %s has recorded none of %v", deja.ErrPending, e.request.Stream, until)
	}
	return out, nil
}

// Must sends a request and returns its outcome. It ends the test unless the request was applied, now or before, and the
// point that Until names was reached.
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

// Advance lets time go by. Timers fire in order, each at its time and with all that follows from it before the next.
func (w *World) Advance(d time.Duration) {
	w.t.Helper()
	if d < 0 {
		w.t.Fatalf("Advance %s: time does not go back", d)
	}
	w.come(entry{at: w.course.disk.now.Add(d), text: fmt.Sprintf("the clock: %s go by", d)})
}

// Now returns the time by the world's clock.
func (w *World) Now() time.Time { return w.course.disk.now }

// come adds an entry to the script, and lets everything happen that follows.
func (w *World) come(e entry) {
	w.t.Helper()
	if w.over {
		w.t.Fatalf("%s: an invariant may look at the world, and not go on with it", e.text)
	}
	if e.at.IsZero() {
		e.at = w.course.disk.now
	}
	w.script = append(w.script, e)
	w.course.script = w.script
	if err := w.course.run(context.Background()); err != nil {
		w.t.Fatalf("%s: %v", e.text, err)
	}
}

// State decodes the state of a stream into dst, a pointer to it, and returns the stream's version; 0 and an untouched
// dst where nothing was recorded yet.
func (w *World) State(s deja.Stream, dst any) int64 {
	w.t.Helper()
	l, err := w.course.find(s.Aggregate)
	var version int64
	if err == nil {
		version, err = l.state(context.Background(), s, dst)
	}
	if err != nil {
		w.t.Fatalf("state of %s: %v", s, err)
	}
	return version
}

// Streams returns the instances of an aggregate that have recorded something, in order of tenants and keys.
func (w *World) Streams(aggregate string) []deja.Stream {
	w.t.Helper()
	l, err := w.course.find(aggregate)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	rows, err := l.states(context.Background())
	if err != nil {
		w.t.Fatalf("states of %s: %v", l.name(), err)
	}
	var all []deja.Stream
	for _, r := range rows {
		if r.Stream.Aggregate == aggregate && r.Version > 0 {
			all = append(all, r.Stream)
		}
	}
	return all
}

// Hash returns a hash of all that can be seen of the world: every state with its version and what it waits for, the
// statements of the projections in their order in each partition, and what each request was told. Duplicate deliveries
// leave it as it is; the places of messages in the log are not part of it.
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
	v, err := w.course.view(context.Background())
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	return v
}

// request makes the next entry of the script of a request.
func (w *World) request(r deja.Request) (entry, error) {
	n, at := 0, w.course.disk.now
	for i := range w.script {
		if w.script[i].request != nil {
			n++
		}
	}
	if n > 0 {
		at = at.Add(time.Second)
	}
	e := entry{at: at, service: w.owner(r.Command)}
	m := w.members[e.service]
	env, err := message(m.m, r, deja.DeriveID("deja/dejatest/world", strconv.Itoa(n+1)))
	if err != nil {
		return e, err
	}
	if _, err := wire.ContentHash(env); err != nil {
		return e, fmt.Errorf("%s: %w", env.Type, err)
	}
	e.request, e.text = env, fmt.Sprintf("request %d: %s of %s", n+1, line(env), env.Stream)
	e.delivered = []delivery{{m.name(), driver.Record{
		Partition: place.Partition(env.Stream.Key, partitions), Key: env.Stream.Key, Value: wire.AppendMessage(nil, env),
	}}}
	return e, nil
}

// owner returns the index of the service that has a command's aggregate; 0 if none has, to say so.
func (w *World) owner(c deja.Command) int {
	if c == nil {
		return 0
	}
	aggregate, err := deja.Target(c.CommandType())
	if err != nil {
		return 0
	}
	return max(0, slices.IndexFunc(w.members, func(m *member) bool { return m.m.Saga(aggregate) != nil }))
}
