package dejatest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/internal/remit"
)

// patience is how long a remittance waits for the ledger.
const patience = 30 * time.Minute

// remitting is a world of the bank and the ledger, in which ana has 100.
func remitting(tb testing.TB, v remit.Variant) *dejatest.World {
	tb.Helper()
	bank, ledger := remit.Services(v)
	w := dejatest.NewWorld(tb, bank, ledger)
	w.Must(deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
	return w
}

func start(w *dejatest.World, key, to string, amount int64) deja.Outcome {
	return w.Must(deja.Request{
		Key: key, Command: remit.Start{From: "ana", To: to, Amount: amount, Patience: patience}, Until: deja.AtEnd(),
	})
}

func stateOf[S any](w *dejatest.World, aggregate, key string) (s S) {
	w.State(deja.Stream{Aggregate: aggregate, Key: key}, &s)
	return s
}

// mailer answers each key the same.
func mailer() deja.Performer {
	return remit.Mailer(func(_ context.Context, key deja.ID, _ remit.Mail) (string, error) {
		return "receipt of " + key.String(), nil
	})
}

// asked is a remittance, and the event with which it ends.
type asked struct {
	key, to string
	amount  int64
	end     deja.Event
}

// remittances is a world in which remittances were asked for, with receipts.
func remittances(tb testing.TB, all ...asked) *dejatest.World {
	tb.Helper()
	w := remitting(tb, remit.Variant{Counted: true})
	w.Perform(mailer())
	for _, r := range all {
		if out := start(w, r.key, r.to, r.amount); out.Reached.Type != r.end.EventType() {
			tb.Fatalf("%s reached %s, want %s", r.key, out.Reached.Type, r.end.EventType())
		}
	}
	w.Advance(time.Hour)
	return w
}

func TestTwoServicesUnderRedelivery(t *testing.T) {
	w := remittances(t,
		asked{"r1", "bob", 30, remit.Finished{}},
		asked{"r2", remit.Nobody, 30, remit.Undone{}}, // the ledger refuses
		asked{"r3", "bob", 1000, remit.Undone{}},      // the bank does
		asked{"r4", "bob", 20, remit.Finished{}},
	)
	if got := stateOf[remit.Account](w, "account", "ana").Balance; got != 50 {
		t.Errorf("ana has %d, want 50", got)
	}
	if got := stateOf[remit.Tally](w, "tally", "bob"); got.Count != 2 || got.Amount != 50 {
		t.Errorf("bob's tally is %+v", got)
	}
	if got := stateOf[remit.Remittance](w, "remittance", "r1").Receipt; !strings.HasPrefix(got, "receipt of") {
		t.Errorf("the receipt is %q", got)
	}
	before := w.Hash()
	for range 4 {
		w.RedeliverAll()
	}
	w.WantHash(before)
	if n := len(w.Performed()); n != 2 {
		t.Errorf("%d receipts were sent, want 2", n)
	}
}

func TestTwoServicesUnderCrashes(t *testing.T) {
	all := []asked{{"r1", "bob", 30, remit.Finished{}}, {"r2", remit.Nobody, 30, remit.Undone{}}}
	if testing.Short() {
		all = all[1:]
	}
	w := remittances(t, all...)
	before := w.Hash()
	w.CrashAtEveryWrite()
	w.WantHash(before)
}

func TestAWorldFiresTimersWhenTheyAreDue(t *testing.T) {
	bank, _ := remit.Services(remit.Variant{})
	w := dejatest.NewWorld(t, bank) // the test plays the ledger
	w.Must(deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
	w.Must(deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: patience}})
	phase := func() string { return stateOf[remit.Remittance](w, "remittance", "r1").Phase }
	w.Advance(patience - time.Second)
	if got := phase(); got != remit.Posting {
		t.Fatalf("a second before the time-out it is %s", got)
	}
	w.Advance(time.Second)
	if got := phase(); got != remit.Undoing {
		t.Fatalf("after the time-out it is %s", got)
	}
	sent := w.Sent()
	if len(sent) != 2 || sent[0].Type != "posting.post" || sent[1].Type != "posting.reverse" {
		t.Fatalf("sent %v", sent)
	}
	w.Answer(sent[0], remit.Posted{To: "bob", Amount: 30})
	w.Answer(sent[1], remit.Reversed{Amount: 30})
	if got := phase(); got != remit.Failed {
		t.Fatalf("after the reversal it is %s", got)
	}
	if left := w.Sent(); len(left) > 0 {
		t.Fatalf("%v wait", left)
	}
	w.RedeliverAll()
	w.CrashAtEveryWrite()
}

func TestTheTestPlaysAPeerThatRefuses(t *testing.T) {
	bank, _ := remit.Services(remit.Variant{Counted: true})
	w := dejatest.NewWorld(t, bank)
	w.Must(deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
	w.Must(deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: patience}})
	w.Refuse(w.Sent()[0], remit.ErrNoTaker)
	w.Answer(w.Sent()[0])
	if got := stateOf[remit.Remittance](w, "remittance", "r1").Phase; got != remit.Failed {
		t.Fatalf("it is %s", got)
	}
	w.Happened(deja.Stream{Aggregate: "posting", Key: "r7"}, remit.Posted{To: "bob", Amount: 7})
	if got := stateOf[remit.Tally](w, "tally", "bob"); got.Amount != 7 {
		t.Fatalf("the tally is %+v", got)
	}
	w.RedeliverAll()
	w.CrashAtEveryWrite()
}

func TestEffectsStayOpenUntilTheTestSaysWhatBecomesOfThem(t *testing.T) {
	w := remitting(t, remit.Variant{})
	start(w, "r1", "bob", 30)
	start(w, "r2", "bob", 30)
	open := w.Effects()
	if len(open) != 2 || open[0].Type != "receipt.mail" || open[0].Stream.Key != "r1" {
		t.Fatalf("open are %v", open)
	}
	w.Resolve(open[0], remit.Mailed{Receipt: "7"})
	w.Refuse(open[1], deja.NewRejection("post.address"))
	if len(w.Effects()) > 0 {
		t.Fatalf("open are %v", w.Effects())
	}
	for key, want := range map[string]string{"r1": "7", "r2": "none: post.address"} {
		if got := stateOf[remit.Remittance](w, "remittance", key).Receipt; got != want {
			t.Errorf("the receipt of %s is %q, want %q", key, got, want)
		}
	}
	w.RedeliverAll()
}

func TestAnEffectIsTriedAgainAsTimeGoesBy(t *testing.T) {
	w := remitting(t, remit.Variant{})
	tries, dead := 0, errors.New("the line is dead")
	w.Perform(remit.Mailer(func(context.Context, deja.ID, remit.Mail) (string, error) {
		if tries++; tries < 4 {
			return "", dead
		}
		return "at last", nil
	}))
	start(w, "r1", "bob", 30)
	if tries != 1 || len(w.Effects()) != 1 {
		t.Fatalf("%d tries, %d open", tries, len(w.Effects()))
	}
	w.Advance(time.Minute)
	if got := stateOf[remit.Remittance](w, "remittance", "r1").Receipt; got != "at last" || tries != 4 {
		t.Fatalf("the receipt is %q after %d tries", got, tries)
	}
	if p := w.Performed(); len(p) != 1 || p[0].Calls != 4 {
		t.Fatalf("performed %+v", p)
	}
}

func TestAnEffectPastItsWindowIsInquired(t *testing.T) {
	for name, inquire := range map[string]func(context.Context, deja.ID, remit.Mail) (deja.Command, error){
		"nobody can tell": nil,
		"it was done": func(context.Context, deja.ID, remit.Mail) (deja.Command, error) {
			return remit.Mailed{Receipt: "found"}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := remitting(t, remit.Variant{})
			w.Perform(deja.PerformWith(deja.Performing[remit.Mail]{
				Do:      func(context.Context, deja.ID, remit.Mail) (deja.Command, error) { return nil, errors.New("dead") },
				Inquire: inquire, Window: time.Hour,
			}))
			start(w, "r1", "bob", 30)
			w.Advance(2 * time.Hour)
			got := stateOf[remit.Remittance](w, "remittance", "r1").Receipt
			if inquire != nil && (got != "found" || len(w.Effects()) > 0) || inquire == nil && (got != "" || len(w.Effects()) != 1) {
				t.Fatalf("the receipt is %q, open are %v", got, w.Effects())
			}
		})
	}
}

func TestUntilIsPendingWhereItIsNotReached(t *testing.T) {
	bank, _ := remit.Services(remit.Variant{})
	w := dejatest.NewWorld(t, bank)
	w.Must(deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
	_, err := w.Do(deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: patience}, Until: deja.AtEnd()})
	if !errors.Is(err, deja.ErrPending) {
		t.Fatalf("got %v, want %v", err, deja.ErrPending)
	}
}

func TestWorldsOfSagasFail(t *testing.T) {
	for name, c := range map[string]struct {
		test func(tb *recorder)
		text string
	}{
		"an effect that nobody asks for": {func(tb *recorder) {
			_, ledger := remit.Services(remit.Variant{})
			dejatest.NewWorld(tb, ledger).Perform(mailer())
		}, "no aggregate asks for effect receipt.mail"},
		"an answer that nobody waits for": {func(tb *recorder) {
			w := remitting(tb, remit.Variant{})
			w.Answer(deja.Envelope{Kind: deja.KindCommand, Type: "posting.post"})
		}, "does not wait for an answer"},
		"a refusal without reason": {func(tb *recorder) { remitting(tb, remit.Variant{}).Refuse(deja.Envelope{}, nil) }, "want a reason"},
		"events that nobody reacts to": {func(tb *recorder) {
			remitting(tb, remit.Variant{}).Happened(deja.Stream{Aggregate: "posting", Key: "r"}, remit.Posted{})
		}, "nobody reacts"},
		"time that goes back": {func(tb *recorder) { remitting(tb, remit.Variant{}).Advance(-1) }, "does not go back"},
		"a provider that answers otherwise": {func(tb *recorder) {
			w := remitting(tb, remit.Variant{})
			calls := 0
			w.Perform(remit.Mailer(func(context.Context, deja.ID, remit.Mail) (string, error) {
				calls++
				return strings.Repeat("x", calls), nil
			}))
			start(w, "r1", "bob", 30)
			w.CrashAtEveryWrite()
		}, "ended in another way when it was run again"},
	} {
		t.Run(name, func(t *testing.T) { wantFailure(t, c.test, c.text) })
	}
}
