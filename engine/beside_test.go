package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/till"
)

// cursorLog is a log as a process sees it, with cursors. Set is told of each that is set, before.
type cursorLog struct {
	driver.Log
	driver.Cursors
	set func(topic string, partition int32, offset int64)
}

func (l cursorLog) SetCursor(ctx context.Context, reader, topic string, partition int32, offset int64) error {
	if l.set != nil {
		l.set(topic, partition, offset)
	}
	return l.Cursors.SetCursor(ctx, reader, topic, partition, offset)
}

// sometimes lets some of the appends to a topic fail, before or after they took effect.
func sometimes(rng *rand.Rand, topic string) func(fault.Step) fault.Mode {
	var mu sync.Mutex
	chance := rand.New(rand.NewPCG(rng.Uint64(), 3))
	return func(s fault.Step) fault.Mode {
		mu.Lock()
		defer mu.Unlock()
		if s.Call != "log.Append" || s.On != topic || chance.IntN(4) > 0 {
			return fault.Pass
		}
		return fault.Mode(1 + chance.IntN(2))
	}
}

func header(r driver.Record, name string) string {
	for _, h := range r.Headers {
		if h.Name == name {
			return string(h.Value)
		}
	}
	return ""
}

// Whatever fails and whoever has the partitions, the public topic has each event, and the first copies in order.
func TestPublishedEventsAreInOrder(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	const partitions = 2
	log, store := memory.NewLog(memory.LogConfig{Partitions: partitions}), memory.NewStore()
	if err := log.CreateTopic(t.Context(), "shop.events", 3); err != nil {
		t.Fatal(err)
	}
	start := func() *node {
		p := newProcess(sometimes(rng, "shop.events"))
		return runNode(t, engine.Config{Log: cursorLog{Log: p.Log(log), Cursors: log}, Store: store, Publish: "shop.events"})
	}
	gateway, sent := newEngine(t, engine.Config{Log: log, Store: store}), newLedger()
	node := start()
	for range 4 {
		sent.send(t, gateway.Client(), 9, 100)
		time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		other := start() // the partitions change hands with both at work
		sent.send(t, gateway.Client(), 9, 100)
		time.Sleep(time.Duration(rng.IntN(600)) * time.Millisecond)
		node.end()
		node = other
	}
	until(t, "all is handled and logged", func() bool { return handled(t, log, store, partitions) })
	var want []deja.Envelope
	for p := range int32(partitions) {
		for _, e := range decisions(t, log, p) {
			want = append(want, e.Decided.Events...)
		}
	}
	first := map[string]driver.Record{}
	order := map[string][]string{} // of the ids, by key
	until(t, "all events are published", func() bool {
		clear(first)
		clear(order)
		for _, r := range topicRecords(t, log, "shop.events") {
			id := header(r, "ce_id")
			if _, again := first[id]; !again {
				first[id] = r
				order[r.Key] = append(order[r.Key], id)
			}
		}
		return len(first) >= len(want)
	})
	wantOrder := map[string][]string{}
	for i := range want {
		ev := &want[i]
		wantOrder[ev.Stream.Key] = append(wantOrder[ev.Stream.Key], ev.ID.String())
		r := first[ev.ID.String()]
		for name, value := range map[string]string{
			"ce_specversion": "1.0", "ce_source": "shop", "ce_type": "till.added", "ce_subject": "till/" + ev.Stream.Key,
			"ce_time": ev.Time.Format(time.RFC3339Nano), "content-type": "application/json", "ce_partitionkey": ev.Stream.Key,
			"ce_version": fmt.Sprint(ev.Version), "ce_causationid": ev.CausationID.String(), "ce_correlationid": ev.CorrelationID.String(),
		} {
			if got := header(r, name); got != value {
				t.Fatalf("event %s: header %s is %q, want %q", ev.ID, name, got, value)
			}
		}
		if string(r.Value) != `{"Amount":1}` || r.Partition != place.Partition(ev.Stream.Key, 3) {
			t.Fatalf("event %s: %s in partition %d", ev.ID, r.Value, r.Partition)
		}
	}
	for key, ids := range wantOrder {
		if !slices.Equal(order[key], ids) {
			t.Errorf("the first copies of %s's events are not in order", key)
		}
	}
	if len(first) != len(want) {
		t.Errorf("%d events are public, %d were recorded", len(first), len(want))
	}
}

func TestPublishBeginsWhereATrimmedJournalDoes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{}), memory.NewStore()
		before := runNode(t, engine.Config{Log: log, Store: store})
		for range 3 {
			put(t, before.Engine, "a", 1)
		}
		before.end()
		_, end, err := log.Bounds(t.Context(), shopJournal, 0)
		if err != nil {
			t.Fatal(err)
		}
		log.Trim(shopJournal, 0, end-1)
		runNode(t, engine.Config{Log: log, Store: store, Publish: "shop.events"})
		until(t, "what is left is published", func() bool { return len(topicRecords(t, log, "shop.events")) == 1 })
		until(t, "the cursor is set", func() bool {
			at, err := log.Cursor(t.Context(), "shop.publish.shop.events", shopJournal, 0)
			return err == nil && at == end
		})
	})
}

// order is what foreigners want of the shop.
type order struct {
	Key    string
	Amount int64
}

// orders maps foreign records to requests, but for those that say how to fail.
func orders(broken *atomic.Bool) engine.Consume {
	return engine.Consume{Topic: "orders", Map: func(f *engine.Foreign) ([]deja.Request, error) {
		var o order
		if f.Type == "order.ignored" {
			return nil, nil
		}
		if err := json.Unmarshal(f.Data, &o); err != nil {
			return nil, err
		}
		if broken.Load() && o.Key == "error" {
			return nil, errors.New("what is this")
		}
		if broken.Load() && o.Key == "panic" {
			panic("what is this")
		}
		return []deja.Request{{Key: o.Key, Command: till.Put{Amount: o.Amount}}, {Key: o.Key, Command: till.Put{Amount: 0}}}, nil
	}}
}

func ce(id, typ, content string) []driver.Header {
	var hs []driver.Header
	for name, v := range map[string]string{"ce_specversion": "1.0", "ce_id": id, "ce_source": "/web", "ce_type": typ, "content-type": content, "traceparent": "00-1"} {
		hs = append(hs, driver.Header{Name: name, Value: []byte(v)})
	}
	return hs
}

func appendTo(t *testing.T, log driver.Log, topic string, recs ...driver.Record) {
	t.Helper()
	if _, err := log.Append(t.Context(), topic, recs); err != nil {
		t.Fatal(err)
	}
}

func balances(t *testing.T, e *engine.Engine, keys ...string) string {
	t.Helper()
	var bs []string
	for _, key := range keys {
		var s till.Till
		if _, err := e.Client().State(t.Context(), deja.Stream{Aggregate: "till", Key: key}, &s); err != nil {
			t.Fatal(err)
		}
		bs = append(bs, fmt.Sprint(s.Balance))
	}
	return strings.Join(bs, " ")
}

func TestForeignRecordsAreConsumed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{Partitions: 2}), memory.NewStore()
		if err := log.CreateTopic(t.Context(), "orders", 3); err != nil {
			t.Fatal(err)
		}
		structured := []driver.Header{{Name: "content-type", Value: []byte("application/CloudEvents+json; charset=utf-8")}}
		appendTo(t, log, "orders",
			driver.Record{Partition: 0, Value: []byte(`{"Key":"binary","Amount":1}`), Headers: ce("1", "order.placed", "application/json")},
			driver.Record{Partition: 1, Value: []byte(`{"Key":"binary","Amount":1}`), Headers: ce("1", "order.placed", "application/json")}, // sent twice
			driver.Record{Partition: 1, Value: []byte(`{"specversion":"1.0","id":"2","source":"/web","type":"order.placed","data":{"Key":"structured","Amount":2}}`), Headers: structured},
			driver.Record{Partition: 2, Value: []byte(`{"specversion":"1.0","id":"3","source":"/web","type":"order.placed","data_base64":"eyJLZXkiOiJiYXNlNjQiLCJBbW91bnQiOjN9"}`), Headers: structured},
			driver.Record{Partition: 2, Value: []byte(`{"specversion":"1.0","id":"4","source":"/web","type":"order.placed","datacontenttype":"text/plain","data":"{\"Key\":\"text\",\"Amount\":5}"}`), Headers: structured},
			driver.Record{Partition: 2, Value: []byte(`{"Key":"plain","Amount":4}`)},
			driver.Record{Partition: 2, Value: []byte(`{"Key":"plain","Amount":4}`)}, // another one
			driver.Record{Partition: 0, Value: []byte(`nothing`), Headers: ce("5", "order.ignored", "text/plain")},
		)
		var broken atomic.Bool
		cfg := engine.Config{Log: log, Store: store, Consume: []engine.Consume{orders(&broken)}}
		keys := []string{"binary", "structured", "base64", "plain", "text"}
		n := runNode(t, cfg)
		until(t, "all are applied", func() bool { return balances(t, n.Engine, keys...) == "1 2 3 8 5" })
		until(t, "the cursors are set", func() bool {
			at := [3]int64{}
			for p := range at {
				at[p], _ = log.Cursor(t.Context(), "shop.consume", "orders", int32(p))
			}
			return at == [3]int64{2, 2, 4}
		})
		n.end()
		traced := 0
		for _, r := range topicRecords(t, log, shopInbox) {
			if message(t, r).Headers["traceparent"] == "00-1" {
				traced++
			}
		}
		if traced == 0 {
			t.Error("no message has the trace of its cause")
		}
		sent := len(topicRecords(t, log, shopInbox))
		for p := range int32(3) { // as after a crash
			if err := log.SetCursor(t.Context(), "shop.consume", "orders", p, 0); err != nil {
				t.Fatal(err)
			}
		}
		n = runNode(t, cfg)
		until(t, "they are read again", func() bool {
			return len(topicRecords(t, log, shopInbox)) == 2*sent && handled(t, log, store, 2)
		})
		if got := balances(t, n.Engine, keys...); got != "1 2 3 8 5" {
			t.Errorf("read again, they have balances of %s", got)
		}
	})
}

// What is not understood is not skipped: its partition waits, and says so; the others go on.
func TestAForeignRecordThatIsNotUnderstoodStopsItsPartition(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"error", "panic"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				log, store := memory.NewLog(memory.LogConfig{}), memory.NewStore()
				if err := log.CreateTopic(t.Context(), "orders", 2); err != nil {
					t.Fatal(err)
				}
				var broken atomic.Bool
				broken.Store(true)
				n := runNode(t, engine.Config{Log: log, Store: store, Consume: []engine.Consume{orders(&broken)}})
				appendTo(t, log, "orders",
					driver.Record{Partition: 0, Value: []byte(`{"Key":"` + how + `","Amount":1}`)},
					driver.Record{Partition: 0, Value: []byte(`{"Key":"behind","Amount":1}`)})
				until(t, "the fault is shown", func() bool {
					h := healthOf(t, n.Engine)
					return !h.OK() && len(h.Faults) == 1 && strings.Contains(h.Faults[0], "orders/0") && strings.Contains(h.Faults[0], "what is this")
				})
				for i := range 5 {
					appendTo(t, log, "orders", driver.Record{Partition: 1, Value: []byte(`{"Key":"other","Amount":1}`)})
					until(t, "another partition goes on", func() bool { return balances(t, n.Engine, "other") == fmt.Sprint(i+1) })
					if len(healthOf(t, n.Engine).Faults) != 1 {
						t.Fatal("the fault is not shown any more")
					}
				}
				if got := balances(t, n.Engine, how, "behind"); got != "0 0" {
					t.Fatalf("balances %s: it was skipped", got)
				}
				broken.Store(false)
				until(t, "it goes on", func() bool { return balances(t, n.Engine, how, "behind") == "1 1" })
				until(t, "no fault is left", func() bool { return healthOf(t, n.Engine).OK() })
			})
		})
	}
}

// A fault that is over is not shown for ever, also where nothing more comes.
func TestAFaultThatIsOverIsNotShown(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{}), memory.NewStore()
		var fails atomic.Bool
		fails.Store(true)
		p := newProcess(func(s fault.Step) fault.Mode {
			if fails.Load() && (s.On == "orders:0" || s.On == "shop.events") {
				return fault.FailBefore
			}
			return fault.Pass
		})
		var broken atomic.Bool
		appendTo(t, log, "orders", driver.Record{Value: []byte(`{"Key":"a","Amount":1}`)})
		n := runNode(t, engine.Config{
			Log: cursorLog{Log: p.Log(log), Cursors: log}, Store: store, Publish: "shop.events", Consume: []engine.Consume{orders(&broken)},
		})
		put(t, n.Engine, "b", 1)
		until(t, "both are shown", func() bool { return len(healthOf(t, n.Engine).Faults) == 2 })
		if err := log.SetCursor(t.Context(), "shop.consume", "orders", 0, 1); err != nil { // nothing to do
			t.Fatal(err)
		}
		fails.Store(false)
		until(t, "none is shown", func() bool { return healthOf(t, n.Engine).OK() })
	})
}

// The cursor is never ahead of what the inbox has acknowledged.
func TestTheCursorIsNeverAheadOfTheInbox(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	log, store := memory.NewLog(memory.LogConfig{Partitions: 2}), memory.NewStore()
	if err := log.CreateTopic(t.Context(), "orders", 2); err != nil {
		t.Fatal(err)
	}
	p := newProcess(sometimes(rng, shopInbox))
	var checked atomic.Int64
	faulty := cursorLog{Log: p.Log(log), Cursors: log, set: func(topic string, partition int32, offset int64) {
		there := map[string]bool{}
		for _, r := range topicRecords(t, log, shopInbox) {
			there[message(t, r).Stream.Key] = true
		}
		for n := range offset {
			if !there[fmt.Sprintf("%d-%d", partition, n)] {
				t.Errorf("the cursor of %s/%d goes to %d, and %d is not in the inbox", topic, partition, offset, n)
			}
		}
		checked.Add(1)
	}}
	var broken atomic.Bool
	n := runNode(t, engine.Config{Log: faulty, Store: store, Consume: []engine.Consume{orders(&broken)}})
	for i := range 40 {
		for p := range int32(2) {
			appendTo(t, log, "orders", driver.Record{Partition: p, Value: fmt.Appendf(nil, `{"Key":"%d-%d","Amount":1}`, p, i)})
		}
		time.Sleep(time.Millisecond)
	}
	until(t, "all are there", func() bool {
		a, _ := log.Cursor(t.Context(), "shop.consume", "orders", 0)
		b, _ := log.Cursor(t.Context(), "shop.consume", "orders", 1)
		return a == 40 && b == 40
	})
	until(t, "all are handled", func() bool { return handled(t, log, store, 2) })
	for i := range 40 {
		for p := range 2 {
			if got := balances(t, n.Engine, fmt.Sprintf("%d-%d", p, i)); got != "1" {
				t.Errorf("order %d of partition %d has a balance of %s", i, p, got)
			}
		}
	}
	if checked.Load() == 0 {
		t.Error("no cursor was set: the test shows nothing")
	}
}

// A foreign topic is rarely kept from its beginning.
func TestConsumingBeginsWhereATrimmedTopicDoes(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		log, store := memory.NewLog(memory.LogConfig{}), memory.NewStore()
		for i := range 3 {
			appendTo(t, log, "orders", driver.Record{Value: fmt.Appendf(nil, `{"Key":"a","Amount":%d}`, 1<<i)})
		}
		log.Trim("orders", 0, 1)
		var broken atomic.Bool
		n := runNode(t, engine.Config{Log: log, Store: store, Consume: []engine.Consume{orders(&broken)}})
		until(t, "what is left is applied", func() bool { return balances(t, n.Engine, "a") == "6" })
	})
}

// outbox is a store into which others put messages.
type outbox struct {
	*memory.Store
	mu   sync.Mutex
	next int64
	out  []driver.Outgoing
	more chan struct{}
}

func (o *outbox) put(topic string, recs ...driver.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range recs {
		o.next++
		o.out = append(o.out, driver.Outgoing{ID: o.next, Topic: topic, Record: r})
	}
	close(o.more)
	o.more = make(chan struct{})
}

func (o *outbox) Outgoing(ctx context.Context, max int) ([]driver.Outgoing, error) {
	for {
		o.mu.Lock()
		out, more := slices.Clone(o.out[:min(len(o.out), max)]), o.more
		o.mu.Unlock()
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (o *outbox) Sent(_ context.Context, ids []int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.out = slices.DeleteFunc(o.out, func(m driver.Outgoing) bool { return slices.Contains(ids, m.ID) })
	return nil
}

// What Encode makes and an outbox holds reaches the inbox, in order, however often sending fails.
func TestAnOutboxIsForwarded(t *testing.T) {
	t.Parallel()
	rng := seeded(t)
	log := memory.NewLog(memory.LogConfig{Partitions: 3})
	store := &outbox{Store: memory.NewStore(), more: make(chan struct{})}
	p := newProcess(sometimes(rng, shopInbox))
	n := runNode(t, engine.Config{Log: p.Log(log), Store: store})
	gateway := newEngine(t, engine.Config{Log: log, Store: store.Store})
	if _, _, _, err := gateway.Encode(deja.Request{Key: "a", Command: till.Put{Amount: 1}}, deja.Request{Command: till.Put{Amount: 1}}); !errors.Is(err, deja.ErrInvalid) {
		t.Errorf("a request without a key: %v", err)
	}
	id := deja.NewID()
	for i := range 30 {
		r := deja.Request{Key: fmt.Sprintf("k%d", i%3), Command: till.Put{Amount: 1}}
		if i == 0 {
			r.ID = id
		}
		topic, recs, ids, err := gateway.Encode(r, deja.Request{Key: r.Key, Command: till.Take{Amount: 1}})
		if err != nil || topic != shopInbox || len(recs) != 2 || len(ids) != 2 || i == 0 && ids[0] != id {
			t.Fatalf("Encode gives %q, %d records, %v, %v", topic, len(recs), ids, err)
		}
		for j, rec := range recs {
			if env := message(t, rec); env.ID != ids[j] || env.Stream.Key != r.Key || rec.Key != r.Key || header(rec, "ce_id") != ids[j].String() {
				t.Errorf("record %d is %+v", j, env)
			}
		}
		store.put(topic, recs...)
	}
	until(t, "the outbox is empty", func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return len(store.out) == 0
	})
	until(t, "all are handled", func() bool { return handled(t, log, store, 3) })
	for p := range int32(3) {
		for _, e := range decisions(t, log, p) {
			if e.Decided.Status != deja.Applied { // a Take that came before its Put would be refused
				t.Errorf("decision %d: %s", e.N, e.Decided.Reason.Error())
			}
		}
	}
	if out, err := n.Client().Do(timeout(t), deja.Request{ID: id, Key: "k0", Command: till.Put{Amount: 1}}); err != nil || !out.Duplicate {
		t.Errorf("asked again: %+v, %v", out, err)
	}
}

// bare is a log that can do what every log can, and no more.
type bare struct{ driver.Log }

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	log := memory.NewLog(memory.LogConfig{})
	var broken atomic.Bool
	c := orders(&broken)
	for what, cfg := range map[string]engine.Config{
		"consumer groups":   {Log: bare{log}, Group: "g"},
		"no cursors":        {Log: bare{log}, Publish: "p"},
		"a Topic":           {Log: log, Consume: []engine.Consume{{Topic: "orders"}}},
		"it is there twice": {Log: log, Consume: []engine.Consume{c, c}},
	} {
		cfg.Service, cfg.Store = till.Service(till.Variant{}), memory.NewStore()
		if _, err := engine.New(cfg); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("the error does not speak of %q: %v", what, err)
		}
	}
}
