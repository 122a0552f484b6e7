package transfer

// Commands: what others may ask, and what a transfer tells itself.
type (
	// Start asks to move money from an account of this service to one of the ledger's.
	Start struct {
		From     string `json:"from"`
		To       string `json:"to"`
		Amount   int64  `json:"amount"`
		Patience int64  `json:"patience,omitempty"` // how many milliseconds the ledger has for its answer; 0: half an hour
	}

	// TimeOut says that the ledger has had its time.
	TimeOut struct{}

	// Undo asks to give the money back, whatever has happened so far: by an operator.
	Undo struct{}
)

// CommandType returns the wire name.
func (Start) CommandType() string { return "transfer.start" }

// CommandType returns the wire name.
func (TimeOut) CommandType() string { return "transfer.time-out" }

// CommandType returns the wire name.
func (Undo) CommandType() string { return "transfer.undo" }

// Events: what can happen.
type (
	// Started says that the sender's account was asked for the money.
	Started struct {
		From     string `json:"from"`
		To       string `json:"to"`
		Amount   int64  `json:"amount"`
		Patience int64  `json:"patience,omitempty"`
	}

	// Taken says that the account has paid, and the ledger was asked for the posting.
	Taken struct{}

	// Recalled says that the money is to be given back as soon as the account has paid it.
	Recalled struct{}

	// GivenUp says that the ledger was asked to reverse or bar the posting; nothing is given back before it has answered.
	GivenUp struct {
		Why string `json:"why"`
	}

	// Returning says that there is no posting, and never will be: the account was asked to take the money back.
	Returning struct {
		Why string `json:"why"`
	}

	// Finished says that the receiver has the money.
	Finished struct{}

	// Undone says that the sender has it, as before.
	Undone struct {
		Why string `json:"why"`
	}

	// Stuck says that a step back was refused: a person must help.
	Stuck struct {
		In  Phase  `json:"in"`
		Why string `json:"why"`
	}
)

// EventType returns the wire name.
func (Started) EventType() string { return "transfer.started" }

// EventType returns the wire name.
func (Taken) EventType() string { return "transfer.taken" }

// EventType returns the wire name.
func (Recalled) EventType() string { return "transfer.recalled" }

// EventType returns the wire name.
func (GivenUp) EventType() string { return "transfer.given-up" }

// EventType returns the wire name.
func (Returning) EventType() string { return "transfer.returning" }

// EventType returns the wire name.
func (Finished) EventType() string { return "transfer.finished" }

// EventType returns the wire name.
func (Undone) EventType() string { return "transfer.undone" }

// EventType returns the wire name.
func (Stuck) EventType() string { return "transfer.stuck" }
