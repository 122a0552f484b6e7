package reservation_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/reservation"
)

// An hour goes by at once here: the timers of an engine give units back, and those of what was settled do nothing.
func TestTimersGiveUnitsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng, err := engine.New(engine.Config{
			Service: &deja.Service{Name: "boxoffice", Aggregates: []deja.AnyAggregate{reservation.Aggregate[seats](remember)}},
			Log:     memory.NewLog(memory.LogConfig{Partitions: 1}), Store: memory.NewStore(), Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- eng.Run(ctx) }()
		until := time.Now().Add(time.Hour)
		for _, c := range []deja.Command{
			supply{Amount: 10},
			reserve{ID: "a", Amount: 1, Until: until},
			reserve{ID: "b", Amount: 2, Until: until},
			reserve{ID: "c", Amount: 3, Until: until},
			reserve{ID: "d", Amount: 4, Until: until.Add(time.Hour)},
			confirm{ID: "b"},
			cancel{ID: "c", Until: until},
		} {
			if _, err := eng.Client().Do(ctx, deja.Request{Key: "hamlet", Command: c}); err != nil {
				t.Fatalf("%s: %v", c.CommandType(), err)
			}
		}
		want := map[string]reservation.Status{
			"a": reservation.StatusHeld, "b": reservation.StatusConfirmed, "c": reservation.StatusCancelled, "d": reservation.StatusHeld,
		}
		check := func(held int64) {
			t.Helper()
			var p reservation.Pool
			if _, err := eng.Client().State(ctx, deja.Stream{Aggregate: "seats", Key: "hamlet"}, &p); err != nil {
				t.Fatal(err)
			}
			for id, s := range want {
				if p.Holds.ByID[id].Status != s {
					t.Errorf("%s is %+v, want it %s", id, p.Holds.ByID[id], s)
				}
			}
			if p.Holds.Sum != held || p.Confirmed != 2 {
				t.Errorf("the pool is %+v", p)
			}
		}
		check(5)
		time.Sleep(time.Hour + time.Minute)
		want["a"] = reservation.StatusExpired
		check(4)
		time.Sleep(time.Hour)
		want["d"] = reservation.StatusExpired
		check(0)
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
