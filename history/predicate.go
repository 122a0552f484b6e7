package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/cond"
)

// A Predicate is a condition that holds or not after each message of a key. It comes from Compile or Func, and is safe for
// concurrent use. Before a key's first message it is false.
type Predicate struct {
	text     string
	machine  *deja.Machine
	programs map[string]*cond.Program           // by aggregate
	fn       func(st *deja.State) (bool, error) // instead of programs
}

// Compile compiles a condition in CEL for the keys of a scope. It is about state, prev (the state before the message), event (the
// last event that the message recorded: its fields, and .type) and events (all of them). The error shows the place.
func Compile(m *deja.Machine, s Scope, text string) (Predicate, error) {
	p := Predicate{text: text, machine: m, programs: map[string]*cond.Program{}}
	var first error
	var bad []string
	for _, aggregate := range s.aggregates(m) {
		shape := m.Shape(aggregate)
		if shape == nil {
			return Predicate{}, fmt.Errorf("service %s has no aggregate %q; it has %v", m.Name(), aggregate, m.Aggregates())
		}
		prog, err := cond.Compile(aggregate, shape, text)
		if err != nil {
			first, bad = errors.Join(first, err), append(bad, aggregate)
			continue
		}
		p.programs[aggregate] = prog
	}
	switch {
	case first == nil:
		return p, nil
	case len(p.programs) == 0 && len(bad) == 1:
		return Predicate{}, first
	}
	return Predicate{}, fmt.Errorf("of %s, %w\nname an aggregate that the condition is about, as in %s/*", strings.Join(bad, ", "), first, m.Aggregates()[0])
}

// Func returns a predicate in Go, about states of type S. Text describes it in answers. To know where it holds, the states are
// folded; fn must not change them.
func Func[S any](text string, fn func(S) bool) Predicate {
	return Predicate{text: text, fn: func(st *deja.State) (bool, error) {
		s, ok := st.Value().(*S)
		if !ok {
			return false, fmt.Errorf("predicate %s is about states of type %T, those of %s are %T", text, *new(S), st.Stream.Aggregate, st.Value())
		}
		return fn(*s), nil
	}}
}

// String returns the predicate's text.
func (p Predicate) String() string { return p.text }

// Reads returns the paths of the fields that the predicate reads, sorted, with all that is below them; "" is the whole state. If
// static is false, that is not all it reads: it is a function, or reads events, and any message can make it true or false.
func (p Predicate) Reads() (paths []string, static bool) {
	static = p.fn == nil
	for _, prog := range p.programs {
		paths = append(paths, prog.Paths()...)
		static = static && !prog.ReadsEvents()
	}
	slices.Sort(paths)
	return slices.Compact(paths), static
}

// eval evaluates the predicate on the states before and after a message, and the events that it recorded.
func (p Predicate) eval(prev, state *deja.State, events ...Event) (bool, error) {
	switch {
	case state.Version == 0:
		return false, nil
	case p.fn != nil:
		return p.fn(state)
	}
	prog, err := p.program(state.Stream)
	if err != nil {
		return false, err
	}
	before, err := p.fields(prev)
	if err != nil {
		return false, err
	}
	after, err := p.fields(state)
	if err != nil {
		return false, err
	}
	r := writing{run: prog.NewRun()}
	r.write(nil, before)
	r.run.Message(recorded(events))
	for _, c := range canon.Diff(before, after) {
		r.run.Write(c.Path, c.New)
	}
	return r.holds()
}

// recorded returns events as a condition takes them.
func recorded(events []Event) []cond.Event {
	es := make([]cond.Event, len(events))
	for i, e := range events {
		es[i] = cond.Event(e)
	}
	return es
}

// program returns the program for a key.
func (p Predicate) program(s deja.Stream) (*cond.Program, error) {
	prog, ok := p.programs[s.Aggregate]
	if !ok {
		return nil, fmt.Errorf("the predicate %s was compiled for other keys than %s", p.text, s)
	}
	return prog, nil
}

// fields returns the fields of a state; of nil, none.
func (p Predicate) fields(st *deja.State) ([]canon.Field, error) {
	if st == nil || st.Version == 0 {
		return nil, nil
	}
	data, err := st.Encode()
	if err != nil {
		return nil, err
	}
	return p.machine.Flatten(nil, st.Stream.Aggregate, data)
}
