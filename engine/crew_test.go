package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/internal/till"
)

// seeded returns a source of randomness, and says how to repeat the test.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DEJA_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with: DEJA_SEED=%d go test -race -run '^%s$' ./engine", seed, t.Name())
		}
	})
	return rand.New(rand.NewPCG(seed, 1))
}

// Whoever comes, goes, dies or meets faults: each message is decided once.
func TestProcessesThatComeAndGoDecideEachMessageOnce(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	const partitions = 4
	log, store := memory.NewLog(memory.LogConfig{Partitions: partitions}), memory.NewStore()
	var mu sync.Mutex
	chance := rand.New(rand.NewPCG(rng.Uint64(), 2))
	faulty := func(s fault.Step) fault.Mode {
		mu.Lock()
		defer mu.Unlock()
		if chance.IntN(200) > 0 {
			return fault.Pass
		}
		return fault.Mode(1 + chance.IntN(2))
	}
	start := func() *node {
		p := newProcess(faulty)
		return runNode(t, engine.Config{Log: p.Log(log), Store: p.store(store)})
	}
	gateway, sent := newEngine(t, engine.Config{Log: log, Store: store}), newLedger()
	var nodes []*node
	for range 40 {
		switch n := len(nodes); {
		case n == 0, n < 3 && rng.IntN(2) == 0:
			nodes = append(nodes, start())
		default:
			i := rng.IntN(n)
			nodes[i].end()
			nodes = append(nodes[:i:i], nodes[i+1:]...)
		}
		sent.send(t, gateway.Client(), 30, 50)
		time.Sleep(time.Duration(rng.IntN(150)) * time.Millisecond)
	}
	nodes = append(nodes, start())
	until(t, "all is handled and logged", func() bool { return handled(t, log, store, partitions) })
	for _, n := range nodes {
		n.end()
	}
	sent.check(t, log, store, partitions)
	for _, l := range leases(t, store) {
		if l.Held {
			t.Errorf("partition %d is still held, by %s", l.Partition, l.Owner)
		}
	}
}

func leases(t *testing.T, s driver.Store) []driver.Lease {
	t.Helper()
	ls, err := s.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ls
}

func TestADeadProcessIsReplaced(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const partitions = 4
		log, store := memory.NewLog(memory.LogConfig{Partitions: partitions}), memory.NewStore()
		p := newProcess(nil)
		first := runNode(t, engine.Config{Log: p.Log(log), Store: p.store(store)})
		put(t, first.Engine, "a", 1)
		second := runNode(t, engine.Config{Log: log, Store: store})
		until(t, "the two share the partitions", func() bool {
			return states(t, second.Engine) == "elsewhere idle elsewhere idle" || states(t, second.Engine) == "idle elsewhere idle elsewhere"
		})
		p.Crash()
		for n := range int32(partitions) {
			put(t, second.Engine, keyIn(n, partitions), 1)
		}
		until(t, "one has them all", func() bool { return states(t, second.Engine) == "idle idle idle idle" })
		for _, l := range leases(t, store) {
			if l.Owner != healthOf(t, second.Engine).Member {
				t.Errorf("partition %d is owned by %s", l.Partition, l.Owner)
			}
		}
	})
}

// A process that is stopped gives back what it has at once: nobody waits for its time to run out.
func TestACleanStopHandsOver(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log := memory.NewLog(memory.LogConfig{Partitions: 2})
		now := time.Now()
		store := memory.NewStore(memory.Clock(func() time.Time { return now })) // no time ever runs out
		first := runNode(t, engine.Config{Log: log, Store: store})
		put(t, first.Engine, "a", 1)
		second := runNode(t, engine.Config{Log: log, Store: store})
		first.end()
		for n := range int32(2) {
			put(t, second.Engine, keyIn(n, 2), 1)
		}
		if !errors.Is(first.err, context.Canceled) {
			t.Errorf("Run gives %v", first.err)
		}
	})
}

// One that was frozen past its time wakes up in the middle of its work, and writes nothing.
func TestAFrozenProcessWritesNothingWhenItWakesUp(t *testing.T) {
	t.Parallel()
	log, store := memory.NewLog(memory.LogConfig{Partitions: 1}), memory.NewStore()
	gateway, sent := newEngine(t, engine.Config{Log: log, Store: store}), newLedger()
	caught, wake := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	frozen := newProcess(func(s fault.Step) fault.Mode {
		if s.Call == "tx.Advance" && armed.CompareAndSwap(true, false) { // it has written all
			close(caught)
			<-wake
		}
		return fault.Pass
	})
	said := new(testenv.Output)
	first := runNode(t, engine.Config{Log: frozen.Log(log), Store: frozen.store(store), Logger: slog.New(slog.NewTextHandler(said, nil))})
	sent.send(t, gateway.Client(), 5, 1)
	until(t, "it works", func() bool { return handled(t, log, store, 1) })
	armed.Store(true)
	sent.send(t, gateway.Client(), 5, 50)
	<-caught
	frozen.freeze()
	second := runNode(t, engine.Config{Log: log, Store: store})
	until(t, "all is handled by the other", func() bool { return handled(t, log, store, 1) })
	frozen.thaw()
	close(wake)
	until(t, "it finds out", func() bool { return strings.Contains(said.String(), driver.ErrFenced.Error()) })
	if s := said.String(); strings.Contains(s, "halted") {
		t.Errorf("it said %s", s)
	}
	sent.send(t, gateway.Client(), 5, 50)
	until(t, "one of them goes on", func() bool { return handled(t, log, store, 1) })
	second.end()
	sent.send(t, gateway.Client(), 5, 50)
	until(t, "the first goes on", func() bool { return handled(t, log, store, 1) })
	first.end()
	sent.check(t, log, store, 1)
}

// Only one fold version may be at work: that of the process that came last.
func TestANewerFoldVersionSupersedesAnOlderProcess(t *testing.T) {
	t.Parallel()
	for _, grouped := range []string{"", "shop"} {
		t.Run("group "+grouped, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				log, store := memory.NewLog(memory.LogConfig{Partitions: 3}), memory.NewStore()
				group := &fakeGroup{partitions: 3}
				run := func(fold int) *node {
					return runNode(t, engine.Config{Service: till.Service(till.Variant{Fold: fold}), Log: groupLog{log, group}, Store: store, Group: grouped})
				}
				old := run(1)
				put(t, old.Engine, "a", 1)
				young := run(2)
				until(t, "the younger has them all", func() bool { return states(t, young.Engine) == "idle idle idle" })
				if s := states(t, old.Engine); s != "elsewhere elsewhere elsewhere" {
					t.Errorf("the older one is %s", s)
				}
				put(t, old.Engine, "a", 1)
				young.end()
				until(t, "the older works again", func() bool { return states(t, old.Engine) == "idle idle idle" })
				put(t, old.Engine, "a", 1)
				old.end()
				if got := balances(t, old.Engine, "a"); got != "3" {
					t.Errorf("a balance of %s, want 3", got)
				}
			})
		})
	}
}

func TestAConsumerGroupAssigns(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const partitions = 4
		log := groupLog{memory.NewLog(memory.LogConfig{Partitions: partitions}), &fakeGroup{partitions: partitions}}
		log.group.refuse = errors.New("the coordinator is moving") // joined again at the next beat
		store := memory.NewStore()
		run := func() *node { return runNode(t, engine.Config{Log: log, Store: store, Group: "shop"}) }
		first := run()
		put(t, first.Engine, "a", 1)
		until(t, "one has them all", func() bool { return states(t, first.Engine) == "idle idle idle idle" })
		second := run()
		until(t, "they are shared as the group says", func() bool {
			return states(t, first.Engine) == "idle elsewhere idle elsewhere" && states(t, second.Engine) == "elsewhere idle elsewhere idle"
		})
		log.group.mu.Lock()
		ch, joins := log.group.members[0], log.group.joins
		log.group.refuse = errors.New("the member is unknown")
		log.group.mu.Unlock()
		log.group.kick(ch) // the first: it joins again, and comes last
		until(t, "it joined again, and they are shared anew", func() bool {
			return states(t, first.Engine) == "elsewhere idle elsewhere idle" && states(t, second.Engine) == "idle elsewhere idle elsewhere"
		})
		log.group.mu.Lock()
		if log.group.joins < joins+2 {
			t.Errorf("%d joins, want one that was refused and one that was not", log.group.joins-joins)
		}
		log.group.mu.Unlock()
		for n := range int32(partitions) {
			put(t, first.Engine, keyIn(n, partitions), 1)
		}
		first.end()
		until(t, "the second has them all", func() bool { return states(t, second.Engine) == "idle idle idle idle" })
		second.end()
		until(t, "the group is empty", func() bool {
			log.group.mu.Lock()
			defer log.group.mu.Unlock()
			return len(log.group.members) == 0
		})
	})
}

// A store made anew has a ledger with gaps until all partitions have read their journals.
func TestNobodyDecidesBeforeAllJournalsAreRead(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const partitions = 3
		log := memory.NewLog(memory.LogConfig{Partitions: partitions})
		before := runNode(t, engine.Config{Log: log, Store: memory.NewStore()})
		for n := range int32(partitions) {
			put(t, before.Engine, keyIn(n, partitions), 1)
		}
		before.end()

		store := memory.NewStore()
		var unreadable atomic.Bool
		unreadable.Store(true)
		p := newProcess(func(s fault.Step) fault.Mode {
			if s.Call == "log.Fetch" && s.On == shopJournal+":1" && unreadable.Load() {
				return fault.FailBefore
			}
			return fault.Pass
		})
		gateway, sent := newEngine(t, engine.Config{Log: log, Store: store}), newLedger()
		sent.send(t, gateway.Client(), 12, 60)
		n := runNode(t, engine.Config{Log: p.Log(log), Store: p.store(store)})
		until(t, "two wait for the third", func() bool {
			s := states(t, n.Engine)
			return strings.HasPrefix(s, "waiting") && strings.HasSuffix(s, "waiting")
		})
		if !healthOf(t, n.Engine).OK() {
			t.Log("health says that an operator is needed")
		}
		for range 20 {
			for _, l := range leases(t, store) {
				if l.Progress.N > 1 || l.Progress.Position > 1 {
					t.Fatalf("partition %d decides: it is at %+v", l.Partition, l.Progress)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		unreadable.Store(false)
		until(t, "all decide", func() bool { return handled(t, log, store, partitions) })
		for p := range int32(partitions) {
			for _, e := range decisions(t, log, p) {
				delete(sent.ids, e.Cause.ID)
			}
		}
		if len(sent.ids) > 0 {
			t.Errorf("%d messages were not decided", len(sent.ids))
		}
	})
}

// died makes a store believe that so many processes noted a message and died of it.
func died(t *testing.T, log driver.Log, store driver.Store, offset int64, processes int) {
	t.Helper()
	inbox, err := log.Topic(t.Context(), shopInbox)
	if err != nil {
		t.Fatal(err)
	}
	journal, err := log.Topic(t.Context(), shopJournal)
	if err != nil {
		t.Fatal(err)
	}
	for range processes {
		l, err := store.Acquire(t.Context(), driver.Assignment{Inbox: inbox, Journal: journal, Owner: deja.NewID()})
		if err == nil {
			_, err = store.Attempt(t.Context(), l, offset, offset+100)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAMessageThatKillsItsProcessIsParked(t *testing.T) {
	t.Parallel()
	for processes := 2; processes <= 3; processes++ {
		t.Run(fmt.Sprintf("%d died", processes), func(t *testing.T) {
			t.Parallel()
			log, store := memory.NewLog(memory.LogConfig{}), memory.NewStore()
			gateway := newEngine(t, engine.Config{Log: log, Store: store})
			fine := deja.Request{ID: deja.NewID(), Key: "b", Command: till.Put{Amount: 1}}
			bad := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 1}}
			behind := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 1}}
			other := deja.Request{ID: deja.NewID(), Key: "c", Command: till.Put{Amount: 1}}
			if _, err := gateway.Client().Send(t.Context(), bad, fine, behind, other); err != nil {
				t.Fatal(err)
			}
			died(t, log, store, 0, processes)
			n := runNode(t, engine.Config{Log: log, Store: store})
			ctx := timeout(t)
			for _, r := range []deja.Request{fine, other} {
				if _, err := n.Client().Do(ctx, r); err != nil {
					t.Errorf("another message: %v", err)
				}
			}
			_, err := n.Client().Do(ctx, bad)
			if processes < 3 {
				if err != nil {
					t.Errorf("it was not given another try: %v", err)
				}
				return
			}
			if !errors.Is(err, deja.ErrParked) || !errors.Is(err, deja.NewRejection(deja.CodeKilled)) {
				t.Errorf("got %v, want it parked", err)
			}
			if _, err := n.Client().Do(ctx, behind); !errors.Is(err, deja.NewRejection(deja.CodeBlocked)) {
				t.Errorf("behind it: got %v, want it blocked", err)
			}
			act := engine.Act{Stream: deja.Stream{Aggregate: "till", Key: "a"}, Message: bad.ID}
			if err := n.Retry(ctx, act); err != nil {
				t.Errorf("retry: %v", err)
			}
		})
	}
}

// An operator who has such a message decided again must not set the dying off anew, for ever.
func TestAnActThatKillsItsProcessIsRefused(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{}), memory.NewStore()
		broken := till.Service(till.Variant{Broken: func() bool { return true }})
		n := runNode(t, engine.Config{Service: broken, Log: log, Store: store})
		bad := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Crash{}}
		if _, err := n.Client().Do(timeout(t), bad); !errors.Is(err, deja.ErrParked) {
			t.Fatal(err)
		}
		n.end()
		act := engine.Act{Stream: deja.Stream{Aggregate: "till", Key: "a"}, Message: bad.ID}
		answer := make(chan error, 1)
		gateway := newEngine(t, engine.Config{Service: broken, Log: log, Store: store})
		go func() { answer <- gateway.Retry(timeout(t), act) }()
		until(t, "the act is in the inbox", func() bool { _, end, err := log.Bounds(t.Context(), shopInbox, 0); return err == nil && end == 2 })
		died(t, log, store, 1, 3)
		runNode(t, engine.Config{Service: broken, Log: log, Store: store})
		if err := <-answer; !errors.Is(err, deja.NewRejection(deja.CodeKilled)) {
			t.Errorf("told %v", err)
		}
		if ps, err := store.Parked(t.Context(), 0, act.Stream, 0, 10); err != nil || len(ps) != 1 {
			t.Errorf("parked: %v, %v", ps, err)
		}
	})
}

// A process that only sends is told all that one that works would be.
func TestDoFromAProcessThatDoesNotRun(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{Partitions: 3}), memory.NewStore()
		cfg := engine.Config{Service: till.Service(till.Variant{Broken: func() bool { return true }}), Log: log, Store: store}
		gateway := newEngine(t, cfg)
		ctx := timeout(t)
		n := runNode(t, cfg)
		r := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 5}}
		if out, err := gateway.Client().Do(ctx, r); err != nil || out.Version != 1 || out.Duplicate || out.ID != r.ID {
			t.Errorf("applied: %+v, %v", out, err)
		}
		if out, err := gateway.Client().Do(ctx, r); err != nil || out.Version != 1 || !out.Duplicate {
			t.Errorf("duplicate: %+v, %v", out, err)
		}
		r.Command = till.Put{Amount: 6}
		var conflict *deja.Conflict
		if _, err := gateway.Client().Do(ctx, r); !errors.As(err, &conflict) {
			t.Errorf("conflict: %v", err)
		}
		if _, err := gateway.Client().Do(ctx, deja.Request{Key: "a", Command: till.Take{Amount: 50}}); !errors.Is(err, till.ErrEmpty) {
			t.Errorf("rejected: %v", err)
		}
		bad := deja.Request{ID: deja.NewID(), Key: "b", Command: till.Crash{}}
		if _, err := gateway.Client().Do(ctx, bad); !errors.Is(err, deja.ErrParked) {
			t.Errorf("parked: %v", err)
		}
		if err := gateway.Skip(ctx, engine.Act{Stream: deja.Stream{Aggregate: "till", Key: "b"}, Message: bad.ID}); err != nil {
			t.Errorf("skip: %v", err)
		}
		var dead *deja.Dead
		if _, err := gateway.Client().Do(ctx, bad); !errors.As(err, &dead) {
			t.Errorf("dead: %v", err)
		}
		n.end()
		short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
		defer cancel()
		r = deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 1}}
		if _, err := gateway.Client().Do(short, r); !errors.Is(err, deja.ErrPending) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("pending: %v", err)
		}
		runNode(t, cfg)
		if out, err := gateway.Client().Do(ctx, r); err != nil || out.Version != 2 {
			t.Errorf("asked again: %+v, %v", out, err)
		}
	})
}

func TestManyDosOfOneMessageApplyItOnce(t *testing.T) {
	t.Parallel()
	log, store := memory.NewLog(memory.LogConfig{Partitions: 3}), memory.NewStore()
	gateway := newEngine(t, engine.Config{Log: log, Store: store})
	n := runNode(t, engine.Config{Log: log, Store: store})
	ctx := timeout(t)
	for range 10 {
		r := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 1}}
		var first atomic.Int64
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				c := n.Client()
				if i%2 == 0 {
					c = gateway.Client()
				}
				out, err := c.Do(ctx, r)
				if err != nil {
					t.Errorf("Do: %v", err)
				}
				if !out.Duplicate {
					first.Add(1)
				}
			})
		}
		all.Wait()
		if first.Load() != 1 {
			t.Errorf("%d of them were told that theirs was the first", first.Load())
		}
	}
	var s till.Till
	if _, err := n.Client().State(ctx, deja.Stream{Aggregate: "till", Key: "a"}, &s); err != nil || s.Balance != 10 {
		t.Errorf("balance %d, %v", s.Balance, err)
	}
}

// blind is a store whose ledger once does not know what it knows, as while it is made anew.
type blind struct {
	*memory.Store
	left atomic.Int64
}

func (b *blind) Lookup(ctx context.Context, keys []deja.ID) ([]driver.Entry, int64, error) {
	if b.left.Add(-1) >= 0 {
		return nil, 0, nil
	}
	return b.Store.Lookup(ctx, keys)
}

// Of a duplicate nothing is logged: whoever did not know that his is one must not wait for ever.
func TestADuplicateThatTheLedgerDidNotKnowIsAnswered(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{}), memory.NewStore()
		n := runNode(t, engine.Config{Log: log, Store: store})
		r := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 1}}
		if _, err := n.Client().Do(timeout(t), r); err != nil {
			t.Fatal(err)
		}
		until(t, "it is noted as logged", func() bool { return leases(t, store)[0].Logged.N == 1 })
		b := &blind{Store: store}
		b.left.Store(1)
		if out, err := newEngine(t, engine.Config{Log: log, Store: b}).Client().Do(timeout(t), r); err != nil || !out.Duplicate || out.Version != 1 {
			t.Errorf("told %+v, %v", out, err)
		}
	})
}

// future puts a record into a partition that halts it.
func future(t *testing.T, log *memory.Log, partition int32) {
	t.Helper()
	_, end, err := log.Bounds(t.Context(), shopInbox, partition)
	if err == nil {
		err = log.Import(t.Context(), shopInbox, []driver.Record{{Partition: partition, Offset: end, Time: time.Now().Add(time.Hour)}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestOtherPartitionsGoOnWhenOneHalts(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const partitions = 3
		log, store := memory.NewLog(memory.LogConfig{Partitions: partitions}), memory.NewStore()
		n := runNode(t, engine.Config{Log: log, Store: store})
		put(t, n.Engine, "a", 1)
		future(t, log, 1)
		until(t, "one has halted", func() bool { return states(t, n.Engine) == "idle halted idle" })
		h := healthOf(t, n.Engine)
		if h.OK() || !strings.Contains(h.Partitions[1].Error, "clock") || h.Partitions[1].Lag != 1 {
			t.Errorf("health is %+v", h)
		}
		put(t, n.Engine, keyIn(0, partitions), 1)
		put(t, n.Engine, keyIn(2, partitions), 1)
		if _, err := n.Client().Do(timeout(t), deja.Request{Key: keyIn(1, partitions), Command: till.Put{Amount: 1}}); !errors.Is(err, deja.ErrHalted) || !errors.Is(err, engine.ErrClock) {
			t.Errorf("Do gives %v", err)
		}
		future(t, log, 0)
		future(t, log, 2)
		<-n.done
		if !errors.Is(n.err, deja.ErrHalted) || !errors.Is(n.err, engine.ErrClock) {
			t.Errorf("Run gives %v", n.err)
		}
		for _, l := range leases(t, store) {
			if l.Held {
				t.Errorf("partition %d is still held", l.Partition)
			}
		}
	})
}

// A partition that halted here and becomes another process's must be given to it, or nobody would say what is wrong.
func TestAHaltedPartitionIsGivenAway(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{Partitions: 2}), memory.NewStore()
		first := runNode(t, engine.Config{Log: log, Store: store})
		put(t, first.Engine, "a", 1)
		future(t, log, 1)
		until(t, "one has halted", func() bool { return states(t, first.Engine) == "idle halted" })
		second := runNode(t, engine.Config{Log: log, Store: store})
		select { // either has one partition; the one with the halted one has nothing left to do
		case <-first.done:
			until(t, "the second works", func() bool { return strings.HasPrefix(states(t, second.Engine), "idle") })
		case <-second.done:
			if !errors.Is(second.err, deja.ErrHalted) {
				t.Errorf("Run gives %v", second.err)
			}
		case <-time.After(patience):
			t.Fatal("nobody has the halted partition")
		}
	})
}

// silent is a store whose take-over of a partition takes effect, and is not answered.
type silent struct {
	*memory.Store
	partition int32
}

func (s silent) Acquire(ctx context.Context, a driver.Assignment) (driver.Lease, error) {
	l, err := s.Store.Acquire(ctx, a)
	if a.Partition == s.partition {
		<-ctx.Done()
		return driver.Lease{}, ctx.Err()
	}
	return l, err
}

// A process that was stopped in the middle of a take-over may hold what it knows nothing of.
func TestALeaseWithoutAWorkerIsGivenBack(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{Partitions: 2}), memory.NewStore()
		before := runNode(t, engine.Config{Log: log, Store: store})
		put(t, before.Engine, "a", 1)
		before.end()
		for number := range int32(2) { // whichever becomes the other's
			first := runNode(t, engine.Config{Log: log, Store: silent{store, number}})
			put(t, first.Engine, keyIn(1-number, 2), 1)
			second := runNode(t, engine.Config{Log: log, Store: store})
			until(t, "each has one", func() bool { return strings.Contains(states(t, second.Engine), "idle") })
			if p := healthOf(t, second.Engine).Partitions[number]; p.State == "idle" {
				put(t, second.Engine, keyIn(number, 2), 1)
			}
			first.end()
			put(t, second.Engine, keyIn(number, 2), 1)
			second.end()
		}
	})
}

// slow is a store whose transactions are long in coming.
type slow struct{ *memory.Store }

func (s slow) Begin(ctx context.Context, l driver.Lease) (driver.Tx, error) {
	time.Sleep(50 * time.Millisecond)
	return s.Store.Begin(ctx, l)
}

// An operator's act has its stream for itself: what is still on its way to the store would be missed.
func TestAnActSeesWhatWasParkedRightBeforeIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{}), memory.NewStore()
		var broken atomic.Bool
		broken.Store(true)
		service := till.Service(till.Variant{Broken: broken.Load})
		n := runNode(t, engine.Config{Service: service, Log: log, Store: store})
		bad := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Crash{}}
		if _, err := n.Client().Do(timeout(t), bad); !errors.Is(err, deja.ErrParked) {
			t.Fatal(err)
		}
		n.end()
		gateway := newEngine(t, engine.Config{Service: service, Log: log, Store: store})
		behind := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 1}}
		if _, err := gateway.Client().Send(t.Context(), behind); err != nil {
			t.Fatal(err)
		}
		answer := make(chan error, 1)
		act := engine.Act{Stream: deja.Stream{Aggregate: "till", Key: "a"}, Message: bad.ID}
		go func() { answer <- gateway.Retry(timeout(t), act) }()
		until(t, "all is in the inbox", func() bool { _, end, err := log.Bounds(t.Context(), shopInbox, 0); return err == nil && end == 3 })
		broken.Store(false)
		runNode(t, engine.Config{Service: service, Log: log, Store: slow{store}})
		if err := <-answer; err != nil {
			t.Errorf("retry: %v", err)
		}
		if ps, err := store.Parked(t.Context(), 0, act.Stream, 0, 10); err != nil || len(ps) > 0 {
			t.Errorf("still parked: %v, %v", ps, err)
		}
	})
}

// What is committed and not in the journal may be taken back by a later life: it is told to nobody.
func TestNothingIsToldBeforeTheJournalHasIt(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{}), memory.NewStore()
		var fails atomic.Bool
		p := newProcess(func(s fault.Step) fault.Mode {
			if s.Call == "log.Append" && s.On == shopJournal && fails.Load() {
				return fault.FailBefore
			}
			return fault.Pass
		})
		n := runNode(t, engine.Config{Log: p.Log(log), Store: store})
		put(t, n.Engine, "a", 1) // a life may begin with the first message
		fails.Store(true)
		ctx, cancel := context.WithCancel(timeout(t))
		defer cancel()
		r := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Put{Amount: 1}}
		told := make(chan error, 1)
		go func() {
			_, err := n.Client().Do(ctx, r)
			told <- err
		}()
		until(t, "it is committed", func() bool { ls := leases(t, store); return len(ls) == 1 && ls[0].Progress.N == 2 })
		time.Sleep(50 * time.Millisecond) // for whoever would tell it
		cancel()
		if err := <-told; !errors.Is(err, deja.ErrPending) {
			t.Errorf("told %v", err)
		}
		fails.Store(false)
		if out, err := n.Client().Do(timeout(t), r); err != nil || out.Version != 2 || !out.Duplicate {
			t.Errorf("once it is logged: %+v, %v", out, err)
		}
	})
}
