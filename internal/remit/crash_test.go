package remit_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/sqlite"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// The crash matrix: a remittance is made once for each point that it passes, and the process that is there dies: at each
// message of it, at each call of the core transaction and of what carries messages on, before it took effect and after. Another
// process goes on with what is left. However it went, the remittance has one end, the money is all there, the receipt was
// sent once if it was to be, and nothing waits for anything.

// patience bounds a wait for what takes milliseconds, on a machine that is busy.
const patience = time.Minute

// linger is for what goes on when a remittance has ended, beyond what is waited for.
const linger = 400 * time.Millisecond

// A course is a way that a remittance takes.
type course struct {
	name     string
	to       string
	patience time.Duration
	late     bool // the ledger answers when the time-out was decided
	lost     bool // the provider's first answer is lost
	phase    string
	messages []string // all that are handled on the way
	only     []string // those where a process dies; none: at all
}

var courses = []course{
	{
		name: "finished", phase: remit.Done,
		messages: []string{
			"command remittance.start", "command account.withdraw", "reply account.withdraw", "command posting.post", "reply posting.post",
			"event posting.posted", "result receipt.mail",
		},
	},
	{
		name: "refused", to: remit.Nobody, phase: remit.Failed,
		messages: []string{
			"command remittance.start", "command account.withdraw", "reply account.withdraw", "command posting.post", "reply posting.post",
			"command posting.reverse", "reply posting.reverse", "command account.refund", "reply account.refund",
		},
	},
	{
		name: "timed out", patience: 20 * time.Millisecond, late: true, phase: remit.Failed,
		messages: []string{
			"command remittance.start", "command account.withdraw", "reply account.withdraw", "command posting.post", "timer remittance.time-out",
			"reply posting.post", "event posting.posted", "command posting.reverse", "reply posting.reverse", "command account.refund",
			"reply account.refund",
		},
	},
	{
		name: "answer lost", lost: true, phase: remit.Done, only: []string{"effect receipt.mail", "result receipt.mail"},
		messages: []string{
			"command remittance.start", "command account.withdraw", "reply account.withdraw", "command posting.post", "reply posting.post",
			"event posting.posted", "result receipt.mail",
		},
	},
}

// provider sends receipts, and honours keys.
type provider struct {
	mu    sync.Mutex
	calls map[string]map[deja.ID]int // by whose receipt it is, and key
	lose  map[string]bool            // whose first answer is lost
}

func (p *provider) send(key deja.ID, to string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls[to] == nil {
		p.calls[to] = map[deja.ID]int{}
	}
	p.calls[to][key]++
	if p.lose[to] {
		delete(p.lose, to)
		return errors.New("no answer came")
	}
	return nil
}

// world is two services over what outlives their processes.
type world struct {
	t        *testing.T
	log      driver.Log
	stores   map[string]driver.Store
	provider provider
	procs    []*running
	n        int
}

// running is a process with its engines.
type running struct {
	*process
	services []string
	engines  map[string]*engine.Engine
	stop     context.CancelFunc
	done     sync.WaitGroup
}

// newWorld runs both services, together in one process or each in its own.
func newWorld(t *testing.T, log driver.Log, bank, ledger driver.Store, together bool) *world {
	w := &world{
		t: t, log: log, stores: map[string]driver.Store{remit.Bank: bank, remit.Ledger: ledger},
		provider: provider{calls: map[string]map[deja.ID]int{}, lose: map[string]bool{}},
	}
	for service := range w.stores {
		for _, topic := range []string{".inbox", ".journal"} {
			must(t, log.(driver.Importer).CreateTopic(t.Context(), service+topic, 2))
		}
	}
	if together {
		w.procs = []*running{w.start(remit.Bank, remit.Ledger)}
	} else {
		w.procs = []*running{w.start(remit.Bank), w.start(remit.Ledger)}
	}
	t.Cleanup(func() {
		for _, r := range w.procs {
			r.end()
		}
	})
	return w
}

func (w *world) start(services ...string) *running {
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	r := &running{process: newProcess(), services: services, engines: map[string]*engine.Engine{}, stop: stop}
	bank, ledger := remit.Services(remit.Variant{Counted: true})
	for _, name := range services {
		v := newView(r.process, name)
		cfg := engine.Config{Service: ledger, Log: v.log(w.log), Store: v.store(w.stores[name]), Logger: slog.New(slog.DiscardHandler)}
		if name == remit.Bank {
			cfg.Service, cfg.Peers = bank, remit.Peers()
			cfg.Effects = []deja.Performer{remit.Mailer(func(_ context.Context, key deja.ID, m remit.Mail) (string, error) {
				var about []string
				if strings.HasSuffix(m.To, r.counted()) {
					about = []string{"effect receipt.mail"}
				}
				_, err := around(r.process, name, "call the provider", about, func() (struct{}, error) {
					if r.Crashed() {
						return struct{}{}, errors.New("dead")
					}
					return struct{}{}, w.provider.send(key, m.To)
				})
				return "receipt of " + key.String(), err
			})}
		}
		e, err := engine.New(cfg)
		w.need(err)
		r.engines[name] = e
		r.done.Go(func() { _ = e.Run(ctx) })
	}
	return r
}

func (r *running) end() {
	r.stop()
	r.done.Wait()
}

// raise starts those processes again that have died, and reports whether there were any.
func (w *world) raise(suffix string, gate chan struct{}) bool {
	died := false
	for i, r := range w.procs {
		if !r.Crashed() {
			continue
		}
		died = true
		r.end()
		w.procs[i] = w.start(r.services...)
		w.procs[i].arm(suffix, nil, gate)
	}
	return died
}

func (w *world) bank() deja.Client { return w.procs[0].engines[remit.Bank].Client() }

func state[S any](w *world, service, aggregate, key string) (s S, found bool) {
	rows, err := w.stores[service].Load(w.t.Context(), []deja.Stream{{Aggregate: aggregate, Key: key}})
	w.need(err)
	if len(rows) == 0 || rows[0].Version == 0 {
		return s, false
	}
	w.need(json.Unmarshal(rows[0].Data, &s))
	return s, true
}

// need ends the goroutine at an error of the test's own.
func (w *world) need(err error) {
	if err != nil {
		w.t.Error(err)
		runtime.Goexit()
	}
}

// open returns a stream of a service that waits for something; empty if there is none.
func (w *world) open(service string) string {
	leases, err := w.stores[service].Leases(w.t.Context())
	w.need(err)
	for _, l := range leases {
		rows, err := w.stores[service].Open(w.t.Context(), l.Partition, deja.Stream{}, 1)
		w.need(err)
		if len(rows) > 0 {
			return rows[0].Stream.String()
		}
	}
	return ""
}

// transfer is one remittance, and what it is to come to.
type transfer struct {
	course
	suffix string // of all keys
}

func (tr *transfer) key(of string) string { return of + tr.suffix }

func (tr *transfer) receiver() string { return cmp.Or(tr.to, tr.key("receiver")) }

// unsettled returns what the transfer still waits for.
func (w *world) unsettled(tr *transfer) string {
	r, _ := state[remit.Remittance](w, remit.Bank, "remittance", tr.key("remittance"))
	switch {
	case r.Phase != remit.Done && r.Phase != remit.Failed:
		return "its end: it is " + r.Phase
	case r.Phase == remit.Done && r.Receipt == "":
		return "its receipt"
	}
	posted := slices.Contains(tr.messages, "event posting.posted")
	if tally, _ := state[remit.Tally](w, remit.Bank, "tally", tr.receiver()); posted && tally.Count == 0 {
		return "being counted"
	}
	for _, service := range []string{remit.Bank, remit.Ledger} {
		if s := w.open(service); s != "" {
			return "nothing to be open: " + s
		}
	}
	return ""
}

// check says all that is wrong with how a transfer ended.
func (w *world) check(tr *transfer) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	r, _ := state[remit.Remittance](w, remit.Bank, "remittance", tr.key("remittance"))
	if r.Phase != tr.phase || r.Ends != 1 {
		wrong("the remittance is %s and ended %d times, want %s, once", r.Phase, r.Ends, tr.phase)
	}
	account, _ := state[remit.Account](w, remit.Bank, "account", tr.key("account"))
	entry, _ := state[remit.Entry](w, remit.Ledger, "posting", tr.key("remittance"))
	want := int64(0)
	if tr.phase == remit.Done {
		want = 30
	}
	if account.Balance+entry.Amount != 100 || entry.Amount != want {
		wrong("%d are in the account and %d are posted, want 100 in all and %d of them posted", account.Balance, entry.Amount, want)
	}
	tally, _ := state[remit.Tally](w, remit.Bank, "tally", tr.receiver())
	if posted := slices.Contains(tr.messages, "event posting.posted"); posted != (tally.Count == 1) || tally.Count > 1 {
		wrong("the posting was counted %d times", tally.Count)
	}
	w.provider.mu.Lock()
	defer w.provider.mu.Unlock()
	calls := w.provider.calls[tr.key("account")]
	if mailed := tr.phase == remit.Done; mailed != (len(calls) == 1) || len(calls) > 1 {
		wrong("the receipt was sent under %d keys: %v", len(calls), calls)
	}
	return errors.Join(errs...)
}

// errNotPassed says that a cell shows nothing: messages that came together once were apart, or the other way.
var errNotPassed = errors.New("the point was not passed")

// make makes a transfer, and has a process die at a point of it, if there is one. It returns all points that were passed until then.
func (w *world) make(c course, target *point) (map[point]bool, error) {
	w.n++
	tr := &transfer{course: c, suffix: fmt.Sprintf("-%d.", w.n)}
	if c.lost {
		w.provider.mu.Lock()
		w.provider.lose[tr.key("account")] = true
		w.provider.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	defer w.disarm()
	if _, err := w.bank().Do(ctx, deja.Request{Key: tr.key("account"), Command: remit.Deposit{Amount: 100}}); err != nil {
		return nil, fmt.Errorf("deposit: %w", err)
	}
	var gate chan struct{}
	if c.late {
		gate = make(chan struct{})
	}
	for _, r := range w.procs {
		r.arm(tr.suffix, target, gate)
	}
	armed := slices.Clone(w.procs)
	start := deja.Request{ID: deja.NewID(), Key: tr.key("remittance"), Command: remit.Start{
		From: tr.key("account"), To: tr.receiver(), Amount: 30, Patience: cmp.Or(c.patience, time.Hour),
	}}
	_, err := w.bank().Send(ctx, start)
	var died bool
	waits := "to be seen"
	for end := time.Now(); waits != "" || target != nil && !died && time.Since(end) < 3*time.Second; time.Sleep(2 * time.Millisecond) {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("it never ended: it waits for %s", waits)
		}
		if w.raise(tr.suffix, gate) {
			died = true
			if err != nil {
				_, err = w.bank().Send(ctx, start)
			}
		}
		r, _ := state[remit.Remittance](w, remit.Bank, "remittance", start.Key)
		if gate != nil && r.Phase != "" && r.Phase != remit.Taking && r.Phase != remit.Posting {
			close(gate)
			gate = nil
		}
		was := waits
		if waits = w.unsettled(tr); waits == "" && was != "" {
			end = time.Now()
		}
	}
	if err != nil {
		return nil, err
	}
	if target != nil && !died {
		return nil, errNotPassed
	}
	passed := func() map[point]bool {
		all := map[point]bool{}
		for _, r := range armed {
			maps.Copy(all, r.passed())
		}
		return all
	}
	if target == nil { // what shows in the store may not have returned yet, and cursors are set when nothing comes
		for w.unpassed(c, passed()) != nil && ctx.Err() == nil {
			time.Sleep(2 * time.Millisecond)
		}
		time.Sleep(linger)
	}
	return passed(), w.check(tr)
}

// unpassed returns the points after the calls that each message of a course makes, without those that were passed.
func (w *world) unpassed(c course, passed map[point]bool) (points []point) {
	for _, m := range c.messages {
		for _, call := range w.calls(m) {
			if !slices.ContainsFunc([]string{remit.Bank, remit.Ledger}, func(s string) bool { return passed[point{s, call, m, true}] }) {
				points = append(points, point{"any", call, m, true})
			}
		}
	}
	return points
}

// disarm has all processes live: whoever died is there again.
func (w *world) disarm() {
	for _, r := range w.procs {
		r.arm("", nil, nil)
	}
	w.raise("", nil)
}

// learn returns the points of a course, in some fixed order.
func (w *world) learn(c course) []point {
	w.t.Helper()
	if _, err := w.make(c, nil); err != nil { // what is cold is warm then
		w.t.Fatal(err)
	}
	passed, err := w.make(c, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	points := slices.SortedFunc(maps.Keys(passed), func(a, b point) int { return strings.Compare(a.String(), b.String()) })
	for _, p := range w.unpassed(c, passed) {
		w.t.Errorf("%s: no point %s", c.name, p)
	}
	return slices.DeleteFunc(points, func(p point) bool { return len(c.only) > 0 && !slices.Contains(c.only, p.about) })
}

// calls returns what happens to every message of a kind on its way.
func (w *world) calls(message string) []string {
	calls := []string{"append to an inbox", "fetch", "begin", "write", "advance", "commit"}
	handler := remit.Bank
	if strings.HasPrefix(message, "command posting.") {
		handler = remit.Ledger
	}
	if j, ok := w.stores[handler].(driver.Joint); !ok || !j.Joint(w.log) {
		calls = append(calls, "append to the journal", "read back")
	}
	return calls
}

// A tally of the matrix.
type tally struct{ cells, missed, wrong atomic.Int64 }

// side is how many worlds a course is spread over: most of what a cell takes is waiting.
const side = 3

// matrix has a process die at each point of each course, in worlds of one kind.
func matrix(t *testing.T, build func(t *testing.T) *world) {
	var sum tally
	var all sync.WaitGroup
	for _, c := range courses {
		learner := build(t)
		points := learner.learn(c)
		for n := range side {
			w := learner
			if n > 0 {
				w = build(t)
			}
			var own []point
			for i, p := range points {
				if i%side == n && (!testing.Short() || i/side%12 == 2) {
					own = append(own, p)
				}
			}
			all.Go(func() { w.cells(c, own, &sum) })
		}
	}
	all.Wait()
	t.Logf("crash matrix: %d cells, %d wrong; %d points were not passed again", sum.cells.Load(), sum.wrong.Load(), sum.missed.Load())
	if sum.missed.Load() > sum.cells.Load()/20 {
		t.Error("too many points were not passed again: the matrix shows little")
	}
}

// cells makes a transfer for each point. All stop at the first that goes wrong: what it leaves open is in the way of the next.
func (w *world) cells(c course, points []point, sum *tally) {
	for _, p := range points {
		if sum.wrong.Load() > 0 {
			return
		}
		err := errNotPassed
		for try := 0; errors.Is(err, errNotPassed) && try < 5; try++ {
			_, err = w.make(c, &p)
		}
		switch {
		case errors.Is(err, errNotPassed):
			sum.missed.Add(1)
			continue
		case err != nil:
			sum.wrong.Add(1)
			w.t.Errorf("%s, %s: %v", c.name, p, err)
			return
		}
		sum.cells.Add(1)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// file opens a SQLite database.
func file(t *testing.T, name string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), name))
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}

func TestCrashMatrixInMemory(t *testing.T) {
	matrix(t, func(t *testing.T) *world {
		return newWorld(t, memory.NewLog(memory.LogConfig{}), memory.NewStore(), memory.NewStore(), false)
	})
}

func TestCrashMatrixInAFile(t *testing.T) {
	matrix(t, func(t *testing.T) *world {
		db := file(t, "all.db")
		return newWorld(t, db.Log(), db.StoreOf(remit.Bank), db.StoreOf(remit.Ledger), true)
	})
}

func TestCrashMatrixOnPostgres(t *testing.T) {
	dsn := testenv.Postgres(t)
	few := testenv.With(dsn, "pool_max_conns", "4") // there are many stores, and a server takes so many connections
	matrix(t, func(t *testing.T) *world {
		store := func(name string) driver.Store {
			schema := testenv.Unique(name)
			t.Cleanup(func() { drop(t, dsn, schema) })
			db, err := postgres.Open(t.Context(), few, postgres.Schema(schema))
			must(t, err)
			t.Cleanup(func() { must(t, db.Close()) })
			return db.Store()
		}
		return newWorld(t, file(t, "log.db").Log(), store("bank"), store("ledger"), false)
	})
}

// drop removes a schema.
func drop(t *testing.T, dsn, schema string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, dsn)
	must(t, err)
	defer func() { must(t, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, "SET client_min_messages = warning; DROP SCHEMA IF EXISTS "+schema+" CASCADE")
	must(t, err)
}
