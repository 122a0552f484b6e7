// Package service puts the bank together.
package service

import (
	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/bank/statement"
)

// Name is the service's name. It is part of every recorded message, and never changes.
const Name = "bank"

// Service returns the bank: a pure value, which the engine, the tests and every replay take.
func Service() *deja.Service {
	return &deja.Service{
		Name:        Name,
		Aggregates:  []deja.AnyAggregate{account.Aggregate()},
		Projections: []*deja.Projection{statement.Projection()},
	}
}
