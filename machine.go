package deja

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/dejalog/deja/internal/body"
	"github.com/dejalog/deja/internal/canon"
)

// A Machine is a compiled [Service]: the deterministic state machine that engines, replay and tests drive. Services
// never call it. It holds no state and is safe for concurrent use.
type Machine struct {
	name        string
	codec       Codec
	tables      map[string]*ruleTable // by aggregate
	upcasters   map[string]Upcaster   // by old wire name
	projections []*Projection
	projectors  map[string][]projector // by wire name
	reacting    []string               // the aggregates with React rows, sorted
	fold        string
}

// ruleTable is an aggregate's table, indexed.
type ruleTable struct {
	*definition
	shape *canon.Shape
	flat  bool // copying a state copies all of it
	saga  *Saga
	rows  map[rowKey]*row
}

func (t *ruleTable) has(kind rowKind, wire string) bool {
	_, ok := t.rows[rowKey{kind, wire}]
	if !ok && kind == rowReply {
		_, ok = t.rows[rowKey{rowForget, wire}]
	}
	return ok
}

// Status tells how a message was settled. Its numbers are part of the recorded format.
type Status uint8

// The outcomes of handling a message.
const (
	Applied    Status = 1 + iota // the handler returned nil, with or without events
	Rejected                     // refused for a business reason
	Ignored                      // nothing to do with it
	Conflicted                   // its ID was used before, with other content
	Parked                       // waits for an operator
	DeadLetter                   // can never be handled
)

var statusNames = [...]string{"", "applied", "rejected", "ignored", "conflict", "parked", "dead"}

// String returns the outcome's word, such as "applied".
func (s Status) String() string {
	if s == 0 || int(s) >= len(statusNames) {
		return fmt.Sprintf("status(%d)", uint8(s))
	}
	return statusNames[s]
}

// Decided is a decision as data, all payloads encoded and all IDs derived.
type Decided struct {
	Status    Status
	Reason    Rejection // zero when applied
	Events    []Envelope
	Commands  []Envelope
	Timers    []Timer
	Cancelled []string
	Effects   []Envelope
}

// A Timer is a command that its own aggregate is to be sent at a time to come.
type Timer struct {
	Name    string
	Due     time.Time
	Command Envelope
}

// State is an aggregate's state at a version. It belongs to whoever made it, and is not safe for concurrent use.
type State struct {
	Stream  Stream
	Version int64

	value any // *S
	table *ruleTable
}

// Projects reports whether events are projected at all.
func (m *Machine) Projects() bool { return len(m.projectors) > 0 }

// NewState returns the empty state of a stream, or an error if the service has no such aggregate.
func (m *Machine) NewState(s Stream) (*State, error) {
	t, ok := m.tables[s.Aggregate]
	if !ok {
		return nil, fmt.Errorf("service %s has no aggregate %q; it has %v", m.name, s.Aggregate, m.Aggregates())
	}
	return &State{Stream: s, value: t.newState(), table: t}, nil
}

// DecodeState returns the state that [State.Encode] wrote; empty data is the empty state.
func (m *Machine) DecodeState(s Stream, version int64, data []byte) (*State, error) {
	st, err := m.NewState(s)
	if err != nil || len(data) == 0 {
		return st, err
	}
	st.Version = version
	if st.value, err = st.table.decode(data); err != nil {
		return nil, fmt.Errorf("decode state of %s: %w", s, err)
	}
	return st, nil
}

// Encode returns the state as JSON: deterministic, and what DecodeState reads.
func (s *State) Encode() (data []byte, err error) {
	defer recovered(&err)
	return json.Marshal(s.value)
}

// recovered turns a panic of a user's code into an error: for deferring.
func recovered(err *error) {
	if p := recover(); p != nil { //nolint:revive // it is the deferred function
		*err = fmt.Errorf("panic: %v%s", p, panicSite())
	}
}

// Value returns a pointer to the aggregate's state.
func (s *State) Value() any { return s.value }

// Flatten appends to dst the fields of a state of the aggregate, given as Encode wrote it.
func (m *Machine) Flatten(dst []canon.Field, aggregate string, state []byte) ([]canon.Field, error) {
	t, ok := m.tables[aggregate]
	if !ok {
		return dst, fmt.Errorf("service %s has no aggregate %q", m.name, aggregate)
	}
	return t.shape.Flatten(dst, state)
}

// Shape returns the shape of an aggregate's state; nil if the service has no such aggregate.
func (m *Machine) Shape(aggregate string) *canon.Shape {
	if t, ok := m.tables[aggregate]; ok {
		return t.shape
	}
	return nil
}

// Target returns the stream's aggregate for a command's wire name: the one in the name.
func Target(commandType string) (aggregate string, err error) { return aggregateOf(commandType) }

// Decode decodes a message's payload for the aggregate that it is addressed to. The error is a *[Rejection] of code
// [CodeUnknownType] or [CodeMalformed]: such a message is dead.
func (m *Machine) Decode(env *Envelope) (any, error) {
	decode, reason := m.handlerOf(env)
	if reason != nil {
		return nil, reason
	}
	msg, err := decode(env)
	if err != nil {
		return nil, &Rejection{CodeMalformed, err.Error()}
	}
	return msg, nil
}

// Decide lets the aggregate decide msg, the decoded message of env, on st, which it does not change. A refusal, an
// error or a panic of the handler is part of the result.
func (m *Machine) Decide(st *State, env *Envelope, msg any, at time.Time) *Decided {
	d := &Decision{table: st.table, service: m.name, env: env, at: at}
	res, err := m.decide(d, st, msg)
	if err != nil {
		return &Decided{Status: Parked, Reason: Rejection{CodeFailed, textOf(err)}}
	}
	return res
}

// decide runs all of the user's code that deciding takes; a panic in any of it is an error.
func (m *Machine) decide(d *Decision, st *State, msg any) (res *Decided, err error) {
	defer recovered(&err)
	err = d.run(st, msg)
	var rejection *Rejection
	switch {
	case err == nil:
		return m.encode(d, st.Version)
	case !errors.As(err, &rejection) || rejection == nil:
		return nil, err
	case rejection.Code == "" || strings.HasPrefix(rejection.Code, reservedPrefix):
		return nil, fmt.Errorf("a refusal needs a code of the service's own, not %q", rejection.Code)
	}
	return &Decided{Status: Rejected, Reason: *rejection}, nil
}

// reservedPrefix begins the names and codes that are deja's own.
const reservedPrefix = "deja."

// textOf returns an error's text; an Error method that panics, as on a nil pointer in an error, has none.
func textOf(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("an error of type %T whose Error method panics", err)
		}
	}()
	return err.Error()
}

// run calls the handler, on a state that is its own: where copying the value leaves maps, slices or pointers shared, it
// is decoded anew, or a handler could change the state without an event.
func (d *Decision) run(st *State, msg any) error {
	key, err := keyOf(msg)
	if err != nil {
		return err
	}
	if key == (rowKey{}) {
		return nil // nobody is to hear of it
	}
	r, ok := d.table.rows[key]
	if !ok {
		return fmt.Errorf("aggregate %s: no %s row for %s", d.table.name, key.kind, key.wire)
	}
	if d.table.flat {
		return cmp.Or(r.decide(st.value, d, msg), d.err)
	}
	data, err := st.Encode()
	if err != nil {
		return err
	}
	own := &State{Stream: st.Stream, table: st.table}
	if own.value, err = d.table.decode(data); err != nil {
		return err
	}
	refusal := cmp.Or(r.decide(own.value, d, msg), d.err)
	if after, err := own.Encode(); err != nil || !bytes.Equal(after, data) {
		return errors.Join(errors.New("the handler changed the state, through a map, a slice or a pointer in it; only Apply functions may"), err)
	}
	return refusal
}

// panicSite names the function and line that panicked. It goes into the record, so it must be the same each time: a
// whole stack has addresses in it.
func panicSite() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") {
			return fmt.Sprintf(" (in %s, %s:%d)", f.Function, filepath.Base(f.File), f.Line)
		}
		if !more {
			return ""
		}
	}
}

// Fold applies a recorded event to st and moves its version on. After an error st must not be used any more.
func (m *Machine) Fold(st *State, ev *Envelope) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("apply %s to %s: panic: %v%s", ev.Type, st.Stream, p, panicSite())
		}
	}()
	e, r, err := m.event(st.table, ev)
	if err != nil {
		return err
	}
	r.apply(st.value, e)
	st.Version++
	return nil
}

// UnknownEventError says that the service has no way to apply an event that it recorded: a newer build must have
// done it. A service that meets one halts.
type UnknownEventError struct {
	Type   string
	Stream Stream
}

// Error says what to do.
func (e *UnknownEventError) Error() string {
	return fmt.Sprintf("%s recorded %s, which this build cannot apply: run the build that recorded it, or add an Apply row or an upcaster", e.Stream, e.Type)
}

// event decodes an event and upcasts it to the shape that the aggregate applies.
func (m *Machine) event(t *ruleTable, ev *Envelope) (any, *row, error) {
	if r, ok := t.rows[rowKey{rowApply, ev.Type}]; ok {
		e, err := r.decode(m.codec, ev.Payload)
		return e, r, wrapEvent(err, ev)
	}
	up, ok := m.upcasters[ev.Type]
	if !ok {
		return nil, nil, &UnknownEventError{ev.Type, ev.Stream}
	}
	e, err := up.decode(m.codec, ev.Payload)
	if err != nil {
		return nil, nil, wrapEvent(err, ev)
	}
	for {
		e = up.up(e)
		if r, ok := t.rows[rowKey{rowApply, up.to}]; ok {
			return e, r, nil
		}
		if up, ok = m.upcasters[up.to]; !ok {
			return nil, nil, &UnknownEventError{ev.Type, ev.Stream}
		}
	}
}

func wrapEvent(err error, ev *Envelope) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("decode event %s of %s: %w", ev.Type, ev.Stream, err)
}

// Project runs every projection's rows for a recorded event.
func (m *Machine) Project(tx Tx, ev *Envelope) (err error) {
	if len(m.projectors) == 0 {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("project %s of %s: panic: %v%s", ev.Type, ev.Stream, p, panicSite())
		}
	}()
	t, ok := m.tables[ev.Stream.Aggregate]
	if !ok {
		return &UnknownEventError{ev.Type, ev.Stream}
	}
	e, r, err := m.event(t, ev)
	if err != nil {
		return err
	}
	for _, p := range m.projectors[r.wire] {
		if err := p.fn(tx, ev, e); err != nil {
			return fmt.Errorf("project %s of %s at version %d: %w", ev.Type, ev.Stream, ev.Version, err)
		}
	}
	return nil
}

// encode turns what a handler collected into the decision as data.
func (m *Machine) encode(d *Decision, version int64) (*Decided, error) {
	e := encoder{m: m, d: d, nth: map[string]int{}}
	res := &Decided{Status: Applied, Cancelled: d.out.cancelled}
	for i, ev := range d.out.events {
		env := e.envelope(KindEvent, ev.EventType(), d.env.Stream, ev)
		env.Version, env.Position, env.Time = version+int64(i)+1, d.env.Position, d.at
		res.Events = append(res.Events, env)
	}
	for _, s := range d.out.sent {
		res.Commands = append(res.Commands, e.sent(s.key, s.command))
	}
	for _, t := range d.out.timers {
		res.Timers = append(res.Timers, Timer{t.name, t.due, e.command(d.env.Stream.Key, t.command)})
	}
	for _, ef := range d.out.effects {
		res.Effects = append(res.Effects, e.envelope(KindEffect, ef.EffectType(), d.env.Stream, ef))
	}
	return res, e.err
}

type encoder struct {
	m   *Machine
	d   *Decision
	nth map[string]int
	err error
}

// sent is a command to any aggregate, which answers the instance that decides.
func (e *encoder) sent(key string, c Command) Envelope {
	env := e.command(key, c)
	env.Sender = e.d.env.Stream
	return env
}

func (e *encoder) command(key string, c Command) Envelope {
	agg, err := aggregateOf(c.CommandType())
	s := Stream{Tenant: e.d.env.Stream.Tenant, Aggregate: agg, Key: key}
	if err == nil {
		err = s.Valid()
	}
	e.fail(err)
	return e.envelope(KindCommand, c.CommandType(), s, c)
}

func (e *encoder) envelope(kind Kind, wire string, s Stream, payload any) Envelope {
	data, err := e.m.codec.Append(nil, payload)
	if err == nil {
		err = CheckPayload(e.m.codec.ContentType(), data)
	}
	if err != nil {
		e.fail(fmt.Errorf("encode %s: %w", wire, err))
	}
	cause := e.d.env
	id := derivedID(e.m.name, cause.Stream, cause.ID, wire, e.nth[wire])
	e.nth[wire]++
	return Envelope{
		ID: id, Kind: kind, Type: wire, Stream: s, Source: e.m.name, Actor: cause.Actor,
		BusinessTime: cause.BusinessTime, CausationID: cause.ID, CorrelationID: cause.CorrelationID,
		ContentType: e.m.codec.ContentType(), Payload: data,
	}
}

func (e *encoder) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

// CheckPayload returns an error if a payload cannot be hashed by content: not JSON, a duplicate key, a number that
// is no integer. Other content types than JSON are taken as they are.
func CheckPayload(contentType string, payload []byte) error {
	if contentType != "application/json" {
		return nil
	}
	_, err := canon.Append(nil, payload)
	return err
}

// Command returns a command that one of the service's aggregates handles, by its wire name, decoded from a payload as the
// service's codec writes it. Without a payload it is the zero command, if the codec reads {} or nothing as that.
func (m *Machine) Command(wire string, payload []byte) (c Command, err error) {
	aggregate, err := aggregateOf(wire)
	if err != nil {
		return nil, err
	}
	t, ok := m.tables[aggregate]
	if !ok {
		return nil, fmt.Errorf("command %s: service %s has no aggregate %q", wire, m.name, aggregate)
	}
	r, ok := t.rows[rowKey{rowHandle, wire}]
	if !ok {
		return nil, fmt.Errorf("command %s: aggregate %s has no Handle row for it", wire, aggregate)
	}
	defer recovered(&err)
	if len(payload) == 0 && m.codec.ContentType() == body.JSON {
		payload = []byte("{}")
	}
	msg, err := r.decode(m.codec, payload)
	if err != nil {
		return nil, fmt.Errorf("command %s: %w", wire, err)
	}
	c, ok = msg.(Command)
	if !ok {
		return nil, fmt.Errorf("command %s: it is decoded as a %T, which is no command", wire, msg)
	}
	return c, nil
}

// Name returns the service's name.
func (m *Machine) Name() string { return m.name }

// Codec returns the payloads' codec.
func (m *Machine) Codec() Codec { return m.codec }

// FoldVersion returns a text that changes whenever states or projections must be folded again: a declared version,
// the states' fields, the events applied, the upcasters, the projections' tables.
func (m *Machine) FoldVersion() string { return m.fold }

// Tables returns the statements that create the projections' tables, by table name.
func (m *Machine) Tables() []TableDef {
	var ts []TableDef
	for _, p := range m.projections {
		for _, t := range p.tables {
			ts = append(ts, TableDef{t.name, t.ddl})
		}
	}
	return ts
}

// A TableDef is a projection's table and the statement that creates it.
type TableDef struct{ Name, DDL string }
