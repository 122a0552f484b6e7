package history

import (
	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/cond"
)

// A runner evaluates a predicate along the messages of a key.
type runner interface {
	reset(s deja.Stream) error             // begins a key, at its empty state
	start(st *deja.State) error            // begins at another state
	message(s *Step) (due bool, err error) // goes past a message; due says whether the predicate can be another after it
	holds() (bool, error)                  // evaluates it there
	subject() (n cond.Number, ok bool)     // the integer that it is about, there
	lacks() (n cond.Number, ok bool)       // how far that is from where it would hold
}

// runner returns a runner for the keys of an aggregate, as s is one.
func (p Predicate) runner(m *deja.Machine, s deja.Stream) (runner, error) {
	if p.fn != nil {
		return &folding{p: p, machine: m}, nil
	}
	prog, err := p.program(s)
	if err != nil {
		return nil, err
	}
	return &writing{p: p, run: prog.NewRun(), events: prog.ReadsEvents()}, nil
}

// writing runs a condition from what messages wrote: no state is folded.
type writing struct {
	p      Predicate
	run    *cond.Run
	events bool
}

func (w *writing) reset(deja.Stream) error {
	w.run.Reset()
	return nil
}

func (w *writing) start(st *deja.State) error {
	fields, err := w.p.fields(st)
	w.write(nil, fields)
	return err
}

func (w *writing) write(events []cond.Event, fields []canon.Field) {
	w.run.Message(events)
	for _, f := range fields {
		w.run.Write(f.Path, f.Value)
	}
}

func (w *writing) message(s *Step) (bool, error) {
	var events []cond.Event
	if w.events {
		events = recorded(s.Events)
	}
	w.run.Message(events)
	for i := range s.Writes {
		w.run.Write(s.Writes[i].Path, s.Writes[i].New)
	}
	return w.run.Due(), nil
}

func (w *writing) holds() (bool, error)              { return w.run.Holds() }
func (w *writing) subject() (n cond.Number, ok bool) { return w.run.Subject() }
func (w *writing) lacks() (n cond.Number, ok bool)   { return w.run.Lacks() }

// folding runs a function on the folded state.
type folding struct {
	p       Predicate
	machine *deja.Machine
	st      *deja.State
}

func (f *folding) reset(s deja.Stream) (err error) {
	f.st, err = f.machine.NewState(s)
	return err
}

func (f *folding) start(st *deja.State) error {
	f.st = st
	return nil
}

func (f *folding) message(s *Step) (bool, error) {
	for _, e := range s.Events {
		if err := f.machine.Fold(f.st, &deja.Envelope{Type: e.Type, Stream: s.Stream, Payload: e.Payload}); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (f *folding) holds() (bool, error)         { return f.p.fn(f.st) }
func (f *folding) subject() (cond.Number, bool) { return cond.Number{}, false }
func (f *folding) lacks() (cond.Number, bool)   { return cond.Number{}, false }

// An along evaluates a predicate after each decision of a key, in order.
type along struct {
	run    runner
	judged bool
	holds  bool
}

// along begins at a key's empty state.
func (p Predicate) along(m *deja.Machine, s deja.Stream) (*along, error) {
	run, err := p.runner(m, s)
	if err != nil {
		return nil, err
	}
	return &along{run: run}, run.reset(s)
}

// step goes past a decision, and reports whether the predicate holds after it.
func (a *along) step(s *Step) (bool, error) {
	if len(s.Events) == 0 { // it changes nothing
		return a.holds, nil
	}
	due, err := a.run.message(s)
	if err != nil || !due && a.judged {
		return a.holds, err
	}
	a.judged = true
	a.holds, err = a.run.holds()
	return a.holds, err
}
