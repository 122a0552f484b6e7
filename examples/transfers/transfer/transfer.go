// Package transfer is the saga of the example: it takes money from an account, has the ledger post it to the receiver,
// and gives it back if that comes to nothing. Each transfer ends finished or undone, whatever crashes on the way; or it is
// stuck, and a person is told.
package transfer

import (
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/transfers/posting"
	"github.com/dejalog/deja/examples/transfers/receipt"
)

// Transfer is the state.
type Transfer struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Amount   int64  `json:"amount"`
	Patience int64  `json:"patience,omitempty"` // milliseconds
	Phase    Phase  `json:"phase"`
	Recalled bool   `json:"recalled,omitempty"`
	StuckIn  Phase  `json:"stuck_in,omitempty"`
	Why      string `json:"why,omitempty"` // it is not to be finished
}

// Phase says what a transfer is doing; none before it was started.
type Phase string

// The phases.
const (
	Taking    Phase = "taking"    // the account was asked for the money
	Posting   Phase = "posting"   // the ledger was asked for the posting
	Barring   Phase = "barring"   // the ledger was asked to reverse or bar it
	Giving    Phase = "returning" // the account was asked to take the money back
	Completed Phase = "finished"
	Returned  Phase = "undone"
	Suspense  Phase = "stuck"
)

// Refusals.
var (
	ErrAmount  = deja.NewRejection("transfer.amount")  // it is not positive
	ErrState   = deja.NewRejection("transfer.state")   // it was started before, or not at all
	ErrSettled = deja.NewRejection("transfer.settled") // it has ended
)

// Aggregate returns the table of all that a transfer handles, hears and applies.
func Aggregate() *deja.Aggregate[Transfer] {
	return deja.NewAggregate("transfer",
		deja.Handle(Transfer.Start),
		deja.Handle(Transfer.TimeOut),
		deja.Compensate(Transfer.Undo),
		deja.OnReply(Transfer.onWithdraw),
		deja.OnReply(Transfer.onPost),
		deja.OnReply(Transfer.onReverse),
		deja.OnReply(Transfer.onReturn),
		deja.OnFailed(Transfer.noReceipt),
		deja.Apply((*Transfer).started),
		deja.Apply((*Transfer).taken),
		deja.Apply((*Transfer).recalled),
		deja.Apply((*Transfer).givenUp),
		deja.Apply((*Transfer).returning),
		deja.Apply((*Transfer).finished),
		deja.Apply((*Transfer).undone),
		deja.Apply((*Transfer).stuck),
		deja.Ends[Transfer, Finished](),
		deja.Ends[Transfer, Undone](),
		deja.Sticks[Transfer, Stuck](),
		deja.Within[Transfer](time.Hour),
	)
}

// patience is how long the ledger may take where the transfer does not say.
const patience = 30 * time.Minute

// timeOut is the timer's name.
const timeOut = "time-out"

// Start takes the money.
func (t Transfer) Start(d *deja.Decision, c Start) error {
	switch {
	case t.Phase != "":
		return ErrState.Because("it was started before")
	case c.Amount <= 0 || c.Patience < 0:
		return ErrAmount.Because("amount %d, patience %d", c.Amount, c.Patience)
	}
	d.Record(Started(c))
	d.Send(c.From, account.Withdraw{Amount: c.Amount})
	return nil
}

// onWithdraw goes on with the posting, unless the money was recalled meanwhile.
func (t Transfer) onWithdraw(d *deja.Decision, r deja.Reply[account.Withdraw]) error {
	switch {
	case r.Rejection != nil:
		d.Record(Undone{Why: r.Rejection.Code}) // nothing was taken, nothing to give back
	case t.Recalled:
		t.giveBack(d, byHand) // the posting was never asked for
	default:
		d.Record(Taken{})
		d.Send(d.Key(), posting.Post{Account: t.To, Amount: t.Amount})
		d.Schedule(timeOut, d.Time().Add(t.patience()), TimeOut{})
	}
	return nil
}

// onPost ends the transfer, or goes back: a posting that was refused is none.
func (t Transfer) onPost(d *deja.Decision, r deja.Reply[posting.Post]) error {
	switch {
	case t.Phase != Posting: // too late: the reversal is under way, and its reply settles it
	case r.Rejection != nil:
		d.Cancel(timeOut)
		t.giveBack(d, r.Rejection.Code)
	default:
		d.Cancel(timeOut)
		d.Record(Finished{})
		d.Effect(receipt.Send{To: t.From, Transfer: d.Key(), Amount: t.Amount})
	}
	return nil
}

// TimeOut gives the transfer up if the ledger has not answered. The posting may be there or not, or be on its way: nobody
// can know, so the ledger is asked to reverse or bar it.
func (t Transfer) TimeOut(d *deja.Decision, _ TimeOut) error {
	if t.Phase == Posting {
		bar(d, timeOut)
	}
	return nil
}

// byHand is why a transfer was undone that an operator had undone.
const byHand = "by hand"

// Undo goes back from wherever the transfer is. From where it is stuck it tries the refused step again.
func (t Transfer) Undo(d *deja.Decision, _ Undo) error {
	switch {
	case t.Phase == "":
		return ErrState.Because("it was not started")
	case t.Phase == Completed || t.Phase == Returned:
		return ErrSettled.Because("it is %s", t.Phase)
	case t.Phase == Taking && !t.Recalled:
		d.Record(Recalled{})
	case t.Phase == Posting:
		d.Cancel(timeOut)
		bar(d, byHand)
	case t.StuckIn == Barring:
		bar(d, t.Why)
	case t.StuckIn == Giving:
		t.giveBack(d, t.Why)
	}
	return nil // where it is on its way back already there is nothing to do
}

// bar has the ledger see to it that there is no posting, now or later. Only its reply gives the money back.
func bar(d *deja.Decision, why string) {
	d.Record(GivenUp{Why: why})
	d.Send(d.Key(), posting.Reverse{})
}

func (t Transfer) onReverse(d *deja.Decision, r deja.Reply[posting.Reverse]) error {
	switch {
	case t.Phase != Barring:
	case r.Rejection != nil:
		d.Record(Stuck{In: Barring, Why: r.Rejection.Error()})
	default:
		t.giveBack(d, t.Why)
	}
	return nil
}

func (t Transfer) giveBack(d *deja.Decision, why string) {
	d.Record(Returning{Why: why})
	d.Send(t.From, account.Deposit{Amount: t.Amount})
}

func (t Transfer) onReturn(d *deja.Decision, r deja.Reply[account.Deposit]) error {
	switch {
	case t.Phase != Giving:
	case r.Rejection != nil:
		d.Record(Stuck{In: Giving, Why: r.Rejection.Error()})
	default:
		d.Record(Undone{Why: t.Why})
	}
	return nil
}

// noReceipt has nothing to undo: the money has moved, and the provider's refusal is on record.
func (t Transfer) noReceipt(*deja.Decision, deja.Failed[receipt.Send]) error { return nil }

func (t Transfer) patience() time.Duration {
	if t.Patience == 0 {
		return patience
	}
	return time.Duration(t.Patience) * time.Millisecond
}

func (t *Transfer) started(e Started) {
	*t = Transfer{From: e.From, To: e.To, Amount: e.Amount, Patience: e.Patience, Phase: Taking}
}

func (t *Transfer) taken(_ Taken)         { t.Phase = Posting }
func (t *Transfer) recalled(_ Recalled)   { t.Recalled = true }
func (t *Transfer) givenUp(e GivenUp)     { t.Phase, t.StuckIn, t.Why = Barring, "", e.Why }
func (t *Transfer) returning(e Returning) { t.Phase, t.StuckIn, t.Why = Giving, "", e.Why }
func (t *Transfer) finished(_ Finished)   { t.Phase = Completed }
func (t *Transfer) undone(e Undone)       { t.Phase, t.Why = Returned, e.Why }
func (t *Transfer) stuck(e Stuck)         { t.Phase, t.StuckIn = Suspense, e.In }
