package cond

import (
	"errors"
	"fmt"
	"math/big"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"

	"github.com/dejalog/deja/internal/canon"
)

// A Run evaluates a condition along the messages of a key. It is not safe for concurrent use.
type Run struct {
	p      *Program
	state  *node
	prev   *node // nil: it is not read
	slots  map[string]slot
	events events
	due    bool
	behind []written // what prev has not been told yet
}

type written struct {
	at    slot
	path  string
	token string
}

// A slot is what is known of a path.
type slot struct {
	read        bool
	state, prev *node // where the field is kept; nil if that can change
}

// NewRun returns a run at the empty state.
func (p *Program) NewRun() *Run {
	r := &Run{p: p, state: newNode(p.shape, nil), slots: map[string]slot{}}
	if p.prev {
		r.prev = newNode(p.shape, nil)
	}
	return r
}

// Reset takes the run back to the empty state, for another key.
func (r *Run) Reset() {
	r.state.clear()
	if r.prev != nil {
		r.prev.clear()
	}
	r.behind, r.events, r.due = r.behind[:0], events{}, false
}

// Message begins a message that recorded events. What it writes comes with Write.
func (r *Run) Message(recorded []Event) {
	r.events = events{recorded: recorded}
	r.due = r.p.events || len(r.behind) > 0
	for _, w := range r.behind {
		put(r.prev, w.at.prev, w.path, w.token)
	}
	r.behind = r.behind[:0]
}

// Write says that the message wrote a field: to a token, or to nothing, "".
func (r *Run) Write(path, token string) {
	at, ok := r.slots[path]
	if !ok {
		at = r.slot(path)
	}
	if !at.read {
		return
	}
	r.due = true
	put(r.state, at.state, path, token)
	if r.prev != nil {
		r.behind = append(r.behind, written{at, path, token})
	}
}

func put(root, at *node, path, token string) {
	if at != nil {
		at.put(token)
		return
	}
	root.write(path, token)
}

// maxSlots bounds how many paths are remembered.
const maxSlots = 1 << 12

func (r *Run) slot(path string) (at slot) {
	for _, above := range r.p.paths {
		at.read = at.read || below(above, path)
	}
	if at.read {
		at.state = r.state.fixed(path)
		if r.prev != nil {
			at.prev = r.prev.fixed(path)
		}
	}
	if len(r.slots) < maxSlots {
		r.slots[strings.Clone(path)] = at
	}
	return at
}

// fixed returns the node at a path, if only structs lead there: such a node stays; else nil.
func (n *node) fixed(path string) *node {
	for path != "" && n != nil {
		if n.is.Kind() != canon.Struct {
			return nil
		}
		step, _, rest := canon.CutStep(path)
		n, path = n.kid(step), rest
	}
	if n == nil || n.is.Kind() >= canon.Map {
		return nil
	}
	return n
}

// Due reports whether the condition can be another after the message than it was before it. Only then need it be evaluated.
func (r *Run) Due() bool { return r.due }

// Holds evaluates the condition after the message. The error is an [*Error].
func (r *Run) Holds() (bool, error) {
	v, _, err := r.p.prog.Eval(r)
	if err != nil {
		return false, r.p.failed(err)
	}
	b, ok := v.(types.Bool)
	if !ok {
		info := r.p.ast.NativeRep().SourceInfo()
		return false, placed(r.p.text, info, r.p.ast.NativeRep().Expr().ID(), fmt.Sprintf("this was a %s: want true or false", v.Type().TypeName()))
	}
	return bool(b), nil
}

// failed returns the error of an evaluation, with its place.
func (p *Program) failed(err error) error {
	var stopped interpreter.EvalCancelledError
	if errors.As(err, &stopped) && stopped.Cause == interpreter.CostLimitExceeded {
		return &Error{fmt.Sprintf("\n  %s\n  this takes more than %d steps on one state: ask for less, such as a field instead of all of a list", p.text, MaxCost)}
	}
	var fault *types.Err
	if !errors.As(err, &fault) || fault.NodeID() == 0 || fault == types.NoSuchOverloadErr() { // that one is shared by all programs, and its place is the first one's
		return &Error{fmt.Sprintf("\n  %s\n  %s", p.text, err)}
	}
	return placed(p.text, p.ast.NativeRep().SourceInfo(), fault.NodeID(), fault.Error())
}

// Subject returns the text of the integer that the condition is about; "" if there is none.
func (p *Program) Subject() string { return p.near.text }

// A Number is an integer of a condition, or the difference of two.
type Number struct{ is wide }

// Big returns it.
func (n Number) Big() *big.Int { return n.is.big() }

// Less reports whether n < m.
func (n Number) Less(m Number) bool { return n.is.compare(m.is) < 0 }

// Subject returns the integer that the condition is about, after the message; ok is false if there is none, or there it is
// none.
func (r *Run) Subject() (n Number, ok bool) {
	s := &r.p.near
	if s.value == nil {
		return n, false
	}
	if n.is, ok = r.integer(s.value); !ok || s.less == nil {
		return n, ok
	}
	less, ok := r.integer(s.less)
	n.is = n.is.sub(less)
	return n, ok
}

// Lacks returns how far the subject is from where the condition would hold, which it does not: the less, the closer. ok is false
// if that cannot be told: the condition is another than a comparison of integers, or one that what differs fails by nothing.
func (r *Run) Lacks() (n Number, ok bool) {
	s := &r.p.near
	if s.bound == nil {
		return n, false
	}
	a, ok := r.integer(s.value)
	if !ok {
		return n, false
	}
	b, ok := r.integer(s.bound)
	switch s.op {
	case operators.Less, operators.LessEquals:
		n.is = a.sub(b)
	case operators.Greater, operators.GreaterEquals:
		n.is = b.sub(a)
	case operators.Equals:
		if n.is = a.sub(b); a.compare(b) < 0 {
			n.is = b.sub(a)
		}
	default:
		return n, false
	}
	return n, ok
}

func (r *Run) integer(prog cel.Program) (wide, bool) {
	v, _, err := prog.Eval(r)
	if err != nil {
		return wide{}, false
	}
	return number(v)
}

// ResolveName implements [interpreter.Activation].
func (r *Run) ResolveName(name string) (any, bool) {
	switch name {
	case "state":
		return r.state.value(), true
	case "prev":
		return r.prev.value(), true
	case "event":
		return r.events.last(), true
	case "events":
		return r.events.all(), true
	}
	return nil, false
}

// Parent implements [interpreter.Activation].
func (r *Run) Parent() interpreter.Activation { return nil }
