package posting

// Commands: what others may ask. The key of each is that of the transfer.
type (
	// Post asks to put a transfer's money to the account of its receiver.
	Post struct {
		Account string `json:"account"`
		Amount  int64  `json:"amount"`
	}

	// Reverse asks to undo the posting or, where it has not arrived yet, to bar it: the sender's way back.
	Reverse struct{}

	// Stop bars a posting that has not arrived yet: the receiver's order.
	Stop struct{}
)

// CommandType returns the wire name.
func (Post) CommandType() string { return "posting.post" }

// CommandType returns the wire name.
func (Reverse) CommandType() string { return "posting.reverse" }

// CommandType returns the wire name.
func (Stop) CommandType() string { return "posting.stop" }

// Events: what can happen.
type (
	// Posted says that the receiver has the money.
	Posted struct {
		Account string `json:"account"`
		Amount  int64  `json:"amount"`
	}

	// Reversed says that the receiver has it no more.
	Reversed struct {
		Account string `json:"account"`
		Amount  int64  `json:"amount"`
	}

	// Barred says that there will be no posting, whatever arrives.
	Barred struct{}
)

// EventType returns the wire name.
func (Posted) EventType() string { return "posting.posted" }

// EventType returns the wire name.
func (Reversed) EventType() string { return "posting.reversed" }

// EventType returns the wire name.
func (Barred) EventType() string { return "posting.barred" }
