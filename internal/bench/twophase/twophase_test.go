package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja/internal/testenv"
)

// The program starts itself as a coordinator; here, that is this binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == coordinatorCommand || os.Args[1] == serviceCommand) {
		main()
	}
	os.Exit(m.Run())
}

const preparedHere = 100 // transactions that these tests keep prepared at a time, and a few

// server returns the DSN of a server that knows two-phase commit.
func server(t *testing.T) string {
	t.Helper()
	dsn := testenv.Postgres(t)
	if err := allows(t.Context(), dsn, preparedHere); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("NOT TESTED: %v", err)
	}
	return dsn
}

// setup makes the databases of a small experiment.
func setup(t *testing.T, at point) *blocking {
	t.Helper()
	d, err := makeDatabases(t.Context(), server(t), tables)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.drop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &blocking{d, t.TempDir(), at, 3, time.Second, crowd{2, 2 * time.Second}}
}

func TestADeadCoordinatorBlocksWhoTouchesItsAccountsUntilItIsResolved(t *testing.T) {
	t.Parallel()
	for _, at := range points {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			b := setup(t, at)
			s, err := b.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// On a busy machine one may give up for another that is only slow.
			pay, touch, after, neither := s.Meanwhile[0], s.Meanwhile[1], s.Meanwhile[2], s.Meanwhile[3]
			if touch.GaveUp == 0 {
				t.Errorf("nothing was blocked: %+v", touch)
			}
			if held := at != half; held == (pay.Completed > 0) {
				t.Errorf("the first database holds a lock %t, and paid in was %+v", held, pay)
			}
			if after.GaveUp == 0 || after.Completed > 0 {
				t.Errorf("who waits does not block others: %+v", after)
			}
			if neither.Completed == 0 {
				t.Errorf("what has nothing to do with it does not go on: %+v", neither)
			}
			for _, g := range s.After {
				if g.Completed == 0 {
					t.Errorf("resolved, and still: %+v", g)
				}
			}
			for _, waited := range s.Waited {
				if waited < b.length.Seconds()/2 {
					t.Errorf("one without a time limit waited %.3f s, the coordinator was dead for %.3f s", waited, s.Seconds)
				}
			}
			want, sides, statement := s.Money, 2, "ROLLBACK PREPARED"
			switch at {
			case first:
				sides = 1
			case decided:
				statement = "COMMIT PREPARED"
			case half:
				sides, statement, want = 1, "COMMIT PREPARED", s.Money-int64(b.inFlight)*doubtful(0).amount
			}
			if s.MoneySeen != want {
				t.Errorf("a reader saw %d, want %d", s.MoneySeen, want)
			}
			if len(s.Verdicts) != sides*b.inFlight {
				t.Errorf("%d verdicts on %d transfers, on %d sides", len(s.Verdicts), b.inFlight, sides)
			}
			for _, v := range s.Verdicts {
				if !strings.HasPrefix(v.Statement, statement) {
					t.Errorf("resolved by %s, want %s", v.Statement, statement)
				}
			}
		})
	}
}

// Nobody waits for a service that is dead but those who asked it for something; and they end when it is back, or another of its
// processes is.
func TestADeadServiceBlocksNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("lets leases of processes run out, which takes seconds")
	}
	t.Parallel()
	brokers := strings.Join(testenv.Kafka(t), ",")
	d, err := makeDatabases(t.Context(), testenv.Postgres(t), [2]string{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.drop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	const patience = time.Minute // of clients: enough for a machine that has much else to do; who is blocked waits for ever
	p, err := openPair(t.Context(), services{brokers, d, t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	o := outage{p, 3, time.Second, 200 * time.Millisecond, crowd{2, patience}}
	scenes, err := o.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ledger, worker := scenes[0], scenes[1]
	pay, transfers := ledger.Meanwhile[0], ledger.Meanwhile[1:]
	if pay.Completed == 0 || pay.Completed != pay.Asked || pay.Late > 0 {
		t.Errorf("paid in while the ledger is dead: %+v", pay)
	}
	for _, g := range transfers {
		if g.Waiting == 0 || g.Waiting != g.Asked || g.Late > 0 {
			t.Errorf("asked for while the ledger is dead: %+v", g)
		}
	}
	timedOut, patient := ledger.InTheEnd[1], ledger.InTheEnd[2]
	if timedOut.Undone == 0 || timedOut.Completed+timedOut.Undone != timedOut.Asked {
		t.Errorf("what became of those that did not wait: %+v", timedOut)
	}
	if patient.Completed == 0 || patient.Completed+patient.Undone != patient.Asked {
		t.Errorf("what became of those that waited: %+v", patient)
	}
	for _, g := range ledger.After {
		if g.Completed == 0 || g.Completed+g.Undone != g.Asked {
			t.Errorf("asked for when it is back: %+v", g)
		}
	}
	if ledger.MoneySeen >= ledger.Money {
		t.Errorf("money is on its way, and a reader saw %d of %d", ledger.MoneySeen, ledger.Money)
	}
	for _, waited := range ledger.Waited {
		if waited < o.length.Seconds()/2 {
			t.Errorf("one waited %.3f s for a ledger that was dead for %.3f s", waited, ledger.Seconds)
		}
	}
	for _, g := range worker.Meanwhile {
		if g.Completed == 0 || g.Completed+g.Undone != g.Asked {
			t.Errorf("asked for while one of two processes dies: %+v", g)
		}
	}
}

// Without the log nobody knows what was decided: a guess may be wrong, and then money is gone.
func TestResolvingByGuessLosesMoney(t *testing.T) {
	b := setup(t, half)
	if _, err := killCoordinator(t.Context(), job{b.databases, "dead", filepath.Join(b.dir, "dead.log"), half, b.inFlight}); err != nil {
		t.Fatal(err)
	}
	lost, err := openDecisions(filepath.Join(b.dir, "empty.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lost.close() })
	if _, err := resolve(t.Context(), b.databases, "dead", lost); err != nil {
		t.Fatal(err)
	}
	if s, err := b.databases.check(t.Context()); err == nil || s.money() == money {
		t.Errorf("nothing is wrong with %+v: %v", s, err)
	}
}

func TestTheLogOfDecisions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, err := openDecisions(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDecisions(path); err == nil {
		t.Error("two coordinators have one log")
	}
	const n = 100
	errs := make(chan error)
	for i := range n {
		go func() { errs <- log.commit("t" + strconv.Itoa(i)) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := log.close(); err != nil {
		t.Fatal(err)
	}
	if err := log.commit("late"); err == nil {
		t.Error("decided in a log that is closed")
	}

	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, "torn"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if log, err = openDecisions(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.close() })
	decided, err := log.all()
	if err != nil || len(decided) != n || decided["torn"] || decided["late"] {
		t.Errorf("%d decided, %v: %v", len(decided), decided, err)
	}
}

// Every way of carrying out transfers leaves money whole and each transfer with one end, or measuring it fails.
func TestThroughputIsOfTransfersThatAreRight(t *testing.T) {
	if testing.Short() {
		t.Skip("measures two services, which takes seconds")
	}
	var stdout, stderr bytes.Buffer
	brokers := strings.Join(testenv.Kafka(t), ",")
	args := []string{"-kafka", brokers, "-postgres", server(t), "-only", "throughput", "-transfers", "60", "-runs", "1", "-json"}
	if code := command(t.Context(), args, nil, &stdout, &stderr); code != 0 {
		t.Fatalf("code %d: %s", code, stderr.String())
	}
	var e experiment
	if err := json.Unmarshal(stdout.Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	if len(e.Rates) != 2*(len(concurrencies)+1) {
		t.Errorf("measured %+v", e.Rates)
	}
	for _, r := range e.Rates {
		if r.PerSecond <= 0 || r.Transfers == 0 || r.Undone > r.Transfers/4 {
			t.Errorf("measured %+v", r)
		}
	}
	stdout.Reset()
	if e.print(&stdout); strings.Count(stdout.String(), "\n") != 1+len(e.Rates) {
		t.Errorf("printed\n%s", stdout.String())
	}
}

func TestWrongCommandLines(t *testing.T) {
	for _, args := range [][]string{
		{"more"},
		{"-no-such-flag"},
		{"-only", "nothing"},
		{"-at", "nothing"},
		{"-in-flight", "0"},
		{"-in-flight", "1000"},
		{"-for", "0s"},
		{"-patience", "0s"},
		{"-transfers", "0"},
		{"-runs", "0"},
		{"-postgres", ""},
	} {
		var said bytes.Buffer
		if code := command(t.Context(), append([]string{"-postgres", "postgres://127.0.0.1:1/none"}, args...), nil, io.Discard, &said); code != 2 || said.Len() == 0 {
			t.Errorf("%q: code %d, said %q", args, code, said.String())
		}
	}
}
