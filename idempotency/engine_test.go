package idempotency_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/idempotency"
	"github.com/dejalog/deja/internal/memory"
)

type account struct {
	Balance int64 `json:"balance"`
}

type withdrawn struct {
	Amount int64 `json:"amount"`
}

func (withdrawn) EventType() string { return "account.withdrawn" }

// The promise as a whole, on a real engine: a key pays once, and a refusal stays one.
func TestAKeyPaysOnce(t *testing.T) {
	agg := deja.NewAggregate("account",
		deja.Handle(func(a account, d *deja.Decision, c withdraw) error {
			if a.Balance-c.Amount < -10 {
				return deja.NewRejection("account.overdraft")
			}
			d.Record(withdrawn(c))
			return nil
		}),
		deja.Apply(func(a *account, e withdrawn) { a.Balance -= e.Amount }),
	)
	log := memory.NewLog(memory.LogConfig{Partitions: 1, Now: time.Now})
	eng, err := engine.New(engine.Config{
		Service: &deja.Service{Name: "bank", Aggregates: []deja.AnyAggregate{agg}},
		Log:     log, Store: memory.NewStore(memory.Joint(log)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- eng.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})

	c := eng.Client()
	for range 3 {
		if w := post(t, c, call{key: `"one"`}); w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		problem(t, post(t, c, call{key: `"two"`, body: `{"amount":9}`}), http.StatusConflict, idempotency.ProblemRejected)
	}
	p := problem(t, post(t, c, call{key: `"one"`, body: `{"amount":6}`}), http.StatusUnprocessableEntity, idempotency.ProblemReused)
	if len(p.Paths) != 1 || p.Paths[0] != "amount" {
		t.Errorf("paths %v", p.Paths)
	}
	var a account
	if v, err := c.State(t.Context(), deja.Stream{Aggregate: "account", Key: "7"}, &a); err != nil || v != 1 || a.Balance != -5 {
		t.Errorf("balance %d at version %d, %v", a.Balance, v, err)
	}
}
