//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/remit"
)

// books counts what became of the remittances.
type books struct {
	Remittances int   `json:"remittances"` // that began
	Finished    int   `json:"finished"`
	Undone      int   `json:"undone"`
	TimedOut    int   `json:"timed_out"`          // of these
	Barred      int   `json:"barred"`             // postings that came after their reversal
	Receipts    int   `json:"receipts"`           // that the provider sent
	Calls       int   `json:"receipt_calls"`      // of the provider
	Paid        int64 `json:"paid_in"`            // by clients, less what they took
	Held        int64 `json:"held_by_accounts"`   // in the end
	Posted      int64 `json:"held_by_the_ledger"` // in the end
}

// course is all that happened to a remittance.
type course struct {
	start           remit.Start
	started         int
	ends            []string  // the events that ended it
	gone            string    // why it was given up
	taken, returned int64     // of its account
	moves           int       // how often that was
	posted          int64     // by the ledger, less what it has reversed
	asked           []deja.ID // effects
	results         []string  // what the saga has recorded of them
}

// bookkeeper goes through both journals and the calls of the provider.
type bookkeeper struct {
	books
	courses map[string]*course
	counted map[string]remit.Tally // by the bank's tallies
	posted  map[string]remit.Tally // what these should have heard of
	wrong   []string
}

// keepBooks compares both services and the provider with each other: money is neither made nor lost, each remittance has one
// end, and what belongs to that end has happened, once.
func keepBooks(bank, ledger *past, calls []receipt.Call, l *load) (books, []string) {
	k := &bookkeeper{courses: map[string]*course{}, counted: map[string]remit.Tally{}, posted: map[string]remit.Tally{}}
	for _, p := range []*past{bank, ledger} {
		for n := range p.journal {
			for i := range p.journal[n] {
				k.decided(&p.journal[n][i])
			}
		}
	}
	for _, c := range k.courses {
		k.Posted += c.posted
	}
	if k.Paid != k.Held+k.Posted {
		k.bad("money: %d were paid in, and there are %d: %d in accounts and %d in the ledger", k.Paid, k.Held+k.Posted, k.Held, k.Posted)
	}
	if !maps.Equal(k.counted, k.posted) {
		k.bad("the tallies have heard of %v, and posted was %v", k.counted, k.posted)
	}
	k.called(calls)
	for _, key := range slices.Sorted(maps.Keys(k.courses)) {
		k.judge(key, k.courses[key])
	}
	k.compareAsked(l)
	return k.books, k.wrong
}

func (k *bookkeeper) bad(format string, args ...any) {
	if len(k.wrong) < 20 {
		k.wrong = append(k.wrong, fmt.Sprintf(format, args...))
	}
}

func (k *bookkeeper) course(key string) *course {
	c := k.courses[key]
	if c == nil {
		c = &course{}
		k.courses[key] = c
	}
	return c
}

// decided takes in a decision.
func (k *bookkeeper) decided(e *journal.Entry) {
	for i := range e.Decided.Events {
		if err := k.recorded(&e.Cause, &e.Decided.Events[i]); err != nil {
			k.bad("%s of %s: %v", e.Decided.Events[i].Type, e.Cause.Stream, err)
		}
	}
	for i := range e.Decided.Effects {
		c := k.course(e.Cause.Stream.Key)
		c.asked = append(c.asked, e.Decided.Effects[i].ID)
	}
	if e.Decided.Status == deja.Rejected && e.Decided.Reason.Code == remit.ErrBarred.Code {
		k.Barred++
	}
}

// recorded takes in an event.
func (k *bookkeeper) recorded(cause, ev *deja.Envelope) error {
	var e struct {
		Amount int64
		To     string
		Why    string
		Number string
	}
	if err := json.Unmarshal(ev.Payload, &e); err != nil {
		return err
	}
	key := ev.Stream.Key
	switch ev.Type {
	case "account.deposited", "account.withdrawn":
		k.moved(cause, ev.Type == "account.deposited", e.Amount)
	case "remittance.started":
		c := k.course(key)
		c.started++
		return json.Unmarshal(ev.Payload, &c.start)
	case "remittance.given-up":
		k.course(key).gone = e.Why
	case "remittance.finished", "remittance.undone":
		c := k.course(key)
		c.ends = append(c.ends, ev.Type)
	case "remittance.receipt", "remittance.no-mail":
		c := k.course(key)
		c.results = append(c.results, e.Number+e.Why)
	case "remittance.stuck":
		k.bad("remittance %s is stuck: %s", key, e.Why)
	case "posting.posted":
		k.course(key).posted += e.Amount
		count(k.posted, e.To, e.Amount)
	case "posting.reversed":
		k.course(key).posted -= e.Amount
	case "tally.counted":
		count(k.counted, key, e.Amount)
	default:
	}
	return nil
}

func count(tallies map[string]remit.Tally, of string, amount int64) {
	t := tallies[of]
	tallies[of] = remit.Tally{Count: t.Count + 1, Amount: t.Amount + amount}
}

// moved takes in what came into an account or left it: by a client, or for a remittance.
func (k *bookkeeper) moved(cause *deja.Envelope, in bool, amount int64) {
	sign := int64(-1)
	if in {
		sign = 1
	}
	k.Held += sign * amount
	if cause.Sender == (deja.Stream{}) {
		k.Paid += sign * amount
		return
	}
	c := k.course(cause.Sender.Key)
	if c.moves++; in {
		c.returned += amount
	} else {
		c.taken += amount
	}
	if c.start.From != "" && c.start.From != cause.Stream.Key {
		k.bad("remittance %s is from %s, and its money moved at %s", cause.Sender.Key, c.start.From, cause.Stream.Key)
	}
}

// doubled returns the remittances for which the provider was called with two keys, or has sent two receipts: wrong at any
// moment.
func doubled(calls []receipt.Call) (wrong []string) {
	keys, sent := map[string]string{}, map[string]bool{}
	for i := range calls {
		c := &calls[i]
		if key, called := keys[c.Transfer]; called && key != c.Key {
			wrong = append(wrong, fmt.Sprintf("the provider was called for the receipt of remittance %s with the keys %s and %s", c.Transfer, key, c.Key))
		}
		if keys[c.Transfer] = c.Key; c.Answer != receipt.Sent {
			continue
		}
		if sent[c.Transfer] {
			wrong = append(wrong, fmt.Sprintf("the provider has sent two receipts of remittance %s", c.Transfer))
		}
		sent[c.Transfer] = true
	}
	return wrong
}

// called takes in the provider's calls. All of a remittance bear the key of its one effect, and one of them is sent.
func (k *bookkeeper) called(calls []receipt.Call) {
	sent := map[string]int{}
	for i := range calls {
		call := &calls[i]
		k.Calls++
		c := k.courses[call.Transfer]
		if c == nil || len(c.asked) == 0 || c.asked[0].String() != call.Key {
			k.bad("the provider was called for a receipt of %q with the key %s, which is no effect's of it", call.Transfer, call.Key)
			continue
		}
		if call.Answer == receipt.Refused || call.To != c.start.From || call.Amount != c.start.Amount {
			k.bad("the provider was called for a receipt of %s as %+v; it answered %s", call.Transfer, call.Send, call.Answer)
		}
		if call.Answer == receipt.Sent {
			k.Receipts++
			sent[call.Transfer]++
		}
	}
	for key, c := range k.courses {
		if sent[key] != len(c.asked) {
			k.bad("remittance %s asked for %d receipts, and %d were sent", key, len(c.asked), sent[key])
		}
	}
}

// judge sees whether a remittance has one end, and all that belongs to it.
func (k *bookkeeper) judge(key string, c *course) {
	if c.started == 0 {
		if c.posted != 0 || c.moves != 0 || len(c.asked) != 0 {
			k.bad("remittance %s never began, and moved money: %+v", key, *c)
		}
		return // an idle reversal
	}
	k.Remittances++
	amount := c.start.Amount
	right := c.started == 1 && len(c.ends) == 1
	switch {
	case !right:
	case c.ends[0] == "remittance.finished":
		k.Finished++
		right = c.taken == amount && c.moves == 1 && c.posted == amount && len(c.asked) == 1 && len(c.results) == 1 && c.results[0] == c.asked[0].String()
	default:
		k.Undone++
		if c.gone == "time-out" {
			k.TimedOut++
		}
		right = c.taken == c.returned && (c.moves == 0 || c.moves == 2 && c.taken == amount) && c.posted == 0 && len(c.asked)+len(c.results) == 0
	}
	if !right {
		k.bad("remittance %s has come to no right end: %+v", key, *c)
	}
}

// compareAsked compares what clients have asked for, and were told, with what happened.
func (k *bookkeeper) compareAsked(l *load) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.asked {
		m := &l.asked[i]
		if c := k.courses[m.Key]; c == nil || c.started == 0 {
			k.bad("remittance %s was asked for and never began", m.Key)
		} else if c.start != m.Start {
			k.bad("remittance %s was asked for as %+v, and began as %+v", m.Key, m.Start, c.start)
		}
	}
	if began, asked := k.Remittances, len(l.asked); began != asked {
		k.bad("%d remittances began, and %d were asked for", began, asked)
	}
	for _, t := range l.ended {
		if c := k.courses[t.Key]; c == nil || !slices.Equal(c.ends, []string{t.Event}) {
			k.bad("a client was told %s of remittance %s, and it is %+v", t.Event, t.Key, c)
		}
	}
}
