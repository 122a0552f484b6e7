package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/transfers/posting"
	"github.com/dejalog/deja/examples/transfers/transfer"
	"github.com/dejalog/deja/replay"
)

// books is what the stores of both services say, each at a moment of its own.
type books struct {
	balances  int64 // of the accounts
	posted    int64 // by the ledger
	transfers map[string]transfer.Transfer
	postings  map[string]posting.Posting
}

// readBooks reads both stores, which waits for nobody.
func readBooks(ctx context.Context, accounts, ledger driver.Reader) (*books, error) {
	b := &books{transfers: map[string]transfer.Transfer{}, postings: map[string]posting.Posting{}}
	if err := replay.EachState(ctx, accounts, b.take); err != nil {
		return nil, err
	}
	return b, replay.EachState(ctx, ledger, b.take)
}

func (b *books) take(row driver.State) error {
	if row.Version == 0 {
		return nil
	}
	switch row.Stream.Aggregate {
	case "account":
		var a account.Account
		if err := json.Unmarshal(row.Data, &a); err != nil {
			return err
		}
		b.balances += a.Balance
	case "transfer":
		var t transfer.Transfer
		if err := json.Unmarshal(row.Data, &t); err != nil {
			return err
		}
		b.transfers[row.Stream.Key] = t
	case "posting":
		var p posting.Posting
		if err := json.Unmarshal(row.Data, &p); err != nil {
			return err
		}
		b.postings[row.Stream.Key] = p
		if p.Stage == posting.Stands {
			b.posted += p.Amount
		}
	}
	return nil
}

// in returns how many transfers are in a phase.
func (b *books) in(phase transfer.Phase) (n int) {
	for _, t := range b.transfers {
		if t.Phase == phase {
			n++
		}
	}
	return n
}

// inFlight returns how many transfers have not ended.
func (b *books) inFlight() int {
	return len(b.transfers) - b.in(transfer.Completed) - b.in(transfer.Returned)
}

// settle counts in a group which of its transfers, whose keys begin with a prefix, have ended by now.
func (b *books) settle(g *group, prefix string) {
	finished, returned := 0, 0
	for key, t := range b.transfers {
		switch ours := strings.HasPrefix(key, prefix); {
		case ours && t.Phase == transfer.Completed:
			finished++
		case ours && t.Phase == transfer.Returned:
			returned++
		}
	}
	if finished+returned > 0 {
		g.Completed, g.Undone, g.Waiting = finished, returned, g.Asked-finished-returned
	}
}

// check fails unless money is whole, and every transfer has come to an end that both services agree about.
func (b *books) check(want int64) error {
	if got := b.balances + b.posted; got != want {
		return fmt.Errorf("there is %d of money, and there should be %d", got, want)
	}
	for key, t := range b.transfers {
		p := b.postings[key]
		switch stands := p.Stage == posting.Stands; {
		case t.Phase == transfer.Completed && stands && p.Amount == t.Amount:
		case t.Phase == transfer.Returned && !stands:
		default:
			return fmt.Errorf("transfer %q is %s, and its posting %q", key, t.Phase, p.Stage)
		}
	}
	if len(b.postings) > len(b.transfers) {
		return fmt.Errorf("%d transfers have %d postings", len(b.transfers), len(b.postings))
	}
	return nil
}
