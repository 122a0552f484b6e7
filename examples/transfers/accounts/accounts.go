// Package accounts puts the first of the two services together: it has the senders' money, in the accounts of the bank
// example, and the transfers.
package accounts

import (
	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/transfer"
)

// Name is the service's name.
const Name = "accounts"

// Service returns the accounts and their transfers.
func Service() *deja.Service {
	return &deja.Service{
		Name:       Name,
		Aggregates: []deja.AnyAggregate{account.Aggregate(), transfer.Aggregate()},
	}
}

// Peers returns which services own what this one sends commands to.
func Peers() map[string]string { return map[string]string{"posting": ledger.Name} }
