package lived

import (
	"errors"

	"github.com/dejalog/deja"
)

// Shelf is a state with all that a state can have in it: structs, maps, slices, pointers.
type Shelf struct {
	Balance int64            `json:"balance"`
	Owner   Owner            `json:"owner"`
	Limits  map[string]int64 `json:"limits"`
	Items   []Item           `json:"items"`
	Shops   map[string]Owner `json:"shops,omitempty"`
	Note    *string          `json:"note,omitempty"`
	Unused  int64            `json:"unused"`
}

// Owner is whose a shelf is.
type Owner struct {
	Name string `json:"name"`
	City string `json:"city"`
}

// Item is a thing on a shelf.
type Item struct {
	SKU string `json:"sku"`
	N   int64  `json:"n"`
}

// Add adds, in two events if Twice says so.
type Add struct {
	Amount int64 `json:"amount"`
	Twice  bool  `json:"twice,omitempty"`
}

// Own sets the owner; nothing is recorded for one without a name.
type Own struct {
	Name string `json:"name"`
	City string `json:"city"`
}

// Limit sets a limit. A zero one is one, too; a negative one takes it away.
type Limit struct {
	Name  string `json:"name"`
	Value int64  `json:"value"`
}

// Push puts an item at the front.
type Push struct {
	SKU string `json:"sku"`
	N   int64  `json:"n"`
}

// Drop takes an item away; refused where there is none.
type Drop struct {
	At int64 `json:"at"`
}

// Note sets the note; an empty one is none.
type Note struct {
	Text string `json:"text"`
}

// Shop sets a shop, be it an empty one; the name - takes it away.
type Shop struct {
	At string `json:"at"`
	Own
}

// Fail parks.
type Fail struct{}

// CommandType implements [deja.Command].
func (Add) CommandType() string { return "shelf.add" }

// CommandType implements [deja.Command].
func (Own) CommandType() string { return "shelf.own" }

// CommandType implements [deja.Command].
func (Limit) CommandType() string { return "shelf.limit" }

// CommandType implements [deja.Command].
func (Push) CommandType() string { return "shelf.push" }

// CommandType implements [deja.Command].
func (Drop) CommandType() string { return "shelf.drop" }

// CommandType implements [deja.Command].
func (Note) CommandType() string { return "shelf.note" }

// CommandType implements [deja.Command].
func (Shop) CommandType() string { return "shelf.shop" }

// CommandType implements [deja.Command].
func (Fail) CommandType() string { return "shelf.fail" }

type (
	added   Add
	owned   Own
	limited Limit
	pushed  Push
	dropped Drop
	noted   Note
	shopped Shop
)

// EventType implements [deja.Event].
func (added) EventType() string { return "shelf.added" }

// EventType implements [deja.Event].
func (owned) EventType() string { return "shelf.owned" }

// EventType implements [deja.Event].
func (limited) EventType() string { return "shelf.limited" }

// EventType implements [deja.Event].
func (pushed) EventType() string { return "shelf.pushed" }

// EventType implements [deja.Event].
func (dropped) EventType() string { return "shelf.dropped" }

// EventType implements [deja.Event].
func (noted) EventType() string { return "shelf.noted" }

// EventType implements [deja.Event].
func (shopped) EventType() string { return "shelf.shopped" }

// ErrNone is the refusal of a Drop of nothing.
var ErrNone = deja.NewRejection("shelf.none")

// Shelves returns the aggregate.
func Shelves() *deja.Aggregate[Shelf] {
	return deja.NewAggregate("shelf",
		deja.Handle(func(_ Shelf, d *deja.Decision, c Add) error {
			d.Record(added{Amount: c.Amount})
			if c.Twice {
				d.Record(added{Amount: c.Amount})
			}
			return nil
		}),
		deja.Handle(func(_ Shelf, d *deja.Decision, c Own) error {
			if c.Name != "" {
				d.Record(owned(c))
			}
			return nil
		}),
		deja.Handle(func(_ Shelf, d *deja.Decision, c Limit) error { d.Record(limited(c)); return nil }),
		deja.Handle(func(_ Shelf, d *deja.Decision, c Push) error { d.Record(pushed(c)); return nil }),
		deja.Handle(func(s Shelf, d *deja.Decision, c Drop) error {
			if c.At < 0 || c.At >= int64(len(s.Items)) {
				return ErrNone.Because("%d of %d", c.At, len(s.Items))
			}
			d.Record(dropped(c))
			return nil
		}),
		deja.Handle(func(_ Shelf, d *deja.Decision, c Note) error { d.Record(noted(c)); return nil }),
		deja.Handle(func(_ Shelf, d *deja.Decision, c Shop) error { d.Record(shopped(c)); return nil }),
		deja.Handle(func(Shelf, *deja.Decision, Fail) error { return errors.New("as asked") }),
		deja.Apply(func(s *Shelf, e added) { s.Balance += e.Amount }),
		deja.Apply(func(s *Shelf, e owned) { s.Owner = Owner(e) }),
		deja.Apply((*Shelf).limited),
		deja.Apply(func(s *Shelf, e pushed) { s.Items = append([]Item{Item(e)}, s.Items...) }),
		deja.Apply(func(s *Shelf, e dropped) { s.Items = append(s.Items[:e.At:e.At], s.Items[e.At+1:]...) }),
		deja.Apply((*Shelf).noted),
		deja.Apply((*Shelf).shopped),
	)
}

func (s *Shelf) limited(e limited) {
	if e.Value < 0 {
		delete(s.Limits, e.Name)
		return
	}
	if s.Limits == nil {
		s.Limits = map[string]int64{}
	}
	s.Limits[e.Name] = e.Value
}

func (s *Shelf) noted(e noted) {
	if s.Note = nil; e.Text != "" {
		s.Note = &e.Text
	}
}

func (s *Shelf) shopped(e shopped) {
	if e.Name == "-" {
		delete(s.Shops, e.At)
		return
	}
	if s.Shops == nil {
		s.Shops = map[string]Owner{}
	}
	s.Shops[e.At] = Owner(e.Own)
}

// Service returns the service that has shelves.
func Service() *deja.Service {
	return &deja.Service{Name: "store", Aggregates: []deja.AnyAggregate{Shelves()}}
}
