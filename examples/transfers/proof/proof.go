// Package proof shows that a run was right, or in what it was not. It asks neither the services nor their clients: it reads
// their journals and their states, and the file of the provider, and compares them with each other and with the orders.
package proof

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/examples/transfers/orders"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

// A Witness is a service's log and store. Nothing may be writing to them, and the journal must have all that the store has.
type Witness struct {
	Service *deja.Service
	Log     driver.Log
	Store   driver.Reader
}

// A Verdict says what became of a run.
type Verdict struct {
	Transfers   int // Completed + Compensated + Stuck
	Completed   int
	Compensated int // with those that were refused before any money moved
	Stuck       int

	MoneyBefore, MoneyAfter int64

	Calls     int // of the provider
	Performed int // receipts sent
	Doubled   int // of those, beyond one of each transfer

	Faults []string // what is wrong: the first of it
	More   int      // and how much more there is
}

// OK reports whether nothing is wrong.
func (v *Verdict) OK() bool { return len(v.Faults) == 0 }

// mostFaults bounds what is listed.
const mostFaults = 20

func (v *Verdict) fault(format string, args ...any) {
	if len(v.Faults) == mostFaults {
		v.More++
		return
	}
	v.Faults = append(v.Faults, fmt.Sprintf(format, args...))
}

// Check judges a run.
func Check(ctx context.Context, plan orders.Plan, accounts, ledger Witness, receipts string) (*Verdict, error) {
	c := &check{
		plan: plan, verdict: &Verdict{Transfers: plan.Transfers}, courses: make([]course, plan.Transfers), balances: map[string]int64{},
	}
	for _, read := range []struct {
		w       Witness
		journal func(*wire.Record)
		state   func(driver.State) error
	}{
		{accounts, c.accountsDecided, c.accountsState},
		{ledger, c.ledgerDecided, c.ledgerState},
	} {
		if err := c.witness(ctx, read.w, read.journal, read.state); err != nil {
			return nil, fmt.Errorf("%s: %w", read.w.Service.Name, err)
		}
	}
	calls, err := receipt.ReadFile(receipts)
	if err != nil {
		return nil, err
	}
	c.receipts(calls)
	c.sums()
	for o := range plan.Orders(0) {
		c.judge(o)
	}
	return c.verdict, nil
}

// check is a proof at work.
type check struct {
	plan     orders.Plan
	verdict  *Verdict
	courses  []course         // of the transfers, by number
	balances map[string]int64 // of the senders, as the journal has them
}

// course is all that happened to a transfer.
type course struct {
	started, finished, undone int        // its own events
	out, back                 []movement // by the sender's account
	in, off                   []movement // by the ledger
	barred                    int
	asked, sent               int // receipts
	phase, stage              string
}

// movement is money that moved.
type movement struct {
	account string
	amount  int64
}

// witness reads all that a service has decided, and its states, and sees whether the one follows from the other.
func (c *check) witness(ctx context.Context, w Witness, decided func(*wire.Record), state func(driver.State) error) error {
	source, err := replay.Open(ctx, replay.Config{Service: w.Service, Log: w.Log, Store: w.Store})
	if err != nil {
		return err
	}
	for p := range source.Partitions() {
		var recorded int64
		for e, err := range source.Decisions(ctx, p, 1) {
			if err != nil {
				return err
			}
			recorded = e.N
			switch e.Decided.Status {
			case deja.Applied:
				decided(e.Record)
			case deja.Parked, deja.DeadLetter, deja.Conflicted:
				c.verdict.fault("%s: %s of %s is %s: %s", w.Service.Name, e.Cause.Type, e.Cause.Stream, e.Decided.Status, e.Decided.Reason.Error())
			default:
			}
		}
		at, err := w.Store.Progress(ctx, p)
		if err != nil {
			return err
		}
		if at.N != recorded {
			c.verdict.fault("%s: the store of partition %d is at decision %d, and its journal ends at %d", w.Service.Name, p, at.N, recorded)
		}
	}
	if err := replay.EachState(ctx, w.Store, state); err != nil {
		return err
	}
	past, err := source.Fold(ctx, replay.Options{})
	if err != nil {
		return err
	}
	folded, err := past.Hash()
	if err != nil {
		return err
	}
	stored, err := replay.HashStore(ctx, source.Machine(), w.Store)
	if err == nil && folded != stored {
		c.verdict.fault("%s: the states have the hash %s, and what the journal folds to has %s", w.Service.Name, stored, folded)
	}
	return err
}

// course returns the course of a transfer.
func (c *check) course(key string) *course {
	if n, ok := c.plan.Number(key); ok {
		return &c.courses[n]
	}
	c.verdict.fault("transfer %q is none of the orders", key)
	return new(course)
}

// accountsDecided takes in an applied decision of the accounts.
func (c *check) accountsDecided(r *wire.Record) {
	s := r.Cause.Stream
	for i := range r.Decided.Events {
		e := &r.Decided.Events[i]
		m := movement{account: s.Key, amount: c.amount(e)}
		switch by := r.Cause.Sender; e.Type {
		case "account.withdrawn":
			c.balances[s.Key] -= m.amount
			t := c.course(by.Key)
			t.out = append(t.out, m)
		case "account.deposited":
			c.balances[s.Key] += m.amount
			if by == (deja.Stream{}) { // a client's: the money that there is in the beginning
				c.verdict.MoneyBefore += m.amount
				continue
			}
			t := c.course(by.Key)
			t.back = append(t.back, m)
		case "transfer.started":
			c.course(s.Key).started++
		case "transfer.finished":
			c.course(s.Key).finished++
		case "transfer.undone":
			c.course(s.Key).undone++
		}
	}
	for range r.Decided.Effects {
		c.course(s.Key).asked++
	}
}

// ledgerDecided takes in an applied decision of the ledger.
func (c *check) ledgerDecided(r *wire.Record) {
	t := c.course(r.Cause.Stream.Key)
	for i := range r.Decided.Events {
		e := &r.Decided.Events[i]
		switch e.Type {
		case "posting.posted":
			if t.barred > 0 {
				c.verdict.fault("transfer %s was posted after it had been barred", r.Cause.Stream.Key)
			}
			t.in = append(t.in, c.movement(e))
		case "posting.reversed":
			t.off = append(t.off, c.movement(e))
		case "posting.barred":
			t.barred++
		}
	}
}

func (c *check) amount(e *deja.Envelope) int64 { return c.movement(e).amount }

// movement reads what every event about money has.
func (c *check) movement(e *deja.Envelope) movement {
	var m struct {
		Account string `json:"account"`
		Amount  int64  `json:"amount"`
	}
	if err := json.Unmarshal(e.Payload, &m); err != nil {
		c.verdict.fault("event %s of %s: %v", e.ID, e.Stream, err)
	}
	return movement{m.Account, m.Amount}
}

// accountsState takes in a state of the accounts.
func (c *check) accountsState(s driver.State) error {
	var data struct {
		Balance int64  `json:"balance"`
		Phase   string `json:"phase"`
	}
	if len(s.Data) > 0 {
		if err := json.Unmarshal(s.Data, &data); err != nil {
			return fmt.Errorf("state of %s: %w", s.Stream, err)
		}
	}
	if s.Stream.Aggregate == "transfer" {
		c.course(s.Stream.Key).phase = data.Phase
		return nil
	}
	c.verdict.MoneyAfter += data.Balance
	if folded := c.balances[s.Stream.Key]; folded != data.Balance {
		c.verdict.fault("%s has %d, and its events come to %d", s.Stream, data.Balance, folded)
	}
	return nil
}

// ledgerState takes in a state of the ledger.
func (c *check) ledgerState(s driver.State) error {
	var data struct {
		Amount int64  `json:"amount"`
		Stage  string `json:"stage"`
	}
	if len(s.Data) > 0 {
		if err := json.Unmarshal(s.Data, &data); err != nil {
			return fmt.Errorf("state of %s: %w", s.Stream, err)
		}
	}
	c.course(s.Stream.Key).stage = data.Stage
	if data.Stage == "posted" {
		c.verdict.MoneyAfter += data.Amount
	}
	return nil
}

// receipts takes in what the provider has done.
func (c *check) receipts(calls []receipt.Call) {
	c.verdict.Calls = len(calls)
	for i := range calls {
		switch calls[i].Answer {
		case receipt.Sent:
			c.verdict.Performed++
			if t := c.course(calls[i].Transfer); t.sent > 0 {
				c.verdict.Doubled++
				t.sent++
			} else {
				t.sent = 1
			}
		case receipt.Refused:
			c.verdict.fault("the provider was called with key %s for two receipts", calls[i].Key)
		default:
		}
	}
}

// judge sees whether a transfer has ended in one way, and whether all that happened goes with it.
func (c *check) judge(o orders.Order) {
	t := &c.courses[o.Number]
	out, in := movement{o.From, o.Amount}, movement{o.To, o.Amount}
	var wrong []string
	want := func(ok bool, what string) {
		if !ok {
			wrong = append(wrong, what)
		}
	}
	want(t.started == 1, "was not started once")
	switch t.phase {
	case "finished":
		c.verdict.Completed++
		want(t.finished == 1 && t.undone == 0, "has not one end")
		want(once(t.out, out) && len(t.back) == 0, "did not take the money once and keep it")
		want(once(t.in, in) && len(t.off) == 0 && t.stage == "posted", "is not posted once")
		want(t.asked == 1 && t.sent == 1, "has not one receipt")
		want(o.Kind == orders.Plain || o.Kind == orders.Hasty, "should have been refused")
	case "undone":
		c.verdict.Compensated++
		want(t.undone == 1 && t.finished == 0, "has not one end")
		want(len(t.out) == 0 && len(t.back) == 0 || once(t.out, out) && once(t.back, out), "did not give back what it took")
		want(len(t.in) == 0 && len(t.off) == 0 || once(t.in, in) && once(t.off, in), "is posted, and was given back")
		want(t.stage != "posted", "has a posting that stands")
		want(t.asked == 0 && t.sent == 0, "has a receipt")
		want(o.Kind != orders.Plain, "should have been completed")
		want((o.Kind == orders.Greedy) == (len(t.out) == 0), "was not refused where it should have been")
	default:
		c.verdict.Stuck++
		want(false, "has not ended")
	}
	if len(wrong) > 0 {
		c.verdict.fault("transfer %s (%s, now %q) %s", o.Key, o.Kind, t.phase, strings.Join(wrong, ", and "))
	}
}

// once reports whether m is all that moved.
func once(moved []movement, m movement) bool { return len(moved) == 1 && moved[0] == m }

// sums sees whether there is as much money as there was, and no receipt too many.
func (c *check) sums() {
	v := c.verdict
	if want := c.plan.Money(); v.MoneyBefore != want {
		c.verdict.fault("the senders had %d in the beginning, want %d", v.MoneyBefore, want)
	}
	if v.MoneyAfter != v.MoneyBefore {
		c.verdict.fault("there was %d, and there is %d: %+d", v.MoneyBefore, v.MoneyAfter, v.MoneyAfter-v.MoneyBefore)
	}
	if v.Doubled > 0 {
		c.verdict.fault("%d receipts were sent a second time", v.Doubled)
	}
}
