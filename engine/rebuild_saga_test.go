package engine_test

import (
	"errors"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/replay"
)

// verify decides all of a service again, and compares its store with what that gives.
func verify(t *testing.T, svc *deja.Service, log driver.Log, store driver.Store) {
	t.Helper()
	src, err := replay.Open(t.Context(), replay.Config{Service: svc, Log: log, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	v, err := src.Verify(t.Context(), engine.Build(), nil)
	if err != nil || v.First != nil || v.NotJudged > 0 || v.Judged == 0 {
		t.Errorf("%s is not verified: %+v, %v", svc.Name, v, err)
	}
}

// Both services lose their stores in mid-flight: with a command unanswered, a timer set, and an effect that has been tried in
// vain. All that was waited for is in the journals, so all of it ends, under the keys that it had.
func TestSagasEndThoughTheStoresAreLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := runPair(t, remit.Variant{Counted: true})
		bank := p.bank.Client()
		p.post.fails = func(deja.ID, int) error { return errors.New("the line is dead") }
		must(t, bank, deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
		must(t, bank, deja.Request{Key: "eve", Command: remit.Deposit{Amount: 100}})
		start := func(key, from string, patience time.Duration) {
			must(t, bank, deja.Request{Key: key, Command: remit.Start{From: from, To: "bob", Amount: 30, Patience: patience}})
		}
		start("r1", "ana", time.Hour)
		until(t, "the receipt is tried", func() bool {
			p.post.mu.Lock()
			defer p.post.mu.Unlock()
			return len(p.post.tries) > 0
		})
		p.ledger.end()
		start("r2", "ana", time.Hour)
		start("r3", "eve", 2*time.Second)
		for _, key := range []string{"r2", "r3"} {
			until(t, key+" waits for the ledger", func() bool {
				phase := state[remit.Remittance](t, bank, "remittance", key).Phase
				return phase == remit.Posting || phase == remit.Undoing
			})
		}
		p.bank.end()
		banked, ledgered := remit.Services(remit.Variant{Counted: true})
		verify(t, banked, p.log, p.banks)
		verify(t, ledgered, p.log, p.ledgers)

		p.banks, p.ledgers = memory.NewStore(), memory.NewStore()
		p.post.mu.Lock()
		p.post.fails = nil
		p.post.mu.Unlock()
		p.bank = runNode(t, engine.Config{
			Service: banked, Log: p.log, Store: p.banks, Peers: remit.Peers(), Effects: []deja.Performer{remit.Mailer(p.post.send)},
		})
		bank = p.bank.Client()
		until(t, "r3 is given up", func() bool { return state[remit.Remittance](t, bank, "remittance", "r3").Phase == remit.Undoing })
		p.ledger = runNode(t, engine.Config{Service: ledgered, Log: p.log, Store: p.ledgers, Peers: remit.Peers()})
		for key, phase := range map[string]string{"r1": remit.Done, "r2": remit.Done, "r3": remit.Failed} {
			until(t, key+" ends", func() bool {
				r := state[remit.Remittance](t, bank, "remittance", key)
				return r.Phase == phase && r.Ends == 1 && (phase == remit.Failed) == (r.Receipt == "")
			})
		}
		until(t, "nothing is open", func() bool {
			for n := range int32(3) {
				rows, err := p.banks.Open(timeout(t), n, deja.Stream{}, 10)
				if err != nil || len(rows) > 0 {
					return false
				}
			}
			return true
		})
		for owner, want := range map[string]int64{"ana": 40, "eve": 100} {
			if got := state[remit.Account](t, bank, "account", owner).Balance; got != want {
				t.Errorf("%s has %d, want %d", owner, got, want)
			}
		}
		for key, want := range map[string]remit.Entry{
			"r1": {To: "bob", Amount: 30}, "r2": {To: "bob", Amount: 30}, "r3": {To: "bob", Reversed: true},
		} {
			if got := state[remit.Entry](t, p.ledger.Client(), "posting", key); got != want {
				t.Errorf("the posting of %s is %+v, want %+v", key, got, want)
			}
		}
		if len(p.post.tries) != 2 || len(p.post.sent) != 2 {
			t.Errorf("%d keys were used, and %d receipts sent, want 2", len(p.post.tries), len(p.post.sent))
		}
		p.bank.end()
		p.ledger.end()
		verify(t, banked, p.log, p.banks)
		verify(t, ledgered, p.log, p.ledgers)
	})
}
