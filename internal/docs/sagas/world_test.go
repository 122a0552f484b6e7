package sagas_test

import (
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
)

func TestTheWarehouseIsPlayedByTheTest(t *testing.T) {
	w := dejatest.NewWorld(t, shop()) // parcels and doors are nobody's
	w.Must(deja.Request{Key: "o1", Command: Place{Item: "lamp"}})
	w.Must(deja.Request{Key: "o2", Command: Place{Item: "lamp"}})
	w.Answer(w.Sent()[0], ParcelPacked{Item: "lamp"}) // Pack of o1
	w.Resolve(w.Effects()[0], nil)                    // its mail is sent
	w.Advance(24 * time.Hour)                         // nobody answers o2
	w.Answer(w.Sent()[1])                             // Cancel of o2, before its Pack
	w.Refuse(w.Sent()[0], ErrCancelled)               // Pack of o2
	w.Happened(deja.Stream{Aggregate: "door", Key: "north"}, Returned{Order: "o1"})
	w.Refuse(w.Effects()[0], deja.NewRejection("mail.address"))
	for key, want := range map[string]string{"o1": "packed", "o2": "undone"} {
		var o Order
		if w.State(deja.Stream{Aggregate: "order", Key: key}, &o); o.Phase != want {
			t.Errorf("%s is %s, want %s", key, o.Phase, want)
		}
	}
}
