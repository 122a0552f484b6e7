package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
)

// The clock is a service of alarms, each with any number of bells that ring when their time has come.
type (
	set struct {
		Bell string
		In   time.Duration
	}
	unset struct{ Bell string }
	ring  struct{ Bell string }

	rang struct{ Bell string }
	did  struct{ What string }

	alarm struct {
		Rang map[string]int `json:"rang"`
	}
)

func (set) CommandType() string   { return "alarm.set" }
func (unset) CommandType() string { return "alarm.unset" }
func (ring) CommandType() string  { return "alarm.ring" }
func (rang) EventType() string    { return "alarm.rang" }
func (did) EventType() string     { return "alarm.did" }

func clock() *deja.Service {
	return &deja.Service{Name: "clock", Aggregates: []deja.AnyAggregate{deja.NewAggregate("alarm",
		deja.Handle(func(_ alarm, d *deja.Decision, c set) error {
			d.Schedule(c.Bell, d.Time().Add(c.In), ring{c.Bell})
			d.Record(did{"set"})
			return nil
		}),
		deja.Handle(func(_ alarm, d *deja.Decision, c unset) error {
			d.Cancel(c.Bell)
			d.Record(did{"unset"})
			return nil
		}),
		deja.Handle(func(_ alarm, d *deja.Decision, c ring) error {
			if c.Bell == "broken" {
				return errors.New("the bell is broken")
			}
			d.Record(rang(c))
			return nil
		}),
		deja.Apply(func(a *alarm, e rang) {
			if a.Rang == nil {
				a.Rang = map[string]int{}
			}
			a.Rang[e.Bell]++
		}),
		deja.Apply(func(*alarm, did) {}),
	)}}
}

// tower is the clock with its log and store.
type tower struct {
	t     *testing.T
	log   *memory.Log
	store *memory.Store
}

func newTower(t *testing.T) *tower {
	return &tower{t, memory.NewLog(memory.LogConfig{Partitions: 2}), memory.NewStore()}
}

func (w *tower) run() *node {
	return runNode(w.t, engine.Config{Service: clock(), Log: w.log, Store: w.store})
}

func (w *tower) send(cs ...deja.Command) {
	w.t.Helper()
	w.sendTo("a", cs...)
}

func (w *tower) sendTo(key string, cs ...deja.Command) {
	w.t.Helper()
	client := newEngine(w.t, engine.Config{Service: clock(), Log: w.log, Store: w.store}).Client()
	for _, c := range cs {
		if _, err := client.Send(w.t.Context(), deja.Request{Key: key, Command: c}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// rang returns how often a bell rang.
func (w *tower) rang(n *node, bell string) int {
	return state[alarm](w.t, n.Client(), "alarm", "a").Rang[bell]
}

// pending returns what an alarm waits for.
func (w *tower) pending() []deja.Timer {
	w.t.Helper()
	return opened(w.t, w.store, "clock", deja.Stream{Aggregate: "alarm", Key: "a"}).Timers
}

// opened returns what a stream waits for.
func opened(t *testing.T, store driver.Store, service string, s deja.Stream) wire.Open {
	t.Helper()
	rows, err := store.Load(t.Context(), []deja.Stream{s})
	if err != nil || len(rows) != 1 {
		return wire.Open{}
	}
	open, err := wire.DecodeOpen(service, s, rows[0].Open)
	if err != nil {
		t.Fatal(err)
	}
	return open
}

// fire appends the message of a timer, as one who is early or late would.
func (w *tower) fire(timer deja.Timer) {
	w.t.Helper()
	m := route.Fired(&timer)
	deliver(w.t, w.log, "clock", &m)
}

// deliver appends a message to a service's inbox.
func deliver(t *testing.T, log driver.Log, service string, m *deja.Envelope) {
	t.Helper()
	top, err := log.Topic(t.Context(), wire.Inbox(service))
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, log, top.Name, route.Record(m, top.Partitions))
}

// outcomes returns how the messages of a kind were decided, of one service: "ignored deja.early" or "applied".
func outcomes(t *testing.T, log driver.Log, service string, kind deja.Kind) []string {
	t.Helper()
	var all []string
	dec := wire.NewDecoder(service)
	for _, rec := range topicRecords(t, log, service+".journal") {
		r, err := dec.Record(rec.Partition, rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		if r.Marker() || r.Cause.Kind != kind {
			continue
		}
		text := r.Decided.Status.String()
		if code := r.Decided.Reason.Code; code != "" {
			text += " " + code
		}
		all = append(all, text)
	}
	return all
}

// wantOutcomes waits until so many messages of a kind were logged: what the store shows may not have been yet.
func wantOutcomes(t *testing.T, log driver.Log, service string, kind deja.Kind, want ...string) {
	t.Helper()
	var got []string
	until(t, fmt.Sprintf("%d %s messages of %s are logged", len(want), kind, service), func() bool {
		got = outcomes(t, log, service, kind)
		return len(got) >= len(want)
	})
	if len(got) != len(want) {
		t.Fatalf("the %s messages of %s were %q, want %q", kind, service, got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("the %s messages of %s were %q, want %q", kind, service, got, want)
		}
	}
}

func TestATimerThatFiresEarlyIsArmedAgain(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTower(t)
		n := w.run()
		w.send(set{"one", 2 * time.Second})
		until(t, "the bell is set", func() bool { return len(w.pending()) == 1 })
		w.fire(w.pending()[0])
		until(t, "the early one is decided", func() bool { return len(outcomes(t, w.log, "clock", deja.KindTimer)) == 1 })
		if w.rang(n, "one") != 0 {
			t.Error("it rang before its time")
		}
		until(t, "it rings", func() bool { return w.rang(n, "one") == 1 })
		until(t, "nothing is pending", func() bool { return len(w.pending()) == 0 })
		wantOutcomes(t, w.log, "clock", deja.KindTimer, "ignored deja.early", "applied")
	})
}

func TestATimerThatIsLateFiresOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTower(t)
		n := w.run()
		const due = 2 * time.Second // a slow machine may take a while to set them
		w.send(set{"one", due}, set{"two", due})
		until(t, "the bells are set", func() bool { return len(w.pending()) == 2 })
		n.end()
		time.Sleep(due)
		n = w.run()
		until(t, "both ring", func() bool { return w.rang(n, "one")+w.rang(n, "two") >= 2 })
		n.end() // in the middle of whatever it does
		n = w.run()
		time.Sleep(300 * time.Millisecond)
		if w.rang(n, "one") != 1 || w.rang(n, "two") != 1 {
			t.Errorf("they rang %d and %d times, want once each", w.rang(n, "one"), w.rang(n, "two"))
		}
	})
}

func TestATimerIsThereWhenTheStoreIsMadeAnew(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTower(t)
		n := w.run()
		w.send(set{"gone", time.Millisecond})
		until(t, "it rings", func() bool { return w.rang(n, "gone") == 1 })
		w.send(set{"one", 2 * time.Second}, set{"never", time.Hour}, unset{"never"})
		until(t, "the bells are set", func() bool { return len(w.pending()) == 1 })
		until(t, "all is logged", func() bool { return len(topicRecords(t, w.log, "clock.journal")) >= 5 })
		n.end()
		w.store = memory.NewStore()
		n = w.run()
		until(t, "it rings", func() bool { return w.rang(n, "one") == 1 })
		if w.rang(n, "gone") != 1 || w.rang(n, "never") != 0 || len(w.pending()) != 0 {
			t.Errorf("the one that had rung rang %d times, the one that was cancelled %d", w.rang(n, "gone"), w.rang(n, "never"))
		}
		wantOutcomes(t, w.log, "clock", deja.KindTimer, "applied", "applied")
	})
}

// The message of a timer lies in the inbox, behind the command that cancels it or sets it anew.
func TestATimerThatIsCancelledWhileItFiresDoesNothing(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTower(t)
		n := w.run()
		w.send(set{"one", time.Hour}, set{"two", time.Hour})
		until(t, "the bells are set", func() bool { return len(w.pending()) == 2 })
		was := w.pending()
		n.end()
		w.send(unset{"one"}, set{"two", 300 * time.Millisecond})
		w.fire(was[0])
		w.fire(was[1])
		n = w.run()
		until(t, "the second one rings, when it was set to at last", func() bool { return w.rang(n, "two") > 0 })
		if w.rang(n, "one") != 0 || w.rang(n, "two") != 1 {
			t.Errorf("they rang %d and %d times, want never and once", w.rang(n, "one"), w.rang(n, "two"))
		}
		wantOutcomes(t, w.log, "clock", deja.KindTimer, "ignored deja.not-pending", "ignored deja.not-pending", "applied")
	})
}

// Its message waits for an operator, and more of it would only fill the inbox.
func TestATimerWhoseHandlerFailsFiresOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newTower(t)
		w.run()
		w.send(set{"broken", 10 * time.Millisecond})
		end := func() int64 {
			_, end, err := w.log.Bounds(t.Context(), wire.Inbox("clock"), 0)
			if err != nil {
				t.Fatal(err)
			}
			return end
		}
		until(t, "the bell has failed", func() bool { return end() > 1 })
		time.Sleep(time.Second) // the wheel turns ten times
		if got := end(); got != 2 {
			t.Errorf("the inbox has %d messages, want the one that set the bell and one that rings it", got)
		}
	})
}

// boundsOf counts how often the bounds of a topic are asked for.
type boundsOf struct {
	*memory.Log
	topic string
	count atomic.Int64
}

func (l *boundsOf) Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error) {
	if topic == l.topic {
		l.count.Add(1)
	}
	return l.Log.Bounds(ctx, topic, partition)
}

// A timer whose message waits for an operator may do so for days. Meanwhile there is nothing to watch, and the others fire.
func TestAParkedTimerLeavesTheWheelAtRest(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	log := &boundsOf{Log: w.log, topic: wire.Inbox("clock")}
	n := runNode(t, engine.Config{Service: clock(), Log: log, Store: w.store})
	quiet := func() bool {
		before := log.count.Load()
		time.Sleep(500 * time.Millisecond) // the wheel turns five times
		return log.count.Load() == before
	}
	w.sendTo("b", set{"broken", 10 * time.Millisecond}, set{"later", 2 * time.Second})
	until(t, "the bell has failed", func() bool { return len(outcomes(t, w.log, "clock", deja.KindTimer)) == 1 })
	until(t, "the wheel is at rest", quiet)
	w.send(set{"one", 100 * time.Millisecond}, set{"two", 3 * time.Second})
	until(t, "one rings", func() bool { return w.rang(n, "one") == 1 })
	until(t, "the other of the broken one comes too", func() bool { return len(outcomes(t, w.log, "clock", deja.KindTimer)) == 3 })
	until(t, "two rings", func() bool { return w.rang(n, "two") == 1 })
	until(t, "the wheel is at rest", quiet)
}

// Our clock is ahead of the log's by more than the timer takes: its message is early until the log's clock gets there.
func TestATimerThatIsEarlyDoesNotFillTheInbox(t *testing.T) {
	t.Parallel()
	w := &tower{t, memory.NewLog(memory.LogConfig{Partitions: 2, Now: func() time.Time { return time.Now().Add(-time.Hour) }}), memory.NewStore()}
	n := w.run()
	w.send(set{"one", 2 * time.Second})
	until(t, "it rings", func() bool { return w.rang(n, "one") == 1 })
	if got := len(outcomes(t, w.log, "clock", deja.KindTimer)); got > 7 {
		t.Errorf("%d messages came of it, want each after twice the time", got)
	}
}

// A partition that never catches up still has a watermark.
func TestTimersFireWhileTheInboxLags(t *testing.T) {
	t.Parallel()
	w := newTower(t)
	p := newProcess(func(s fault.Step) fault.Mode {
		if s.Call == "tx.Commit" {
			time.Sleep(10 * time.Millisecond)
		}
		return fault.Pass
	})
	n := runNode(t, engine.Config{Service: clock(), Log: p.Log(w.log), Store: p.Store(w.store)})
	var ends atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !ends.Load() {
			w.send(set{"other", time.Hour}, unset{"other"}, set{"other", time.Hour})
		}
	}()
	defer func() { <-done }()
	defer ends.Store(true)
	w.send(set{"one", 200 * time.Millisecond})
	until(t, "it rings", func() bool { return w.rang(n, "one") == 1 })
}

// hold is a log whose reading of a topic stands still while it is held.
type hold struct {
	*memory.Log
	topic string
	free  chan struct{}
}

func (l hold) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	recs, err := l.Log.Fetch(ctx, from, max)
	if from.Topic == l.topic {
		select {
		case <-l.free:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return recs, err
}

// An outage ends after the time-out is due, and the answer had come: into the bank's inbox, or only into the ledger's
// journal, which is read slowly, while the bank handles younger messages.
func TestAnOutageTimesNothingOutThatTheBacklogAnswers(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"bank.inbox", "ledger.journal", "bank.journal"} {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				bank, ledger := remit.Services(remit.Variant{})
				log, banks, ledgers := memory.NewLog(memory.LogConfig{Partitions: 2}), memory.NewStore(), memory.NewStore()
				mail := &post{}
				free := make(chan struct{})
				cfg := engine.Config{Service: bank, Log: log, Store: banks, Peers: remit.Peers(), Effects: []deja.Performer{remit.Mailer(mail.send)}}
				b := runNode(t, cfg)
				must(t, b.Client(), deja.Request{Key: "ana", Command: remit.Deposit{Amount: 100}})
				must(t, b.Client(), deja.Request{Key: "r1", Command: remit.Start{From: "ana", To: "bob", Amount: 30, Patience: 400 * time.Millisecond}})
				posts := func() int { return len(topicRecords(t, log, "ledger.inbox")) }
				until(t, "the posting is sent", func() bool { return posts() == 1 })
				until(t, "the bank waits for its time-out", func() bool {
					return len(opened(t, banks, "bank", deja.Stream{Aggregate: "remittance", Key: "r1"}).Timers) == 1
				})
				b.end()
				l := runNode(t, engine.Config{Service: ledger, Log: log, Store: ledgers})
				until(t, "the ledger has posted", func() bool { return len(outcomes(t, log, "ledger", deja.KindCommand)) == 1 })
				l.end()
				time.Sleep(500 * time.Millisecond) // the time-out is due
				if _, err := b.Client().Send(t.Context(), deja.Request{Key: "ana", Command: remit.Deposit{Amount: 1}}); err != nil {
					t.Fatal(err)
				}
				cfg.Log = hold{log, topic, free}
				b = runNode(t, cfg)
				time.Sleep(600 * time.Millisecond)
				close(free)
				until(t, "it has ended", func() bool { return state[remit.Remittance](t, b.Client(), "remittance", "r1").Ends > 0 })
				if got := outcomes(t, log, "bank", deja.KindTimer); len(got) > 0 {
					t.Errorf("the time-out fired: %q", got)
				}
			})
		})
	}
}
