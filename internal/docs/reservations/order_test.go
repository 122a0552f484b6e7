// Package reservations is the code of docs/reservations.md: an order that reserves seats, an account whose money is
// held and captured, and a user who changes handles.
package reservations

import (
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/reservation"
)

type Seats struct{} // a kind of pool: each show is one

func (Seats) AggregateName() string { return "seats" }

type Order struct { // a saga
	Show  string    `json:"show"`
	Seats int64     `json:"seats"`
	Until time.Time `json:"until"`
	Phase string    `json:"phase"`
}

func (o Order) Place(d *deja.Decision, c Place) error {
	if o.Phase != "" {
		return ErrPhase
	}
	until := d.Time().Add(15 * time.Minute) // to pay
	d.Record(Placed{Show: c.Show, Seats: c.Seats, Until: until})
	d.Send(c.Show, reservation.Reserve[Seats]{ID: d.Key(), Amount: c.Seats, Until: until})
	d.Schedule("unpaid", until, GiveUp{})
	return nil
}

func (o Order) onReserve(d *deja.Decision, r deja.Reply[reservation.Reserve[Seats]]) error {
	switch {
	case o.Phase != "placed": // given up meanwhile
	case r.Rejection != nil:
		d.Record(Failed{Why: r.Rejection.Code})
		d.Cancel("unpaid")
	default:
		d.Record(Held{})
	}
	return nil
}

func (o Order) Pay(d *deja.Decision, _ Pay) error {
	if o.Phase != "held" {
		return ErrPhase
	}
	d.Record(Paid{})
	d.Cancel("unpaid")
	d.Send(o.Show, reservation.Confirm[Seats]{ID: d.Key()})
	return nil
}

func (o Order) onConfirm(d *deja.Decision, r deja.Reply[reservation.Confirm[Seats]]) error {
	switch r.Rejection {
	case nil:
		d.Record(Done{})
	default: // paid too late: what was paid is to be given back
		d.Record(Failed{Why: r.Rejection.Code})
	}
	return nil
}

// GiveUp does not wait for the seats: if they are not reserved yet, they never will be.
func (o Order) GiveUp(d *deja.Decision, _ GiveUp) error {
	if o.Phase != "placed" && o.Phase != "held" {
		return ErrPhase
	}
	d.Record(GivenUp{})
	d.Cancel("unpaid")
	d.Send(o.Show, reservation.Cancel[Seats]{ID: d.Key(), Until: o.Until})
	return nil
}

func (o Order) onCancel(d *deja.Decision, r deja.Reply[reservation.Cancel[Seats]]) error {
	switch r.Rejection {
	case nil:
		d.Record(Failed{Why: "given up"})
	default: // it came so late that the pool cannot tell any more
		d.Record(Stuck{Why: r.Rejection.Code})
	}
	return nil
}

func Orders() *deja.Aggregate[Order] {
	return deja.NewAggregate("order",
		deja.Handle(Order.Place),
		deja.Handle(Order.Pay),
		deja.Handle(Order.GiveUp),
		deja.OnReply(Order.onReserve),
		deja.OnReply(Order.onConfirm),
		deja.OnReply(Order.onCancel),
		deja.Apply((*Order).placed),
		deja.Apply(func(o *Order, _ Held) { o.Phase = "held" }),
		deja.Apply(func(o *Order, _ Paid) { o.Phase = "paid" }),
		deja.Apply(func(o *Order, _ GivenUp) { o.Phase = "given up" }),
		deja.Apply(func(o *Order, _ Done) { o.Phase = "done" }),
		deja.Apply(func(o *Order, _ Failed) { o.Phase = "failed" }),
		deja.Apply(func(o *Order, _ Stuck) { o.Phase = "stuck" }),
		deja.Ends[Order, Done](),
		deja.Ends[Order, Failed](),
		deja.Sticks[Order, Stuck](),
	)
}

func boxoffice() *deja.Service {
	return &deja.Service{Name: "boxoffice", Aggregates: []deja.AnyAggregate{
		Orders(),
		reservation.Aggregate[Seats](24 * time.Hour), // how long settled reservations are remembered beyond their end
	}}
}

func (o *Order) placed(e Placed) {
	*o = Order{Show: e.Show, Seats: e.Seats, Until: e.Until, Phase: "placed"}
}

// The messages of an order.
type (
	Place struct {
		Show  string `json:"show"`
		Seats int64  `json:"seats"`
	}
	Pay    struct{}
	GiveUp struct{}

	Placed struct {
		Show  string    `json:"show"`
		Seats int64     `json:"seats"`
		Until time.Time `json:"until"`
	}
	Held    struct{}
	Paid    struct{}
	GivenUp struct{}
	Done    struct{}
	Failed  struct {
		Why string `json:"why"`
	}
	Stuck struct {
		Why string `json:"why"`
	}
)

func (Place) CommandType() string  { return "order.place" }
func (Pay) CommandType() string    { return "order.pay" }
func (GiveUp) CommandType() string { return "order.give-up" }
func (Placed) EventType() string   { return "order.placed" }
func (Held) EventType() string     { return "order.held" }
func (Paid) EventType() string     { return "order.paid" }
func (GivenUp) EventType() string  { return "order.given-up" }
func (Done) EventType() string     { return "order.done" }
func (Failed) EventType() string   { return "order.failed" }
func (Stuck) EventType() string    { return "order.stuck" }

// ErrPhase refuses what an order in its present phase cannot do.
var ErrPhase = deja.NewRejection("order.phase")
