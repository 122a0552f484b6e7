package main

import (
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
)

func TestNoSeatIsSoldTwice(t *testing.T) {
	dejatest.New(t, show(), "hamlet").
		Given(Sold{Seats: 98}).
		When(Sell{Seats: 3}).Rejected(ErrSoldOut).
		When(Sell{Seats: 2}).Recorded(Sold{Seats: 2}).
		State(Show{Sold: 100})
}

func TestWhateverIsRedeliveredOrCrashes(t *testing.T) {
	w := dejatest.NewWorld(t, service())
	w.Must(deja.Request{Key: "hamlet", Command: Sell{Seats: 3}})
	w.Must(deja.Request{Key: "hamlet", Command: Sell{Seats: 2}})
	w.RedeliverAll()
	w.CrashAtEveryWrite()
}
