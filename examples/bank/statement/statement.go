// Package statement is the monthly statement of each account, as a table to query beside the state: what went in and
// out in a month, by the business time of the transactions.
package statement

import (
	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/account"
)

// The statement of a month; last_version is the account's version after the last transaction that counts in it.
const table = `CREATE TABLE bank_statement (
	account      TEXT   NOT NULL,
	month        TEXT   NOT NULL,
	credits      BIGINT NOT NULL,
	debits       BIGINT NOT NULL,
	transactions BIGINT NOT NULL,
	last_version BIGINT NOT NULL,
	PRIMARY KEY (account, month)
)`

const upsert = `INSERT INTO bank_statement (account, month, credits, debits, transactions, last_version)
VALUES ($1, $2, $3, $4, 1, $5)
ON CONFLICT (account, month) DO UPDATE SET
	credits      = bank_statement.credits + excluded.credits,
	debits       = bank_statement.debits + excluded.debits,
	transactions = bank_statement.transactions + 1,
	last_version = excluded.last_version`

// Projection returns the projection. All that it writes comes from the event, so a rebuild writes the same.
func Projection() *deja.Projection {
	return deja.NewProjection("statement",
		deja.Table("bank_statement", table),
		deja.Project(func(tx deja.Tx, m *deja.Envelope, e account.Credited) error { return enter(tx, m, e.Amount, 0) }),
		deja.Project(func(tx deja.Tx, m *deja.Envelope, e account.Debited) error { return enter(tx, m, 0, e.Amount) }),
		deja.Project(func(tx deja.Tx, m *deja.Envelope, e account.Deposited) error { return enter(tx, m, e.Amount, 0) }),
		deja.Project(func(tx deja.Tx, m *deja.Envelope, e account.Withdrawn) error { return enter(tx, m, 0, e.Amount) }),
		deja.Project(func(tx deja.Tx, m *deja.Envelope, e account.Corrected) error {
			return enter(tx, m, max(e.Amount, 0), max(-e.Amount, 0))
		}),
	)
}

func enter(tx deja.Tx, m *deja.Envelope, credit, debit int64) error {
	tx.Queue(upsert, m.Stream.Key, month(m), credit, debit, m.Version)
	return nil
}

// month is the one that the bank's date falls into; a transaction of our own has none, and counts when it was decided.
func month(m *deja.Envelope) string {
	at := m.BusinessTime
	if at.IsZero() {
		at = m.Time
	}
	return at.UTC().Format("2006-01")
}
