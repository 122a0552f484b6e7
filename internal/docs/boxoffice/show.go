package main

import "github.com/dejalog/deja"

const seats = 100

type (
	Show struct { // the state of one show
		Sold int64 `json:"sold"`
	}
	Sell struct { // a command: what may be asked
		Seats int64 `json:"seats"`
	}
	Sold struct { // an event: what has happened
		Seats int64 `json:"seats"`
	}
)

func (Sell) CommandType() string { return "show.sell" } // <aggregate>.<word>: the command goes to that aggregate
func (Sold) EventType() string   { return "show.sold" }

var ErrSoldOut = deja.NewRejection("show.sold-out")

func (s Show) Sell(d *deja.Decision, c Sell) error {
	if c.Seats < 1 || c.Seats > seats-s.Sold {
		return ErrSoldOut.Because("%d seats are left, asked for %d", seats-s.Sold, c.Seats)
	}
	d.Record(Sold(c))
	return nil
}

func (s *Show) sold(e Sold) { s.Sold += e.Seats }

func show() *deja.Aggregate[Show] {
	return deja.NewAggregate("show", deja.Handle(Show.Sell), deja.Apply((*Show).sold))
}

func service() *deja.Service {
	return &deja.Service{Name: "boxoffice", Aggregates: []deja.AnyAggregate{show()}}
}
