// Package trail keeps the steps of a service's past in one file, sorted by stream, and finds them there. It knows nothing
// of machines and journals: what a step says, and what its states are, is the caller's to know. The file can be deleted at
// any time, as all in it is made from a journal; it is never trusted without its checksums.
package trail

import (
	"errors"
	"time"

	"github.com/dejalog/deja"
)

var (
	// ErrNone is returned by Open where there is no file, or one that is no trail of this version.
	ErrNone = errors.New("no index")

	// ErrForeign is returned by Open for a file that is something else, and not to be touched.
	ErrForeign = errors.New("the file is no index")

	// ErrDamaged is returned when something in the file is not what was written there.
	ErrDamaged = errors.New("the index is damaged")

	// ErrLocked is returned by Lock while another process builds the file.
	ErrLocked = errors.New("another process is building the index")
)

// An Entry is a step: a decision, and what it changed. Times have microseconds.
type Entry struct {
	Stream       deja.Stream
	Partition    int32
	N            int64 // of the decision in its partition
	Offset       int64 // of the message in the inbox
	ID           deja.ID
	Cause        deja.ID
	Act          deja.ID
	Kind         deja.Kind
	Status       deja.Status
	Type         string
	Hash         uint64
	Version      int64
	Time         time.Time
	BusinessTime time.Time // or zero
	Events       []Event
	Writes       []Write

	// Point is the stream's state right before the step, at PointVersion. The caller gives one now and then, so that a state
	// is folded from the last of them on. Nil: none.
	Point        []byte
	PointVersion int64
}

// An Event is a recorded event.
type Event struct {
	Type    string
	Payload []byte
}

// A Write is a field that changed, with its tokens.
type Write struct{ Path, Old, New string }

// A Place is a decision's number in its partition.
type Place struct {
	Partition int32
	N         int64
}
