package reservations

import (
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/reservation"
)

type Account struct {
	Balance int64             `json:"balance"`
	Holds   reservation.Holds `json:"holds"`
}

func (a Account) Hold(d *deja.Decision, c Hold) error {
	if fresh, err := a.Holds.MayReserve(d, c.ID, c.Amount, c.Until); !fresh {
		return err // nil: it is held already
	}
	if free := a.Balance - a.Holds.Sum; free < c.Amount {
		return ErrFunds.Because("%d are free, asked for %d", free, c.Amount)
	}
	if until, ok := a.Holds.MayForget(d, 24*time.Hour); ok {
		d.Record(Forgotten{Until: until})
	}
	d.Record(Blocked(c))
	d.Schedule("hold/"+c.ID, c.Until, Lapse{ID: c.ID})
	return nil
}

func (a Account) Capture(d *deja.Decision, c Capture) error {
	if fresh, err := a.Holds.MayConfirm(d, c.ID); !fresh {
		return err
	}
	d.Record(Captured(c))
	d.Cancel("hold/" + c.ID)
	return nil
}

func (a Account) Release(d *deja.Decision, c Release) error { // or bar
	if fresh, err := a.Holds.MayCancel(d, c.ID, c.Until); !fresh {
		return err
	}
	d.Record(Released(c))
	d.Cancel("hold/" + c.ID)
	return nil
}

func (a Account) Lapse(d *deja.Decision, c Lapse) error {
	if a.Holds.MayExpire(d, c.ID) {
		d.Record(Lapsed(c))
	}
	return nil
}

func Accounts() *deja.Aggregate[Account] {
	return deja.NewAggregate("account",
		deja.Handle(Account.Hold),
		deja.Handle(Account.Capture),
		deja.Handle(Account.Release),
		deja.Handle(Account.Lapse),
		deja.Apply(func(a *Account, e Deposited) { a.Balance += e.Amount }),
		deja.Apply(func(a *Account, e Blocked) { a.Holds.Reserve(e.ID, e.Amount, e.Until) }),
		deja.Apply(func(a *Account, e Captured) { a.Balance -= a.Holds.Confirm(e.ID) }),
		deja.Apply(func(a *Account, e Released) { a.Holds.Cancel(e.ID, e.Until) }),
		deja.Apply(func(a *Account, e Lapsed) { a.Holds.Expire(e.ID) }),
		deja.Apply(func(a *Account, e Forgotten) { a.Holds.Forget(e.Until) }),
	)
}

// The messages of an account.
type (
	Hold struct {
		ID     string    `json:"id"`
		Amount int64     `json:"amount"`
		Until  time.Time `json:"until"`
	}
	Capture struct {
		ID string `json:"id"`
	}
	Release struct {
		ID    string    `json:"id"`
		Until time.Time `json:"until"`
	}
	Lapse struct {
		ID string `json:"id"`
	}

	Deposited struct {
		Amount int64 `json:"amount"`
	}
	Blocked struct {
		ID     string    `json:"id"`
		Amount int64     `json:"amount"`
		Until  time.Time `json:"until"`
	}
	Captured struct {
		ID string `json:"id"`
	}
	Released struct {
		ID    string    `json:"id"`
		Until time.Time `json:"until"`
	}
	Lapsed struct {
		ID string `json:"id"`
	}
	Forgotten struct {
		Until time.Time `json:"until"`
	}
)

func (Hold) CommandType() string    { return "account.hold" }
func (Capture) CommandType() string { return "account.capture" }
func (Release) CommandType() string { return "account.release" }
func (Lapse) CommandType() string   { return "account.lapse" }
func (Deposited) EventType() string { return "account.deposited" }
func (Blocked) EventType() string   { return "account.blocked" }
func (Captured) EventType() string  { return "account.captured" }
func (Released) EventType() string  { return "account.released" }
func (Lapsed) EventType() string    { return "account.lapsed" }
func (Forgotten) EventType() string { return "account.forgotten" }

// ErrFunds refuses a hold that the free balance does not cover.
var ErrFunds = deja.NewRejection("account.funds")
