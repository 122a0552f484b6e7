// Package ledger puts the second of the two services together: it has the receivers' money.
package ledger

import (
	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/transfers/posting"
)

// Name is the service's name.
const Name = "ledger"

// Service returns the ledger. It knows nothing of transfers: who asks it for a posting gets an answer.
func Service() *deja.Service {
	return &deja.Service{
		Name:       Name,
		Aggregates: []deja.AnyAggregate{posting.Aggregate()},
	}
}
