package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
)

// Bills are paid by a provider outside.
type (
	pay  struct{ Amount int64 }
	paid struct{ Number string }

	owed    struct{ Amount int64 }
	settled struct{ How string }

	charge struct{ Bill string }

	bill struct {
		How []string `json:"how"`
	}
)

func (pay) CommandType() string   { return "bill.pay" }
func (paid) CommandType() string  { return "bill.paid" }
func (owed) EventType() string    { return "bill.owed" }
func (settled) EventType() string { return "bill.settled" }
func (charge) EffectType() string { return "card.charge" }

func bills() *deja.Service {
	return &deja.Service{Name: "bills", Aggregates: []deja.AnyAggregate{deja.NewAggregate("bill",
		deja.Handle(func(_ bill, d *deja.Decision, c pay) error {
			d.Record(owed(c))
			d.Effect(charge{d.Key()})
			return nil
		}),
		deja.Handle(func(_ bill, d *deja.Decision, c paid) error {
			d.Record(settled{"paid " + c.Number})
			return nil
		}),
		deja.OnFailed(func(_ bill, d *deja.Decision, f deja.Failed[charge]) error {
			d.Record(settled{"failed " + f.Reason.Code})
			return nil
		}),
		deja.Apply(func(*bill, owed) {}),
		deja.Apply(func(b *bill, e settled) { b.How = append(b.How, e.How) }),
	)}}
}

// card is a provider that does as it is told.
type card struct {
	mu    sync.Mutex
	calls map[string][]deja.ID // the keys of all calls, by bill
	at    int                  // calls that are under way
	most  int                  // that there were at a time
	do    func(ctx context.Context, bill string, tries int) error
}

func (c *card) charge(ctx context.Context, key deja.ID, e charge) (deja.Command, error) {
	c.mu.Lock()
	if c.calls == nil {
		c.calls = map[string][]deja.ID{}
	}
	c.calls[e.Bill] = append(c.calls[e.Bill], key)
	tries := len(c.calls[e.Bill])
	c.at++
	c.most = max(c.most, c.at)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.at--
	}()
	if c.do != nil {
		if err := c.do(ctx, e.Bill, tries); err != nil {
			return nil, err
		}
	}
	return paid{"once"}, nil
}

// knows reports whether a bill was charged under a key.
func (c *card) knows(key deja.ID, bill string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.calls[bill], key)
}

// called returns how many calls there were, and how many bills have more than one key.
func (c *card) called() (calls, mixed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, keys := range c.calls {
		calls += len(keys)
		if slices.ContainsFunc(keys, func(k deja.ID) bool { return k != keys[0] }) {
			mixed++
		}
	}
	return calls, mixed
}

// counter is the bills' service with its log and store.
type counter struct {
	t     *testing.T
	log   driver.Log
	store *memory.Store
	card  *card
}

func newCounter(t *testing.T) *counter {
	return &counter{t, memory.NewLog(memory.LogConfig{}), memory.NewStore(), &card{}}
}

func (c *counter) run(p deja.Performing[charge]) *node {
	p.Do = c.card.charge
	return runNode(c.t, engine.Config{Service: bills(), Log: c.log, Store: c.store, Effects: []deja.Performer{deja.PerformWith(p)}})
}

// pay has bills b0, b1, … paid.
func (c *counter) pay(n *node, count int) {
	c.t.Helper()
	for i := range count {
		if _, err := n.Client().Send(c.t.Context(), deja.Request{Key: fmt.Sprintf("b%d", i), Command: pay{1}}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// how returns how a bill was settled.
func (c *counter) how(n *node, bills int) string {
	return strings.Join(state[bill](c.t, n.Client(), "bill", fmt.Sprintf("b%d", bills)).How, ", ")
}

// all waits until bills b0, b1, … are settled, each once.
func (c *counter) all(n *node, count int, want string) {
	c.t.Helper()
	for i := range count {
		until(c.t, fmt.Sprintf("b%d is settled", i), func() bool { return c.how(n, i) != "" })
	}
	until(c.t, "nothing is open", func() bool {
		rows, err := c.store.Open(c.t.Context(), 0, deja.Stream{}, 1)
		return err == nil && len(rows) == 0
	})
	for i := range count {
		if got := c.how(n, i); got != want {
			c.t.Errorf("b%d: %q, want %q", i, got, want)
		}
	}
}

func TestNoMoreEffectsArePerformedAtATimeThanIsSaid(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCounter(t)
		c.card.do = func(context.Context, string, int) error { time.Sleep(5 * time.Millisecond); return nil }
		n := c.run(deja.Performing[charge]{Concurrency: 3})
		c.pay(n, 30)
		c.all(n, 30, "paid once")
		if c.card.most != 3 {
			t.Errorf("%d were performed at a time, want 3", c.card.most)
		}
	})
}

func TestMoreEffectsThanAPartitionKeepsAreAllPerformed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const count = 5 * engine.MaxPerforming
		c := newCounter(t)
		free := make(chan struct{})
		c.card.do = func(ctx context.Context, _ string, _ int) error {
			select {
			case <-free:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		n := c.run(deja.Performing[charge]{Concurrency: 8})
		c.pay(n, count)
		until(t, "all are decided", func() bool { return len(outcomes(t, c.log, "bills", deja.KindCommand)) == count })
		close(free)
		c.all(n, count, "paid once")
		if calls, _ := c.card.called(); calls != count {
			t.Errorf("%d calls, want %d", calls, count)
		}
	})
}

// A provider that fails each time is left alone but for one try now and then, and comes back.
func TestAProviderThatIsDownIsLeftAlone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCounter(t)
		var down atomic.Bool
		down.Store(true)
		c.card.do = func(context.Context, string, int) error {
			if down.Load() {
				return errors.New("no route to host")
			}
			return nil
		}
		n := c.run(deja.Performing[charge]{Concurrency: 4})
		c.pay(n, 20)
		until(t, "health says so", func() bool {
			return slices.ContainsFunc(healthOf(t, n.Engine).Faults, func(f string) bool { return strings.Contains(f, "no route to host") })
		})
		before, _ := c.card.called()
		time.Sleep(time.Second)
		after, _ := c.card.called()
		if before > 10 || after-before > 5 {
			t.Errorf("%d calls until it was left alone, and %d in the second after", before, after-before)
		}
		down.Store(false)
		c.all(n, 20, "paid once")
		if _, mixed := c.card.called(); mixed > 0 {
			t.Errorf("%d bills were charged under more than one key", mixed)
		}
		until(t, "all is well", func() bool { return healthOf(t, n.Engine).OK() })
	})
}

func TestAnEffectOfUnknownOutcomeIsForAPersonToDecide(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCounter(t)
		c.card.do = func(context.Context, string, int) error { return errors.New("the line is dead") }
		p := deja.Performing[charge]{Window: 200 * time.Millisecond}
		n := c.run(p)
		c.pay(n, 3)
		unknown := func() []engine.UnknownEffect { return healthOf(t, n.Engine).Unknown }
		until(t, "nobody knows", func() bool { return len(unknown()) == 3 })
		calls, _ := c.card.called()
		n.end()
		n = c.run(p) // and another process does not try them either
		until(t, "nobody knows still", func() bool { return len(unknown()) == 3 })
		if more, _ := c.card.called(); more != calls || calls == 0 {
			t.Errorf("%d calls inside the window and %d after it", calls, more-calls)
		}
		us := unknown()
		slices.SortFunc(us, func(a, b engine.UnknownEffect) int { return a.Stream.Compare(b.Stream) })
		for i, r := range []engine.Resolution{
			{Answer: paid{"by hand"}, Actor: "ops", Reason: "it is on the statement"},
			{Rejection: deja.NewRejection("card.lost"), Actor: "ops", Reason: "it is not"},
			{Actor: "ops", Reason: "never mind"},
		} {
			r.Stream, r.Effect = us[i].Stream, us[i].ID
			if _, err := n.Resolve(timeout(t), r); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Resolve(timeout(t), r); !errors.Is(err, deja.ErrInvalid) {
				t.Errorf("resolved a second time: %v", err)
			}
		}
		for i, want := range []string{"paid by hand", "failed card.lost", ""} {
			if got := c.how(n, i); got != want {
				t.Errorf("b%d: %q, want %q", i, got, want)
			}
		}
		until(t, "all is well", func() bool { return healthOf(t, n.Engine).OK() })
	})
}

func TestAProviderIsAskedWhatBecameOfAnEffect(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCounter(t)
		c.card.do = func(context.Context, string, int) error { return errors.New("the line is dead") }
		var asked atomic.Int64
		n := c.run(deja.Performing[charge]{Window: 400 * time.Millisecond, Inquire: func(_ context.Context, key deja.ID, e charge) (deja.Command, error) {
			switch {
			case asked.Add(1) == 1:
				return nil, errors.New("not yet")
			case !c.card.knows(key, e.Bill):
				return nil, deja.NewRejection("card.other-key")
			case e.Bill == "b1":
				return nil, deja.NewRejection("card.never-seen")
			}
			return paid{"long ago"}, nil
		}})
		until(t, "the engine is at work", func() bool { return states(t, n.Engine) == "idle" })
		c.pay(n, 2)
		for i, want := range []string{"paid long ago", "failed card.never-seen"} {
			until(t, "it is settled", func() bool { return c.how(n, i) != "" })
			if got := c.how(n, i); got != want {
				t.Errorf("b%d: %q, want %q", i, got, want)
			}
		}
	})
}

// The provider is left alone for longer than it remembers keys: then it is not called with one any more.
func TestAnEffectIsNotTriedWhenItsTurnComesTooLate(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCounter(t)
		began := time.Now()
		var late atomic.Int64
		const window = time.Second
		c.card.do = func(context.Context, string, int) error {
			if time.Since(began) > window+500*time.Millisecond {
				late.Add(1)
			}
			return errors.New("the line is dead")
		}
		n := c.run(deja.Performing[charge]{Window: window})
		c.pay(n, 8)
		until(t, "nobody knows", func() bool { return len(healthOf(t, n.Engine).Unknown) == 8 })
		if late.Load() > 0 {
			t.Errorf("it was called %d times when it may have forgotten the key", late.Load())
		}
	})
}

// What is open when its process dies, or the store is lost, is tried again with its key; what has a result is not.
func TestAnOpenEffectOutlivesProcessAndStore(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCounter(t)
		n := c.run(deja.Performing[charge]{})
		c.pay(n, 1)
		c.all(n, 1, "paid once")
		c.card.do = func(ctx context.Context, bill string, tries int) error {
			if tries < 3 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		if _, err := n.Client().Send(t.Context(), deja.Request{Key: "b1", Command: pay{1}}); err != nil {
			t.Fatal(err)
		}
		tries := func() int {
			c.card.mu.Lock()
			defer c.card.mu.Unlock()
			return len(c.card.calls["b1"])
		}
		until(t, "it is tried", func() bool { return tries() == 1 })
		n.end()
		n = c.run(deja.Performing[charge]{})
		until(t, "it is tried by another process", func() bool { return tries() == 2 })
		n.end()
		c.store = memory.NewStore()
		n = c.run(deja.Performing[charge]{})
		c.all(n, 2, "paid once")
		if calls, mixed := c.card.called(); calls != 4 || mixed != 0 {
			t.Errorf("%d calls, and %d bills with more than one key; want 4 and none", calls, mixed)
		}
	})
}

// While the journal takes nothing, the decision may be lost with the store: nobody has heard of it, the provider least of
// all.
func TestAnEffectWaitsUntilItsDecisionIsLogged(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newCounter(t)
		held := &heldTopic{Log: c.log.(*memory.Log), topic: "bills.journal"}
		c.log = held
		n := c.run(deja.Performing[charge]{})
		c.pay(n, 1)
		c.all(n, 1, "paid once")
		free := held.hold()
		if _, err := n.Client().Send(t.Context(), deja.Request{Key: "b1", Command: pay{1}}); err != nil {
			t.Fatal(err)
		}
		until(t, "it is decided", func() bool {
			return len(opened(t, c.store, "bills", deja.Stream{Aggregate: "bill", Key: "b1"}).Effects) == 1
		})
		time.Sleep(200 * time.Millisecond)
		if calls, _ := c.card.called(); calls > 1 {
			t.Error("it was performed before it was logged")
		}
		free()
		c.all(n, 2, "paid once")
	})
}

// heldTopic is a log whose appends to a topic wait while it is held.
type heldTopic struct {
	*memory.Log
	topic string
	held  atomic.Pointer[chan struct{}] // closed when it is free again; nil before it is held
}

// hold holds the topic until what it returns is called.
func (l *heldTopic) hold() (free func()) {
	held := make(chan struct{})
	l.held.Store(&held)
	return func() { close(held) }
}

func (l *heldTopic) Append(ctx context.Context, topic string, recs []driver.Record) ([]deja.Position, error) {
	if held := l.held.Load(); held != nil && topic == l.topic {
		select {
		case <-*held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return l.Log.Append(ctx, topic, recs)
}

// openEffect returns the only effect that a bill waits for.
func (c *counter) openEffect(bill string) (s deja.Stream, id deja.ID) {
	c.t.Helper()
	s = deja.Stream{Aggregate: "bill", Key: bill}
	until(c.t, "an effect is open", func() bool {
		open := opened(c.t, c.store, "bills", s)
		if len(open.Effects) == 1 {
			id = open.Effects[0].ID
		}
		return !id.IsZero()
	})
	return s, id
}

// A person gives an effect up while the provider is being called for it, and others wait for their next try. Were it called
// again, it would perform what was given up.
func TestAnEffectThatAPersonHasDecidedIsNotTriedAnyMore(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	ended := make(chan struct{})
	c.card.do = func(ctx context.Context, _ string, _ int) error {
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}
	n := c.run(deja.Performing[charge]{Deadline: time.Hour})
	c.pay(n, 1)
	until(t, "it is tried", func() bool { calls, _ := c.card.called(); return calls == 1 })
	stream, id := c.openEffect("b0")
	if _, err := n.Resolve(timeout(t), engine.Resolution{
		Stream: stream, Effect: id, Rejection: deja.NewRejection("card.lost"), Actor: "ops", Reason: "the line is dead for good",
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the call goes on")
	}
	c.all(n, 1, "failed card.lost")
	until(t, "all is well", func() bool { return healthOf(t, n.Engine).OK() })
}

// A function that does not heed its context keeps no partition from being given back.
func TestAnEngineStopsThoughAProviderIsStillCalled(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	free := make(chan struct{})
	t.Cleanup(func() { close(free) })
	c.card.do = func(_ context.Context, _ string, tries int) error {
		if tries == 1 {
			<-free
		}
		return nil
	}
	n := c.run(deja.Performing[charge]{})
	c.pay(n, 1)
	until(t, "it is tried", func() bool { calls, _ := c.card.called(); return calls == 1 })
	n.end()
	n = c.run(deja.Performing[charge]{})
	c.all(n, 1, "paid once")
	if calls, mixed := c.card.called(); calls != 2 || mixed != 0 {
		t.Errorf("%d calls, and %d bills with more than one key", calls, mixed)
	}
}

// Its place is taken, and those behind it wait: somebody must hear of it.
func TestACallThatDoesNotEndIsShown(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	free := make(chan struct{})
	c.card.do = func(context.Context, string, int) error { <-free; return nil }
	n := c.run(deja.Performing[charge]{Concurrency: 1, Deadline: time.Millisecond})
	c.pay(n, 2)
	until(t, "health says so", func() bool { return !healthOf(t, n.Engine).OK() })
	close(free)
	c.all(n, 2, "paid once")
	until(t, "all is well", func() bool { return healthOf(t, n.Engine).OK() })
}

// unmarshalled is an answer that cannot be written down.
type unmarshalled struct{}

func (unmarshalled) CommandType() string          { return "bill.paid" }
func (unmarshalled) MarshalJSON() ([]byte, error) { panic("no way") }

// Its message would be dead, and the effect open for ever, as that has taken the ID of any other result.
func TestAnAnswerThatNobodyCanHearIsForAPersonToDecide(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]deja.Command{
		"without a handler": unset{"one"}, "a nil pointer": (*paid)(nil), "a panic": unmarshalled{},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t)
			n := runNode(t, engine.Config{Service: bills(), Log: c.log, Store: c.store, Effects: []deja.Performer{
				deja.Perform(func(context.Context, deja.ID, charge) (deja.Command, error) { return answer, nil }),
			}})
			c.pay(n, 1)
			until(t, "a person must say", func() bool { return len(healthOf(t, n.Engine).Unknown) == 1 })
			r := engine.Resolution{Actor: "ops", Answer: answer}
			r.Stream, r.Effect = c.openEffect("b0")
			if _, err := n.Resolve(timeout(t), r); !errors.Is(err, deja.ErrInvalid) {
				t.Errorf("the same by hand: %v", err)
			}
			r.Answer = paid{"by hand"}
			if _, err := n.Resolve(timeout(t), r); err != nil {
				t.Fatal(err)
			}
			c.all(n, 1, "paid by hand")
			until(t, "all is well", func() bool { return healthOf(t, n.Engine).OK() })
		})
	}
}

// A provider that cannot tell is asked on, and a person may know.
func TestAnEffectOfWhichAProviderCannotTellIsShown(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	c.card.do = func(context.Context, string, int) error { return errors.New("the line is dead") }
	n := c.run(deja.Performing[charge]{Window: time.Nanosecond, Inquire: func(context.Context, deja.ID, charge) (deja.Command, error) {
		return nil, errors.New("ask again")
	}})
	c.pay(n, 1)
	until(t, "a person may say", func() bool { return len(healthOf(t, n.Engine).Unknown) == 1 })
	stream, id := c.openEffect("b0")
	if _, err := n.Resolve(timeout(t), engine.Resolution{Stream: stream, Effect: id, Answer: paid{"by hand"}}); err != nil {
		t.Fatal(err)
	}
	c.all(n, 1, "paid by hand")
	until(t, "nobody is to say any more", func() bool { return len(healthOf(t, n.Engine).Unknown) == 0 })
}

// What a process does not perform any more is not for it to tell.
func TestAProcessThatPerformsNothingHasNoFaultsOfEffects(t *testing.T) {
	t.Parallel()
	for name, window := range map[string]time.Duration{"it fails": 0, "it is too late": time.Nanosecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCounter(t)
			c.card.do = func(context.Context, string, int) error { return errors.New("the line is dead") }
			n := c.run(deja.Performing[charge]{Window: window, Concurrency: 4})
			c.pay(n, 20)
			until(t, "health says so", func() bool { return !healthOf(t, n.Engine).OK() })
			n.end()
			if h := healthOf(t, n.Engine); !h.OK() {
				t.Errorf("after it has ended, it has faults %q, and %d effects are unknown", h.Faults, len(h.Unknown))
			}
		})
	}
}
