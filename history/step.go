package history

import (
	"context"
	"iter"
	"time"

	"github.com/dejalog/deja"
)

// A Step is a message that was decided, and what it changed.
type Step struct {
	Stream       deja.Stream
	N            int64         // of the decision, in its partition
	Position     deja.Position // of the message, in the inbox
	ID           deja.ID
	Cause        deja.ID // the message's CausationID; zero if it has none
	Kind         deja.Kind
	Type         string
	Hash         uint64 // the first eight bytes of the content's hash, big endian
	Status       deja.Status
	Version      int64     // of the stream, after it; 0 for conflict and dead
	Time         time.Time // of the decision
	BusinessTime time.Time // zero if the message has none
	Act          deja.ID   // of a parked message decided again: the operator's act
	Events       []Event
	Writes       []Write // what the events changed in the state, in order of paths
}

// An Event is a recorded event.
type Event struct {
	Type    string
	Payload []byte
}

// A Write is a field that an event changed. A path is the JSON names on the way to it: owner.name, limits["a.b"], items.0.
// Old and New are canonical JSON tokens; "" where the field is absent, or zero.
type Write struct {
	Path     string `json:"path"`
	Old, New string
}

// A place is a decision's number in its partition.
type place struct {
	partition int32
	n         int64
}

// steps is what queries read. All methods are safe for concurrent use; what they return is the caller's, and its byte slices
// are not changed.
type steps interface {
	// upTo returns the number of the last decision there is, of each partition.
	upTo() []int64

	// key yields the steps of a stream with after < N ≤ last, in order; the last first, if back says so.
	key(ctx context.Context, s deja.Stream, after, last int64, back bool) iter.Seq2[*Step, error]

	// scan yields the steps of all streams that match, with N ≤ last of their partition: stream after stream, in order of
	// streams, and of each in order of N. A step is valid only until the next one.
	scan(ctx context.Context, match func(deja.Stream) bool, last []int64) iter.Seq2[*Step, error]

	// state returns the state of a stream after the decisions with N ≤ last, folded.
	state(ctx context.Context, s deja.Stream, last int64) (*deja.State, error)

	// decision returns a decision.
	decision(ctx context.Context, at place) (*Step, error)

	// find returns where up to max messages with lo ≤ ID ≤ hi were decided, in order of IDs; conflicts among them.
	find(ctx context.Context, lo, hi deja.ID, max int) ([]place, error)

	// caused returns where messages with this Cause were decided.
	caused(ctx context.Context, cause deja.ID) ([]place, error)

	// decidedBy returns the number of the last decision of a partition with Time ≤ t; 0 if there is none.
	decidedBy(ctx context.Context, partition int32, t time.Time) (int64, error)

	close() error
}
