package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/sqlite"
)

func TestMain(m *testing.M) {
	engine.KeepFewEffects()
	testenv.Main(m)
}

// A commit whose answer is an error may have happened. Whoever waits must be told what it did, and only that.
func TestAnUnknownCommitIsSettledBeforeItIsTold(t *testing.T) {
	for _, mode := range []fault.Mode{fault.FailBefore, fault.FailAfter} {
		t.Run(mode.String(), func(t *testing.T) {
			each(t, func(t *testing.T, w *world) {
				var armed atomic.Bool
				in := fault.New(func(_ int, at fault.Step) fault.Mode {
					if at.Call == "tx.Commit" && armed.CompareAndSwap(true, false) {
						return mode
					}
					return fault.Pass
				})
				w.log, w.store = in.Log(w.log), in.Store(w.store)
				c := w.start(t)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if _, err := c.Do(ctx, deja.Request{Key: "a", Command: till.Put{Amount: 1}}); err != nil {
					t.Fatal(err)
				}
				armed.Store(true)
				defer func() {
					if armed.Load() {
						t.Error("no commit failed: the test shows nothing")
					}
				}()
				out, err := c.Do(ctx, deja.Request{Key: "a", Command: till.Put{Amount: 10}})
				if err != nil || out.Version != 2 || out.Duplicate {
					t.Errorf("told %+v, %v; want it applied, once", out, err)
				}
				armed.Store(true)
				if _, err := c.Do(ctx, deja.Request{Key: "a", Command: till.Take{Amount: 500}}); !errors.Is(err, till.ErrEmpty) {
					t.Errorf("told %v; want the refusal", err)
				}
				var s till.Till
				if _, err := c.State(ctx, deja.Stream{Aggregate: "till", Key: "a"}, &s); err != nil || s.Balance != 11 {
					t.Errorf("balance %d, %v; want 11", s.Balance, err)
				}
			})
		})
	}
}

// Faults of log and store are tried again for ever; none parks a message or answers a client.
func TestFaultsAreSurvived(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		rng := rand.New(rand.NewPCG(7, 7)) // called by one goroutine at a time; the order of calls differs, so may the faults
		var faults atomic.Int64
		defer func() {
			if faults.Load() < 5 {
				t.Errorf("%d faults: the test shows nothing", faults.Load())
			}
		}()
		in := fault.New(func(int, fault.Step) fault.Mode {
			if rng.IntN(25) == 0 {
				faults.Add(1)
				return fault.Mode(1 + rng.IntN(2))
			}
			return fault.Pass
		})
		w.log, w.store = in.Log(w.log), in.Store(w.store)
		c := w.start(t)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		for i := range 20 {
			req := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 1}}
			var out deja.Outcome
			var err error
			for range 100 {
				if out, err = c.Do(ctx, req); err == nil {
					break
				}
			}
			if err != nil || out.Version != int64(i+1) {
				t.Fatalf("request %d: %+v, %v", i, out, err)
			}
		}
	})
}

func TestDoIsPendingWhileNothingRuns(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: w.log, Store: w.store})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		req := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 1}}
		if _, err := eng.Client().Do(ctx, req); !errors.Is(err, deja.ErrPending) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want pending", err)
		}
		if out, err := w.start(t).Do(t.Context(), req); err != nil || out.Version != 1 {
			t.Errorf("once it runs: %+v, %v", out, err)
		}
	})
}

func TestInvalidRequestsAreRefusedAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.start(t)
		for what, r := range map[string]deja.Request{
			"no command":         {Key: "a"},
			"no key":             {Command: till.Put{Amount: 1}},
			"an id of version 0": {ID: deja.ID{1}, Key: "a", Command: till.Put{Amount: 1}},
			"another service's":  {Key: "a", Command: foreign{}},
			"a long actor":       {Key: "a", Command: till.Put{Amount: 1}, Actor: string(make([]byte, 1<<20))},
		} {
			if _, err := c.Do(t.Context(), r); !errors.Is(err, deja.ErrInvalid) {
				t.Errorf("%s: Do gives %v", what, err)
			}
			if _, err := c.Send(t.Context(), deja.Request{Key: "b", Command: till.Put{Amount: 1}}, r); !errors.Is(err, deja.ErrInvalid) {
				t.Errorf("%s: Send gives %v", what, err)
			}
		}
		if v, err := c.State(t.Context(), deja.Stream{Aggregate: "till", Key: "b"}, new(till.Till)); v != 0 || err != nil {
			t.Errorf("an invalid Send sent something: version %d, %v", v, err)
		}
	})
}

type foreign struct{}

func (foreign) CommandType() string { return "ledger.post" }

func TestRunStopsCleanly(t *testing.T) {
	log := memory.NewLog(memory.LogConfig{Partitions: 2, Now: time.Now})
	eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: log, Store: memory.NewStore()})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 { // stopped before it starts, and twice
		if err := eng.Run(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("Run gives %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- eng.Run(ctx) }()
	if _, err := eng.Client().Do(ctx, deja.Request{Key: "a", Command: till.Put{Amount: 1}}); err != nil {
		t.Error(err)
	}
	if err := eng.Run(ctx); !errors.Is(err, engine.ErrRunning) {
		t.Errorf("a second Run gives %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run gives %v", err)
	}
}

// A message from the future would take the time of all that follows with it.
func TestAMessageFromTheFutureHalts(t *testing.T) {
	ahead := time.Now().Add(time.Hour)
	log := memory.NewLog(memory.LogConfig{Partitions: 1, Now: func() time.Time { return ahead }})
	eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: log, Store: memory.NewStore(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := eng.Client().Send(t.Context(), deja.Request{Key: "a", Command: till.Put{Amount: 1}}); err != nil {
		t.Fatal(err)
	}
	ctx := timeout(t)
	if err := eng.Run(ctx); !errors.Is(err, engine.ErrClock) || !errors.Is(err, deja.ErrHalted) {
		t.Errorf("Run gives %v", err)
	}
	if _, err := eng.Client().Do(ctx, deja.Request{Key: "a", Command: till.Put{Amount: 1}}); !errors.Is(err, deja.ErrHalted) {
		t.Errorf("Do gives %v", err)
	}
}

func TestNewReportsAllFaultsTogether(t *testing.T) {
	svc := &deja.Service{Name: "Shop", Aggregates: []deja.AnyAggregate{deja.NewAggregate("till",
		deja.Handle(func(till.Till, *deja.Decision, foreign) error { return nil }),
		deja.Apply[till.Till, till.Added](nil),
	)}}
	_, err := engine.New(engine.Config{Service: svc})
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, want := range []string{`"Shop"`, "ledger.post", "nil", "no Log", "no Store"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not speak of %s: %v", want, err)
		}
	}
}

// Messages to and from aggregates that are nobody's would never come: a table that counts on them is refused by name, and so
// are performers of nothing, and peers that are the service itself.
func TestWhatWouldNeverComeIsRefused(t *testing.T) {
	svc := &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{deja.NewAggregate("till",
		deja.Handle(func(till.Till, *deja.Decision, till.Put) error { return nil }),
		deja.OnReply(func(till.Till, *deja.Decision, deja.Reply[foreign]) error { return nil }),
		deja.React(func(till.Added) string { return "" }, func(till.Till, *deja.Decision, till.Added) error { return nil }),
	)}}
	log := memory.NewLog(memory.LogConfig{Partitions: 1, Now: time.Now})
	_, err := engine.New(engine.Config{
		Service: svc, Log: log, Store: memory.NewStore(), Peers: map[string]string{"till": "other"},
		Effects: []deja.Performer{remit.Mailer(nil), remit.Mailer(nil)},
	})
	for _, want := range []string{"aggregate ledger is none of", "till is service shop's own", "receipt.mail: no aggregate asks", "two performers"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not speak of %s: %v", want, err)
		}
	}
}

// What trying again does not mend ends Run: the first mistakes of a new user must not look like a slow start.
func TestWhatCannotBeMendedHalts(t *testing.T) {
	ctx := timeout(t)
	run := func(svc *deja.Service, db *sqlite.DB) error {
		eng, err := engine.New(engine.Config{Service: svc, Log: db.Log(), Store: db.Store(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return eng.Run(ctx)
	}
	path := filepath.Join(t.TempDir(), "shop.db")
	open := func(open func(context.Context, string) (*sqlite.DB, error)) *sqlite.DB {
		db, err := open(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	broken := till.Service(till.Variant{})
	broken.Projections = []*deja.Projection{deja.NewProjection("p", deja.Table("t", "CREATE TABEL t (a TEXT)"))}
	db := open(sqlite.Open)
	if err := run(broken, db); !errors.Is(err, deja.ErrHalted) {
		t.Errorf("a broken table: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := run(till.Service(till.Variant{}), db); !errors.Is(err, deja.ErrHalted) || !errors.Is(err, sqlite.ErrClosed) {
		t.Errorf("a closed database: %v", err)
	}
	db = open(sqlite.OpenReadOnly)
	defer func() { _ = db.Close() }()
	if err := run(till.Service(till.Variant{}), db); err == nil || ctx.Err() != nil {
		t.Errorf("a database open for reading: %v", err)
	}
}

// Whoever waits when the engine stops is told so, not left waiting for a run that may never come.
func TestStoppingWakesThoseWhoWait(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		in := fault.New(func(_ int, at fault.Step) fault.Mode {
			if at.Call == "tx.Commit" {
				return fault.FailBefore
			}
			return fault.Pass
		})
		eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: w.log, Store: in.Store(w.store), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ran, told := make(chan error), make(chan error)
		go func() { ran <- eng.Run(ctx) }()
		go func() {
			_, err := eng.Client().Do(t.Context(), deja.Request{Key: "a", Command: till.Put{Amount: 1}})
			told <- err
		}()
		for end := int64(0); end == 0; time.Sleep(20 * time.Millisecond) { // sent, and by the end of this it waits
			for p := range int32(3) {
				if _, n, err := w.log.Bounds(ctx, "shop.inbox", p); err == nil {
					end += n
				}
			}
		}
		stop()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Errorf("Run gives %v", err)
		}
		select {
		case err := <-told:
			if !errors.Is(err, deja.ErrPending) {
				t.Errorf("told %v, want pending", err)
			}
		case <-time.After(patience):
			t.Error("it still waits")
		}
	})
}

func TestARequestTooLargeIsInvalid(t *testing.T) {
	log := memory.NewLog(memory.LogConfig{Partitions: 1, Now: time.Now, MaxRecord: 1000})
	w := &world{log: log, store: memory.NewStore()}
	if _, err := w.start(t).Do(t.Context(), deja.Request{Key: "a", Command: till.Crash{How: strings.Repeat("x", 2000)}}); !errors.Is(err, deja.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// A State asked for while the engine starts waits for the take-over, and no longer.
func TestStateWhileTheEngineStarts(t *testing.T) {
	log := memory.NewLog(memory.LogConfig{Partitions: 1, Now: time.Now})
	eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: log, Store: memory.NewStore()})
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		ctx, stop := context.WithTimeout(t.Context(), patience)
		ran, read := make(chan error, 1), make(chan error, 1)
		go func() { ran <- eng.Run(ctx) }()
		go func() {
			for range 20 {
				if _, err := eng.Client().State(ctx, deja.Stream{Aggregate: "till", Key: "a"}, new(till.Till)); err != nil {
					read <- err
					return
				}
			}
			read <- nil
		}()
		if err := <-read; err != nil {
			t.Fatalf("State: %v", err)
		}
		stop()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
}
