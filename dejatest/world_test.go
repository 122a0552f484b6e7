package dejatest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
)

// scenario asks ten times: of several keys, refused, twice, in conflict, failing, blocked.
func scenario(tb testing.TB, agg *deja.Aggregate[Account]) *dejatest.World {
	tb.Helper()
	w := dejatest.NewWorld(tb, service(agg))
	for _, key := range []string{"1", "2", "3"} {
		w.Must(deja.Request{Key: key, Command: Open{"ana"}})
	}
	id := deja.DeriveID("test", "a")
	w.Must(deja.Request{ID: id, Key: "1", Command: Deposit{100}})
	if out := w.Must(deja.Request{ID: id, Key: "1", Command: Deposit{100}}); !out.Duplicate || out.Version != 2 {
		tb.Fatalf("the second time: %+v", out)
	}
	var conflict *deja.Conflict
	if _, err := w.Do(deja.Request{ID: id, Key: "1", Command: Deposit{200}}); !errors.As(err, &conflict) || conflict.Paths[0] != "Amount" {
		tb.Fatalf("got %v, want a conflict", err)
	}
	w.Must(deja.Request{Key: "1", Command: Withdraw{30}})
	if _, err := w.Do(deja.Request{Key: "1", Command: Withdraw{71}}); !errors.Is(err, ErrOverdraft) {
		tb.Fatalf("got %v, want %v", err, ErrOverdraft)
	}
	for _, c := range []deja.Command{Fail{}, Idle{}} {
		if _, err := w.Do(deja.Request{Key: "3", Command: c}); !errors.Is(err, deja.ErrParked) {
			tb.Fatalf("got %v, want %v", err, deja.ErrParked)
		}
	}
	return w
}

func TestAWorldAnswersTheSameUnderRedeliveryAndCrashes(t *testing.T) {
	w := scenario(t, aggregate())
	before := w.Hash()
	w.RedeliverAll()
	w.CrashAtEveryWrite()
	w.RedeliverAll()
	w.WantHash(before)
	var a Account
	if v := w.State(deja.Stream{Aggregate: "account", Key: "1"}, &a); v != 3 || a.Balance != 70 {
		t.Fatalf("state %+v at version %d", a, v)
	}
	if v := w.State(deja.Stream{Aggregate: "account", Key: "9"}, &a); v != 0 || a.Balance != 70 {
		t.Fatalf("state %+v at version %d of an account that is not there", a, v)
	}
}

func TestTheSameScenarioHasTheSameHash(t *testing.T) {
	one, two := scenario(t, aggregate()), scenario(t, aggregate())
	if one.Hash() != two.Hash() {
		t.Fatal("the hashes differ")
	}
	two.RedeliverAll()
	one.WantHash(two.Hash())
	two.Must(deja.Request{Key: "2", Command: Deposit{1}})
	if one.Hash() == two.Hash() {
		t.Fatal("the hashes are equal, though one has a deposit more")
	}
}

func TestWantHashShowsWhatChanged(t *testing.T) {
	wantFailure(t, func(tb *recorder) {
		w := scenario(tb, aggregate())
		before := w.Hash()
		w.Must(deja.Request{Key: "2", Command: Deposit{5}})
		w.WantHash(before)
	}, `- state account/2 version 1: {"balance":0`, `+ state account/2 version 2: {"balance":5`, "+ request 11, ")
	wantFailure(t, func(tb *recorder) { scenario(tb, aggregate()).WantHash([32]byte{1}) }, "never was")
}

func TestCrashAtEveryWriteMakesEveryRun(t *testing.T) {
	r := run(t, func(tb *recorder) { scenario(tb, aggregate()).CrashAtEveryWrite() })
	if r.Failed() {
		t.Fatal(r.failed)
	}
	var requests, n, runs int
	if _, err := fmt.Sscanf(r.logged[0], "CrashAtEveryWrite: %d requests make N = %d calls of log and store; %d runs", &requests, &n, &runs); err != nil {
		t.Fatalf("%v: %q", err, r.logged)
	}
	if requests != 10 || n < 100 || runs != 2*n {
		t.Fatalf("%d requests, N %d, %d runs", requests, n, runs)
	}
	t.Log(r.logged[0])
}

func TestCrashAtEveryWriteRefusesATinyScenario(t *testing.T) {
	wantFailure(t, func(tb *recorder) {
		w := dejatest.NewWorld(tb, service(aggregate()))
		w.Must(deja.Request{Key: "1", Command: Open{"ana"}})
		w.CrashAtEveryWrite()
	}, "too small to mean anything")
}

// known is what a handler remembers outside its state: that it has seen something before.
type known map[string]bool

func (k known) forgetful(_ Account, d *deja.Decision, c Close) error {
	if !k[c.Heir] {
		k[c.Heir] = true
		d.Record(Opened{c.Heir})
	}
	return nil
}

func TestCrashAtEveryWriteFailsForStateOutsideTheState(t *testing.T) {
	wantFailure(t, func(tb *recorder) {
		w := scenario(tb, aggregate(deja.Handle(known{}.forgetful)))
		w.Must(deja.Request{Key: "2", Command: Close{"eva"}})
		w.CrashAtEveryWrite()
	}, "with no crash", `- state account/2 version 2: {"balance":0,"heir":"","owner":"eva"}`, `+ state account/2 version 1`)
}

func TestRedeliverAllSaysHowToRepeatIt(t *testing.T) {
	r := run(t, func(tb *recorder) { scenario(tb, aggregate()).RedeliverAll() })
	if r.Failed() || len(r.logged) != 1 || !strings.Contains(r.logged[0], "-run '^"+t.Name()+"$' -dejatest.seed=") {
		t.Fatalf("%q, %q", r.failed, r.logged)
	}
}

func TestAWorldRefusesWhatAClientRefuses(t *testing.T) {
	w := dejatest.NewWorld(t, service(aggregate()))
	before := w.Hash()
	for name, r := range map[string]deja.Request{
		"no command": {Key: "1"},
		"no key":     {Command: Idle{}},
		"no row":     {Key: "1", Command: Close{}},
		"no id":      {Key: "1", Command: Idle{}, ID: deja.ID{1}},
	} {
		if _, err := w.Do(r); !errors.Is(err, deja.ErrInvalid) {
			t.Errorf("%s: got %v, want %v", name, err, deja.ErrInvalid)
		}
	}
	w.WantHash(before)
}

func TestWorldsFail(t *testing.T) {
	stream := deja.Stream{Aggregate: "account", Key: "1"}
	for name, c := range map[string]struct {
		test func(tb *recorder)
		text string
	}{
		"no service":     {func(tb *recorder) { dejatest.NewWorld(tb) }, "got 0 services"},
		"two services":   {func(tb *recorder) { dejatest.NewWorld(tb, service(aggregate()), service(aggregate())) }, "the name of service bank is taken"},
		"a faulty table": {func(tb *recorder) { dejatest.NewWorld(tb, service(aggregate(deja.Handle(Account.Open)))) }, "there are two"},
		"two owners": {func(tb *recorder) {
			other := service(aggregate())
			other.Name = "rival"
			dejatest.NewWorld(tb, service(aggregate()), other)
		}, "services bank and rival both have an aggregate account"},
		"refused": {func(tb *recorder) {
			dejatest.NewWorld(tb, service(aggregate())).Must(deja.Request{Key: "1", Command: Deposit{1}})
		}, "account.state: not open"},
		"no aggregate": {func(tb *recorder) {
			dejatest.NewWorld(tb, service(aggregate())).State(deja.Stream{Aggregate: "ledger", Key: "1"}, new(Account))
		}, "has no aggregate"},
		"other state": {func(tb *recorder) {
			w := scenario(tb, aggregate())
			w.State(stream, new([]string))
		}, "state of account/1"},
		"a projection that fails": {func(tb *recorder) {
			s := service(aggregate())
			s.Projections = append(s.Projections, deja.NewProjection("bad", deja.Project(func(deja.Tx, *deja.Envelope, Opened) error {
				return errors.New("no such table")
			})))
			dejatest.NewWorld(tb, s).Must(deja.Request{Key: "1", Command: Open{"ana"}})
		}, "no such table"},
	} {
		t.Run(name, func(t *testing.T) { wantFailure(t, c.test, c.text) })
	}
}
