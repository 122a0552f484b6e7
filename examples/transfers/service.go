package main

import (
	"cmp"
	"context"
	"os"
	"path/filepath"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/receipt"
)

// serviceVariable says which service's program this one is, to processes that such a program starts.
const serviceVariable = "TRANSFERS_SERVICE"

// app returns the program of a service, with all commands that one has; false if there is none of that name.
func app(name string) (cli.App, bool) {
	a := cli.App{Under: name, DefaultDB: "./transfers.db"}
	switch name {
	case accounts.Name:
		a.Service, a.New, a.Peers, a.Effects = accounts.Service(), accounts.Service, accounts.Peers(), effects
		a.Short = "The senders' accounts, and the transfers"
	case ledger.Name:
		a.Service, a.New = ledger.Service(), ledger.Service
		a.Short = "The receivers' money, in postings that can be reversed and barred"
	default:
		return a, false
	}
	return a, true
}

// effects opens the provider's file: what DEJA_RECEIPTS names, or the one beside the database. It stays open as long as the
// process runs.
func effects(e *cli.Env) ([]deja.Performer, error) {
	path := cmp.Or(os.Getenv(receiptsVariable), filepath.Join(filepath.Dir(e.DB()), receiptsFile))
	p, err := receipt.Open(path, receipt.Faults{})
	if err != nil {
		return nil, err
	}
	return []deja.Performer{receipt.Performer(p)}, nil
}

// service runs the program of a service, if the arguments or the process that started this one say so.
func (p *program) service(ctx context.Context, args []string) (code int, ok bool) {
	called, name, rest := os.Args[0], p.getenv(serviceVariable), args
	if name == "" && len(args) > 0 {
		name, rest = args[0], args[1:]
	}
	a, ok := app(name)
	if !ok {
		return 0, false
	}
	if err := os.Setenv(serviceVariable, name); err != nil { // a process that it starts is to be the same
		return exitFault, true
	}
	return a.Main(ctx, append([]string{called}, rest...), p.stdin, p.stdout, p.stderr, p.getenv), true
}
