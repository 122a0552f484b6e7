package dejatest

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
)

// tries is how often everything is done that must come out the same each time. It is many, since Go walks through a map
// of two in the order of insertion seven times of eight: 32 tries leave one such handler of sixty unseen, 8 left two of five.
const tries = 32

// began is when cases and worlds begin.
var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A Case is a test of one aggregate by what is given, what happens, and what then must have come of it. Its methods
// return the case, to be chained, and end the test where something is not as it says. It belongs to one goroutine.
//
// Redelivery needs no step of its own here: whoever runs the service suppresses a message that it knows before any
// handler sees it, and a [World] tests that. What a handler must do for it is to decide the same each time, and to
// change the state by recorded events alone; these are checked at every [Case.When].
type Case[S any] struct {
	t      testing.TB
	m      *deja.Machine
	stream deja.Stream
	now    time.Time

	version int64
	data    []byte // the state, encoded; empty at version 0
	count   int64  // messages so far

	timers map[string]deja.Timer // scheduled, and neither cancelled nor fired

	subject string        // the last message, to be named in failures
	got     *deja.Decided // what it came to
	said    bool          // the test has said that it was refused or failed
}

// New returns a case of the aggregate's instance key, with an empty state. It ends the test with all faults of the
// aggregate's table.
func New[S any](tb testing.TB, agg *deja.Aggregate[S], key string) *Case[S] {
	tb.Helper()
	m, err := deja.Compile(&deja.Service{Name: "dejatest", Aggregates: []deja.AnyAggregate{agg}})
	if err != nil {
		tb.Fatalf("%v", err)
	}
	c := &Case[S]{t: tb, m: m, stream: deja.Stream{Aggregate: agg.Name(), Key: key}, now: began, timers: map[string]deja.Timer{}}
	if err := c.stream.Valid(); err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if !tb.Failed() && c.unsaid() {
			tb.Errorf("%s was %s; the test must say so: Rejected or Fails", c.subject, verdict(c.got))
		}
	})
	return c
}

// At sets the time of the decisions from here on, to the microsecond. It begins at 2026-01-01 00:00 UTC, and may be
// set to any time before the first message; then it cannot go back, as that of a partition never does.
func (c *Case[S]) At(t time.Time) *Case[S] {
	c.t.Helper()
	t = wire.Micro(t)
	if c.got != nil && t.Before(c.now) {
		c.t.Fatalf("At %s: decisions were made at %s already, and their time does not go back", t, c.now)
	}
	c.now = t
	return c
}

// Given folds events that were recorded before. They are encoded and decoded on the way, as in a journal.
func (c *Case[S]) Given(events ...deja.Event) *Case[S] {
	c.t.Helper()
	c.settled()
	envs := make([]deja.Envelope, len(events))
	for i, e := range events {
		envs[i] = c.event(e)
		envs[i].Version = c.version + int64(i) + 1
	}
	c.fold(envs)
	return c
}

// When lets the aggregate decide a message, and folds what it records. The message is a [deja.Command], a
// [deja.Request] (its key is the case's) for one with actor, business time, headers or an ID of its own, a
// [deja.Reply], a [deja.Failed] or another aggregate's event. It is encoded and decoded on the way.
//
// The message is decided several times, on a state and a message decoded anew each time. The test ends if two
// decisions differ, if deciding changed the state (through a map, a slice or a pointer in it), if applying the events
// again gives another state, or if that state is not the same once it was written and read. After a message that
// failed, the next is decided as if an operator had skipped it.
//
// A message that is not applied must be said to be [Case.Rejected] or to be one that [Case.Fails].
func (c *Case[S]) When(message any) *Case[S] {
	c.t.Helper()
	c.settled()
	c.count++
	in, err := c.incoming(message)
	if err != nil {
		c.t.Fatalf("When %T: %v", message, err)
	}
	c.happens(in)
	return c
}

// Fires lets time go by until what the aggregate has scheduled under a name is due, and lets it decide that as
// [Case.When] does: it was scheduled by a message of the case, and neither cancelled nor fired since.
func (c *Case[S]) Fires(name string) *Case[S] {
	c.t.Helper()
	c.settled()
	t, ok := c.timers[name]
	if !ok {
		c.t.Fatalf("Fires: nothing is scheduled under %q, but:%s", name, listed(slices.Sorted(maps.Keys(c.timers))))
	}
	c.count++
	delete(c.timers, name)
	if t.Due.After(c.now) {
		c.now = t.Due
	}
	env := route.Fired(&t)
	env.Time = c.now
	c.happens(&incoming{&env, func() (any, error) { return c.m.Decode(&env) }})
	return c
}

// happens lets the aggregate decide a message, and follows what it decides.
func (c *Case[S]) happens(in *incoming) {
	c.t.Helper()
	c.subject, c.got, c.said = line(in.env)+" for "+c.stream.String(), nil, false
	for range tries {
		c.decide(in)
	}
	if c.got.Status != deja.Applied {
		return
	}
	c.fold(c.got.Events)
	for _, name := range c.got.Cancelled {
		delete(c.timers, name)
	}
	for _, t := range c.got.Timers {
		c.timers[t.Name] = t
	}
}

// decide decides the message once, and compares with the first time.
func (c *Case[S]) decide(in *incoming) {
	c.t.Helper()
	msg, err := in.decode()
	if err != nil {
		c.t.Fatalf("%s: %v", c.subject, err)
	}
	d := c.m.Decide(c.load(), in.env, msg, c.now)
	if c.got == nil {
		c.got = d
	}
	if !reflect.DeepEqual(c.got, d) {
		c.t.Fatalf("%s: two decisions differ; they may depend on nothing but the state, the message and what the Decision gives (- first, + again):%s",
			c.subject, diff(describe(c.got, c.now), describe(d, c.now)))
	}
}

// fold applies events to the state.
func (c *Case[S]) fold(events []deja.Envelope) {
	c.t.Helper()
	if len(events) == 0 {
		return
	}
	var first []byte
	for range tries {
		st := c.load()
		for i := range events {
			if err := c.m.Fold(st, &events[i]); err != nil {
				c.t.Fatalf("%v", err)
			}
		}
		data := c.encode(st)
		if first == nil {
			first = data
		}
		if !bytes.Equal(first, data) {
			c.t.Fatalf("applying %s again gave another state; Apply functions may depend on nothing but state and event (- first, + again):%s",
				eventLines(&deja.Decided{Events: events}), c.diffStates(first, data))
		}
	}
	c.version, c.data = c.version+int64(len(events)), first
	if again := c.encode(c.load()); !bytes.Equal(first, again) {
		c.t.Fatalf("the state of %s is another once it was written and read (- written, + read):%s", c.stream, c.diffStates(first, again))
	}
}

// load decodes the state anew.
func (c *Case[S]) load() *deja.State {
	c.t.Helper()
	st, err := c.m.DecodeState(c.stream, c.version, c.data)
	if err != nil {
		c.t.Fatalf("%v", err)
	}
	return st
}

func (c *Case[S]) encode(st *deja.State) []byte {
	c.t.Helper()
	data, err := st.Encode()
	if err != nil {
		c.t.Fatalf("encode state of %s: %v", c.stream, err)
	}
	return data
}

// diffStates names the fields that differ between two encoded states.
func (c *Case[S]) diffStates(want, got []byte) string {
	c.t.Helper()
	w, err := c.m.Flatten(nil, c.stream.Aggregate, want)
	if err != nil {
		return fmt.Sprintf("\n  %v", err)
	}
	g, err := c.m.Flatten(nil, c.stream.Aggregate, got)
	if err != nil {
		return fmt.Sprintf("\n  %v", err)
	}
	return fieldDiff(w, g)
}

// event encodes an event of the case's instance.
func (c *Case[S]) event(e deja.Event) deja.Envelope {
	c.t.Helper()
	return c.payload(deja.KindEvent, e.EventType(), e)
}

// payload encodes what a test expects or gives.
func (c *Case[S]) payload(kind deja.Kind, name string, v any) deja.Envelope {
	c.t.Helper()
	data, err := c.m.Codec().Append(nil, v)
	if err == nil {
		err = deja.CheckPayload(c.m.Codec().ContentType(), data)
	}
	if err != nil {
		c.t.Fatalf("encode %s: %v", name, err)
	}
	id := c.id()
	return deja.Envelope{
		ID: id, Kind: kind, Type: name, Stream: c.stream, Source: c.m.Name(), Time: c.now, CorrelationID: id,
		ContentType: c.m.Codec().ContentType(), Payload: data,
	}
}

// id returns the ID of the present message: the n-th of a case always has the same.
func (c *Case[S]) id() deja.ID {
	return deja.DeriveID("deja/dejatest/case", strconv.FormatInt(c.count, 10))
}

// unsaid reports whether the last message was not applied, and the test has not said so.
func (c *Case[S]) unsaid() bool { return c.got != nil && c.got.Status != deja.Applied && !c.said }

// settled ends the test if it goes on after a message of which it does not say that it was not applied.
func (c *Case[S]) settled() {
	c.t.Helper()
	if c.unsaid() {
		c.t.Fatalf("%s was %s; the test must say so: Rejected or Fails", c.subject, verdict(c.got))
	}
}
