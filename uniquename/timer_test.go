package uniquename_test

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
	"github.com/dejalog/deja/uniquename"
)

// An hour goes by at once here: the timers of an engine give names back, but not those that were confirmed.
func TestTimersGiveNamesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eng, err := engine.New(engine.Config{
			Service: &deja.Service{Name: "users", Aggregates: []deja.AnyAggregate{uniquename.Aggregate[handles]()}},
			Log:     memory.NewLog(memory.LogConfig{Partitions: 2}), Store: memory.NewStore(), Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- eng.Run(ctx) }()
		until := time.Now().Add(time.Hour)
		for _, r := range []deja.Request{
			{Key: "ana", Command: claim{Owner: "u1", Until: until}},
			{Key: "eva", Command: claim{Owner: "u2", Until: until}},
			{Key: "eva", Command: confirm{Owner: "u2", Until: until}},
			{Key: "ida", Command: claim{Owner: "u3", Until: until}},
			{Key: "ida", Command: release{Owner: "u3", Until: until}},
			{Key: "ida", Command: claim{Owner: "u4", Until: until.Add(time.Hour)}},
		} {
			if _, err := eng.Client().Do(ctx, r); err != nil {
				t.Fatalf("%s: %v", r.Command.CommandType(), err)
			}
		}
		check := func(owners map[string]string) {
			t.Helper()
			for name, want := range owners {
				var n uniquename.Name
				if _, err := eng.Client().State(ctx, deja.Stream{Aggregate: "handles", Key: name}, &n); err != nil || n.Owner != want {
					t.Errorf("%s is %+v, want it %q's (%v)", name, n, want, err)
				}
			}
		}
		check(map[string]string{"ana": "u1", "eva": "u2", "ida": "u4"})
		time.Sleep(time.Hour + time.Minute)
		check(map[string]string{"ana": "", "eva": "u2", "ida": "u4"})
		time.Sleep(time.Hour)
		check(map[string]string{"ana": "", "eva": "u2", "ida": ""})
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
