package account

// Direction tells which way the money of an imported transaction went.
type Direction string

// The directions.
const (
	Credit Direction = "credit" // in
	Debit  Direction = "debit"  // out
)

// Commands: what others may ask.
type (
	// Enter hands over a transaction as the bank booked it.
	Enter struct {
		Transaction int64     `json:"transaction"` // the bank's number
		Direction   Direction `json:"direction"`
		Operation   string    `json:"operation"`
		Symbol      string    `json:"symbol,omitempty"`
		Amount      int64     `json:"amount"`
		Balance     int64     `json:"balance"` // the bank's figure after it
	}

	// Deposit asks to pay in.
	Deposit struct {
		Amount int64 `json:"amount"`
	}

	// Withdraw asks to pay out.
	Withdraw struct {
		Amount int64 `json:"amount"`
	}

	// Correct books by how much the balance is not what it should be, after a fault of this service.
	Correct struct {
		Amount int64  `json:"amount"` // below zero where there is too much
		Reason string `json:"reason"`
	}
)

// CommandType returns the wire name.
func (Enter) CommandType() string { return "account.enter" }

// CommandType returns the wire name.
func (Deposit) CommandType() string { return "account.deposit" }

// CommandType returns the wire name.
func (Withdraw) CommandType() string { return "account.withdraw" }

// CommandType returns the wire name.
func (Correct) CommandType() string { return "account.correct" }

// Events: what can happen.
type (
	// Credited says that the bank booked money in.
	Credited struct {
		Transaction int64  `json:"transaction"`
		Amount      int64  `json:"amount"`
		Recorded    int64  `json:"recorded"` // the bank's figure after it
		Operation   string `json:"operation"`
		Symbol      string `json:"symbol,omitempty"`
	}

	// Debited says that the bank booked money out.
	Debited struct {
		Transaction int64  `json:"transaction"`
		Amount      int64  `json:"amount"`
		Recorded    int64  `json:"recorded"` // the bank's figure after it
		Operation   string `json:"operation"`
		Symbol      string `json:"symbol,omitempty"`
	}

	// Deposited says that money was paid in through this service.
	Deposited struct {
		Amount int64 `json:"amount"`
	}

	// Withdrawn says that money was paid out through this service.
	Withdrawn struct {
		Amount int64 `json:"amount"`
	}

	// Corrected says that a fault of this service was made up for.
	Corrected struct {
		Amount int64  `json:"amount"`
		Reason string `json:"reason"`
	}
)

// EventType returns the wire name.
func (Credited) EventType() string { return "account.credited" }

// EventType returns the wire name.
func (Debited) EventType() string { return "account.debited" }

// EventType returns the wire name.
func (Deposited) EventType() string { return "account.deposited" }

// EventType returns the wire name.
func (Withdrawn) EventType() string { return "account.withdrawn" }

// EventType returns the wire name.
func (Corrected) EventType() string { return "account.corrected" }
