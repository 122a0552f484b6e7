package reservation_test

import (
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/reservation"
)

func TestAPoolSurvivesRedeliveryAndCrashes(t *testing.T) {
	w := dejatest.NewWorld(t, &deja.Service{Name: "boxoffice", Aggregates: []deja.AnyAggregate{reservation.Aggregate[seats](remember)}})
	must := func(c deja.Command) { w.Must(deja.Request{Key: "hamlet", Command: c}) }
	must(supply{Amount: 10})
	must(reserve(held))
	must(cancel{ID: "b", Until: until})
	if _, err := w.Do(deja.Request{Key: "hamlet", Command: reserve{ID: "b", Amount: 1, Until: until}}); err == nil {
		t.Fatal("a reservation that was cancelled before it came was made")
	}
	must(reserve{ID: "c", Amount: 6, Until: until})
	must(cancel{ID: "c", Until: until})
	must(confirm{ID: "a"})
	must(reserve{ID: "d", Amount: 6, Until: until})
	w.Advance(time.Hour)
	var p reservation.Pool
	w.State(deja.Stream{Aggregate: "seats", Key: "hamlet"}, &p)
	if p.Confirmed != 4 || p.Free() != 6 || p.Holds.ByID["d"].Status != reservation.StatusExpired {
		t.Fatalf("the pool is %+v", p)
	}
	before := w.Hash()
	w.RedeliverAll()
	w.CrashAtEveryWrite()
	w.WantHash(before)
}
