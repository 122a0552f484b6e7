package dejatest_test

import (
	"errors"
	"time"

	"github.com/dejalog/deja"
)

// The account of these tests, with a saga's parts so that all expectations can be tried.

type (
	Open     struct{ Owner string }
	Deposit  struct{ Amount int64 }
	Withdraw struct{ Amount int64 }
	Close    struct{ Heir string }
	Fail     struct{ Panic bool }
	Idle     struct{}

	Opened    struct{ Owner string }
	Deposited struct{ Amount int64 }
	Withdrawn struct {
		Amount int64
		At     time.Time
	}
	Closed struct{}

	Letter struct{ To string }

	Holiday struct{ Name string } // an event of another aggregate
)

func (Open) CommandType() string     { return "account.open" }
func (Deposit) CommandType() string  { return "account.deposit" }
func (Withdraw) CommandType() string { return "account.withdraw" }
func (Close) CommandType() string    { return "account.close" }
func (Fail) CommandType() string     { return "account.fail" }
func (Idle) CommandType() string     { return "account.idle" }
func (Opened) EventType() string     { return "account.opened" }
func (Deposited) EventType() string  { return "account.deposited" }
func (Withdrawn) EventType() string  { return "account.withdrawn" }
func (Closed) EventType() string     { return "account.closed" }
func (Letter) EffectType() string    { return "mail.letter" }
func (Holiday) EventType() string    { return "calendar.holiday" }

var (
	ErrState     = deja.NewRejection("account.state")
	ErrOverdraft = deja.NewRejection("account.overdraft")
)

type Account struct {
	Owner   string           `json:"owner"`
	Balance int64            `json:"balance"`
	Days    map[string]int64 `json:"days,omitempty"`
	Heir    string           `json:"heir"`
}

// rows are those that a service can deliver to by itself.
func rows() []deja.Handler[Account] {
	return []deja.Handler[Account]{
		deja.Handle(Account.Open),
		deja.Handle(Account.Deposit),
		deja.Handle(Account.Withdraw),
		deja.Handle(Account.Fail),
		deja.Handle(func(Account, *deja.Decision, Idle) error { return nil }),
		deja.Apply(func(a *Account, e Opened) { a.Owner = e.Owner }),
		deja.Apply(func(a *Account, e Deposited) { a.Balance += e.Amount }),
		deja.Apply((*Account).withdrawn),
	}
}

func aggregate(more ...deja.Handler[Account]) *deja.Aggregate[Account] {
	return deja.NewAggregate("account", append(rows(), more...)...)
}

// heirs is the aggregate with all kinds of rows.
func heirs() *deja.Aggregate[Account] {
	return aggregate(
		deja.Handle(Account.Close),
		deja.OnReply(Account.onDeposit),
		deja.OnFailed(func(_ Account, d *deja.Decision, f deja.Failed[Letter]) error {
			d.Record(Opened{Owner: f.Effect.To + ": " + f.Reason.Code})
			return nil
		}),
		deja.React(func(h Holiday) string { return h.Name }, func(_ Account, d *deja.Decision, h Holiday) error {
			d.Cancel(h.Name)
			return nil
		}),
		deja.Apply(func(a *Account, _ Closed) { *a = Account{} }),
	)
}

func (a Account) Open(d *deja.Decision, c Open) error {
	if a.Owner != "" {
		return ErrState.Because("open already")
	}
	d.Record(Opened(c))
	return nil
}

func (a Account) Deposit(d *deja.Decision, c Deposit) error {
	if a.Owner == "" {
		return ErrState.Because("not open")
	}
	d.Record(Deposited(c))
	return nil
}

func (a Account) Withdraw(d *deja.Decision, c Withdraw) error {
	if a.Balance < c.Amount {
		return ErrOverdraft.Because("balance %d, asked for %d", a.Balance, c.Amount)
	}
	at := d.Time()
	if b := d.Message().BusinessTime; !b.IsZero() {
		at = b
	}
	d.Record(Withdrawn{c.Amount, at})
	return nil
}

func (a Account) Close(d *deja.Decision, c Close) error {
	d.Send(c.Heir, Deposit{a.Balance})
	d.Schedule("reminder", d.Time().Add(time.Hour), Idle{})
	d.Cancel("statement")
	d.Effect(Letter{To: c.Heir})
	return nil
}

func (a Account) onDeposit(d *deja.Decision, r deja.Reply[Deposit]) error {
	switch r.Rejection {
	case nil:
		d.Record(Closed{})
	default:
		d.Record(Deposited(r.Command))
	}
	return nil
}

func (a Account) Fail(_ *deja.Decision, c Fail) error {
	if c.Panic {
		panic("as asked")
	}
	return errors.New("as asked")
}

func (a *Account) withdrawn(e Withdrawn) {
	a.Balance -= e.Amount
	if a.Days == nil {
		a.Days = map[string]int64{}
	}
	a.Days[e.At.Format(time.DateOnly)] += e.Amount
}

// service has the account, and a projection of what is taken.
func service(agg *deja.Aggregate[Account]) *deja.Service {
	return &deja.Service{
		Name:       "bank",
		Aggregates: []deja.AnyAggregate{agg},
		Projections: []*deja.Projection{deja.NewProjection("takings",
			deja.Table("takings", `CREATE TABLE takings (account TEXT, version BIGINT, at TIMESTAMP, amount BIGINT)`),
			deja.Project(func(tx deja.Tx, m *deja.Envelope, e Withdrawn) error {
				tx.Queue(`INSERT INTO takings VALUES ($1, $2, $3, $4)`, m.Stream.Key, m.Version, m.Time, e.Amount)
				return nil
			}),
		)},
	}
}
