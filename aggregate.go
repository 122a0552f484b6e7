package deja

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// An Aggregate is a keyed unit of state and the table of all that it handles, applies and hears about. It is an
// immutable value; faults in its table are reported together by [Compile], and so by engine.New and dejatest.
type Aggregate[S any] struct{ def *definition }

// AnyAggregate is an *[Aggregate] of any state. Only this package implements it.
type AnyAggregate interface {
	Name() string
	definition() *definition
}

// A Handler is one row of an aggregate's table; S is the aggregate's state.
type Handler[S any] struct{ row row }

// rowKind tells what a row is for.
type rowKind uint8

const (
	rowHandle rowKind = 1 + iota
	rowReact
	rowReply
	rowForget
	rowFailed
	rowApply
	rowFold
	rowEnds
	rowSticks
	rowWithin
)

var rowNames = [...]string{"", "Handle", "React", "OnReply", "Forget", "OnFailed", "Apply", "FoldVersion", "Ends", "Sticks", "Within"}

func (k rowKind) String() string { return rowNames[k] }

// rowKey finds a row in a table.
type rowKey struct {
	kind rowKind
	wire string
}

// row is a table row with its types erased: the functions know them.
type row struct {
	rowKey
	payload reflect.Type
	missing bool          // the user's function is nil
	version int           // of rowFold
	within  time.Duration // of rowWithin
	byHand  bool          // of rowHandle: operators undo with it
	decode  func(c Codec, data []byte) (any, error)
	decide  func(state any, d *Decision, m any) error
	apply   func(state any, m any)
	key     func(m any) (string, error) // of rowReact
}

// definition is an aggregate with its state's type erased: states are held as pointers to S.
type definition struct {
	name     string
	state    reflect.Type
	rows     []row
	newState func() any
	decode   func(data []byte) (any, error)
}

// NewAggregate returns an aggregate. It never panics: a fault in the table is reported by [Compile].
func NewAggregate[S any](name string, rows ...Handler[S]) *Aggregate[S] {
	def := &definition{
		name:     name,
		state:    reflect.TypeFor[S](),
		newState: func() any { return new(S) },
		decode: func(data []byte) (any, error) {
			s := new(S)
			return s, json.Unmarshal(data, s)
		},
	}
	for _, h := range rows {
		def.rows = append(def.rows, h.row)
	}
	return &Aggregate[S]{def}
}

// Name returns the aggregate's name.
func (a *Aggregate[S]) Name() string { return a.def.name }

func (a *Aggregate[S]) definition() *definition { return a.def }

// Handle is the row of a command: fn decides it. A decision sees the state by value and cannot change it. It returns
// nil (applied), a *[Rejection] (refused), or another error, which parks the message: a decision is deterministic,
// so trying again would not help.
func Handle[S any, C Command](fn func(s S, d *Decision, c C) error) Handler[S] {
	var zero C
	return Handler[S]{decider(rowKey{rowHandle, zero.CommandType()}, fn)}
}

// React is the row of another aggregate's event, of this service or another; key picks the instance that reacts, "" for
// none. Both are pure. The event comes as a message of its own: after it was recorded, once, in the order of its stream.
func React[S any, E Event](key func(E) string, fn func(s S, d *Decision, e E) error) Handler[S] {
	var zero E
	r := decider(rowKey{rowReact, zero.EventType()}, fn)
	r.missing = r.missing || key == nil
	r.key = func(m any) (k string, err error) {
		defer recovered(&err)
		return key(m.(E)), nil
	}
	return Handler[S]{r}
}

// OnReply is the row of the reply to a command that the aggregate sent.
func OnReply[S any, C Command](fn func(s S, d *Decision, r Reply[C]) error) Handler[S] {
	var zero C
	r := decider(rowKey{rowReply, zero.CommandType()}, fn)
	r.decode = decodeReply[C]
	return Handler[S]{r}
}

// Forget is the row of a sent command whose reply does not matter.
func Forget[S any, C Command]() Handler[S] {
	var zero C
	return Handler[S]{row{rowKey: rowKey{rowForget, zero.CommandType()}, payload: reflect.TypeFor[C]()}}
}

// OnFailed is the row of an effect that was given up.
func OnFailed[S any, E Effect](fn func(s S, d *Decision, f Failed[E]) error) Handler[S] {
	var zero E
	r := decider(rowKey{rowFailed, zero.EffectType()}, fn)
	r.decode = decodeFailed[E]
	return Handler[S]{r}
}

// Apply is the row of an event that the aggregate records: fn folds it into the state. It must be pure, and cannot
// refuse: the fact has happened. Replay runs it and nothing else.
func Apply[S any, E Event](fn func(s *S, e E)) Handler[S] {
	var zero E
	return Handler[S]{row{
		rowKey:  rowKey{rowApply, zero.EventType()},
		payload: reflect.TypeFor[E](),
		missing: fn == nil,
		decode:  decodePayload[E],
		apply:   func(state, m any) { fn(state.(*S), m.(E)) },
	}}
}

// FoldVersion says that the apply functions changed their meaning, n times so far (from 2 on): the states are folded
// again before anything is decided on them. New events, fields and tables are noticed without it.
func FoldVersion[S any](n int) Handler[S] {
	return Handler[S]{row{rowKey: rowKey{kind: rowFold}, version: n, missing: n < 1}}
}

func decider[S, M any](key rowKey, fn func(S, *Decision, M) error) row {
	return row{
		rowKey:  key,
		payload: reflect.TypeFor[M](),
		missing: fn == nil,
		decode:  decodePayload[M],
		decide:  func(state any, d *Decision, m any) error { return fn(*state.(*S), d, m.(M)) },
	}
}

// decodePayload decodes into a value, or into a new one for pointer types, so that codecs always see a *T.
func decodePayload[M any](c Codec, data []byte) (any, error) {
	if t := reflect.TypeFor[M](); t.Kind() == reflect.Pointer {
		p := reflect.New(t.Elem())
		err := c.Unmarshal(data, p.Interface())
		return p.Interface(), err
	}
	p := new(M)
	err := c.Unmarshal(data, p)
	return *p, err
}

// A Reply says how a command that the aggregate sent was settled: with a Rejection, or applied.
type Reply[C Command] struct {
	Command   C          // as sent
	Events    []Envelope // what it recorded
	Rejection *Rejection // nil if and only if it was applied
}

func (Reply[C]) rowKey() rowKey {
	var zero C
	return rowKey{rowReply, zero.CommandType()}
}

// Failed says that an effect was given up.
type Failed[E Effect] struct {
	Effect E // as requested
	Reason *Rejection
}

func (Failed[E]) rowKey() rowKey {
	var zero E
	return rowKey{rowFailed, zero.EffectType()}
}

// keyOf tells which row handles a message.
func keyOf(m any) (rowKey, error) {
	switch m := m.(type) {
	case unheard:
		return rowKey{}, nil
	case interface{ rowKey() rowKey }:
		return m.rowKey(), nil
	case Command:
		return rowKey{rowHandle, m.CommandType()}, nil
	case Event:
		return rowKey{rowReact, m.EventType()}, nil
	}
	return rowKey{}, fmt.Errorf("%T is no command, event, reply or failed effect", m)
}
