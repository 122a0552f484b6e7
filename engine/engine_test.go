package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/till"
)

type world struct {
	log    driver.Log
	store  driver.Store
	broken atomic.Bool // whether till.Crash fails
	eng    *engine.Engine
}

// start runs an engine until the test ends.
func (w *world) start(t *testing.T) deja.Client {
	t.Helper()
	eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{Broken: w.broken.Load}), Log: w.log, Store: w.store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.eng = eng
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- eng.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
	return eng.Client()
}

// each runs a test on a store of its own, and on one that is the log's database, in a time of its own.
func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Run("separate", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			log := memory.NewLog(memory.LogConfig{Partitions: 3, Now: time.Now})
			fn(t, &world{log: log, store: memory.NewStore()})
		})
	})
	t.Run("joint", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			log := memory.NewLog(memory.LogConfig{Partitions: 1, Now: time.Now})
			fn(t, &world{log: log, store: memory.NewStore(memory.Joint(log))})
		})
	})
}

func TestDoTellsTheFirstOutcomeEveryTime(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.start(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		req := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 100}}
		first, err := c.Do(ctx, req)
		if err != nil || first.Version != 1 || first.Duplicate || len(first.Events) != 1 {
			t.Fatalf("got %+v, %v", first, err)
		}
		again, err := c.Do(ctx, req)
		if err != nil || !again.Duplicate || again.Version != 1 || again.Position != first.Position {
			t.Fatalf("again: got %+v, %v", again, err)
		}
		req.Command = till.Put{Amount: 200}
		var conflict *deja.Conflict
		if _, err := c.Do(ctx, req); !errors.As(err, &conflict) || conflict.First != first.Position || conflict.Paths[0] != "Amount" {
			t.Fatalf("conflict: got %v", err)
		}
		no := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Take{Amount: 500}}
		for range 2 {
			if _, err := c.Do(ctx, no); !errors.Is(err, till.ErrEmpty) {
				t.Fatalf("got %v, want a refusal", err)
			}
		}
		var s till.Till
		if v, err := c.State(ctx, deja.Stream{Aggregate: "till", Key: "a"}, &s); err != nil || v != 1 || s.Balance != 100 {
			t.Fatalf("state %+v at %d, %v", s, v, err)
		}
	})
}

func TestAParkedKeyIsBlockedUntilAnOperatorActs(t *testing.T) {
	for _, how := range []string{"error", "panic"} {
		t.Run(how, func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				w.broken.Store(true)
				c := w.start(t)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				s := deja.Stream{Aggregate: "till", Key: "a"}
				bad := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Crash{How: how}}
				behind := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Take{Amount: 900}}
				for _, r := range []deja.Request{bad, behind, bad} {
					if _, err := c.Do(ctx, r); !errors.Is(err, deja.ErrParked) {
						t.Fatalf("got %v, want parked", err)
					}
				}
				if _, err := c.Do(ctx, deja.Request{Key: "b", Command: till.Put{Amount: 1}}); err != nil {
					t.Fatalf("another key: %v", err)
				}
				act := engine.Act{Stream: s, Message: bad.ID, Actor: "ops"}
				if err := w.eng.Retry(ctx, act); !errors.Is(err, deja.NewRejection(deja.CodeFailed)) {
					t.Fatalf("retry of what still fails: %v", err)
				}
				w.broken.Store(false)
				if err := w.eng.Retry(ctx, engine.Act{Stream: s, Message: behind.ID}); !errors.Is(err, deja.NewRejection(deja.CodeNotParked)) {
					t.Fatalf("retry of one that is not the oldest: %v", err)
				}
				if err := w.eng.Retry(ctx, act); err != nil {
					t.Fatalf("retry: %v", err)
				}
				for _, r := range []deja.Request{bad, behind} {
					if out, err := c.Do(ctx, r); err != nil || !out.Duplicate {
						t.Fatalf("after the retry: %+v, %v", out, err)
					}
				}
				var got till.Till
				if _, err := c.State(ctx, s, &got); err != nil || got.Balance != 100 {
					t.Fatalf("balance %d, %v; want 100", got.Balance, err)
				}
			})
		})
	}
}

func TestSkipGivesAMessageUp(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.broken.Store(true)
		c := w.start(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		bad := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Crash{}}
		behind := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 5}}
		for _, r := range []deja.Request{bad, behind} {
			if _, err := c.Do(ctx, r); !errors.Is(err, deja.ErrParked) {
				t.Fatalf("got %v, want parked", err)
			}
		}
		act := engine.Act{Stream: deja.Stream{Aggregate: "till", Key: "a"}, Message: bad.ID, Reason: "not ours"}
		if err := w.eng.Skip(ctx, act); err != nil {
			t.Fatal(err)
		}
		var dead *deja.Dead
		if _, err := c.Do(ctx, bad); !errors.As(err, &dead) || dead.Reason.Code != deja.CodeSkipped {
			t.Fatalf("got %v, want dead", err)
		}
		if out, err := c.Do(ctx, behind); err != nil || out.Version != 1 {
			t.Fatalf("got %+v, %v", out, err)
		}
	})
}
