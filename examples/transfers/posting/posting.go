// Package posting is what a ledger has of a transfer: one posting, keyed by the transfer. A posting that was reversed or
// stopped is barred, also if that was asked for before it arrived: what comes too late is refused, and recorded.
package posting

import "github.com/dejalog/deja"

// Posting is the state.
type Posting struct {
	Account string `json:"account,omitempty"`
	Amount  int64  `json:"amount,omitempty"`
	Stage   Stage  `json:"stage"`
}

// Stage says how far a posting has come; none if nothing has happened.
type Stage string

// The stages.
const (
	Stands Stage = "posted"
	Undone Stage = "reversed"
	Closed Stage = "barred"
)

// Refusals.
var (
	ErrAccount = deja.NewRejection("posting.account") // nobody has an account of this number
	ErrAmount  = deja.NewRejection("posting.amount")  // it is not positive
	ErrBarred  = deja.NewRejection("posting.barred")  // it was reversed or stopped before
	ErrPosted  = deja.NewRejection("posting.posted")  // it is there already
)

// Aggregate returns the table of all that a posting handles and applies.
func Aggregate() *deja.Aggregate[Posting] {
	return deja.NewAggregate("posting",
		deja.Handle(Posting.Post),
		deja.Handle(Posting.Reverse),
		deja.Handle(Posting.Stop),
		deja.Apply((*Posting).posted),
		deja.Apply((*Posting).reversed),
		deja.Apply((*Posting).barred),
	)
}

// Post puts the money to the receiver's account.
func (p Posting) Post(d *deja.Decision, c Post) error {
	switch {
	case p.Stage == Stands:
		return ErrPosted
	case p.Stage != "":
		return ErrBarred
	case c.Amount <= 0:
		return ErrAmount.Because("%d is not positive", c.Amount)
	case !Valid(c.Account):
		return ErrAccount.Because("the check digits of %q are wrong", c.Account)
	}
	d.Record(Posted(c))
	return nil
}

// Reverse undoes the posting, or bars it. Asked again it has nothing to do.
func (p Posting) Reverse(d *deja.Decision, _ Reverse) error {
	switch p.Stage {
	case Stands:
		d.Record(Reversed{Account: p.Account, Amount: p.Amount})
	case "":
		d.Record(Barred{})
	case Undone, Closed: // it is as it should be
	}
	return nil
}

// Stop bars a posting that is not there.
func (p Posting) Stop(d *deja.Decision, _ Stop) error {
	switch p.Stage {
	case Stands:
		return ErrPosted
	case "":
		d.Record(Barred{})
	case Undone, Closed: // it is as it should be
	}
	return nil
}

func (p *Posting) posted(e Posted)     { *p = Posting{Account: e.Account, Amount: e.Amount, Stage: Stands} }
func (p *Posting) reversed(_ Reversed) { p.Stage = Undone }
func (p *Posting) barred(_ Barred)     { p.Stage = Closed }
