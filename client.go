package deja

import (
	"context"
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
}

// An Outcome tells what became of an applied command.
type Outcome struct {
	ID        ID
	Duplicate bool       // an earlier delivery was applied; the rest is what it gave
	Position  Position   // of the message that was applied, in the inbox
	Version   int64      // of the stream, after it
	Events    []Envelope // what was recorded, in order
}

// A Client sends commands to one service. It is safe for concurrent use.
type Client interface {
	// Do sends a command and waits until its decision is logged. The error is nil if and only if the command was
	// applied, now or by an earlier delivery. Otherwise it is a *[Rejection] (the first outcome, every time), a
	// *[Conflict], a *[Dead], [ErrParked], [ErrPending], or wraps [ErrInvalid] (nothing was sent) or [ErrHalted]; after
	// any other error the message may be in the log or not, and asking again with the same ID is safe.
	Do(ctx context.Context, r Request) (Outcome, error)

	// Send returns the requests' IDs, in order, once the log has every command. After an error some may be in the
	// log; sending again with the same IDs is safe. An invalid request sends none.
	Send(ctx context.Context, rs ...Request) ([]ID, error)

	// State decodes an aggregate's state, as it was last committed, into dst, a pointer to an empty one, and returns the
	// stream's version; 0 and an untouched dst where nothing was recorded yet. Where log and store are two, the state may
	// be ahead of what is logged.
	State(ctx context.Context, s Stream, dst any) (version int64, err error)
}
