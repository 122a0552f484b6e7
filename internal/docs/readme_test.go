package docs_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/sqlite"
)

// What stands between here and the end is the README's example, word for word.

type (
	Account struct { // the state
		Balance int64 `json:"balance"`
	}
	Deposit struct { // a command: may be refused
		Amount int64 `json:"amount"`
	}
	Deposited struct { // an event: has happened
		Amount int64 `json:"amount"`
	}
)

func (Deposit) CommandType() string { return "account.deposit" }
func (Deposited) EventType() string { return "account.deposited" }

func (a Account) Deposit(d *deja.Decision, c Deposit) error { // decides, and cannot change the state
	if c.Amount <= 0 {
		return deja.NewRejection("account.amount")
	}
	d.Record(Deposited(c))
	return nil
}

func (a *Account) deposited(e Deposited) { a.Balance += e.Amount } // folds; replay runs nothing else

var bank = &deja.Service{Name: "bank", Aggregates: []deja.AnyAggregate{
	deja.NewAggregate("account", deja.Handle(Account.Deposit), deja.Apply((*Account).deposited)),
}}

func run(ctx context.Context, file string) error {
	db, err := sqlite.Open(ctx, file) // inbox, journal and store in one file
	if err != nil {
		return err
	}
	defer db.Close()
	eng, err := engine.New(engine.Config{Service: bank, Log: db.Log(), Store: db.Store()})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = eng.Run(ctx) })
	defer running.Wait()
	defer stop()

	pay := deja.Request{ID: deja.DeriveID("ana", "invoice 17"), Key: "576", Command: Deposit{Amount: 100}}
	for range 2 { // the second time as after a lost answer
		out, err := eng.Client().Do(ctx, pay)
		fmt.Println("version", out.Version, "duplicate", out.Duplicate, err)
	}
	pay.Command = Deposit{Amount: 900} // the same ID, other content
	_, err = eng.Client().Do(ctx, pay)
	return err
}

func Example() {
	dir, err := os.MkdirTemp("", "deja-readme-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	fmt.Println(run(context.Background(), filepath.Join(dir, "bank.db")))
	// Output:
	// version 1 duplicate false <nil>
	// version 1 duplicate true <nil>
	// message d74a1ee0-eca5-8ce1-8264-60e2228b6400 at bank.inbox:0:2: same ID as the message at bank.inbox:0:0, other content (in amount); use a new ID for a new message
}
