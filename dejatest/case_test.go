package dejatest_test

import (
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
)

func TestACaseFollowsAnAccount(t *testing.T) {
	day := time.Date(1993, 6, 30, 12, 0, 0, 0, time.UTC)
	dejatest.New(t, aggregate(), "42").
		At(day).
		When(Deposit{100}).Rejected(ErrState).
		When(Open{"ana"}).Recorded(Opened{"ana"}).
		When(Open{"eva"}).Rejected(ErrState).
		When(Idle{}).Nothing().Recorded().
		When(Fail{}).Fails().
		When(Fail{Panic: true}).Fails().
		When(Deposit{100}).Recorded(Deposited{100}).
		When(Withdraw{101}).Rejected(ErrOverdraft).
		When(Withdraw{60}).Recorded(Withdrawn{60, day}).
		At(day.Add(24 * time.Hour)).
		When(deja.Request{Command: Withdraw{40}, BusinessTime: day}).Recorded(Withdrawn{40, day}).
		State(Account{Owner: "ana", Days: map[string]int64{"1993-06-30": 100}})
}

func TestACaseFollowsWhatIsSent(t *testing.T) {
	given := dejatest.New(t, heirs(), "42").Given(Opened{"ana"}, Deposited{100})
	given.When(Close{"7"}).
		Sent("7", Deposit{100}).
		Scheduled("reminder", time.Hour).
		Cancelled("statement").
		Effect(Letter{"7"}).
		Recorded().
		When(deja.Reply[Deposit]{Command: Deposit{100}, Rejection: ErrState}).Recorded(Deposited{100}).
		When(deja.Failed[Letter]{Effect: Letter{"7"}, Reason: ErrState}).Recorded(Opened{"7: account.state"}).
		When(Holiday{"42"}).Cancelled("42").
		When(deja.Reply[Deposit]{}).Recorded(Closed{}).
		State(Account{})
}

// steps counts outside the state, as package variables do.
var steps int64

func TestWhenFailsForDecisionsThatDependOnMore(t *testing.T) {
	heir := map[string]string{"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6", "g": "7", "h": "8"}
	for name, handle := range map[string]func(Account, *deja.Decision, Close) error{
		"the clock": func(_ Account, d *deja.Decision, _ Close) error {
			d.Record(Deposited{time.Now().UnixNano()})
			return nil
		},
		"a counter": func(_ Account, d *deja.Decision, _ Close) error {
			steps++
			d.Record(Deposited{steps})
			return nil
		},
		"a counter in a refusal": func(Account, *deja.Decision, Close) error {
			steps++
			return ErrState.Because("%d", steps)
		},
		"the order of a map": func(_ Account, d *deja.Decision, _ Close) error {
			for _, h := range heir {
				d.Record(Opened{h})
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantFailure(t, func(tb *recorder) {
				dejatest.New(tb, aggregate(deja.Handle(handle)), "42").When(Close{})
			}, "two decisions differ", "account.close", "\n  - ", "\n  + ")
		})
	}
}

func TestWhenFailsForADecisionThatChangesTheState(t *testing.T) {
	wantFailure(t, func(tb *recorder) {
		agg := aggregate(deja.Handle(func(a Account, _ *deja.Decision, _ Close) error {
			a.Days["1993-06-30"]++
			return nil
		}))
		dejatest.New(tb, agg, "42").Given(Withdrawn{1, time.Unix(0, 0)}).When(Close{})
	}, "the handler changed the state")
}

func TestWhenFailsForAnApplyThatDependsOnMore(t *testing.T) {
	wantFailure(t, func(tb *recorder) {
		agg := aggregate(
			deja.Handle(func(_ Account, d *deja.Decision, _ Close) error { d.Record(Closed{}); return nil }),
			deja.Apply(func(a *Account, _ Closed) { a.Balance = time.Now().UnixNano() }),
		)
		dejatest.New(tb, agg, "42").When(Close{})
	}, "account.closed", "another state", "balance: ")
}

func TestFailuresSayWhatWasWantedAndWhatCame(t *testing.T) {
	open := func(tb *recorder) *dejatest.Case[Account] {
		return dejatest.New(tb, heirs(), "42").Given(Opened{"ana"}, Deposited{100})
	}
	for name, c := range map[string]struct {
		test  func(tb *recorder)
		texts []string
	}{
		"other event": {
			func(tb *recorder) { open(tb).When(Deposit{7}).Recorded(Deposited{8}) },
			[]string{`account.deposit {"Amount":7} for account/42`, `- account.deposited {"Amount":8}`, `+ account.deposited {"Amount":7}`},
		},
		"event too many": {
			func(tb *recorder) { open(tb).When(Deposit{7}).Recorded() },
			[]string{`+ account.deposited {"Amount":7}`},
		},
		"refused": {
			func(tb *recorder) { open(tb).When(Open{"eva"}).Recorded(Opened{"eva"}) },
			[]string{"was not applied but rejected: account.state: open already"},
		},
		"refused and unsaid": {
			func(tb *recorder) { open(tb).When(Open{"eva"}).When(Idle{}) },
			[]string{"was rejected: account.state", "must say so"},
		},
		"refused and unsaid at the end": {
			func(tb *recorder) { open(tb).When(Fail{}) },
			[]string{"was failed: as asked", "must say so"},
		},
		"other refusal": {
			func(tb *recorder) { open(tb).When(Open{"eva"}).Rejected(ErrOverdraft) },
			[]string{"not rejected with account.overdraft", "rejected: account.state: open already"},
		},
		"no failure": {
			func(tb *recorder) { open(tb).When(Open{"eva"}).Fails() },
			[]string{"did not fail", "rejected: account.state"},
		},
		"not nothing": {
			func(tb *recorder) { open(tb).When(Deposit{7}).Nothing() },
			[]string{`recorded account.deposited {"Amount":7}`},
		},
		"other command": {
			func(tb *recorder) { open(tb).When(Close{"7"}).Sent("8", Deposit{100}) },
			[]string{`did not send account.deposit {"Amount":100} to account/8`, `account.deposit {"Amount":100} to account/7`},
		},
		"other timer": {
			func(tb *recorder) { open(tb).When(Close{"7"}).Scheduled("reminder", time.Minute) },
			[]string{`did not schedule "reminder" in 1m0s`, `"reminder" in 1h0m0s: account.idle {}`},
		},
		"other cancelled": {
			func(tb *recorder) { open(tb).When(Close{"7"}).Cancelled("reminder") },
			[]string{"did not cancel reminder", "statement"},
		},
		"other effect": {
			func(tb *recorder) { open(tb).When(Close{"7"}).Effect(Letter{"8"}) },
			[]string{`did not ask for mail.letter {"To":"8"}`, `mail.letter {"To":"7"}`},
		},
		"other state": {
			func(tb *recorder) { open(tb).State(Account{Owner: "ana", Balance: 99}) },
			[]string{"at version 2", "- balance: 99", "+ balance: 100"},
		},
		"nothing decided": {
			func(tb *recorder) { open(tb).Recorded() },
			[]string{"When comes first"},
		},
		"no row": {
			func(tb *recorder) { dejatest.New(tb, aggregate(), "42").When(Close{}) },
			[]string{"account.close", "no Handle row"},
		},
		"no row to apply": {
			func(tb *recorder) { dejatest.New(tb, aggregate(), "42").Given(Closed{}) },
			[]string{"cannot apply"},
		},
		"no message": {
			func(tb *recorder) { open(tb).When(7) },
			[]string{"When int", "want a command"},
		},
		"other key": {
			func(tb *recorder) { open(tb).When(deja.Request{Key: "43", Command: Idle{}}) },
			[]string{`key "43"`},
		},
		"back in time": {
			func(tb *recorder) { open(tb).When(Idle{}).At(time.Unix(0, 0)) },
			[]string{"does not go back"},
		},
		"a faulty table": {
			func(tb *recorder) {
				dejatest.New(tb, aggregate(deja.Handle(Account.Open), deja.Apply[Account, Closed](nil)), "42")
			},
			[]string{"there are two", "the function is nil"},
		},
	} {
		t.Run(name, func(t *testing.T) { wantFailure(t, c.test, c.texts...) })
	}
}
