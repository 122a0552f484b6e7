package step_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/route"
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
	build string
	after func() // called after each look-up
}

// lookingStore is the store, with something that happens after each look-up.
type lookingStore struct {
	driver.Store
	b *bench
}

func (s lookingStore) Lookup(ctx context.Context, keys []deja.ID) (es []driver.Entry, asked int64, err error) {
	es, asked, err = s.Store.Lookup(ctx, keys)
	if s.b.after != nil {
		s.b.after()
	}
	return es, asked, err
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
		Machine: b.m, Log: in.Log(b.log), Store: in.Store(lookingStore{b.store, b}), Build: b.build,
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
	done, err := b.w.Handle(b.t.Context(), step.NewPreparer(b.m, 1).Prepare(recs))
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
	svc := till.Service(till.Variant{})
	b := newBench(t, svc)
	memory.Forgetful()(b.store) // one that tells would refuse it by itself
	b.send(till.Put{Amount: 1})
	b.must()
	b.start(svc, nil)
	sleeper, backup := b.w, b.store.Snapshot()
	b.send(till.Put{Amount: 10}, till.Put{Amount: 20})
	recs, err := b.log.Fetch(t.Context(), sleeper.Position(), 10)
	if err != nil {
		t.Fatal(err)
	}
	ms := step.NewPreparer(b.m, 1).Prepare(recs)
	b.start(svc, nil)
	if _, err := b.w.Handle(t.Context(), ms); err != nil { // its successor, whose decisions stay unlogged
		t.Fatal(err)
	}
	b.after = func() { b.store.Restore(backup) }
	if _, err := sleeper.Handle(t.Context(), ms); !errors.Is(err, driver.ErrFenced) {
		t.Errorf("the sleeper handles what it took for known: %v", err)
	}
	b.after = nil
	b.start(svc, nil)
	b.must()
	if got := string(b.row().Data); !strings.Contains(got, `"balance":31`) {
		t.Errorf("state %s; want a balance of 31: each message once", got)
	}
}

func TestDecisionTimeNeverFalls(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	var last time.Time
	for _, step := range []time.Duration{0, time.Hour, -2 * time.Hour, time.Minute, 3 * time.Hour} {
		b.now = b.now.Add(step)
		b.send(till.Put{Amount: 1})
		for _, d := range b.must() {
			if d.Record.Time.Before(last) {
				t.Errorf("decision %d at %s comes after one at %s", d.Entry.N, d.Record.Time, last)
			}
			last = d.Record.Time
		}
	}
}

// A log whose clock goes back, as a broker's may.
func TestDecisionTimeIsTheAppendTimeOrTheLastDecisions(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	b.send(till.Put{Amount: 1}, till.Put{Amount: 1})
	recs, err := b.log.Fetch(t.Context(), b.w.Position(), 2)
	if err != nil {
		t.Fatal(err)
	}
	first := recs[0].Time
	recs[1].Time = first.Add(-time.Hour)
	done, err := b.w.Handle(t.Context(), step.NewPreparer(b.m, 1).Prepare(recs))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range done {
		if !d.Record.Time.Equal(first) {
			t.Errorf("decision %d is at %s, want %s", d.Entry.N, d.Record.Time, first)
		}
	}
}

// unsound applies an event half-way and then panics.
type unsound struct {
	Sum int64 `json:"sum"`
}

type (
	spoil   struct{ Bad bool }
	spoiled struct{ Bad bool }
)

func (spoil) CommandType() string { return "till.spoil" }
func (spoiled) EventType() string { return "till.spoiled" }

func TestAFoldThatPanicsLeavesTheStateAlone(t *testing.T) {
	b := newBench(t, &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{deja.NewAggregate("till",
		deja.Handle(func(_ unsound, d *deja.Decision, c spoil) error {
			d.Record(spoiled{}, spoiled(c))
			return nil
		}),
		deja.Apply(func(s *unsound, e spoiled) {
			s.Sum++
			if e.Bad {
				panic("half-way")
			}
		}),
	)}})
	ids := b.send(spoil{}, spoil{Bad: true})
	if got := statuses(b.must()); got != "applied parked" {
		t.Errorf("got %s", got)
	}
	if row := b.row(); string(row.Data) != `{"sum":2}` || row.Version != 2 || row.Parked != 1 {
		t.Errorf("the row is %+v %s; want what the first message left", row, row.Data)
	}
	b.append(&deja.Envelope{ // the key goes on from what is in memory
		ID: deja.NewID(), Kind: deja.KindAct, Type: deja.ActSkip, Source: "shop", ContentType: "application/json",
		Payload: fmt.Appendf(nil, `{"message":%q}`, ids[1]), Stream: deja.Stream{Aggregate: "till", Key: "a"},
	})
	b.send(spoil{})
	b.must()
	if row := b.row(); string(row.Data) != `{"sum":4}` || row.Version != 4 || row.Parked != 0 {
		t.Errorf("once it is skipped the row is %+v %s", row, row.Data)
	}
}

func TestADecisionTooLargeForTheJournalIsRefused(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	b.send(till.Put{Amount: 1}, till.Big{Bytes: 20_000}, till.Put{Amount: 1}) // 20,000 zero bytes are 120,000 in JSON
	done := b.must()
	if got := statuses(done); got != "applied rejected applied" {
		t.Fatalf("got %s", got)
	}
	if code := done[1].Record.Decided.Reason.Code; code != deja.CodeTooLarge {
		t.Errorf("refused as %s", code)
	}
	if row := b.row(); row.Version != 2 {
		t.Errorf("version %d, want 2", row.Version)
	}
}

// An act on a key with more parked messages than one transaction takes, and a crash between two of them.
func TestAnActThatWasCutShortGoesOnWithItsDrain(t *testing.T) {
	broken := true
	svc := till.Service(till.Variant{Broken: func() bool { return broken }})
	b := newBench(t, svc)
	bad := b.send(till.Crash{})
	for range 700 {
		b.send(till.Put{Amount: 1})
	}
	b.must()
	if row := b.row(); row.Parked != 701 {
		t.Fatalf("%d parked, want 701", row.Parked)
	}
	broken = false
	commits := 0
	b.start(svc, func(_ int, at fault.Step) fault.Mode {
		if at.Call == "tx.Commit" {
			if commits++; commits == 2 {
				return fault.CrashAfter
			}
		}
		return fault.Pass
	})
	b.append(&deja.Envelope{
		ID: deja.NewID(), Kind: deja.KindAct, Type: deja.ActRetry, Source: "shop", ContentType: "application/json",
		Payload: fmt.Appendf(nil, `{"message":%q}`, bad[0]), Stream: deja.Stream{Aggregate: "till", Key: "a"},
	})
	b.send(till.Put{Amount: 1}) // behind the act
	if _, err := b.handle(); !errors.Is(err, fault.ErrCrashed) {
		t.Fatalf("the crash: %v", err)
	}
	if row := b.row(); row.Parked == 0 || row.Parked == 701 {
		t.Fatalf("%d parked after the crash, want a part of them", row.Parked)
	}
	b.start(svc, nil)
	done := b.must()
	if got := statuses(done); got != "applied applied" {
		t.Errorf("the act and the message behind it: %s", got)
	}
	if row := b.row(); row.Parked != 0 || row.Version != 702 || !strings.Contains(string(row.Data), `"balance":1701`) {
		t.Errorf("the row is %+v %s; want each message once", row, row.Data)
	}
}

func TestAChangedFoldVersionFoldsAnew(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	b.send(till.Put{Amount: 5}, till.Put{Amount: 6})
	b.must()
	svc := till.Service(till.Variant{})
	svc.Aggregates = []deja.AnyAggregate{deja.NewAggregate("till",
		deja.FoldVersion[till.Till](2),
		deja.Handle(func(_ till.Till, d *deja.Decision, c till.Put) error { d.Record(till.Added(c)); return nil }),
		deja.Apply(func(s *till.Till, e till.Added) { s.Balance += 100 * e.Amount }),
	)}
	b.start(svc, nil)
	if row := b.row(); !strings.Contains(string(row.Data), `"balance":1100`) || row.Version != 2 {
		t.Errorf("after the take-over the state is %s at %d; want it folded by the new version", row.Data, row.Version)
	}
	b.send(till.Put{Amount: 1})
	b.must()
	if row := b.row(); !strings.Contains(string(row.Data), `"balance":1200`) {
		t.Errorf("state %s", row.Data)
	}
}

// What an older build cannot apply, it must not pass over.
func TestAnUnknownOwnEventHalts(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	b.send(till.Put{Amount: 5})
	b.must()
	svc := &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{deja.NewAggregate("till",
		deja.Handle(func(till.Till, *deja.Decision, till.Put) error { return nil }))}}
	m, err := deja.Compile(svc)
	if err != nil {
		t.Fatal(err)
	}
	w, err := step.New(t.Context(), step.Config{Machine: m, Log: b.log, Store: b.store, NewNonce: func() [16]byte { return [16]byte{1} }})
	if err != nil {
		t.Fatal(err)
	}
	var unknown *deja.UnknownEventError
	if err := w.Takeover(t.Context()); !errors.Is(err, deja.ErrHalted) || !errors.As(err, &unknown) || unknown.Type != "till.added" {
		t.Errorf("take over: %v; want a halt that names till.added", err)
	}
}

// The store lost what the journal's readers have been told; another build would decide it otherwise.
func TestAStoreBehindItsJournalAdoptsIt(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	b.send(till.Put{Amount: 100})
	b.must()
	backup := b.store.Snapshot()
	b.send(till.Take{Amount: 80})
	b.must()
	b.store.Restore(backup)
	b.start(till.Service(till.Variant{MaxTake: 50}), nil)
	if row := b.row(); !strings.Contains(string(row.Data), `"balance":20`) {
		t.Errorf("state %s; want the recorded withdrawal adopted", row.Data)
	}
	if life := b.w.Progress().Incarnation.Number; life != 1 {
		t.Errorf("the store went back and lives on in incarnation %d, want 1", life)
	}
}

func TestALongJournalIsAdoptedInPieces(t *testing.T) {
	const n = 17_000
	b := newBench(t, till.Service(till.Variant{}))
	for i := range n {
		b.append(&deja.Envelope{
			ID: deja.NewID(), Kind: deja.KindCommand, Type: till.Put{}.CommandType(), Source: "shop", Payload: []byte(`{"amount":1}`),
			ContentType: "application/json", Stream: deja.Stream{Aggregate: "till", Key: fmt.Sprint(i)},
		})
	}
	b.must()
	want := states(t, b.store)
	b.store = memory.NewStore()
	var pieces []int64
	w, err := step.New(t.Context(), step.Config{
		Machine: b.m, Log: shortLog{b.log, 500}, Store: b.store, NewNonce: func() [16]byte { return [16]byte{7} },
		Adopted: func(n int64) { pieces = append(pieces, n) },
	})
	if err == nil {
		err = w.Takeover(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if want := []int64{8000, 16_000, n}; !slices.Equal(pieces, want) {
		t.Errorf("transactions ended at %d, want %d", pieces, want)
	}
	if got := states(t, b.store); len(got) != n || !reflect.DeepEqual(got, want) {
		t.Errorf("the store has %d states, and they are not those of the first one, which has %d", len(got), len(want))
	}
}

func states(t *testing.T, store driver.Store) []driver.State {
	t.Helper()
	ss, err := store.States(t.Context(), deja.Stream{}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return ss
}

func TestAnotherHistoryHalts(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	twin := b.log.Clone()
	other := &bench{t: t, now: b.now, log: twin, store: memory.NewStore(), build: "another"}
	other.start(till.Service(till.Variant{MaxTake: 1}), nil) // with nothing to decide yet, it begins no life of its own
	b.send(till.Put{Amount: 100})
	sent, err := b.log.Fetch(t.Context(), deja.Position{Topic: "shop.inbox"}, 1)
	if err == nil {
		_, err = twin.Append(t.Context(), "shop.inbox", sent)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.must()
	other.must()
	// Its decision has another build's name in it: same number, other chain.
	rebuilt, err := step.New(t.Context(), step.Config{Machine: b.m, Log: twin, Store: b.store, NewNonce: func() [16]byte { return [16]byte{7} }})
	if err != nil {
		t.Fatal(err)
	}
	if err := rebuilt.Takeover(t.Context()); !errors.Is(err, deja.ErrHalted) || !errors.Is(err, journal.ErrForked) {
		t.Errorf("take over: %v; want history forked", err)
	}
}

func TestALostJournalHalts(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	b.send(till.Put{Amount: 1}, till.Put{Amount: 2}, till.Put{Amount: 3})
	b.must()
	b.log.Truncate("shop.journal", 0, 1)
	w := b.w
	if err := w.Takeover(t.Context()); err != nil { // the store still keeps what is missing, and publishes it again
		t.Fatal(err)
	}
	if err := w.Relay(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := w.Release(context.Background()); err != nil || w.Released() != 3 {
		t.Errorf("released %d, %v; want 3", w.Released(), err)
	}
}

// What a client can put into a record is bounded, whatever is decided: a record that the journal never takes would
// stop its partition for ever.
func TestNoClientCanMakeARecordTooLarge(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	long := strings.Repeat("k", 9000)
	id := deja.NewID()
	for n := range 2 { // the second conflicts with the first, at paths that are long
		payload := []byte(`{"Amount":1`)
		for i := range 8 {
			payload = fmt.Appendf(payload, `,"%s%d":%d`, long[:4000], i, n)
		}
		b.append(&deja.Envelope{
			ID: id, Kind: deja.KindCommand, Type: "till.put", Source: "shop", Payload: append(payload, '}'),
			ContentType: "application/json", Stream: deja.Stream{Aggregate: "till", Key: "a"},
		})
	}
	for what, env := range map[string]deja.Envelope{
		"type": {Type: "till." + long}, "actor": {Type: "till.put", Actor: long},
		"source": {Type: "till.put", Source: long}, "headers": {Type: "till.put", Headers: map[string]string{"h": long}},
	} {
		env.ID, env.Kind, env.ContentType, env.Payload = deja.DeriveID("test", what), deja.KindCommand, "application/json", []byte(`{"Amount":1}`)
		env.Stream = deja.Stream{Aggregate: "till", Key: "a"}
		b.append(&env)
	}
	done := b.must()
	if got := statuses(done); got != "applied conflict dead dead dead dead" {
		t.Fatalf("got %s", got)
	}
	for _, d := range done {
		if n := len(wire.AppendRecord(nil, d.Record)); n > 12_000 {
			t.Errorf("decision %d has %d bytes", d.Entry.N, n)
		}
	}
}

// A retry after a deploy that no longer handles the parked message's type.
func TestARetryOfWhatIsNoLongerHandledEndsIt(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{Broken: func() bool { return true }}))
	ids := b.send(till.Crash{}, till.Put{Amount: 1})
	b.must()
	b.start(&deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{deja.NewAggregate("till",
		deja.Handle(func(_ till.Till, d *deja.Decision, c till.Put) error { d.Record(till.Added(c)); return nil }),
		deja.Apply(func(s *till.Till, e till.Added) { s.Balance += e.Amount }))}}, nil)
	b.append(&deja.Envelope{
		ID: deja.NewID(), Kind: deja.KindAct, Type: deja.ActRetry, Source: "shop", ContentType: "application/json",
		Payload: fmt.Appendf(nil, `{"message":%q}`, ids[0]), Stream: deja.Stream{Aggregate: "till", Key: "a"},
	})
	if got := statuses(b.must()); got != "applied" {
		t.Errorf("the act: %s", got)
	}
	if row := b.row(); row.Parked != 0 || row.Version != 1 {
		t.Errorf("the row is %+v", row)
	}
	es, _, err := b.store.Lookup(t.Context(), ids[:1])
	if err != nil || len(es) != 1 || es[0].Status != deja.DeadLetter {
		t.Errorf("the message is %+v, %v; want it dead", es, err)
	}
}

// A relay that went on after a failure would leave a gap in the journal, or a later decision before an earlier one.
func TestTheRelayStopsAtAFailure(t *testing.T) {
	b := newBench(t, till.Service(till.Variant{}))
	failed := false
	b.start(till.Service(till.Variant{}), func(_ int, at fault.Step) fault.Mode {
		if at.Call == "log.Append" && at.On == "shop.journal" && !failed {
			failed = true
			return fault.FailBefore
		}
		return fault.Pass
	})
	b.send(till.Put{Amount: 1})
	if _, err := b.handle(); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("the journal refused the record, and the relay says %v", err)
	}
	b.send(till.Put{Amount: 2})
	b.must()
	if b.w.Released() != 2 {
		t.Errorf("decisions up to %d are logged, want 2", b.w.Released())
	}
}

// waiter is an instance that waits for a timer, a reply and a result, whose handlers all fail.
type waiter struct {
	Begun bool `json:"begun"`
}

type (
	begin  struct{}
	begun  struct{}
	bell   struct{}
	letter struct{}
)

func (begin) CommandType() string { return "till.begin" }
func (begun) EventType() string   { return "till.begun" }
func (bell) CommandType() string  { return "till.bell" }
func (letter) EffectType() string { return "till.letter" }

func waiting() *deja.Service {
	return &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{deja.NewAggregate("till",
		deja.Handle(func(_ waiter, d *deja.Decision, _ begin) error {
			d.Record(begun{})
			d.Schedule("bell", d.Time().Add(time.Second), bell{})
			d.Send("b", bell{})
			d.Effect(letter{})
			return nil
		}),
		deja.Handle(func(waiter, *deja.Decision, bell) error { return errors.New("as asked") }),
		deja.OnReply(func(waiter, *deja.Decision, deja.Reply[bell]) error { return errors.New("as asked") }),
		deja.OnFailed(func(waiter, *deja.Decision, deja.Failed[letter]) error { return errors.New("as asked") }),
		deja.Apply(func(w *waiter, _ begun) { w.Begun = true }),
	)}}
}

// What an operator gives up is waited for no longer: in the store that decided so as in one that is folded from the journal.
func TestASkippedMessageIsWaitedForNoLonger(t *testing.T) {
	b := newBench(t, waiting())
	b.send(begin{})
	asked := b.must()[0].Record.Decided
	b.now = b.now.Add(time.Minute)
	fired := route.Fired(&asked.Timers[0])
	r := route.Route{Machine: b.m, From: "shop", To: "shop"}
	replies, err := r.Messages(&wire.Record{Cause: asked.Commands[0], Decided: deja.Decided{Status: deja.Applied}})
	if err != nil {
		t.Fatal(err)
	}
	result, err := route.Result{Rejection: deja.NewRejection("post.closed")}.Message(b.m, &wire.Effect{Envelope: asked.Effects[0]})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*deja.Envelope{&fired, &replies[0], &result} {
		b.append(m)
		if got := statuses(b.must()); got != "parked" {
			t.Fatalf("the %s is %s", m.Kind, got)
		}
		b.append(&deja.Envelope{
			ID: deja.NewID(), Kind: deja.KindAct, Type: deja.ActSkip, Source: "shop", ContentType: "application/json",
			Payload: fmt.Appendf(nil, `{"message":%q}`, m.ID), Stream: m.Stream,
		})
		if got := statuses(b.must()); got != "applied" {
			t.Fatalf("skipping it: %s", got)
		}
	}
	if row := b.row(); len(row.Open) > 0 || !row.Due.IsZero() {
		open, err := wire.DecodeOpen("shop", row.Stream, row.Open)
		t.Errorf("once all was given up, it waits for %+v, due at %s, %v", open, row.Due, err)
	}
	decided := states(t, b.store)
	b.store = memory.NewStore()
	b.start(waiting(), nil)
	if folded := states(t, b.store); !reflect.DeepEqual(folded, decided) {
		t.Errorf("folded from the journal the rows are\n%+v, the store that decided has\n%+v", folded, decided)
	}
}

// A worker that died may leave thousands of decisions that are not in the journal. Its successor publishes them and reads
// them back; were it to ask the store for each, everybody who waits for them would wait for so many queries.
func TestWhatADeadWorkerLeftIsReadFromTheStoreInPieces(t *testing.T) {
	const n = 2500
	b := newBench(t, till.Service(till.Variant{}))
	b.start(till.Service(till.Variant{}), func(_ int, at fault.Step) fault.Mode {
		if at.Call == "log.Append" && at.On == "shop.journal" {
			return fault.FailBefore
		}
		return fault.Pass
	})
	for range n {
		b.send(till.Put{Amount: 1})
	}
	if _, err := b.handle(); !errors.Is(err, fault.ErrInjected) {
		t.Fatal(err)
	}
	asked := 0
	b.start(till.Service(till.Variant{}), func(_ int, at fault.Step) fault.Mode {
		if at.Call == "store.Unlogged" {
			asked++
		}
		return fault.Pass
	})
	b.send(till.Put{Amount: 1})
	b.must()
	if b.w.Released() != n+1 {
		t.Errorf("decisions up to %d are logged, want %d", b.w.Released(), n+1)
	}
	if asked > 10 {
		t.Errorf("the store was asked %d times for %d decisions that it keeps", asked, n)
	}
}

// set schedules a timer, or cancels it.
type set struct {
	Name string
	Due  time.Time
	Drop bool
}

func (set) CommandType() string { return "till.set" }

func setting() *deja.Service {
	return &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{deja.NewAggregate("till",
		deja.Handle(func(_ waiter, d *deja.Decision, c set) error {
			if c.Drop {
				d.Cancel(c.Name)
				return nil
			}
			d.Schedule(c.Name, c.Due, bell{})
			return nil
		}),
		deja.Handle(func(waiter, *deja.Decision, bell) error { return nil }),
	)}}
}

// A decision is the same in the memory of the worker that made it and in the record that others fold.
func TestTimersAreWhatTheirRecordsSay(t *testing.T) {
	b := newBench(t, setting())
	folded := func(what string) {
		t.Helper()
		decided := states(t, b.store)
		b.store = memory.NewStore()
		b.start(setting(), nil)
		if got := states(t, b.store); !reflect.DeepEqual(got, decided) {
			t.Errorf("%s: folded from the journal the rows are\n%+v, the store that decided has\n%+v", what, got, decided)
		}
	}
	due := b.now.Add(time.Second + 500*time.Nanosecond)
	b.send(set{Name: "x", Due: due}, set{Due: due})
	for _, d := range b.must() {
		if got := d.Record.Decided.Timers[0].Due; !got.Equal(due.Truncate(time.Microsecond)) {
			t.Errorf("due at %s, which no record can say", got)
		}
	}
	folded("scheduled")
	b.send(set{Drop: true}, set{Name: "x", Drop: true})
	b.must()
	if row := b.row(); len(row.Open) > 0 || !row.Due.IsZero() {
		t.Errorf("both are cancelled, and the row is %+v", row)
	}
	folded("cancelled")
	b.send(set{Name: "never"})
	if done := b.must(); statuses(done) != "parked" || !strings.Contains(done[0].Record.Decided.Reason.Detail, `timer "never"`) {
		t.Errorf("a timer due at the zero time: %s, %s", statuses(done), done[0].Record.Decided.Reason.Detail)
	}
}

// hiding is a store that has lost the rows of a key.
type hiding struct {
	driver.Reader
	key string
}

func (s hiding) States(ctx context.Context, after deja.Stream, max int) ([]driver.State, error) {
	rows, err := s.Reader.States(ctx, after, max)
	return slices.DeleteFunc(rows, func(r driver.State) bool { return r.Stream.Key == s.key }), err
}

// A stream that only ignored messages came to has a row without content, which must not stand in for one that is lost.
func TestVerifyNoticesALostRow(t *testing.T) {
	b := newBench(t, setting())
	b.send(set{Name: "x", Due: b.now.Add(time.Hour)})
	b.append(&deja.Envelope{
		ID: deja.NewID(), Kind: deja.KindTimer, Type: "till.bell", Source: "shop", Payload: []byte(`{}`), ContentType: "application/json",
		Stream: deja.Stream{Aggregate: "till", Key: "b"},
	})
	if got := statuses(b.must()); got != "applied ignored" {
		t.Fatalf("got %s", got)
	}
	verify := func(store driver.Reader) error {
		v, err := step.NewVerifier(t.Context(), step.Config{Machine: b.m, Log: b.log})
		if err != nil {
			t.Fatal(err)
		}
		_, end, err := b.log.Bounds(t.Context(), "shop.journal", 0)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := journal.NewReader(b.log, "shop", 0, driver.Logged{}).Next(t.Context(), end, 10)
		if err != nil {
			t.Fatal(err)
		}
		for i := range entries {
			if _, err := v.Check(t.Context(), &entries[i]); err != nil {
				t.Fatal(err)
			}
		}
		return v.Store(t.Context(), store)
	}
	if err := verify(b.store); err != nil {
		t.Errorf("a store as it should be: %v", err)
	}
	var lost *step.Difference
	if err := verify(hiding{b.store, "a"}); !errors.As(err, &lost) || !lost.Store() {
		t.Errorf("a row is lost, and verify says %v", err)
	}
	if err := verify(hiding{b.store, "b"}); err != nil {
		t.Errorf("a row that tells of nothing is lost: %v", err)
	}
}
