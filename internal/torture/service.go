//go:build unix

package main

import (
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/account"
)

// What is tortured: the accounts of the example bank, with tables of its own to be checked by.
const (
	serviceName = "torture"
	aggregate   = "account"
	publicTopic = "torture.public"
	partitions  = 4
)

// No key keeps a row of these tables from being written twice: what is written twice must be seen, not prevented.
const (
	balanceTable = `CREATE TABLE torture_balance (account TEXT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL)`
	entryTable   = `CREATE TABLE torture_entry (
		account TEXT NOT NULL, version BIGINT NOT NULL, amount BIGINT NOT NULL, event TEXT NOT NULL, cause TEXT NOT NULL, off BIGINT NOT NULL
	)`

	addBalance = `INSERT INTO torture_balance (account, balance, version) VALUES ($1, $2, $3)
		ON CONFLICT (account) DO UPDATE SET balance = torture_balance.balance + excluded.balance, version = excluded.version`
	addEntry = `INSERT INTO torture_entry (account, version, amount, event, cause, off) VALUES ($1, $2, $3, $4, $5, $6)`
)

// service returns the accounts with a projection that keeps, of every account, the balance and each entry.
func service() *deja.Service {
	return &deja.Service{
		Name:       serviceName,
		Aggregates: []deja.AnyAggregate{account.Aggregate()},
		Projections: []*deja.Projection{deja.NewProjection("entries",
			deja.Table("torture_balance", balanceTable),
			deja.Table("torture_entry", entryTable),
			deja.Project(func(tx deja.Tx, m *deja.Envelope, e account.Deposited) error { return enter(tx, m, e.Amount) }),
			deja.Project(func(tx deja.Tx, m *deja.Envelope, e account.Withdrawn) error { return enter(tx, m, -e.Amount) }),
		)},
	}
}

func enter(tx deja.Tx, m *deja.Envelope, amount int64) error {
	tx.Queue(addBalance, m.Stream.Key, amount, m.Version)
	tx.Queue(addEntry, m.Stream.Key, m.Version, amount, m.ID.String(), m.CausationID.String(), m.Position.Offset)
	return nil
}

// accountKey returns the key of account number n.
func accountKey(n int) string { return fmt.Sprintf("acc-%03d", n) }
