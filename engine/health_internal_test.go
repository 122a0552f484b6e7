package engine

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/till"
)

// running returns an engine that runs until the test ends, on a log whose clock may be behind.
func running(t *testing.T, behind time.Duration, plan fault.Plan) *Engine {
	t.Helper()
	log := memory.NewLog(memory.LogConfig{Now: func() time.Time { return time.Now().Add(-behind) }})
	in := fault.New(plan)
	e, err := New(Config{Service: till.Service(till.Variant{}), Log: in.Log(log), Store: in.Store(memory.NewStore()), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run gives %v", err)
		}
	})
	return e
}

// sees waits until the only partition is in a state, and returns how it stands.
func sees(t *testing.T, e *Engine, want state) PartitionHealth {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		h, err := e.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p := h.Partitions[0]
		if p.State == string(want) {
			if ok := want != stalled && want != halted; h.OK() != ok {
				t.Errorf("OK is %t where the partition is %s", h.OK(), want)
			}
			return p
		}
		if time.Now().After(end) {
			t.Fatalf("it is %+v, want it %s", p, want)
		}
	}
}

// standStill has the only partition not have moved for longer than is well.
func standStill(t *testing.T, e *Engine) {
	t.Helper()
	ps, err := e.partitions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ps[0].mu.Lock()
	defer ps[0].mu.Unlock()
	ps[0].status.moved = time.Now().Add(-2 * stalledAfter)
}

func TestHealthTellsIdleWorkingFencedAndStalledApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fails atomic.Bool
		e := running(t, 2*stalledAfter, func(_ int, s fault.Step) fault.Mode {
			if s.Call == "tx.Commit" && fails.Load() {
				return fault.FailBefore
			}
			return fault.Pass
		})
		if p := sees(t, e, idle); p.Lag != 0 || p.Error != "" {
			t.Errorf("idle: %+v", p)
		}
		send := func() {
			if _, err := e.Client().Send(t.Context(), deja.Request{Key: "a", Command: till.Put{Amount: 1}}); err != nil {
				t.Fatal(err)
			}
		}
		standStill(t, e) // long ago: that is no stand-still while there is nothing to do
		sees(t, e, idle)
		fails.Store(true)
		send()
		if p := sees(t, e, fenced); !strings.Contains(p.Error, "injected") || p.Lag != 1 || p.Age < stalledAfter {
			t.Errorf("fenced: %+v", p)
		}
		standStill(t, e)
		if p := sees(t, e, stalled); !strings.Contains(p.Error, "injected") {
			t.Errorf("stalled: %+v", p)
		}
		fails.Store(false)
		if p := sees(t, e, idle); p.Position != 1 || p.N != 1 || p.Error != "" {
			t.Errorf("idle again: %+v", p)
		}
	})
}

// A decision that cannot be logged is no decision yet: such a partition stands still too.
func TestHealthSeesWhatIsNotLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fails atomic.Bool
		e := running(t, 0, func(_ int, s fault.Step) fault.Mode {
			if s.Call == "log.Append" && s.On == "shop.journal" && fails.Load() {
				return fault.FailBefore
			}
			return fault.Pass
		})
		sees(t, e, idle)
		fails.Store(true)
		if _, err := e.Client().Send(t.Context(), deja.Request{Key: "a", Command: till.Put{Amount: 1}}); err != nil {
			t.Fatal(err)
		}
		sees(t, e, fenced)
		standStill(t, e)
		if p := sees(t, e, stalled); p.Lag != 0 || p.N != 1 || p.Logged != 0 {
			t.Errorf("stalled: %+v", p)
		}
		fails.Store(false)
		sees(t, e, idle)
	})
}

func TestHealthWithoutARun(t *testing.T) {
	t.Parallel()
	e, err := New(Config{Service: till.Service(till.Variant{}), Log: memory.NewLog(memory.LogConfig{}), Store: memory.NewStore()})
	if err != nil {
		t.Fatal(err)
	}
	if p := sees(t, e, elsewhere); !p.Owner.IsZero() {
		t.Errorf("it is owned by %s", p.Owner)
	}
}

// Reading ends when nobody waits; who comes at that moment is read for anew.
func TestAWaitThatBeginsAsReadingEndsIsTold(t *testing.T) {
	t.Parallel()
	e := running(t, 0, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ps, err := e.partitions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		ps[0].tail.rest()
		if _, err := e.Client().Do(ctx, deja.Request{Key: "a", Command: till.Put{Amount: 1}}); err != nil {
			t.Fatalf("wait %d: %v", i, err)
		}
	}
}

// A reading that fails ends the waits that it was for: those whose message is sent are told that it is pending.
func TestAReadingThatFailsIsTold(t *testing.T) {
	t.Parallel()
	var fails atomic.Bool
	e := running(t, 0, func(_ int, s fault.Step) fault.Mode {
		if s.Call == "store.Leases" && fails.Load() {
			return fault.FailBefore
		}
		return fault.Pass
	})
	sees(t, e, idle)
	fails.Store(true)
	_, err := e.Client().Do(t.Context(), deja.Request{Key: "a", Command: till.Put{Amount: 1}})
	if !errors.Is(err, fault.ErrInjected) || errors.Is(err, deja.ErrPending) {
		t.Errorf("before anything was sent: %v", err)
	}
	if _, end, err := e.log.Bounds(t.Context(), "shop.inbox", 0); err != nil || end != 0 {
		t.Errorf("it was sent: the inbox ends at %d, %v", end, err)
	}
}
