// Package remit is two services for tests: a bank, whose remittances move money from its accounts, and a ledger that takes it
// or refuses. A remittance withdraws, has the ledger post, and sends a receipt; what it cannot finish it undoes.
package remit

import (
	"context"
	"time"

	"github.com/dejalog/deja"
)

// The services' names.
const (
	Bank   = "bank"
	Ledger = "ledger"
)

// The commands.

type (
	// Deposit puts money into an account.
	Deposit struct{ Amount int64 }
	// Withdraw takes money out of an account.
	Withdraw struct{ Amount int64 }
	// Refund puts back what was taken.
	Refund struct{ Amount int64 }
	// Close closes an account: it takes no refund then.
	Close struct{}

	// Start begins a remittance.
	Start struct {
		From, To string
		Amount   int64
		Patience time.Duration
		Desk     string        `json:",omitempty"` // through which the ledger is to post; none: directly
		Hold     time.Duration `json:",omitempty"` // how long the desk takes over it
	}
	// TimeOut is the timer of one that the ledger does not answer.
	TimeOut struct{}
	// GiveUp undoes one by hand.
	GiveUp struct{}
	// Mailed answers with the number of the receipt.
	Mailed struct{ Receipt string }

	// Post has the ledger take the money.
	Post struct {
		To         string
		Amount     int64
		Remittance string `json:",omitempty"` // for a desk, which has many
	}
	// Reverse has it give the money back, or bars what has not come yet.
	Reverse struct{}
)

// CommandType implements [deja.Command].
func (Deposit) CommandType() string { return "account.deposit" }

// CommandType implements [deja.Command].
func (Withdraw) CommandType() string { return "account.withdraw" }

// CommandType implements [deja.Command].
func (Refund) CommandType() string { return "account.refund" }

// CommandType implements [deja.Command].
func (Close) CommandType() string { return "account.close" }

// CommandType implements [deja.Command].
func (Start) CommandType() string { return "remittance.start" }

// CommandType implements [deja.Command].
func (TimeOut) CommandType() string { return "remittance.time-out" }

// CommandType implements [deja.Command].
func (GiveUp) CommandType() string { return "remittance.give-up" }

// CommandType implements [deja.Command].
func (Mailed) CommandType() string { return "remittance.mailed" }

// CommandType implements [deja.Command].
func (Post) CommandType() string { return "posting.post" }

// CommandType implements [deja.Command].
func (Reverse) CommandType() string { return "posting.reverse" }

// The events.

type (
	// Deposited is of money put into an account.
	Deposited struct{ Amount int64 }
	// Withdrawn is of money taken out.
	Withdrawn struct{ Amount int64 }
	// Closed is the end of an account.
	Closed struct{}

	// Started is the beginning of a remittance.
	Started struct {
		From, To string
		Amount   int64
		Patience time.Duration
		Desk     string        `json:",omitempty"`
		Hold     time.Duration `json:",omitempty"`
	}
	// Taken says that the account has paid.
	Taken struct{}
	// GivenUp says that the money is to go back.
	GivenUp struct{ Why string }
	// Finished is an end: the ledger has the money.
	Finished struct{}
	// Undone is the other end: the account has it.
	Undone struct{}
	// Stuck says that neither can be.
	Stuck struct{ Why string }
	// Receipt says that the receipt was sent.
	Receipt struct{ Number string }
	// NoMail says that it was not.
	NoMail struct{ Why string }

	// Posted says that the ledger took the money.
	Posted struct {
		To     string
		Amount int64
	}
	// Reversed says that it gave the money back.
	Reversed struct{ Amount int64 }
)

// EventType implements [deja.Event].
func (Deposited) EventType() string { return "account.deposited" }

// EventType implements [deja.Event].
func (Withdrawn) EventType() string { return "account.withdrawn" }

// EventType implements [deja.Event].
func (Closed) EventType() string { return "account.closed" }

// EventType implements [deja.Event].
func (Started) EventType() string { return "remittance.started" }

// EventType implements [deja.Event].
func (Taken) EventType() string { return "remittance.taken" }

// EventType implements [deja.Event].
func (GivenUp) EventType() string { return "remittance.given-up" }

// EventType implements [deja.Event].
func (Finished) EventType() string { return "remittance.finished" }

// EventType implements [deja.Event].
func (Undone) EventType() string { return "remittance.undone" }

// EventType implements [deja.Event].
func (Stuck) EventType() string { return "remittance.stuck" }

// EventType implements [deja.Event].
func (Receipt) EventType() string { return "remittance.receipt" }

// EventType implements [deja.Event].
func (NoMail) EventType() string { return "remittance.no-mail" }

// EventType implements [deja.Event].
func (Posted) EventType() string { return "posting.posted" }

// EventType implements [deja.Event].
func (Reversed) EventType() string { return "posting.reversed" }

// Mail is the effect: a receipt is sent.
type Mail struct {
	To         string
	Remittance string
	Amount     int64
}

// EffectType implements [deja.Effect].
func (Mail) EffectType() string { return "receipt.mail" }

// The refusals.
var (
	ErrAmount   = deja.NewRejection("account.amount")
	ErrFunds    = deja.NewRejection("account.funds")
	ErrClosed   = deja.NewRejection("account.closed")
	ErrStarted  = deja.NewRejection("remittance.started")
	ErrBarred   = deja.NewRejection("posting.barred")
	ErrNoTaker  = deja.NewRejection("posting.no-taker")
	ErrTooLate  = deja.NewRejection("remittance.too-late")
	ErrNotGiven = deja.NewRejection("remittance.not-given-up")
)

// Nobody is the receiver whom the ledger does not know: it refuses what is for it.
const Nobody = "nobody"

// A Variant is a way in which the services are wrong, or changed.
type Variant struct {
	NoBar   bool // the ledger does not bar a posting that was reversed before it came
	Racing  bool // a reply that comes after the time-out finishes the remittance all the same
	Counted bool // a tally reacts to what the ledger posts
	Desks   bool // the ledger has desks, through which it posts
}

// Account is the state of an account.
type Account struct {
	Balance int64 `json:"balance"`
	Closed  bool  `json:"closed,omitempty"`
}

func account() *deja.Aggregate[Account] {
	return deja.NewAggregate("account",
		deja.Handle(Account.deposit),
		deja.Handle(Account.withdraw),
		deja.Handle(Account.refund),
		deja.Handle(Account.close),
		deja.Apply(func(a *Account, e Deposited) { a.Balance += e.Amount }),
		deja.Apply(func(a *Account, e Withdrawn) { a.Balance -= e.Amount }),
		deja.Apply(func(a *Account, _ Closed) { a.Closed = true }),
	)
}

func (a Account) deposit(d *deja.Decision, c Deposit) error {
	if c.Amount <= 0 {
		return ErrAmount
	}
	d.Record(Deposited(c))
	return nil
}

func (a Account) withdraw(d *deja.Decision, c Withdraw) error {
	if c.Amount > a.Balance {
		return ErrFunds.Because("%d of %d", c.Amount, a.Balance)
	}
	d.Record(Withdrawn(c))
	return nil
}

func (a Account) refund(d *deja.Decision, c Refund) error {
	if a.Closed {
		return ErrClosed
	}
	d.Record(Deposited(c))
	return nil
}

func (a Account) close(d *deja.Decision, _ Close) error {
	d.Record(Closed{})
	return nil
}

// The phases of a remittance.
const (
	Taking  = "taking"
	Posting = "posting"
	Undoing = "undoing"
	Done    = "done"
	Failed  = "failed"
	InDoubt = "in doubt"
)

// Remittance is the state of a saga.
type Remittance struct {
	From     string        `json:"from"`
	To       string        `json:"to"`
	Amount   int64         `json:"amount"`
	Patience time.Duration `json:"patience"`
	Desk     string        `json:"desk,omitempty"`
	Hold     time.Duration `json:"hold,omitempty"`
	Phase    string        `json:"phase"`
	Receipt  string        `json:"receipt,omitempty"`
	Ends     int           `json:"ends"` // how often it has ended
}

func remittance(v Variant) *deja.Aggregate[Remittance] {
	onPost := Remittance.onPost
	if v.Racing {
		onPost = Remittance.onPostRacing
	}
	rows := []deja.Handler[Remittance]{
		deja.Handle(Remittance.start),
		deja.Handle(Remittance.timeOut),
		deja.Compensate(Remittance.undo),
		deja.Handle(Remittance.mailed),
		deja.OnReply(Remittance.onWithdraw),
		deja.OnReply(onPost),
		deja.OnReply(Remittance.onReverse),
		deja.OnReply(Remittance.onRefund),
		deja.OnFailed(Remittance.noMail),
		deja.Apply(func(r *Remittance, e Started) {
			*r = Remittance{From: e.From, To: e.To, Amount: e.Amount, Patience: e.Patience, Desk: e.Desk, Hold: e.Hold, Phase: Taking}
		}),
		deja.Apply(func(r *Remittance, _ Taken) { r.Phase = Posting }),
		deja.Apply(func(r *Remittance, _ GivenUp) { r.Phase = Undoing }),
		deja.Apply(func(r *Remittance, _ Finished) { r.Phase, r.Ends = Done, r.Ends+1 }),
		deja.Apply(func(r *Remittance, _ Undone) { r.Phase, r.Ends = Failed, r.Ends+1 }),
		deja.Apply(func(r *Remittance, _ Stuck) { r.Phase = InDoubt }),
		deja.Apply(func(r *Remittance, e Receipt) { r.Receipt = e.Number }),
		deja.Apply(func(r *Remittance, e NoMail) { r.Receipt = "none: " + e.Why }),
		deja.Ends[Remittance, Finished](),
		deja.Ends[Remittance, Undone](),
		deja.Sticks[Remittance, Stuck](),
		deja.Within[Remittance](time.Hour),
	}
	if v.Desks {
		rows = append(rows, deja.Handle(Remittance.settle), deja.OnReply(Remittance.onSubmit))
	}
	return deja.NewAggregate("remittance", rows...)
}

const timeOut = "time-out"

func (r Remittance) start(d *deja.Decision, c Start) error {
	if r.Phase != "" {
		return ErrStarted
	}
	d.Record(Started(c))
	d.Send(c.From, Withdraw{c.Amount})
	return nil
}

func (r Remittance) onWithdraw(d *deja.Decision, a deja.Reply[Withdraw]) error {
	if a.Rejection != nil {
		d.Record(Undone{})
		return nil //nolint:nilerr // it is what was decided
	}
	d.Record(Taken{})
	if r.Desk == "" {
		d.Send(d.Key(), Post{To: r.To, Amount: r.Amount})
	} else {
		d.Send(r.Desk, Submit{Post{r.To, r.Amount, d.Key()}, r.Hold})
	}
	d.Schedule(timeOut, d.Time().Add(r.Patience), TimeOut{})
	return nil
}

func (r Remittance) onPost(d *deja.Decision, a deja.Reply[Post]) error {
	switch {
	case r.Phase != Posting:
		return nil // the reversal on its way settles it
	case a.Rejection != nil:
		return r.giveUp(d, a.Rejection.Code)
	}
	return r.finish(d)
}

func (r Remittance) onPostRacing(d *deja.Decision, a deja.Reply[Post]) error {
	if a.Rejection != nil {
		return r.onPost(d, a)
	}
	return r.finish(d)
}

func (r Remittance) finish(d *deja.Decision) error {
	d.Cancel(timeOut)
	d.Record(Finished{})
	d.Effect(Mail{r.From, d.Key(), r.Amount})
	return nil
}

func (r Remittance) timeOut(d *deja.Decision, _ TimeOut) error {
	if r.Phase == Posting {
		return r.giveUp(d, timeOut)
	}
	return nil
}

func (r Remittance) undo(d *deja.Decision, _ GiveUp) error {
	switch r.Phase {
	case Posting:
		return r.giveUp(d, "by hand")
	case InDoubt:
		d.Record(GivenUp{"by hand"})
		d.Send(r.From, Refund{r.Amount})
		return nil
	}
	return ErrTooLate
}

func (r Remittance) giveUp(d *deja.Decision, why string) error {
	d.Cancel(timeOut)
	d.Record(GivenUp{why})
	d.Send(d.Key(), Reverse{})
	return nil
}

func (r Remittance) onReverse(d *deja.Decision, _ deja.Reply[Reverse]) error {
	if r.Phase != Undoing {
		return ErrNotGiven
	}
	d.Send(r.From, Refund{r.Amount})
	return nil
}

func (r Remittance) onRefund(d *deja.Decision, a deja.Reply[Refund]) error {
	if a.Rejection != nil {
		d.Record(Stuck{a.Rejection.Error()})
		return nil //nolint:nilerr // it is what was decided
	}
	d.Record(Undone{})
	return nil
}

func (r Remittance) mailed(d *deja.Decision, c Mailed) error {
	d.Record(Receipt{c.Receipt})
	return nil
}

func (r Remittance) noMail(d *deja.Decision, f deja.Failed[Mail]) error {
	d.Record(NoMail{f.Reason.Code})
	return nil
}

// Entry is the state of a posting, keyed by its remittance.
type Entry struct {
	To       string `json:"to"`
	Amount   int64  `json:"amount"`
	Reversed bool   `json:"reversed"`
}

func posting(v Variant) *deja.Aggregate[Entry] {
	post := Entry.post
	if v.NoBar {
		post = Entry.postUnbarred
	}
	return deja.NewAggregate("posting",
		deja.Handle(post),
		deja.Handle(Entry.reverse),
		deja.Apply(func(p *Entry, e Posted) { p.To, p.Amount = e.To, e.Amount }),
		deja.Apply(func(p *Entry, _ Reversed) { p.Amount, p.Reversed = 0, true }),
	)
}

func (p Entry) post(d *deja.Decision, c Post) error {
	if p.Reversed {
		return ErrBarred
	}
	return p.postUnbarred(d, c)
}

func (p Entry) postUnbarred(d *deja.Decision, c Post) error {
	if c.To == Nobody {
		return ErrNoTaker
	}
	d.Record(Posted{c.To, c.Amount})
	return nil
}

func (p Entry) reverse(d *deja.Decision, _ Reverse) error {
	if !p.Reversed {
		d.Record(Reversed{p.Amount})
	}
	return nil
}

// Tally is the state of a receiver's tally, kept by the bank: it reacts to what the ledger posts.
type Tally struct {
	Count  int   `json:"count"`
	Amount int64 `json:"amount"`
}

// Counted is the tally's event.
type Counted struct{ Amount int64 }

// EventType implements [deja.Event].
func (Counted) EventType() string { return "tally.counted" }

func tally() *deja.Aggregate[Tally] {
	return deja.NewAggregate("tally",
		deja.React(func(e Posted) string { return e.To }, func(_ Tally, d *deja.Decision, e Posted) error {
			d.Record(Counted{e.Amount})
			return nil
		}),
		deja.Apply(func(t *Tally, e Counted) { t.Count, t.Amount = t.Count+1, t.Amount+e.Amount }),
	)
}

// Services returns the bank and the ledger.
func Services(v Variant) (bank, ledger *deja.Service) {
	bank = &deja.Service{Name: Bank, Aggregates: []deja.AnyAggregate{account(), remittance(v)}}
	if v.Counted {
		bank.Aggregates = append(bank.Aggregates, tally())
	}
	ledger = &deja.Service{Name: Ledger, Aggregates: []deja.AnyAggregate{posting(v)}}
	if v.Desks {
		ledger.Aggregates = append(ledger.Aggregates, desk())
	}
	return bank, ledger
}

// Peers are those of both: who owns an aggregate that the other sends commands to.
func Peers() map[string]string {
	return map[string]string{"posting": Ledger, "desk": Ledger, "remittance": Bank}
}

// Mailer returns a performer that calls send, which honours its key, and answers with the receipt's number.
func Mailer(send func(ctx context.Context, key deja.ID, m Mail) (string, error)) deja.Performer {
	return deja.Perform(func(ctx context.Context, key deja.ID, m Mail) (deja.Command, error) {
		number, err := send(ctx, key, m)
		if err != nil {
			return nil, err
		}
		return Mailed{number}, nil
	})
}
