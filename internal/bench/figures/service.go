package main

import (
	"crypto/rand"
	"fmt"

	"github.com/dejalog/deja"
)

const (
	name       = "bench"
	accounts   = 10_000
	partitions = 4
	again      = 50 // every so many-th message is sent twice
)

// The work is that of the peers' measurements: balances of 10,000 accounts, messages of about 110 bytes of JSON, one
// event for each.
type account struct {
	Balance int64  `json:"balance"`
	Count   int64  `json:"count"`
	Last    string `json:"last"`
}

type deposit struct {
	Account string `json:"account"`
	Amount  int64  `json:"amount"`
	Ref     string `json:"ref"`
	Text    string `json:"text"`
}

type deposited struct {
	Amount int64  `json:"amount"`
	Ref    string `json:"ref"`
}

func (deposit) CommandType() string { return "account.deposit" }
func (deposited) EventType() string { return "account.deposited" }

func service(projection bool) *deja.Service {
	svc := &deja.Service{Name: name, Aggregates: []deja.AnyAggregate{deja.NewAggregate("account",
		deja.Handle(func(_ account, d *deja.Decision, c deposit) error {
			d.Record(deposited{c.Amount, c.Ref})
			return nil
		}),
		deja.Apply(func(a *account, e deposited) { *a = account{a.Balance + e.Amount, a.Count + 1, e.Ref} }),
	)}}
	if projection {
		svc.Projections = []*deja.Projection{deja.NewProjection("statement",
			deja.Table("statement", `CREATE TABLE statement (account TEXT NOT NULL, version BIGINT NOT NULL, amount BIGINT NOT NULL, PRIMARY KEY (account, version))`),
			deja.Project(func(tx deja.Tx, m *deja.Envelope, e deposited) error {
				tx.Queue(`INSERT INTO statement (account, version, amount) VALUES ($1, $2, $3)`, m.Stream.Key, m.Version, e.Amount)
				return nil
			}))}
	}
	return svc
}

// order is the i-th deposit of a run; the account and the amount follow from i, so that an oracle is a loop.
func order(i int) (key string, amount int64) {
	return fmt.Sprint(i * 7919 % accounts), int64(i%1000 + 1)
}

func request(i int, id deja.ID) deja.Request {
	key, amount := order(i)
	return deja.Request{ID: id, Key: key, Command: deposit{key, amount, fmt.Sprintf("ref-%d", i), "a payment of some kind, to somebody"}}
}

// balances is the oracle: what the accounts have after n deposits.
func balances(n int) map[string]account {
	all := make(map[string]account, accounts)
	for i := range n {
		key, amount := order(i)
		a := all[key]
		all[key] = account{a.Balance + amount, a.Count + 1, fmt.Sprintf("ref-%d", i)}
	}
	return all
}

// randomID returns a UUID of version 4, as most clients send.
func randomID() (id deja.ID) {
	_, _ = rand.Read(id[:]) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}
