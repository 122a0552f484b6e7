package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/internal/wire"
)

func TestHealthTellsOfSagasThatAreStuck(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log, banks := memory.NewLog(memory.LogConfig{Partitions: 2}), memory.NewStore()
		services, ledgers := remit.Services(remit.Variant{})
		ledger := runNode(t, engine.Config{Service: ledgers, Log: log, Store: memory.NewStore()})
		ledger.end()
		var told testenv.Output
		cfg := engine.Config{
			Service: services, Log: log, Store: banks, Peers: remit.Peers(), Effects: []deja.Performer{remit.Mailer((&post{}).send)},
			Logger: slog.New(slog.NewTextHandler(&told, nil)),
		}
		bank := runNode(t, cfg)
		must(t, bank.Client(), deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
		must(t, bank.Client(), deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: 100 * time.Millisecond}})
		phase := func(want string) func() bool {
			return func() bool { return state[remit.Remittance](t, bank.Client(), "remittance", "r1").Phase == want }
		}
		until(t, "it is given up", phase(remit.Undoing))
		until(t, "it is known to be open", func() bool { return healthOf(t, bank.Engine).Sagas.Open == 1 })
		if h := healthOf(t, bank.Engine); !h.OK() || h.Sagas.Stuck != 0 {
			t.Errorf("a saga in its time: %+v", h)
		}
		must(t, bank.Client(), deja.Request{Key: "ana", Command: remit.Close{}})
		go func() { _ = ledger.Run(t.Context()) }()
		until(t, "its refund is refused", phase(remit.InDoubt))
		until(t, "it is seen to be stuck", func() bool { return healthOf(t, bank.Engine).Sagas.Stuck == 1 })
		h := healthOf(t, bank.Engine)
		if h.OK() || len(h.Sagas.Overdue) != 1 || h.Sagas.Overdue[0].Key != "remittance/r1" || h.Sagas.Overdue[0].Event != "remittance.stuck" {
			t.Errorf("a stuck saga: OK %t, %+v", h.OK(), h.Sagas)
		}
		time.Sleep(3 * time.Second) // for another look
		if n := strings.Count(told.String(), "a saga is stuck"); n != 1 {
			t.Errorf("the alarm was given %d times, want 1", n)
		}
		bank.end()
		if h := healthOf(t, newEngine(t, cfg)); h.OK() || h.Sagas.Stuck != 1 || h.Sagas.AtLeast {
			t.Errorf("an engine that does not run tells %+v", h.Sagas)
		}
	})
}

func TestASagaTellsWhatItWaitsFor(t *testing.T) {
	log, banks := memory.NewLog(memory.LogConfig{}), memory.NewStore()
	services, ledgers := remit.Services(remit.Variant{})
	runNode(t, engine.Config{Service: ledgers, Log: log, Store: memory.NewStore()}).end()
	bank := runNode(t, engine.Config{
		Service: services, Log: log, Store: banks, Peers: remit.Peers(), Effects: []deja.Performer{remit.Mailer((&post{}).send)},
	})
	must(t, bank.Client(), deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
	must(t, bank.Client(), deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: time.Hour}})
	until(t, "the money is taken", func() bool {
		return state[remit.Remittance](t, bank.Client(), "remittance", "r1").Phase == remit.Posting
	})
	m, err := deja.Compile(services)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := banks.Open(t.Context(), 0, deja.Stream{}, 10)
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	s, err := engine.SagaOf(m, rows[0], nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if s.State != engine.SagaOpen || len(s.Waits) != 2 || s.Waits[0].For != engine.WaitReply || s.Waits[0].Type != "posting.post" ||
		s.Waits[0].To != "posting/r1" || s.Waits[1].For != engine.WaitTimer || s.Waits[1].Name != "time-out" {
		t.Errorf("it is %+v", s)
	}
	if s, err = engine.SagaOf(m, rows[0], nil, time.Now().Add(2*time.Hour)); err != nil || s.State != engine.SagaLate || !s.Overdue() {
		t.Errorf("two hours later it is %+v, %v", s, err)
	}
}

// refusing is a log on which an inbox takes nothing.
type refusing struct {
	*memory.Log
	inbox string
}

func (l refusing) Append(ctx context.Context, topic string, rs []driver.Record) ([]deja.Position, error) {
	if topic == l.inbox {
		return nil, errors.New("the inbox takes nothing")
	}
	return l.Log.Append(ctx, topic, rs)
}

func TestHealthTellsOfARouteThatLags(t *testing.T) {
	log := memory.NewLog(memory.LogConfig{})
	services, ledgers := remit.Services(remit.Variant{})
	runNode(t, engine.Config{Service: ledgers, Log: log, Store: memory.NewStore()}).end()
	bank := runNode(t, engine.Config{
		Service: services, Log: refusing{log, wire.Inbox(remit.Ledger)}, Store: memory.NewStore(), Peers: remit.Peers(),
		Effects: []deja.Performer{remit.Mailer((&post{}).send)},
	})
	must(t, bank.Client(), deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
	must(t, bank.Client(), deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: time.Hour}})
	until(t, "the route to the ledger lags, and no other does", func() bool {
		h := healthOf(t, bank.Engine)
		return len(h.Routes) == 1 && h.Routes[0].To == wire.Inbox(remit.Ledger) && h.Routes[0].At < h.Routes[0].End && len(h.Faults) == 1
	})
}
