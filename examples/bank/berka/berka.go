// Package berka reads bank transactions in the form of the data that this example ships, and turns them into
// messages. It mends nothing: a row that is not exactly as it should be is an error that names its line and column.
package berka

import (
	"strconv"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/account"
)

// A Transaction is one row: what the bank booked.
type Transaction struct {
	Number    int64
	Account   int64
	Date      time.Time // 00:00 UTC
	Direction account.Direction
	Operation string
	Symbol    string
	Amount    int64 // hellers, not negative
	Balance   int64 // the bank's figure after it; in some rows a few hellers off its own amounts
}

// ID returns the transaction's message ID. It comes from the bank's number alone, so that however often, whenever and
// by whomever a transaction is imported, it is one message.
func (t Transaction) ID() deja.ID {
	return deja.DeriveID("berka/transaction", strconv.FormatInt(t.Number, 10))
}

// Request returns the transaction as a message to its account.
func (t Transaction) Request() deja.Request {
	return deja.Request{
		ID:  t.ID(),
		Key: strconv.FormatInt(t.Account, 10),
		Command: account.Enter{
			Transaction: t.Number,
			Direction:   t.Direction,
			Operation:   t.Operation,
			Symbol:      t.Symbol,
			Amount:      t.Amount,
			Balance:     t.Balance,
		},
		Actor:        "import",
		BusinessTime: t.Date,
	}
}
