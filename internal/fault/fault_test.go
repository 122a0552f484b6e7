package fault_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/memory"
)

// world is a worker's life on a log and a store in memory.
type world struct {
	log   *memory.Log
	store *memory.Store
}

func newWorld() world {
	return world{memory.NewLog(memory.LogConfig{}), memory.NewStore()}
}

// run appends a message and commits its decision.
func (w world) run(ctx context.Context, in *fault.Injector) error {
	log, store := in.Log(w.log), in.Store(w.store)
	inbox, err := log.Topic(ctx, "bank.inbox")
	if err != nil {
		return err
	}
	if _, err := log.Append(ctx, inbox.Name, []driver.Record{{Value: []byte("m")}}); err != nil {
		return err
	}
	if _, err := log.Fetch(ctx, deja.Position{Topic: inbox.Name}, 1); err != nil {
		return err
	}
	l, err := store.Acquire(ctx, driver.Assignment{Inbox: inbox, Journal: inbox})
	if err != nil {
		return err
	}
	tx, err := store.Begin(ctx, l)
	if err != nil {
		return err
	}
	err = tx.Write(ctx, &driver.Batch{Ledger: []driver.Entry{{Key: deja.ID{1}, N: 1, Status: deja.Applied}}})
	if err == nil {
		err = tx.Advance(ctx, l.Progress, driver.Progress{Position: 1, N: 1})
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	return err // no rollback: a process that died does none
}

// state tells how much of a run took effect.
func (w world) state(t *testing.T) (records, decisions int64) {
	t.Helper()
	_, records, err := w.log.Bounds(t.Context(), "bank.inbox", 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := w.store.Progress(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	es, _, err := w.store.Lookup(t.Context(), []deja.ID{{1}})
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(es)) != p.N {
		t.Errorf("%d ledger entries at decision %d", len(es), p.N)
	}
	return records, p.N
}

var wantSteps = []string{
	"log.Topic bank.inbox",
	"log.Append bank.inbox",
	"log.Fetch bank.inbox:0",
	"store.Acquire bank.inbox:0",
	"store.Begin bank.inbox:0",
	"tx.Write bank.inbox:0",
	"tx.Advance bank.inbox:0",
	"tx.Commit bank.inbox:0",
}

func TestStepsAreNumbered(t *testing.T) {
	in := fault.New(nil)
	if err := newWorld().run(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range in.Steps() {
		got = append(got, s.String())
	}
	if !slices.Equal(got, wantSteps) {
		t.Errorf("got steps %q\nwant %q", got, wantSteps)
	}
}

// TestEveryFault runs a world once for each step and mode: what took effect is what precedes the fault, the step's own
// effect if the fault came after it, and no part of a transaction.
func TestEveryFault(t *testing.T) {
	undisturbed := fault.New(nil)
	if err := newWorld().run(t.Context(), undisturbed); err != nil {
		t.Fatal(err)
	}
	runs := 0
	for name, plan := range fault.Plans(undisturbed.Steps()) {
		runs++
		t.Run(name, func(t *testing.T) {
			var at int
			var mode fault.Mode
			in := fault.New(func(n int, s fault.Step) fault.Mode {
				m := plan(n, s)
				if m != fault.Pass {
					at, mode = n, m
				}
				return m
			})
			w := newWorld()
			want := fault.ErrInjected
			err := w.run(t.Context(), in)
			after := mode == fault.FailAfter || mode == fault.CrashAfter
			if mode == fault.CrashBefore || mode == fault.CrashAfter {
				want = fault.ErrCrashed
				if _, err := in.Store(w.store).Progress(t.Context(), 0); !errors.Is(err, fault.ErrCrashed) {
					t.Errorf("a call of the dead process: error %v", err)
				}
			}
			if !errors.Is(err, want) || in.Crashed() != errors.Is(want, fault.ErrCrashed) {
				t.Errorf("got error %v, crashed %t, want %v", err, in.Crashed(), want)
			}
			if len(in.Steps()) != at {
				t.Errorf("%d steps, and the fault was at %d", len(in.Steps()), at)
			}
			records, decisions := w.state(t)
			if want := effect(at, 2, after); records != want {
				t.Errorf("%d records in the log, want %d", records, want)
			}
			if want := effect(at, 8, after); decisions != want {
				t.Errorf("%d decisions, want %d", decisions, want)
			}
		})
	}
	if want := 3*2 + 5*4; runs != want { // three steps read
		t.Errorf("%d runs, want %d", runs, want)
	}
}

// effect is how often a step took effect when the fault was at another or at itself.
func effect(fault, step int, after bool) int64 {
	if fault > step || fault == step && after {
		return 1
	}
	return 0
}

func TestCrashRollsOpenTransactionsBack(t *testing.T) {
	ctx := t.Context()
	w := newWorld()
	in := fault.New(nil)
	store := in.Store(w.store)
	inbox, err := w.log.Topic(ctx, "bank.inbox")
	if err != nil {
		t.Fatal(err)
	}
	l, err := store.Acquire(ctx, driver.Assignment{Inbox: inbox, Journal: inbox})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := store.Begin(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	in.Crash()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := w.store.Begin(ctx, l); err != nil { // would wait for the open one
		t.Errorf("begin after the crash: %v", err)
	}
	if err := tx.Commit(ctx); !errors.Is(err, fault.ErrCrashed) {
		t.Errorf("commit after the crash: error %v", err)
	}
}

func TestCrashWakesFetch(t *testing.T) {
	w := newWorld()
	in := fault.New(nil)
	log := in.Log(w.log)
	got := make(chan error, 1)
	go func() {
		_, err := log.Fetch(t.Context(), deja.Position{Topic: "bank.inbox"}, 1)
		got <- err
	}()
	for len(in.Steps()) == 0 {
		time.Sleep(time.Millisecond)
	}
	in.Crash()
	if err := <-got; !errors.Is(err, fault.ErrCrashed) {
		t.Errorf("got error %v, want %v", err, fault.ErrCrashed)
	}
}

func TestOptionalInterfacesPassThrough(t *testing.T) {
	log := memory.NewLog(memory.LogConfig{})
	in := fault.New(nil)
	wrapped := in.Log(log)
	if err := wrapped.(driver.Importer).Import(t.Context(), "bank.inbox", []driver.Record{{Offset: 7}}); err != nil {
		t.Error(err)
	}
	if err := wrapped.(driver.Cursors).SetCursor(t.Context(), "shop", "bank.inbox", 0, 7); err != nil {
		t.Error(err)
	}
	if at, err := log.Cursor(t.Context(), "shop", "bank.inbox", 0); at != 7 || err != nil {
		t.Errorf("the cursor is %d, %v", at, err)
	}
	joint := in.Store(memory.NewStore(memory.Joint(log))).(driver.Joint)
	if !joint.Joint(log) || !joint.Joint(wrapped) || joint.Joint(memory.NewLog(memory.LogConfig{})) {
		t.Error("a joint store does not know its log")
	}
	if _, ok := in.Log(struct{ driver.Log }{log}).(driver.Importer); ok {
		t.Error("a log became an importer")
	}
	if _, ok := in.Log(struct{ driver.Log }{log}).(driver.Cursors); ok {
		t.Error("a log keeps cursors that kept none")
	}
	if _, ok := in.Store(struct{ driver.Store }{memory.NewStore()}).(driver.Joint); ok {
		t.Error("a store became joint")
	}
}

// TestQueryFault shows that a query which met a fault spoils its transaction, as an engine's error does.
func TestQueryFault(t *testing.T) {
	ctx := t.Context()
	w := newWorld()
	in := fault.New(func(_ int, s fault.Step) fault.Mode {
		if s.Call == "tx.Rows" {
			return fault.FailBefore
		}
		return fault.Pass
	})
	inbox, err := w.log.Topic(ctx, "bank.inbox")
	if err != nil {
		t.Fatal(err)
	}
	store := in.Store(w.store)
	l, err := store.Acquire(ctx, driver.Assignment{Inbox: inbox, Journal: inbox})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := store.Begin(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	tx.SQL().Queue("INSERT INTO t VALUES ($1)", 1)
	for _, err := range tx.SQL().Rows("SELECT 1") {
		if !errors.Is(err, fault.ErrInjected) {
			t.Errorf("rows: error %v", err)
		}
	}
	if err := tx.Advance(ctx, l.Progress, driver.Progress{N: 1}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(ctx); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("commit: error %v", err)
	}
	if _, n := w.state(t); n != 0 || len(w.store.Executed()) != 0 {
		t.Error("a transaction committed whose query failed")
	}
}
