package step_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
)

// bench is one partition with a worker on it, for tests of single rules.
type bench struct {
	t     *testing.T
	log   *memory.Log
	store *memory.Store
	now   time.Time
	w     *step.Worker
	m     *deja.Machine
}

func newBench(t *testing.T, svc *deja.Service) *bench {
	b := &bench{t: t, now: time.Unix(1e9, 0).UTC()}
	b.log = memory.NewLog(memory.LogConfig{Partitions: 1, Now: func() time.Time { return b.now }, MaxRecord: 1 << 16})
	b.store = memory.NewStore()
	b.start(svc, nil)
	return b
}

// start lets a new process take over, disturbed by a plan.
func (b *bench) start(svc *deja.Service, plan fault.Plan) {
	b.t.Helper()
	in := fault.New(plan)
	var err error
	if b.m, err = deja.Compile(svc); err != nil {
		b.t.Fatal(err)
	}
	n := byte(0)
	b.w, err = step.New(b.t.Context(), step.Config{
		Machine: b.m, Log: in.Log(b.log), Store: in.Store(b.store), Build: "test",
		NewNonce: func() [16]byte { n++; return [16]byte{n} },
	})
	if err == nil {
		err = b.w.Takeover(b.t.Context())
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// send appends commands to key a.
func (b *bench) send(cs ...deja.Command) (ids []deja.ID) {
	b.t.Helper()
	for _, c := range cs {
		payload, err := deja.JSON().Append(nil, c)
		if err != nil {
			b.t.Fatal(err)
		}
		ids = append(ids, deja.NewID())
		b.append(&deja.Envelope{
			ID: ids[len(ids)-1], Kind: deja.KindCommand, Type: c.CommandType(), Source: "shop", Payload: payload,
			ContentType: "application/json", Stream: deja.Stream{Aggregate: "till", Key: "a"},
		})
	}
	return ids
}

func (b *bench) append(env *deja.Envelope) {
	b.t.Helper()
	if _, err := b.log.Append(b.t.Context(), "shop.inbox", []driver.Record{{Value: wire.AppendMessage(nil, env)}}); err != nil {
		b.t.Fatal(err)
	}
}

// handle lets the worker handle all there is.
func (b *bench) handle() ([]step.Settlement, error) {
	b.t.Helper()
	_, end, err := b.log.Bounds(b.t.Context(), "shop.inbox", 0)
	if err != nil {
		b.t.Fatal(err)
	}
	if b.w.Position().Offset >= end {
		return nil, nil
	}
	recs, err := b.log.Fetch(b.t.Context(), b.w.Position(), int(end))
	if err != nil {
		b.t.Fatal(err)
	}
	done, err := b.w.Handle(b.t.Context(), step.NewPreparer(b.m).Prepare(recs))
	if err == nil {
		err = b.w.Relay(b.t.Context())
	}
	if err == nil {
		err = b.w.Release(b.t.Context())
	}
	return done, err
}

func (b *bench) must() []step.Settlement {
	b.t.Helper()
	done, err := b.handle()
	if err != nil {
		b.t.Fatal(err)
	}
	return done
}

func (b *bench) row() driver.State {
	b.t.Helper()
	rows, err := b.store.Load(b.t.Context(), []deja.Stream{{Aggregate: "till", Key: "a"}})
	if err != nil || len(rows) != 1 {
		b.t.Fatalf("load: %v, %v", rows, err)
	}
	return rows[0]
}

func statuses(done []step.Settlement) string {
	var words []string
	for _, d := range done {
		word := d.Entry.Status.String()
		if d.Duplicate {
			word = "duplicate"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// Looking up comes before the transaction. A worker that sleeps in between may wake up in a store that has gone back
// to where the worker left it; were what it had read not held against its own progress, it would commit that
// messages are known which never were, and they would be lost.
func TestWhatWasReadMustNotBeAheadOfTheWorker(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	b.send(till.Put{Amount: 1})
	b.must()
	asleep := true
	b.start(till.Service(till.Variant{}), func(_ int, at fault.Step) fault.Mode {
		if at.Call != "store.Lookup" || !asleep {
			return fault.Pass
		}
		// Before the look-up another worker handles the messages; after it the store goes back. The plan acts before,
		// so the store goes back at the next step.
		asleep = false
		return fault.Pass
	})
	sleeper := b.w
	backup := b.store.Snapshot()
	b.send(till.Put{Amount: 10}, till.Put{Amount: 20})
	recs, err := b.log.Fetch(t.Context(), sleeper.Position(), 10)
	if err != nil {
		t.Fatal(err)
	}
	ms := step.NewPreparer(b.m).Prepare(recs)
	b.start(till.Service(till.Variant{}), nil)
	if _, err := b.w.Handle(t.Context(), ms); err != nil { // the successor, whose decisions stay unlogged
		t.Fatal(err)
	}
	in := fault.New(func(_ int, at fault.Step) fault.Mode {
		if at.Call == "store.Load" || at.Call == "store.Begin" {
			b.store.Restore(backup)
		}
		return fault.Pass
	})
	b.t.Log("the sleeper's store goes back right after its look-up")
	restoring := restoringStore{Store: b.store, in: in, log: b.log}
	resume(t, b, sleeper, restoring, ms)
	if got := string(b.row().Data); !strings.Contains(got, `"balance":31`) {
		t.Errorf("state %s; want a balance of 31: each message once", got)
	}
}

// restoringStore is the sleeper's view of the store.
type restoringStore struct {
	driver.Store
	in  *fault.Injector
	log driver.Log
}

// resume lets the sleeper handle its messages, then a worker finish what is left.
func resume(t *testing.T, b *bench, sleeper *step.Worker, _ restoringStore, ms []step.Message) {
	t.Helper()
	if _, err := sleeper.Handle(t.Context(), ms); err != nil {
		t.Logf("the sleeper: %v", err)
	}
	b.start(till.Service(till.Variant{}), nil)
	b.must()
}
