// Package till is a small service that deja's own tests run: a till that counts money, with commands that go wrong
// as a test says.
package till

import (
	"errors"

	"github.com/dejalog/deja"
)

// Till is the state.
type Till struct {
	Balance int64 `json:"balance"`
	Moves   int64 `json:"moves"`
}

// Put adds.
type Put struct{ Amount int64 }

// Take removes; refused beyond the balance.
type Take struct{ Amount int64 }

// Twice adds, in two events.
type Twice struct{ Amount int64 }

// Crash fails as long as the variant's Broken says, then adds 1000. How is error or panic.
type Crash struct{ How string }

// Big records an event of a size.
type Big struct{ Bytes int }

// Added is what Put and Twice record.
type Added struct{ Amount int64 }

// Removed is what Take records.
type Removed struct{ Amount int64 }

// Filled is what Big records.
type Filled struct{ Text string }

// CommandType implements [deja.Command].
func (Put) CommandType() string { return "till.put" }

// CommandType implements [deja.Command].
func (Take) CommandType() string { return "till.take" }

// CommandType implements [deja.Command].
func (Twice) CommandType() string { return "till.twice" }

// CommandType implements [deja.Command].
func (Crash) CommandType() string { return "till.crash" }

// CommandType implements [deja.Command].
func (Big) CommandType() string { return "till.big" }

// EventType implements [deja.Event].
func (Added) EventType() string { return "till.added" }

// EventType implements [deja.Event].
func (Removed) EventType() string { return "till.removed" }

// EventType implements [deja.Event].
func (Filled) EventType() string { return "till.filled" }

// ErrEmpty is the refusal of a Take beyond the balance.
var ErrEmpty = deja.NewRejection("till.empty")

// Variant says how a build of the service differs from the others.
type Variant struct {
	Broken  func() bool // whether Crash fails; nil: never
	MaxTake int64       // Take refuses more than this; 0: no limit
	Fold    int         // the fold version that is declared; 0: none
}

// Service returns a build of the service.
func Service(v Variant) *deja.Service {
	return &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{aggregate(v)}}
}

func aggregate(v Variant) *deja.Aggregate[Till] {
	rows := []deja.Handler[Till]{
		deja.Handle(func(_ Till, d *deja.Decision, c Put) error { d.Record(Added(c)); return nil }),
		deja.Handle(func(_ Till, d *deja.Decision, c Twice) error {
			d.Record(Added(c), Added(c))
			return nil
		}),
		deja.Handle(v.take),
		deja.Handle(v.crash),
		deja.Handle(func(_ Till, d *deja.Decision, c Big) error {
			d.Record(Filled{string(make([]byte, c.Bytes))})
			return nil
		}),
		deja.Apply(func(t *Till, e Added) { t.Balance += e.Amount; t.Moves++ }),
		deja.Apply(func(t *Till, e Removed) { t.Balance -= e.Amount; t.Moves++ }),
		deja.Apply(func(t *Till, _ Filled) { t.Moves++ }),
	}
	if v.Fold > 0 {
		rows = append(rows, deja.FoldVersion[Till](v.Fold))
	}
	return deja.NewAggregate("till", rows...)
}

func (v Variant) take(t Till, d *deja.Decision, c Take) error {
	if t.Balance < c.Amount || v.MaxTake > 0 && c.Amount > v.MaxTake {
		return ErrEmpty.Because("balance %d, asked for %d", t.Balance, c.Amount)
	}
	d.Record(Removed(c))
	return nil
}

func (v Variant) crash(_ Till, d *deja.Decision, c Crash) error {
	if v.Broken != nil && v.Broken() {
		if c.How == "panic" {
			panic("as asked")
		}
		return errors.New("as asked")
	}
	d.Record(Added{1000})
	return nil
}
