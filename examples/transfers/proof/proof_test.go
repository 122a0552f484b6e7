package proof_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/orders"
	"github.com/dejalog/deja/examples/transfers/posting"
	"github.com/dejalog/deja/examples/transfers/proof"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/examples/transfers/transfer"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const partitions = 2

// world is both services, in memory unless it is moved, and the provider's file.
type world struct {
	plan             orders.Plan
	log              driver.Log
	accounts, ledger driver.Store
	rush             bool // a run ends before all is quiet
	services         [2]*deja.Service
	receipts         string
	perform          func(*receipt.Provider) deja.Performer
	faults           receipt.Faults
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{
		plan: orders.Plan{Transfers: 200, Seed: 7, Began: time.Now()},
		log:  memory.NewLog(memory.LogConfig{Partitions: partitions}), accounts: memory.NewStore(), ledger: memory.NewStore(),
		services: [2]*deja.Service{accounts.Service(), ledger.Service()},
		receipts: filepath.Join(t.TempDir(), "receipts"), perform: receipt.Performer,
		faults: receipt.Faults{Seed: 7, Decline: 10, NoAnswer: 10},
	}
}

// run runs the services while fn does.
func (w *world) run(t *testing.T, fn func(ctx context.Context, accounts, ledger deja.Client)) {
	t.Helper()
	provider, err := receipt.Open(w.receipts, w.faults)
	if err != nil {
		t.Fatal(err)
	}
	defer provider.Close()
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Minute)
	defer stop()
	var clients []deja.Client
	var ended []chan error
	for _, cfg := range []engine.Config{
		{Service: w.services[0], Log: w.log, Store: w.accounts, Peers: accounts.Peers(), Effects: []deja.Performer{w.perform(provider)}},
		{Service: w.services[1], Log: w.log, Store: w.ledger},
	} {
		e, err := engine.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		clients, ended = append(clients, e.Client()), append(ended, done)
	}
	fn(ctx, clients[0], clients[1])
	if !w.rush {
		w.quiet(ctx, t)
	}
	stop()
	for _, done := range ended {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// quiet waits until the accounts have handled all that they were sent, and nothing of it waits for anything.
func (w *world) quiet(ctx context.Context, t *testing.T) {
	t.Helper()
	for p := int32(0); p < partitions; {
		at, err := w.accounts.Progress(ctx, p)
		if err != nil {
			t.Fatal(err)
		}
		_, end, err := w.log.Bounds(ctx, accounts.Name+".inbox", p)
		if err != nil {
			t.Fatal(err)
		}
		waiting, err := w.accounts.Open(ctx, p, deja.Stream{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		if p++; at.Position < end || len(waiting) > 0 {
			p = 0
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// orders sends all orders of the plan.
func (w *world) orders(ctx context.Context, t *testing.T, accounts, ledger deja.Client) {
	t.Helper()
	for _, r := range w.plan.Stops() { // before the postings that they bar
		if _, err := ledger.Do(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	rs := w.plan.Deposits()
	for o := range w.plan.Orders(0) {
		rs = append(rs, w.plan.Request(o))
	}
	if _, err := accounts.Send(ctx, rs...); err != nil {
		t.Fatal(err)
	}
}

func (w *world) check(t *testing.T) *proof.Verdict {
	t.Helper()
	v, err := proof.Check(t.Context(), w.plan,
		proof.Witness{Service: w.services[0], Log: w.log, Store: w.accounts},
		proof.Witness{Service: w.services[1], Log: w.log, Store: w.ledger}, w.receipts)
	if err != nil {
		t.Fatal(err)
	}
	if v.Completed+v.Compensated+v.Stuck != v.Transfers {
		t.Errorf("%+v: that is not all", v)
	}
	return v
}

// wantFault checks that a run is not right, and that its faults say so.
func wantFault(t *testing.T, v *proof.Verdict, says string) {
	t.Helper()
	if v.OK() || !strings.Contains(strings.Join(v.Faults, "\n"), says) {
		t.Errorf("%+v\nwant a fault that says %q", v, says)
	}
}

func TestARunThatIsRight(t *testing.T) {
	w := newWorld(t)
	w.run(t, func(ctx context.Context, accounts, ledger deja.Client) { w.orders(ctx, t, accounts, ledger) })
	v := w.check(t)
	if !v.OK() || v.Compensated < 12 || v.Compensated > 13 || v.Stuck != 0 || v.MoneyAfter != w.plan.Money() {
		t.Errorf("%+v", v)
	}
	if v.Performed != v.Completed || v.Doubled != 0 || v.Calls <= v.Performed {
		t.Errorf("receipts: %+v", v)
	}
}

// unbarred is a posting that comes though it was barred.
func unbarred() *deja.Service {
	type state struct {
		Stage  string `json:"stage"`
		Amount int64  `json:"amount"`
	}
	return &deja.Service{Name: ledger.Name, Aggregates: []deja.AnyAggregate{deja.NewAggregate("posting",
		deja.Handle(func(s state, d *deja.Decision, c posting.Post) error {
			if !posting.Valid(c.Account) {
				return posting.ErrAccount
			}
			d.Record(posting.Posted(c))
			return nil
		}),
		deja.Handle(func(s state, d *deja.Decision, _ posting.Reverse) error {
			if s.Amount > 0 {
				d.Record(posting.Reversed{Amount: s.Amount})
			}
			return nil
		}),
		deja.Handle(func(_ state, d *deja.Decision, _ posting.Stop) error { d.Record(posting.Barred{}); return nil }),
		deja.Apply(func(s *state, e posting.Posted) { *s = state{Stage: "posted", Amount: e.Amount} }),
		deja.Apply(func(s *state, _ posting.Reversed) { s.Stage = "reversed" }),
		deja.Apply(func(s *state, _ posting.Barred) { s.Stage = "barred" }),
	)}}
}

func TestALedgerThatDoesNotBar(t *testing.T) {
	w := newWorld(t)
	w.services[1] = unbarred()
	w.run(t, func(ctx context.Context, accounts, ledger deja.Client) { w.orders(ctx, t, accounts, ledger) })
	wantFault(t, w.check(t), "was posted after it had been barred")
}

func TestAProviderThatIsCalledWithAnotherKeyEachTime(t *testing.T) {
	w := newWorld(t)
	w.faults.Decline = 0 // it would, each time
	var again sync.Map
	w.perform = func(p *receipt.Provider) deja.Performer {
		return deja.Perform(func(ctx context.Context, _ deja.ID, s receipt.Send) (deja.Command, error) {
			err := p.Send(ctx, deja.NewID().String(), s)
			if _, called := again.LoadOrStore(s.Transfer, true); called {
				return nil, nil // the answer gets lost each time
			}
			return nil, err
		})
	}
	w.run(t, func(ctx context.Context, accounts, ledger deja.Client) { w.orders(ctx, t, accounts, ledger) })
	v := w.check(t)
	wantFault(t, v, "were sent a second time")
	if v.Doubled == 0 || v.Performed != v.Completed+v.Doubled {
		t.Errorf("%+v", v)
	}
}

func TestWhatNobodyOrdered(t *testing.T) {
	for what, c := range map[string]struct {
		ask  deja.Request
		says string
	}{
		"money from nowhere": {deja.Request{Key: "a0001", Command: account.Deposit{Amount: 7}}, "the senders had"},
		"a transfer":         {deja.Request{Key: "t9", Command: transfer.Start{From: "a0001", To: posting.Number(1), Amount: 7}}, "none of the orders"},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.run(t, func(ctx context.Context, accounts, ledger deja.Client) {
				w.orders(ctx, t, accounts, ledger)
				if _, err := accounts.Do(ctx, c.ask); err != nil {
					t.Fatal(err)
				}
			})
			wantFault(t, w.check(t), c.says)
		})
	}
}

func TestTransfersThatDoNotEnd(t *testing.T) {
	w := newWorld(t)
	w.run(t, func(ctx context.Context, accounts, ledger deja.Client) { w.orders(ctx, t, accounts, ledger) })
	w.plan.Transfers += 20 // which were never sent
	v := w.check(t)
	wantFault(t, v, "has not ended")
	if v.Stuck != 20 {
		t.Errorf("%+v", v)
	}
}

func TestReceiptsThatTheProviderDoesNotHaveOrHasTwice(t *testing.T) {
	w := newWorld(t)
	w.run(t, func(ctx context.Context, accounts, ledger deja.Client) { w.orders(ctx, t, accounts, ledger) })
	whole, err := os.ReadFile(w.receipts)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(whole), "\n"), "\n")
	var sent int
	for i, line := range lines {
		var c receipt.Call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		if c.Answer == receipt.Sent {
			sent = i
		}
	}
	write := func(text string) {
		if err := os.WriteFile(w.receipts, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Join(append(lines[:sent:sent], lines[sent+1:]...), ""))
	wantFault(t, w.check(t), "has not one receipt")
	write(string(whole) + strings.TrimSuffix(lines[sent], "\n") + "\n")
	wantFault(t, w.check(t), "were sent a second time")
}

// behind is a log whose journals lack what was recorded last.
type behind struct{ driver.Log }

func (l behind) Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error) {
	first, end, err = l.Log.Bounds(ctx, topic, partition)
	if topic == ledger.Name+".journal" {
		end--
	}
	return first, end, err
}

func TestAJournalThatDoesNotHaveAllYet(t *testing.T) {
	w := newWorld(t)
	w.run(t, func(ctx context.Context, accounts, ledger deja.Client) { w.orders(ctx, t, accounts, ledger) })
	w.log = behind{w.log}
	wantFault(t, w.check(t), "ledger: the store of partition 1 is at decision")
}
