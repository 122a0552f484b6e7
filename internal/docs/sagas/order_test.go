// Package sagas_test is the code of docs/sagas.md: a shop whose orders are sagas, and the warehouse that packs them.
package sagas_test

import (
	"time"

	"github.com/dejalog/deja"
)

type Order struct { // a saga is an aggregate like any other
	Item  string `json:"item"`
	Phase string `json:"phase"`
}

func orders() *deja.Aggregate[Order] {
	return deja.NewAggregate("order",
		deja.Handle(Order.Place),
		deja.OnReply(Order.onPack), // how a command was settled that this order sent
		deja.Handle(Order.TimeOut), // a timer is a command to come
		deja.OnReply(Order.onCancel),
		deja.OnFailed(Order.noMail),              // an effect that was given up
		deja.React(returnedOf, Order.onReturned), // another service's event, and whose it is
		deja.Compensate(Order.Undo),              // what an operator asks for

		deja.Apply((*Order).placed),
		deja.Apply(func(o *Order, _ Packed) { o.Phase = "packed" }),
		deja.Apply(func(o *Order, _ GivenUp) { o.Phase = "undoing" }),
		deja.Apply(func(o *Order, _ Undone) { o.Phase = "undone" }),
		deja.Apply(func(o *Order, _ Stuck) { o.Phase = "stuck" }),

		deja.Ends[Order, Packed](),
		deja.Ends[Order, Undone](),
		deja.Sticks[Order, Stuck](),
		deja.Within[Order](48*time.Hour),
	)
}

func (o Order) Place(d *deja.Decision, c Place) error {
	if o.Phase != "" {
		return ErrPlaced
	}
	d.Record(Placed(c))
	d.Send(d.Key(), Pack(c)) // to the warehouse's parcel of the same key
	d.Schedule("time-out", d.Time().Add(24*time.Hour), TimeOut{})
	return nil
}

func (o Order) onPack(d *deja.Decision, r deja.Reply[Pack]) error {
	switch {
	case o.Phase != "placed": // too late: the parcel is being cancelled, and the reply to that says how it ends
	case r.Rejection != nil: // refused, or never to be handled: there is no parcel
		d.Cancel("time-out")
		d.Record(Undone{Why: r.Rejection.Code})
	default:
		d.Cancel("time-out")
		d.Record(Packed{})
		d.Effect(Mail{Order: d.Key(), Text: o.Item + " is on its way"})
	}
	return nil
}

// TimeOut cannot know whether there is a parcel, is none, or will be one: it has the warehouse see to it.
func (o Order) TimeOut(d *deja.Decision, _ TimeOut) error {
	if o.Phase == "placed" {
		cancel(d)
	}
	return nil
}

func (o Order) Undo(d *deja.Decision, _ Undo) error {
	if o.Phase != "placed" && o.Phase != "stuck" {
		return ErrPhase.Because("the order is %s", o.Phase)
	}
	d.Cancel("time-out")
	cancel(d)
	return nil
}

func cancel(d *deja.Decision) {
	d.Record(GivenUp{})
	d.Send(d.Key(), Cancel{}) // to the step's own stream: d.Key() names it
}

func (o Order) onCancel(d *deja.Decision, r deja.Reply[Cancel]) error {
	if r.Rejection != nil {
		d.Record(Stuck{Why: r.Rejection.Error()})
	} else {
		d.Record(Undone{Why: "cancelled"})
	}
	return nil
}

// noMail hears that the mail will never be sent. The order is what it is.
func (o Order) noMail(*deja.Decision, deja.Failed[Mail]) error { return nil }

func returnedOf(e Returned) string { return e.Order }

// onReturned hears of what the warehouse's door has recorded.
func (o Order) onReturned(d *deja.Decision, _ Returned) error {
	if o.Phase == "packed" {
		d.Effect(Mail{Order: d.Key(), Text: "we have it back"})
	}
	return nil
}

func (o *Order) placed(e Placed) { *o = Order{Item: e.Item, Phase: "placed"} }
