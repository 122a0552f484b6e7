package transfer_test

import (
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/transfers/posting"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/examples/transfers/transfer"
)

// The messages of one transfer, which all tests are about.
var (
	start   = transfer.Start{From: "a1", To: posting.Number(7), Amount: 100}
	started = transfer.Started(start)

	withdraw = account.Withdraw{Amount: 100}
	giveBack = account.Deposit{Amount: 100}
	post     = posting.Post{Account: posting.Number(7), Amount: 100}
)

func given(t *testing.T, events ...deja.Event) *dejatest.Case[transfer.Transfer] {
	t.Helper()
	return dejatest.New(t, transfer.Aggregate(), "t1").Given(events...)
}

func phase(t *testing.T, c *dejatest.Case[transfer.Transfer], want transfer.Phase, why string) {
	t.Helper()
	c.State(transfer.Transfer{From: start.From, To: start.To, Amount: start.Amount, Phase: want, Why: why})
}

func TestATransferIsFinished(t *testing.T) {
	c := given(t).
		When(start).Recorded(started).Sent("a1", withdraw).
		When(deja.Reply[account.Withdraw]{Command: withdraw}).
		Recorded(transfer.Taken{}).Sent("t1", post).Scheduled("time-out", 30*time.Minute).
		When(deja.Reply[posting.Post]{Command: post}).
		Recorded(transfer.Finished{}).Cancelled("time-out").Effect(receipt.Send{To: "a1", Transfer: "t1", Amount: 100}).
		When(deja.Failed[receipt.Send]{Reason: receipt.ErrKey}).Nothing()
	phase(t, c, transfer.Completed, "")
}

func TestStartIsRefused(t *testing.T) {
	given(t, started).When(start).Rejected(transfer.ErrState)
	given(t).When(transfer.Start{From: "a1", Amount: 0}).Rejected(transfer.ErrAmount)
	given(t).When(transfer.Start{From: "a1", Amount: 1, Patience: -1}).Rejected(transfer.ErrAmount)
}

func TestWhatWasNotTakenIsNotGivenBack(t *testing.T) {
	c := given(t, started).
		When(deja.Reply[account.Withdraw]{Command: withdraw, Rejection: account.ErrOverdraft}).
		Recorded(transfer.Undone{Why: "account.overdraft"})
	phase(t, c, transfer.Returned, "account.overdraft")
}

func TestARefusedPostingGivesTheMoneyBack(t *testing.T) {
	c := given(t, started, transfer.Taken{}).
		When(deja.Reply[posting.Post]{Command: post, Rejection: posting.ErrAccount}).
		Recorded(transfer.Returning{Why: "posting.account"}).Cancelled("time-out").Sent("a1", giveBack).
		When(deja.Reply[account.Deposit]{Command: giveBack}).
		Recorded(transfer.Undone{Why: "posting.account"})
	phase(t, c, transfer.Returned, "posting.account")
}

func TestATimeOutBarsThePostingBeforeTheMoneyIsGivenBack(t *testing.T) {
	c := given(t, started, transfer.Taken{}).
		When(transfer.TimeOut{}).Recorded(transfer.GivenUp{Why: "time-out"}).Sent("t1", posting.Reverse{}).
		When(deja.Reply[posting.Post]{Command: post}).Nothing(). // too late
		When(transfer.TimeOut{}).Nothing().
		When(deja.Reply[posting.Reverse]{}).Recorded(transfer.Returning{Why: "time-out"}).Sent("a1", giveBack).
		When(deja.Reply[posting.Reverse]{}).Nothing().
		When(deja.Reply[account.Deposit]{Command: giveBack}).Recorded(transfer.Undone{Why: "time-out"})
	phase(t, c, transfer.Returned, "time-out")
}

func TestATimeOutAfterTheAnswerIsNone(t *testing.T) {
	given(t, started, transfer.Taken{}, transfer.Finished{}).When(transfer.TimeOut{}).Nothing()
}

func TestPatience(t *testing.T) {
	given(t, transfer.Started{From: "a1", To: start.To, Amount: 100, Patience: 20}).
		When(deja.Reply[account.Withdraw]{Command: withdraw}).Scheduled("time-out", 20*time.Millisecond)
}

func TestARefusedStepBackIsStuckAndTriedAgainByHand(t *testing.T) {
	c := given(t, started, transfer.Taken{}, transfer.GivenUp{Why: "time-out"}).
		When(deja.Reply[posting.Reverse]{Rejection: deja.NewRejection(deja.CodeDead)}).
		Recorded(transfer.Stuck{In: transfer.Barring, Why: "deja.dead"}).
		When(transfer.Undo{}).Recorded(transfer.GivenUp{Why: "time-out"}).Sent("t1", posting.Reverse{}).
		When(deja.Reply[posting.Reverse]{}).Sent("a1", giveBack).
		When(deja.Reply[account.Deposit]{Command: giveBack, Rejection: account.ErrOverflow}).
		Recorded(transfer.Stuck{In: transfer.Giving, Why: "account.overflow"}).
		When(transfer.Undo{}).Recorded(transfer.Returning{Why: "time-out"}).Sent("a1", giveBack).
		When(deja.Reply[account.Deposit]{Command: giveBack}).Recorded(transfer.Undone{Why: "time-out"})
	phase(t, c, transfer.Returned, "time-out")
}

func TestUndoByHand(t *testing.T) {
	given(t).When(transfer.Undo{}).Rejected(transfer.ErrState)
	given(t, started, transfer.Taken{}, transfer.Finished{}).When(transfer.Undo{}).Rejected(transfer.ErrSettled)
	given(t, started, transfer.Undone{}).When(transfer.Undo{}).Rejected(transfer.ErrSettled)
	given(t, started, transfer.Taken{}).
		When(transfer.Undo{}).Cancelled("time-out").Sent("t1", posting.Reverse{}).
		When(transfer.Undo{}).Nothing().
		When(deja.Reply[posting.Reverse]{}).Recorded(transfer.Returning{Why: "by hand"}).Sent("a1", giveBack).
		When(transfer.Undo{}).Nothing()
}

func TestUndoBeforeTheAccountHasAnswered(t *testing.T) {
	given(t, started).
		When(transfer.Undo{}).Recorded(transfer.Recalled{}).
		When(transfer.Undo{}).Nothing().
		When(deja.Reply[account.Withdraw]{Command: withdraw}).Recorded(transfer.Returning{Why: "by hand"}).Sent("a1", giveBack)
	given(t, started, transfer.Recalled{}).
		When(deja.Reply[account.Withdraw]{Command: withdraw, Rejection: account.ErrOverdraft}).
		Recorded(transfer.Undone{Why: "account.overdraft"})
}
