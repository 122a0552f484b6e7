package deja

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A Request is a command on its way to an aggregate.
type Request struct {
	ID           ID     // zero: a new one. Ask again with the same ID, and nothing happens twice
	Key          string // of the aggregate's instance
	Command      Command
	Tenant       string
	Source       string // default: the service's name
	Actor        string
	BusinessTime time.Time
	Headers      map[string]string

	// Until has Do wait on, once the command was applied, until its stream has recorded an event: for a saga, which ends
	// long after it was started. The zero Point waits for nothing more.
	Until Point
}

// A Point is a point in the life of a stream: the first event of certain types that it records.
type Point struct {
	end    bool
	events []string
}

// AtEnd is the point where a saga has ended, or is stuck: by its [Ends] and [Sticks] rows.
func AtEnd() Point { return Point{end: true} }

// AtEvent is the point where one of these events was recorded; of each only the type counts.
func AtEvent(events ...Event) Point {
	var p Point
	for _, e := range events {
		p.events = append(p.events, e.EventType())
	}
	return p
}

// IsZero reports whether p is no point at all.
func (p Point) IsZero() bool { return !p.end && len(p.events) == 0 }

// Events returns the types of the events of which the first is the point, for streams of an aggregate.
func (p Point) Events(m *Machine, aggregate string) ([]string, error) {
	if !p.end {
		return p.events, nil
	}
	s := m.Saga(aggregate)
	if s == nil || len(s.Ends) == 0 {
		return nil, fmt.Errorf("aggregate %s has no Ends row: say AtEvent", aggregate)
	}
	return slices.Concat(s.Ends, s.Sticks), nil
}

// An Outcome tells what became of an applied command.
type Outcome struct {
	ID        ID
	Duplicate bool       // an earlier delivery was applied; the rest is what it gave
	Position  Position   // of the message that was applied, in the inbox
	Version   int64      // of the stream, after it
	Events    []Envelope // what was recorded, in order
	Reached   *Envelope  // the event that the request's Until waited for; nil if it did not wait
}

// A Client sends commands to one service. It is safe for concurrent use.
type Client interface {
	// Do sends a command and waits until its decision is logged. The error is nil if and only if the command was
	// applied, now or by an earlier delivery. Otherwise it is a *[Rejection] (the first outcome, every time), a
	// *[Conflict], a *[Dead], [ErrParked], [ErrPending], or wraps [ErrInvalid] (nothing was sent) or [ErrHalted]; after
	// any other error the message may be in the log or not, and asking again with the same ID is safe. With Until the
	// error can be ErrPending though the command was applied: its point was not reached before the context ended.
	Do(ctx context.Context, r Request) (Outcome, error)

	// Send returns the requests' IDs, in order, once the log has every command. After an error some may be in the
	// log; sending again with the same IDs is safe. An invalid request sends none.
	Send(ctx context.Context, rs ...Request) ([]ID, error)

	// State decodes an aggregate's state, as it was last committed, into dst, a pointer to an empty one, and returns the
	// stream's version; 0 and an untouched dst where nothing was recorded yet. Where log and store are two, the state may
	// be ahead of what is logged.
	State(ctx context.Context, s Stream, dst any) (version int64, err error)

	// Await waits until the store holds all that was decided up to these positions, as outcomes have them: what is read
	// from it then, also by a query of one's own, is at least as new.
	Await(ctx context.Context, ps ...Position) error
}
