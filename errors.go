package deja

import (
	"errors"
	"fmt"
	"strings"
)

// A Rejection is a business refusal: the outcome of a message that its aggregate did not accept. Code is on the
// wire and is what [errors.Is] compares, across services too; Detail is for people, and must not hold personal data.
type Rejection struct {
	Code   string
	Detail string
}

// NewRejection returns a refusal with a code, such as "account.overdraft". Services declare theirs as variables.
func NewRejection(code string) *Rejection { return &Rejection{Code: code} }

// Because returns a copy of r with a detail.
func (r *Rejection) Because(format string, args ...any) *Rejection {
	return &Rejection{Code: r.Code, Detail: fmt.Sprintf(format, args...)}
}

// Error returns the code and the detail.
func (r *Rejection) Error() string {
	if r.Detail == "" {
		return r.Code
	}
	return r.Code + ": " + r.Detail
}

// Is reports whether target is a *Rejection of the same code.
func (r *Rejection) Is(target error) bool {
	t, ok := target.(*Rejection)
	return ok && t.Code == r.Code
}

// The codes that deja itself gives.
const (
	CodeConflict    = "deja.conflict"     // the ID was used before, with other content
	CodeTooLarge    = "deja.too-large"    // the decision's record would not fit into the journal
	CodeUnknownType = "deja.unknown-type" // no aggregate of the service handles the type
	CodeMalformed   = "deja.malformed"    // the record or its payload cannot be read
	CodeMisplaced   = "deja.misplaced"    // the record is in a partition that its key does not belong to
	CodeFailed      = "deja.failed"       // the handler returned an error or panicked: the message is parked
	CodeKilled      = "deja.killed"       // several processes died while they handled the message: it is parked
	CodeBlocked     = "deja.blocked"      // parked behind another message of its key
	CodeSkipped     = "deja.skipped"      // given up by an operator
	CodeNotParked   = "deja.not-parked"   // an act names a message that is not the oldest parked one of its key
	CodeNotPending  = "deja.not-pending"  // a timer that was cancelled or superseded, a reply or a result that nobody waits for: ignored
	CodeEarly       = "deja.early"        // a timer fired before its time: ignored, and armed again
	CodeDead        = "deja.dead"         // of a reply: the command can never be handled
)

// A Conflict says that an ID was used before with other content. The second message was not applied.
type Conflict struct {
	ID     ID
	First  Position // of the message that the ID belongs to
	Second Position // of the one that was refused
	Paths  []string // where the two differ, as far as it could be told
}

// Error names both positions and what differs.
func (c *Conflict) Error() string {
	return fmt.Sprintf("message %s at %s: same ID as the message at %s, other content (in %s); use a new ID for a new message",
		c.ID, c.Second, c.First, strings.Join(c.Paths, ", "))
}

// A Dead says that a message can never be handled, and why.
type Dead struct {
	ID     ID
	Reason Rejection
}

// Error names the message and the reason.
func (d *Dead) Error() string { return fmt.Sprintf("message %s is dead: %s", d.ID, d.Reason.Error()) }

var (
	// ErrPending is returned by [Client.Do] when the message is in the log but was not settled before the context
	// ended. Ask again with the same ID.
	ErrPending = errors.New("the message is durable, but its outcome is not known yet: ask again with the same id")

	// ErrParked is returned by [Client.Do] when the message waits for an operator, because its handler failed or an
	// earlier message of its key did. It is durable; ask again with the same ID.
	ErrParked = errors.New("the message is parked until an operator retries or skips it")

	// ErrInvalid is wrapped by the errors of a request that no service would take: a malformed ID, stream or payload, an
	// unknown command. Nothing was sent.
	ErrInvalid = errors.New("invalid request")

	// ErrHalted is returned when a partition has stopped because its history does not hold together. The error that
	// wraps it says what was found.
	ErrHalted = errors.New("partition halted")
)
