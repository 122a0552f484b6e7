package engine_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
)

// patience bounds every wait; nothing is expected to take near as long.
const patience = time.Minute

// bubble runs a test in a time of its own, which goes on when all of it waits: nothing is late because the machine is busy.
// What waits for a lock does not count as waiting, so a test that freezes a process or lets a fault's plan sleep has none.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Second) }) // last: those who read a journal's end for others go on for a while
		test(t)
	})
}

const shopInbox, shopJournal = "shop.inbox", "shop.journal"

// process is what an engine runs in: it may meet faults, freeze and die.
type process struct {
	*fault.Injector
	plan func(fault.Step) fault.Mode

	gate sync.RWMutex // locked while it is frozen
}

func newProcess(plan func(fault.Step) fault.Mode) *process {
	p := &process{plan: plan}
	p.Injector = fault.New(func(_ int, s fault.Step) fault.Mode {
		p.pass()
		if p.plan == nil {
			return fault.Pass
		}
		return p.plan(s)
	})
	return p
}

func (p *process) pass() {
	p.gate.RLock()
	p.gate.RUnlock() //nolint:gocritic,staticcheck // it only waits until it can be locked
}

func (p *process) freeze() { p.gate.Lock() }
func (p *process) thaw()   { p.gate.Unlock() }

// crewStore is a store as a process sees it, shared with others.
type crewStore struct {
	driver.Store
	p    *process
	crew driver.Shared
}

func (p *process) store(s *memory.Store) crewStore { return crewStore{p.Store(s), p, s} }

func (s crewStore) Beat(ctx context.Context, m driver.Member, ttl time.Duration) (driver.Crew, error) {
	if s.p.pass(); s.p.Crashed() {
		return driver.Crew{}, fault.ErrCrashed
	}
	return s.crew.Beat(ctx, m, ttl)
}

func (s crewStore) Leave(ctx context.Context, member deja.ID) error {
	if s.p.pass(); s.p.Crashed() {
		return fault.ErrCrashed
	}
	return s.crew.Leave(ctx, member)
}

// node is an engine that runs.
type node struct {
	*engine.Engine
	t    *testing.T
	stop context.CancelFunc
	done chan struct{}
	err  error
}

// newEngine returns an engine of the shop that says nothing.
func newEngine(t *testing.T, cfg engine.Config) *engine.Engine {
	t.Helper()
	if cfg.Service == nil {
		cfg.Service = till.Service(till.Variant{})
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	eng, err := engine.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return eng
}

// runNode runs an engine until it is ended, or the test is.
func runNode(t *testing.T, cfg engine.Config) *node {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	n := &node{Engine: newEngine(t, cfg), t: t, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(n.done)
		n.err = n.Run(ctx)
	}()
	t.Cleanup(n.end)
	return n
}

// end stops the engine, and waits until it has.
func (n *node) end() {
	n.stop()
	select {
	case <-n.done:
	case <-time.After(patience):
		n.t.Error("Run does not end")
	}
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// until waits until something holds; what says what it is.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came: %s", what)
		}
	}
}

// keyIn returns a key that belongs to a partition.
func keyIn(partition, partitions int32) string {
	for i := 0; ; i++ {
		if key := fmt.Sprintf("k%d", i); place.Partition(key, partitions) == partition {
			return key
		}
	}
}

func put(t *testing.T, e *engine.Engine, key string, amount int64) {
	t.Helper()
	if _, err := e.Client().Do(timeout(t), deja.Request{Key: key, Command: till.Put{Amount: amount}}); err != nil {
		t.Fatalf("put into %s: %v", key, err)
	}
}

func healthOf(t *testing.T, e *engine.Engine) engine.Health {
	t.Helper()
	h, err := e.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// states returns the partitions' states, such as "idle elsewhere".
func states(t *testing.T, e *engine.Engine) string {
	t.Helper()
	var ss []string
	for _, p := range healthOf(t, e).Partitions {
		ss = append(ss, p.State)
	}
	return strings.Join(ss, " ")
}

// handled reports whether all that is in the inbox was handled, and logged.
func handled(t *testing.T, log driver.Log, store driver.Store, partitions int32) bool {
	t.Helper()
	leases, err := store.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for p := range partitions {
		_, end, err := log.Bounds(t.Context(), shopInbox, p)
		if err != nil {
			t.Fatal(err)
		}
		at := driver.Progress{}
		logged := int64(0)
		for _, l := range leases {
			if l.Partition == p {
				at, logged = l.Progress, l.Logged.N
			}
		}
		if at.Position != end || at.N != logged {
			return false
		}
	}
	return true
}

// decisions reads all decisions of a partition from the journal, which must hold together.
func decisions(t *testing.T, log driver.Log, partition int32) []journal.Entry {
	t.Helper()
	_, end, err := log.Bounds(t.Context(), shopJournal, partition)
	if err != nil {
		t.Fatal(err)
	}
	r := journal.NewReader(log, "shop", partition, driver.Logged{})
	var all []journal.Entry
	for {
		es, err := r.Next(t.Context(), end, 1000)
		if err != nil {
			t.Fatalf("journal of partition %d: %v", partition, err)
		}
		if len(es) == 0 {
			return all
		}
		all = append(all, es...)
	}
}

// topicRecords returns all records of a topic, partition by partition.
func topicRecords(t *testing.T, log driver.Log, topic string) []driver.Record {
	t.Helper()
	top, err := log.Topic(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	var all []driver.Record
	for p := range top.Partitions {
		at, end, err := log.Bounds(t.Context(), topic, p)
		if err != nil {
			t.Fatal(err)
		}
		for at < end {
			recs, err := log.Fetch(t.Context(), deja.Position{Topic: topic, Partition: p, Offset: at}, 1000)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, recs...)
			at = recs[len(recs)-1].Offset + 1
		}
	}
	return all
}

// ledger counts what a test sends, and checks what became of it.
type ledger struct {
	mu   sync.Mutex
	sum  map[string]int64
	ids  map[deja.ID]bool
	sent int
}

func newLedger() *ledger { return &ledger{sum: map[string]int64{}, ids: map[deja.ID]bool{}} }

// send sends messages that each put one, every fifth of them twice.
func (l *ledger) send(t *testing.T, c deja.Client, keys, count int) {
	t.Helper()
	var rs []deja.Request
	for i := range count {
		r := deja.Request{ID: deja.NewID(), Key: fmt.Sprintf("k%d", i%keys), Command: till.Put{Amount: 1}}
		rs = append(rs, r)
		if i%5 == 0 {
			rs = append(rs, r)
		}
		l.mu.Lock()
		l.sum[r.Key]++
		l.ids[r.ID] = true
		l.mu.Unlock()
	}
	l.sent += len(rs)
	if _, err := c.Send(t.Context(), rs...); err != nil {
		t.Fatal(err)
	}
}

// check compares journal and store with what was sent: each message decided once, and no more.
func (l *ledger) check(t *testing.T, log driver.Log, store driver.Store, partitions int32) {
	t.Helper()
	decided := map[deja.ID]int{}
	for p := range partitions {
		for _, e := range decisions(t, log, p) {
			if e.Decided.Status != deja.Applied {
				t.Errorf("message %s is %s: %s", e.Cause.ID, e.Decided.Status, e.Decided.Reason.Error())
			}
			decided[e.Cause.ID]++
		}
	}
	for id := range l.ids {
		if decided[id] != 1 {
			t.Errorf("message %s was decided %d times", id, decided[id])
		}
	}
	if len(decided) != len(l.ids) {
		t.Errorf("%d messages decided, %d sent", len(decided), len(l.ids))
	}
	for key, want := range l.sum {
		rows, err := store.Load(t.Context(), []deja.Stream{{Aggregate: "till", Key: key}})
		if err != nil || len(rows) != 1 || rows[0].Version != want || !strings.Contains(string(rows[0].Data), fmt.Sprintf(`"balance":%d,`, want)) {
			t.Errorf("state of %s is %+v, %v; want a balance of %d", key, rows, err, want)
		}
	}
}

// fakeGroup shares a topic's partitions out among its members, as a broker does.
type fakeGroup struct {
	mu         sync.Mutex
	partitions int32
	members    []chan []int32
	joins      int
	refuse     error // of the next Join
}

type groupLog struct {
	*memory.Log
	group *fakeGroup
}

func (l groupLog) Join(ctx context.Context, _, topic string) (<-chan []int32, error) {
	g := l.group
	g.mu.Lock()
	defer g.mu.Unlock()
	g.joins++
	if err := g.refuse; err != nil || topic != shopInbox {
		g.refuse = nil
		return nil, cmp.Or(err, errors.New("another topic"))
	}
	ch := make(chan []int32, 1)
	g.members = append(g.members, ch)
	context.AfterFunc(ctx, func() { g.kick(ch) })
	g.assign()
	return ch, nil
}

// kick ends a membership.
func (g *fakeGroup) kick(ch chan []int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, m := range g.members {
		if m == ch {
			close(ch)
			g.members = append(g.members[:i:i], g.members[i+1:]...)
			g.assign()
			return
		}
	}
}

func (g *fakeGroup) assign() {
	for i, ch := range g.members {
		select {
		case <-ch:
		default:
		}
		ps := []int32{}
		for n := int32(i); n < g.partitions; n += int32(len(g.members)) {
			ps = append(ps, n)
		}
		ch <- ps
	}
}

// message decodes an inbox record.
func message(t *testing.T, rec driver.Record) *deja.Envelope {
	t.Helper()
	env, err := wire.NewDecoder("shop").Message(rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	return env
}
