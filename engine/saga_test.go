package engine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/remit"
)

// post is a provider that honours keys.
type post struct {
	mu    sync.Mutex
	sent  map[deja.ID]int
	fails func(key deja.ID, tries int) error // or nil
	tries map[deja.ID]int
}

func (p *post) send(_ context.Context, key deja.ID, _ remit.Mail) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent == nil {
		p.sent, p.tries = map[deja.ID]int{}, map[deja.ID]int{}
	}
	p.tries[key]++
	if p.fails != nil {
		if err := p.fails(key, p.tries[key]); err != nil {
			return "", err
		}
	}
	p.sent[key]++
	return "receipt of " + key.String(), nil
}

// pair is the two services, running over one log.
type pair struct {
	log            *memory.Log
	banks, ledgers *memory.Store
	bank, ledger   *node
	post           *post
}

func runPair(t *testing.T, v remit.Variant) *pair {
	t.Helper()
	p := &pair{log: memory.NewLog(memory.LogConfig{Partitions: 3}), post: &post{}, banks: memory.NewStore(), ledgers: memory.NewStore()}
	bank, ledger := remit.Services(v)
	p.ledger = runNode(t, engine.Config{Service: ledger, Log: p.log, Store: p.ledgers, Peers: remit.Peers()})
	p.bank = runNode(t, engine.Config{
		Service: bank, Log: p.log, Store: p.banks, Peers: remit.Peers(), Effects: []deja.Performer{remit.Mailer(p.post.send)},
	})
	return p
}

func must(t *testing.T, c deja.Client, r deja.Request) deja.Outcome {
	t.Helper()
	out, err := c.Do(timeout(t), r)
	if err != nil {
		t.Fatalf("%s of %s: %v", r.Command.CommandType(), r.Key, err)
	}
	return out
}

func state[S any](t *testing.T, c deja.Client, aggregate, key string) (s S) {
	t.Helper()
	if _, err := c.State(timeout(t), deja.Stream{Aggregate: aggregate, Key: key}, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASagaEndsCompletedOrUndone(t *testing.T) {
	p := runPair(t, remit.Variant{Counted: true})
	bank := p.bank.Client()
	must(t, bank, deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
	start := func(key, to string, amount int64) deja.Outcome {
		return must(t, bank, deja.Request{
			ID: deja.DeriveID("test", key), Key: key, Command: remit.Start{From: "ana", To: to, Amount: amount, Patience: time.Hour}, Until: deja.AtEnd(),
		})
	}
	for _, c := range []struct {
		key, to string
		amount  int64
		want    string
		balance int64
	}{
		{"r1", "bob", 30, "remittance.finished", 70},
		{"r2", remit.Nobody, 30, "remittance.undone", 70},
		{"r3", "bob", 1000, "remittance.undone", 70},
		{"r1", "bob", 30, "remittance.finished", 70}, // asked again
		{"r2", remit.Nobody, 30, "remittance.undone", 70},
	} {
		out := start(c.key, c.to, c.amount)
		if out.Reached == nil || out.Reached.Type != c.want {
			t.Errorf("%s reached %v, want %s", c.key, out.Reached, c.want)
		}
		if got := state[remit.Account](t, bank, "account", "ana").Balance; got != c.balance {
			t.Errorf("after %s the balance is %d, want %d", c.key, got, c.balance)
		}
	}
	until(t, "the receipt is known", func() bool { return state[remit.Remittance](t, bank, "remittance", "r1").Receipt != "" })
	if got := state[remit.Entry](t, p.ledger.Client(), "posting", "r1"); got.Amount != 30 {
		t.Errorf("the posting is %+v", got)
	}
	until(t, "the tally has heard of the posting", func() bool { return state[remit.Tally](t, bank, "tally", "bob").Count == 1 })
	until(t, "nothing is open", func() bool {
		for n := range int32(3) {
			rows, err := p.banks.Open(timeout(t), n, deja.Stream{}, 10)
			if err != nil || len(rows) > 0 {
				return false
			}
		}
		return true
	})
	if len(p.post.sent) != 1 {
		t.Errorf("%d receipts were sent, want 1", len(p.post.sent))
	}
}

func TestATimeOutUndoesWhatADeadServiceDoesNotAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := runPair(t, remit.Variant{})
		bank := p.bank.Client()
		must(t, bank, deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
		p.ledger.end()
		must(t, bank, deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: 300 * time.Millisecond}})
		until(t, "it is given up", func() bool { return state[remit.Remittance](t, bank, "remittance", "r1").Phase == remit.Undoing })
		if got := state[remit.Account](t, bank, "account", "ana").Balance; got != 70 {
			t.Errorf("the balance is %d: it was refunded before the posting was barred", got)
		}
		go func() { _ = p.ledger.Run(t.Context()) }()
		until(t, "it is undone", func() bool { return state[remit.Remittance](t, bank, "remittance", "r1").Phase == remit.Failed })
		if got := state[remit.Account](t, bank, "account", "ana").Balance; got != 100 {
			t.Errorf("the balance is %d, want 100", got)
		}
		if got := state[remit.Entry](t, p.ledger.Client(), "posting", "r1"); got.Amount != 0 || !got.Reversed {
			t.Errorf("the posting is %+v, want it barred", got)
		}
	})
}

// What one stream sends keeps its order. A posting that goes by way of a desk may come after its reversal, and must be barred.
func TestAnActionThatComesAfterItsReversalIsBarred(t *testing.T) {
	for _, c := range []struct {
		name    string
		variant remit.Variant
		posted  int64
	}{
		{"barred", remit.Variant{Desks: true}, 0},
		{"not barred", remit.Variant{Desks: true, NoBar: true}, 30}, // which was refunded as well
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				p := runPair(t, c.variant)
				bank := p.bank.Client()
				must(t, bank, deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
				start := func(key string, hold, patience time.Duration) string {
					out := must(t, bank, deja.Request{
						Key: key, Command: remit.Start{From: "ana", To: "bob", Amount: 30, Desk: "d", Hold: hold, Patience: patience}, Until: deja.AtEnd(),
					})
					return out.Reached.Type
				}
				if got := start("r1", 0, time.Hour); got != "remittance.finished" {
					t.Errorf("r1 reached %s", got)
				}
				if got := start("r2", 800*time.Millisecond, 50*time.Millisecond); got != "remittance.undone" {
					t.Errorf("r2 reached %s", got)
				}
				until(t, "the desk has posted", func() bool {
					rows, err := p.ledgers.Load(timeout(t), []deja.Stream{{Aggregate: "desk", Key: "d"}})
					return err == nil && len(rows) == 1 && len(rows[0].Open) == 0
				})
				if got := state[remit.Account](t, bank, "account", "ana").Balance; got != 70 {
					t.Errorf("the balance is %d, want 70", got)
				}
				if got := state[remit.Entry](t, p.ledger.Client(), "posting", "r2"); got.Amount != c.posted || !got.Reversed {
					t.Errorf("the posting is %+v, want %d", got, c.posted)
				}
			})
		})
	}
}

func TestAnEffectIsTriedWithOneKeyUntilItsResultIsKnown(t *testing.T) {
	p := runPair(t, remit.Variant{})
	p.post.fails = func(_ deja.ID, tries int) error {
		if tries < 3 {
			return errors.New("the line is dead")
		}
		return nil
	}
	bank := p.bank.Client()
	must(t, bank, deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
	must(t, bank, deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: time.Hour}, Until: deja.AtEnd()})
	until(t, "the receipt is known", func() bool { return state[remit.Remittance](t, bank, "remittance", "r1").Receipt != "" })
	if len(p.post.tries) != 1 {
		t.Errorf("%d keys were used, want 1", len(p.post.tries))
	}
}

func TestAnEffectThatIsRefusedIsGivenUp(t *testing.T) {
	p := runPair(t, remit.Variant{})
	p.post.fails = func(deja.ID, int) error { return deja.NewRejection("post.address") }
	bank := p.bank.Client()
	must(t, bank, deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
	must(t, bank, deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: time.Hour}, Until: deja.AtEnd()})
	until(t, "the saga has heard of it", func() bool {
		return state[remit.Remittance](t, bank, "remittance", "r1").Receipt == "none: post.address"
	})
}
