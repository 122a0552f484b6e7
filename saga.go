package deja

import (
	"fmt"
	"slices"
	"time"
)

// Ends is the row of an event that ends a saga: whatever it was to do is done, or undone.
func Ends[S any, E Event]() Handler[S] {
	var zero E
	return Handler[S]{row{rowKey: rowKey{rowEnds, zero.EventType()}}}
}

// Sticks is the row of an event with which a saga gives up without having ended, as when a compensation was refused: a
// person must look at it. It is stuck until it records an event that is not such a one.
func Sticks[S any, E Event]() Handler[S] {
	var zero E
	return Handler[S]{row{rowKey: rowKey{rowSticks, zero.EventType()}}}
}

// Within says how long a saga may take: one that has not ended by then is shown as stuck. It changes nothing else; what
// is to happen at a time is scheduled.
func Within[S any](d time.Duration) Handler[S] {
	return Handler[S]{row{rowKey: rowKey{kind: rowWithin}, within: d, missing: d <= 0}}
}

// Compensate is a [Handle] row whose command operators send to have a saga undone by hand.
func Compensate[S any, C Command](fn func(s S, d *Decision, c C) error) Handler[S] {
	h := Handle(fn)
	h.row.byHand = true
	return h
}

// A Saga tells how the instances of an aggregate end.
type Saga struct {
	Ends, Sticks []string      // wire names of events
	Within       time.Duration // zero: nothing is stated
	Compensate   string        // wire name of the command; empty if there is none

	forgotten []string // sent commands whose replies are not heard
}

// Ended reports whether an event ends the saga.
func (s *Saga) Ended(event string) bool { return slices.Contains(s.Ends, event) }

// Stuck reports whether an event says that the saga is stuck.
func (s *Saga) Stuck(event string) bool { return slices.Contains(s.Sticks, event) }

// Hears reports whether the reply to a sent command is heard.
func (s *Saga) Hears(command string) bool { return !slices.Contains(s.forgotten, command) }

// Saga returns how an aggregate's instances end; nil if the service has no such aggregate.
func (m *Machine) Saga(aggregate string) *Saga {
	if t, ok := m.tables[aggregate]; ok {
		return t.saga
	}
	return nil
}

// saga gathers the rows that say how an aggregate's instances end.
func (c *compiler) saga(t *ruleTable) {
	t.saga = &Saga{}
	for i := range t.definition.rows {
		r := &t.definition.rows[i]
		name := fmt.Sprintf("aggregate %s: %s row for %q", t.name, r.kind, r.wire)
		switch r.kind {
		case rowEnds, rowSticks:
			if !t.has(rowApply, r.wire) {
				c.fault("%s: there is no Apply row for it", name)
			}
			if list := &t.saga.Ends; r.kind == rowEnds {
				*list = append(*list, r.wire)
			} else {
				t.saga.Sticks = append(t.saga.Sticks, r.wire)
			}
			c.folds = append(c.folds, fmt.Sprintf("%s %s", r.kind, r.wire))
		case rowWithin:
			if t.saga.Within != 0 {
				c.fault("aggregate %s: two Within rows", t.name)
			}
			if r.missing {
				c.fault("aggregate %s: Within %s: want a time above zero", t.name, r.within)
			}
			t.saga.Within = r.within
		case rowForget:
			t.saga.forgotten = append(t.saga.forgotten, r.wire)
			c.folds = append(c.folds, "forget "+t.name+" "+r.wire)
		case rowHandle:
			if !r.byHand {
				continue
			}
			if t.saga.Compensate != "" {
				c.fault("%s: a Compensate row, and there is one for %s", name, t.saga.Compensate)
			}
			t.saga.Compensate = r.wire
		default:
		}
	}
	for _, e := range t.saga.Ends {
		if t.saga.Stuck(e) {
			c.fault("aggregate %s: %s both ends the saga and says that it is stuck", t.name, e)
		}
	}
	if t.saga.Within > 0 && len(t.saga.Ends) == 0 {
		c.fault("aggregate %s: a Within row without an Ends row: nothing would end its time", t.name)
	}
}
