//go:build unix

package main

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/internal/remit"
)

// What is tortured: a bank, whose accounts clients pay into and take from, and a ledger. Remittances move money from the one
// to the other. Each has tables of its own to be checked by.
const partitions = 4

// publicTopic returns the topic of a service's events.
func publicTopic(service string) string { return service + ".public" }

// No key keeps a row of these tables from being written twice: what is written twice must be seen, not prevented.
const (
	balanceTable = `CREATE TABLE torture_balance (account TEXT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL)`
	entryTable   = `CREATE TABLE torture_entry (
		account TEXT NOT NULL, version BIGINT NOT NULL, amount BIGINT NOT NULL, event TEXT NOT NULL, cause TEXT NOT NULL, part INT NOT NULL, off BIGINT NOT NULL
	)`

	addBalance = `INSERT INTO torture_balance (account, balance, version) VALUES ($1, $2, $3)
		ON CONFLICT (account) DO UPDATE SET balance = torture_balance.balance + excluded.balance, version = excluded.version`
	addEntry = `INSERT INTO torture_entry (account, version, amount, event, cause, part, off) VALUES ($1, $2, $3, $4, $5, $6, $7)`
)

// holders are the aggregates that have money, and where in their states it is.
var holders = map[string]struct{ aggregate, field string }{
	remit.Bank:   {"account", "balance"},
	remit.Ledger: {"posting", "amount"},
}

// service returns one of the services, with a projection that keeps, of every account or posting, the balance and each
// entry.
func service(name string) *deja.Service {
	bank, ledger := remit.Services(remit.Variant{Desks: true, Counted: true})
	bank.Projections = []*deja.Projection{deja.NewProjection("entries",
		deja.Table("torture_balance", balanceTable),
		deja.Table("torture_entry", entryTable),
		deja.Project(func(tx deja.Tx, m *deja.Envelope, e remit.Deposited) error { return enter(tx, m, e.Amount) }),
		deja.Project(func(tx deja.Tx, m *deja.Envelope, e remit.Withdrawn) error { return enter(tx, m, -e.Amount) }),
	)}
	ledger.Projections = []*deja.Projection{deja.NewProjection("entries",
		deja.Table("torture_balance", balanceTable),
		deja.Table("torture_entry", entryTable),
		deja.Project(func(tx deja.Tx, m *deja.Envelope, e remit.Posted) error { return enter(tx, m, e.Amount) }),
		deja.Project(func(tx deja.Tx, m *deja.Envelope, e remit.Reversed) error { return enter(tx, m, -e.Amount) }),
	)}
	if name == remit.Bank {
		return bank
	}
	return ledger
}

func enter(tx deja.Tx, m *deja.Envelope, amount int64) error {
	tx.Queue(addBalance, m.Stream.Key, amount, m.Version)
	tx.Queue(addEntry, m.Stream.Key, m.Version, amount, m.ID.String(), m.CausationID.String(), m.Position.Partition, m.Position.Offset)
	return nil
}

// config returns what a service's engine needs. The bank has its receipts sent by send.
func config(name string, log driver.Log, store driver.Store, send func(context.Context, deja.ID, remit.Mail) (string, error)) engine.Config {
	cfg := engine.Config{Service: service(name), Log: log, Store: store, Peers: remit.Peers()}
	if name == remit.Bank && send != nil {
		cfg.Effects = []deja.Performer{remit.Mailer(send)}
	}
	return cfg
}

// mailing returns a send that calls a provider, whose number for a receipt is its key.
func mailing(p *receipt.Provider) func(context.Context, deja.ID, remit.Mail) (string, error) {
	return func(ctx context.Context, key deja.ID, m remit.Mail) (string, error) {
		return key.String(), p.Send(ctx, key.String(), receipt.Send{To: m.To, Transfer: m.Remittance, Amount: m.Amount})
	}
}

// providerFaults are how the provider behaves: one receipt of some is declined at first, of one the answer gets lost.
var providerFaults = receipt.Faults{Seed: 1, Decline: 12, NoAnswer: 12}

// accountKey returns the key of account number n.
func accountKey(n int) string { return fmt.Sprintf("acc-%03d", n) }
