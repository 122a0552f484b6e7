package reservation_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/reservation"
)

// BenchmarkReserve decides and folds one reservation beside others.
func BenchmarkReserve(b *testing.B) {
	for _, others := range []int{10, 1_000} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			m, err := deja.Compile(&deja.Service{Name: "boxoffice", Aggregates: []deja.AnyAggregate{reservation.Aggregate[seats](remember)}})
			if err != nil {
				b.Fatal(err)
			}
			var p reservation.Pool
			p.Supply = 1 << 40
			for i := range others {
				p.Holds.Reserve(fmt.Sprintf("order-%06d", i), 1, until)
			}
			stream := deja.Stream{Aggregate: "seats", Key: "hamlet"}
			st, err := m.NewState(stream)
			if err != nil {
				b.Fatal(err)
			}
			*st.Value().(*reservation.Pool) = p
			env := &deja.Envelope{ID: deja.DeriveID("bench", "1"), Kind: deja.KindCommand, Type: reserve{}.CommandType(), Stream: stream}
			for b.Loop() {
				if d := m.Decide(st, env, reserve{ID: "mine", Amount: 1, Until: until.Add(time.Hour)}, began); d.Status != deja.Applied {
					b.Fatal(d.Reason)
				}
			}
		})
	}
}
