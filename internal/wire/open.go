package wire

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/dejalog/deja"
)

// Open is what a stream waits for. It is folded from the decisions about the stream alone, and kept in its row. The values
// that it refers to are shared, and must not be changed.
type Open struct {
	Timers  []deja.Timer // in order of names; each Command is complete, but for its kind
	Effects []Effect     // in the order they were asked for
	Sent    []Sent       // commands whose replies are not in, in the order they were sent

	Began time.Time // when the saga began; zero if it has ended, or is none
	Stuck string    // the event with which the saga said that it is stuck; empty if it is not
	Since time.Time // of Stuck
}

// An Effect is one that has no result yet.
type Effect struct {
	deja.Envelope
	Asked time.Time // when it was decided
}

// Sent is a command whose reply is not in.
type Sent struct {
	ID     deja.ID
	Type   string
	Stream deja.Stream
	Time   time.Time // when it was decided
}

// Empty reports whether there is nothing to wait for.
func (o *Open) Empty() bool {
	return len(o.Timers)+len(o.Effects)+len(o.Sent) == 0 && o.Began.IsZero() && o.Stuck == ""
}

// Due returns when the earliest timer is due; zero if there is none.
func (o *Open) Due() time.Time {
	var due time.Time
	for i := range o.Timers {
		if t := o.Timers[i].Due; due.IsZero() || t.Before(due) {
			due = t
		}
	}
	return due
}

// Overdue reports whether a person should look at the saga: it is stuck, or takes longer than is stated.
func (o *Open) Overdue(s *deja.Saga, now time.Time) bool {
	return o.Stuck != "" || s != nil && s.Within > 0 && !o.Began.IsZero() && now.After(o.Began.Add(s.Within))
}

// Refuses returns why a reply, a timer or a result is not to be handled; nil if it is, or if the message is something
// else. A timer is decided at a time.
func (o *Open) Refuses(m *deja.Envelope, at time.Time) *deja.Rejection {
	reason := &deja.Rejection{Code: deja.CodeNotPending}
	switch m.Kind {
	case deja.KindReply:
		if slices.ContainsFunc(o.Sent, func(s Sent) bool { return s.ID == m.CausationID }) {
			return nil
		}
		return reason.Because("nobody waits for the reply to %s", m.CausationID)
	case deja.KindResult:
		if slices.ContainsFunc(o.Effects, func(e Effect) bool { return e.ID == m.CausationID }) {
			return nil
		}
		return reason.Because("effect %s is not open", m.CausationID)
	case deja.KindTimer:
		i := slices.IndexFunc(o.Timers, func(t deja.Timer) bool { return t.Command.ID == m.ID })
		switch {
		case i < 0:
			return reason.Because("the timer was cancelled or superseded")
		case o.Timers[i].Due.After(at):
			return &deja.Rejection{Code: deja.CodeEarly, Detail: "due at " + o.Timers[i].Due.Format(time.RFC3339Nano)}
		}
	default:
	}
	return nil
}

// After returns what is open after a decision about the stream. A saga begins with the stream's first event.
func (o Open) After(r *Record, saga *deja.Saga) Open {
	d := &r.Decided
	if !r.Opens() {
		return o
	}
	o.closed(r)
	if len(d.Cancelled)+len(d.Timers) > 0 {
		o.Timers = slices.DeleteFunc(slices.Clone(o.Timers), func(t deja.Timer) bool {
			return slices.Contains(d.Cancelled, t.Name) || slices.ContainsFunc(d.Timers, func(n deja.Timer) bool { return n.Name == t.Name })
		})
		o.Timers = append(o.Timers, d.Timers...)
		slices.SortFunc(o.Timers, func(a, b deja.Timer) int { return cmp.Compare(a.Name, b.Name) })
	}
	if len(d.Effects) > 0 {
		o.Effects = slices.Clone(o.Effects)
		for i := range d.Effects {
			o.Effects = append(o.Effects, Effect{d.Effects[i], r.Time})
		}
	}
	if len(d.Commands) > 0 {
		o.Sent = slices.Clone(o.Sent)
	}
	for i := range d.Commands {
		if c := &d.Commands[i]; saga == nil || saga.Hears(c.Type) {
			o.Sent = append(o.Sent, Sent{c.ID, c.Type, c.Stream, r.Time})
		}
	}
	if saga != nil && len(saga.Ends)+len(saga.Sticks) > 0 {
		o.lived(r, saga)
	}
	return o
}

// closed takes out what a decision's message answers.
func (o *Open) closed(r *Record) {
	switch m := &r.Cause; m.Kind {
	case deja.KindReply:
		o.Sent = slices.DeleteFunc(slices.Clone(o.Sent), func(s Sent) bool { return s.ID == m.CausationID })
	case deja.KindResult:
		o.Effects = slices.DeleteFunc(slices.Clone(o.Effects), func(e Effect) bool { return e.ID == m.CausationID })
	case deja.KindTimer:
		i := slices.IndexFunc(o.Timers, func(t deja.Timer) bool { return t.Command.ID == m.ID })
		if i < 0 {
			return
		}
		o.Timers = slices.Clone(o.Timers)
		if r.Decided.Status == deja.Ignored && r.Decided.Reason.Code == deja.CodeEarly {
			o.Timers[i].Command.ID = AfterEarly(m.ID)
			return
		}
		o.Timers = slices.Delete(o.Timers, i, i+1)
	default:
	}
}

// AfterEarly returns the ID that a timer has once its message came before its time: that one's is taken.
func AfterEarly(id deja.ID) deja.ID { return deja.DeriveID("deja/early", id.String()) }

// lived moves the saga on by a decision's events.
func (o *Open) lived(r *Record, saga *deja.Saga) {
	if n := len(r.Decided.Events); n > 0 && r.Version == int64(n) && len(saga.Ends) > 0 {
		o.Began = r.Time
	}
	for i := range r.Decided.Events {
		switch e := &r.Decided.Events[i]; {
		case saga.Ended(e.Type):
			o.Began, o.Stuck, o.Since = time.Time{}, "", time.Time{}
		case saga.Stuck(e.Type):
			o.Stuck, o.Since = e.Type, r.Time
		default:
			o.Stuck, o.Since = "", time.Time{}
		}
	}
}

// Append appends the stored form; nothing if there is nothing to wait for.
func (o *Open) Append(dst []byte) []byte {
	if o.Empty() {
		return dst
	}
	w := writer(dst)
	w.uint(1, Format)
	for i := range o.Timers {
		t := &o.Timers[i]
		at := w.begin(2)
		w.pending(&t.Command)
		w.string(10, t.Name)
		w.time(11, t.Due)
		w.end(at)
	}
	for i := range o.Effects {
		at := w.begin(3)
		w.pending(&o.Effects[i].Envelope)
		w.time(11, o.Effects[i].Asked)
		w.end(at)
	}
	for i := range o.Sent {
		s := &o.Sent[i]
		at := w.begin(4)
		w.id(1, s.ID)
		w.string(2, s.Type)
		w.string(5, s.Stream.Aggregate)
		w.string(6, s.Stream.Key)
		w.time(11, s.Time)
		w.end(at)
	}
	w.time(5, o.Began)
	w.string(6, o.Stuck)
	w.time(7, o.Since)
	return w
}

// pending writes an emission with what it would else share with its decision.
func (w *writer) pending(e *deja.Envelope) {
	w.emission(e)
	w.string(5, e.Actor)
	w.time(6, e.BusinessTime)
	w.id(7, e.CausationID)
	w.id(8, e.CorrelationID)
}

// DecodeOpen decodes what a stream of a service waits for; it refers to data.
func DecodeOpen(service string, s deja.Stream, data []byte) (Open, error) {
	var o Open
	if len(data) == 0 {
		return o, nil
	}
	if err := checkFormat(data); err != nil {
		return o, fmt.Errorf("what %s waits for: %w", s, err)
	}
	err := fields(data, func(f field) error { return o.field(service, s, f) })
	if err != nil {
		return o, fmt.Errorf("what %s waits for: %w", s, err)
	}
	return o, nil
}

func (o *Open) field(service string, s deja.Stream, f field) error {
	switch f.num {
	case 2:
		t := deja.Timer{Command: deja.Envelope{Kind: deja.KindCommand, Stream: s, Source: service}}
		err := pending(&t.Command, f.b, func(f field) {
			if f.num == 10 {
				t.Name = string(f.b)
			} else {
				t.Due = f.time()
			}
		})
		o.Timers = append(o.Timers, t)
		return err
	case 3:
		e := Effect{Envelope: deja.Envelope{Kind: deja.KindEffect, Stream: s, Source: service}}
		err := pending(&e.Envelope, f.b, func(f field) { e.Asked = f.time() })
		o.Effects = append(o.Effects, e)
		return err
	case 4:
		c := Sent{Stream: deja.Stream{Tenant: s.Tenant}}
		err := fields(f.b, func(f field) (err error) {
			switch f.num {
			case 1:
				c.ID, err = f.id()
			case 2:
				c.Type = string(f.b)
			case 5:
				c.Stream.Aggregate = string(f.b)
			case 6:
				c.Stream.Key = string(f.b)
			case 11:
				c.Time = f.time()
			}
			return err
		})
		o.Sent = append(o.Sent, c)
		return err
	case 5:
		o.Began = f.time()
	case 6:
		o.Stuck = string(f.b)
	case 7:
		o.Since = f.time()
	}
	return nil
}

// pending decodes an emission; what is not the envelope's goes to rest.
func pending(e *deja.Envelope, data []byte, rest func(field)) error {
	return fields(data, func(f field) (err error) {
		switch f.num {
		case 1:
			e.ID, err = f.id()
		case 2:
			e.Type = string(f.b)
		case 3:
			e.Payload = payload(f.b)
		case 4:
			e.ContentType = string(f.b)
		case 5:
			e.Actor = string(f.b)
		case 6:
			e.BusinessTime = f.time()
		case 7:
			e.CausationID, err = f.id()
		case 8:
			e.CorrelationID, err = f.id()
		case 10, 11:
			rest(f)
		}
		return err
	})
}
