package accounts_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/posting"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/examples/transfers/transfer"
)

// money is what there is.
const money = 1000

// transfers is a world in which one transfer is finished, one is refused by the account, one by the ledger, one was stopped
// before it began, and one is undone by hand, or finished before.
func transfers(t *testing.T) *dejatest.World {
	t.Helper()
	w := dejatest.NewWorld(t, accounts.Service(), ledger.Service())
	w.Perform(deja.Perform(func(context.Context, deja.ID, receipt.Send) (deja.Command, error) { return nil, nil }))
	w.Must(deja.Request{Key: "ana", Command: account.Deposit{Amount: money}})
	w.Must(deja.Request{Key: "stopped", Command: posting.Stop{}})
	receiver := posting.Number(7)
	for _, o := range []struct {
		key    string
		to     string
		amount int64
	}{{"plain", receiver, 100}, {"greedy", receiver, 5000}, {"mistyped", "0000000000", 100}, {"stopped", receiver, 100}, {"recalled", receiver, 100}} {
		w.Must(deja.Request{Key: o.key, Command: transfer.Start{From: "ana", To: o.to, Amount: o.amount}})
	}
	_, _ = w.Do(deja.Request{Key: "recalled", Command: transfer.Undo{}}) // refused where it has ended
	w.Advance(time.Hour)
	return w
}

// right returns an error unless all money is there, and each transfer has ended in a way that goes with its posting.
func right(w *dejatest.World) error {
	var a account.Account
	w.State(deja.Stream{Aggregate: "account", Key: "ana"}, &a)
	sum := a.Balance
	for _, s := range w.Streams("transfer") {
		var t transfer.Transfer
		var p posting.Posting
		w.State(s, &t)
		w.State(deja.Stream{Aggregate: "posting", Key: s.Key}, &p)
		stands := p.Stage == posting.Stands
		if stands {
			sum += p.Amount
		}
		if t.Phase != transfer.Completed && t.Phase != transfer.Returned || stands != (t.Phase == transfer.Completed) {
			return fmt.Errorf("%s is %s, and its posting is %q", s, t.Phase, p.Stage)
		}
	}
	if sum != money {
		return fmt.Errorf("there is %d, want %d", sum, money)
	}
	return nil
}

func TestTransfersSurviveRedeliveryAndCrashes(t *testing.T) {
	w := transfers(t)
	if err := right(w); err != nil {
		t.Fatal(err)
	}
	before := w.Hash()
	w.RedeliverAll()
	w.WantHash(before)
	w.CrashAtEveryWrite()
	w.WantHash(before)
}

func TestTransfersAreRightInWhateverOrder(t *testing.T) {
	transfers(t).ExploreWith(dejatest.Exploration{Invariant: right, Runs: 200, Random: 50})
}
