package sagas_test

import "github.com/dejalog/deja"

type Parcel struct { // the warehouse's side of an order
	Item      string `json:"item"`
	Cancelled bool   `json:"cancelled"`
}

func (p Parcel) Pack(d *deja.Decision, c Pack) error {
	switch {
	case p.Cancelled:
		return ErrCancelled // the late action: refused, and on record
	case c.Item == "unicorn":
		return ErrNoStock
	}
	d.Record(ParcelPacked(c))
	return nil
}

// Cancel undoes the parcel, or bars it if it has not come yet. Asked again it has nothing to do.
func (p Parcel) Cancel(d *deja.Decision, _ Cancel) error {
	if !p.Cancelled {
		d.Record(ParcelCancelled{})
	}
	return nil
}

func parcels() *deja.Aggregate[Parcel] {
	return deja.NewAggregate("parcel",
		deja.Handle(Parcel.Pack),
		deja.Handle(Parcel.Cancel),
		deja.Apply(func(p *Parcel, e ParcelPacked) { p.Item = e.Item }),
		deja.Apply(func(p *Parcel, _ ParcelCancelled) { p.Cancelled = true }),
	)
}

type Door struct{} // where parcels come back

func doors() *deja.Aggregate[Door] {
	return deja.NewAggregate("door",
		deja.Handle(func(_ Door, d *deja.Decision, c Return) error { d.Record(Returned(c)); return nil }),
		deja.Apply(func(*Door, Returned) {}),
	)
}
