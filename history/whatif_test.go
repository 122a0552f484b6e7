package history

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/memory"
	placing "github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

var (
	whatIfSeed  = flag.Uint64("whatif.seed", 0, "run the random tests with this one seed")
	whatIfTimes = flag.Int("whatif.times", 1, "try so many times the worlds that the what-if properties try")
)

// A box has a state that can come to be as it was: emptying it forgets everything.
type box struct {
	Balance int64            `json:"balance"`
	Items   []int64          `json:"items"`
	Marks   map[string]int64 `json:"marks"`
}

type (
	boxPut   struct{ Amount int64 }
	boxTake  struct{ Amount int64 }
	boxEmpty struct{}
	boxCrash struct{}

	boxAdded   struct{ Amount int64 }
	boxTaken   struct{ Amount int64 }
	boxEmptied struct{}
)

func (boxPut) CommandType() string   { return "box.put" }
func (boxTake) CommandType() string  { return "box.take" }
func (boxEmpty) CommandType() string { return "box.empty" }
func (boxCrash) CommandType() string { return "box.crash" }
func (boxAdded) EventType() string   { return "box.added" }
func (boxTaken) EventType() string   { return "box.taken" }
func (boxEmptied) EventType() string { return "box.emptied" }

func boxes() *deja.Service {
	return &deja.Service{Name: "boxes", Aggregates: []deja.AnyAggregate{deja.NewAggregate("box",
		deja.Handle(func(_ box, d *deja.Decision, c boxPut) error { d.Record(boxAdded(c)); return nil }),
		deja.Handle(func(b box, d *deja.Decision, c boxTake) error {
			if b.Balance < c.Amount {
				return deja.NewRejection("box.short").Because("it has %d", b.Balance)
			}
			d.Record(boxTaken(c))
			return nil
		}),
		deja.Handle(func(_ box, d *deja.Decision, _ boxEmpty) error { d.Record(boxEmptied{}); return nil }),
		deja.Handle(func(_ box, _ *deja.Decision, _ boxCrash) error { return errors.New("as asked") }),
		deja.Apply(func(b *box, e boxAdded) {
			b.Balance += e.Amount
			b.Items = append(b.Items, e.Amount)
			if b.Marks == nil {
				b.Marks = map[string]int64{}
			}
			b.Marks[fmt.Sprint(e.Amount%3)]++
		}),
		deja.Apply(func(b *box, e boxTaken) { b.Balance -= e.Amount }),
		deja.Apply(func(b *box, _ boxEmptied) { *b = box{} }),
	)}}
}

// sent is a message in the inbox of a [run].
type sent struct {
	env  deja.Envelope
	time time.Time
	from deja.Position // where it was in the run that this one is a variant of; of a new one the zero Position
}

// A run is a service that settles messages one by one, in one order over all partitions.
type run struct {
	t       testing.TB
	service *deja.Service
	m       *deja.Machine
	log     *memory.Log
	store   *memory.Store
	workers []*step.Worker
	now     time.Time
	sent    []sent
	upTo    [][]int64             // after each message
	events  map[string]int        // how often each was recorded
	origin  map[deja.Position]int // of a message, among those sent
}

const runPartitions = 2

func newRun(t testing.TB, svc *deja.Service) *run {
	t.Helper()
	m, err := deja.Compile(svc)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{t: t, service: svc, m: m, store: memory.NewStore(), events: map[string]int{}, origin: map[deja.Position]int{}}
	r.log = memory.NewLog(memory.LogConfig{Partitions: runPartitions, Now: func() time.Time { return r.now }})
	for p := range runPartitions {
		w, err := step.New(t.Context(), step.Config{
			Machine: m, Log: r.log, Store: r.store, Partition: int32(p), Build: "run",
			NewNonce: func() [16]byte { return [16]byte{1} }, Settled: r.settled,
		})
		if err == nil {
			err = w.Takeover(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		r.workers = append(r.workers, w)
	}
	return r
}

func (r *run) settled(done []step.Settlement) {
	for _, d := range done {
		if d.Record == nil {
			continue
		}
		for _, e := range d.Record.Decided.Events {
			r.events[eventText(e.CausationID, e.Stream.String(), e.Type, e.Payload)]++
		}
	}
}

func eventText(id deja.ID, key, typ string, payload []byte) string {
	return fmt.Sprintf("%s of %s: %s %s", id, key, typ, payload)
}

// deliver appends a message and lets it be settled.
func (r *run) deliver(s sent) {
	r.t.Helper()
	ctx := r.t.Context()
	r.now = s.time
	p := placing.Partition(s.env.Stream.Key, runPartitions)
	at := deja.Position{Topic: wire.Inbox(r.m.Name()), Partition: p}
	var err error
	if _, at.Offset, err = r.log.Bounds(ctx, at.Topic, p); err == nil { // not appended: that would not let its clock go back
		rec := driver.Record{Partition: p, Offset: at.Offset, Time: s.time.UTC(), Value: wire.AppendMessage(nil, &s.env)}
		err = r.log.Import(ctx, at.Topic, []driver.Record{rec})
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.origin[at] = len(r.sent)
	if s.from == (deja.Position{}) {
		s.from = at
	}
	r.sent = append(r.sent, s)
	w := r.workers[p]
	recs, err := r.log.Fetch(ctx, w.Position(), 10)
	if err == nil {
		_, err = w.Handle(ctx, step.NewPreparer(r.m, runPartitions).Prepare(recs))
	}
	if err == nil {
		err = errors.Join(w.Relay(ctx), w.Release(ctx))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.upTo = append(r.upTo, []int64{r.workers[0].Progress().N, r.workers[1].Progress().N})
}

func (r *run) open(ledger bool) *History {
	r.t.Helper()
	cfg := Config{Service: r.service, Log: r.log.ReadOnly(), Build: "run"}
	if ledger {
		cfg.Ledger = r.store
	}
	h, err := Open(r.t.Context(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = h.Close() })
	return h
}

// keys returns what each key ends with.
func (r *run) keys() map[string]keyEnd {
	r.t.Helper()
	rows, err := r.store.States(r.t.Context(), deja.Stream{}, 1000)
	if err != nil {
		r.t.Fatal(err)
	}
	ends := map[string]keyEnd{}
	for _, row := range rows {
		e := keyEnd{version: row.Version, parked: row.Parked, fields: map[string]string{}}
		if row.Version > 0 {
			fields, err := r.m.Flatten(nil, row.Stream.Aggregate, row.Data)
			if err != nil {
				r.t.Fatal(err)
			}
			for _, f := range fields {
				e.fields[f.Path] = f.Value
			}
		}
		ends[row.Stream.String()] = e
	}
	return ends
}

type keyEnd struct {
	version, parked int64
	fields          map[string]string
}

func (e keyEnd) String() string { return fmt.Sprint(e.version, e.parked, e.fields) }

// randomRun makes a history of a few keys: refusals, parked messages, operators' acts, duplicates and conflicts among it.
func randomRun(t testing.TB, rng *rand.Rand, n int) *run {
	r := newRun(t, boxes())
	for i := range n {
		key := string(rune('a' + rng.IntN(4)))
		env := deja.Envelope{
			ID: deja.DeriveID("run", fmt.Sprint(i)), Kind: deja.KindCommand, Source: "boxes", ContentType: "application/json",
			Stream: deja.Stream{Aggregate: "box", Key: key},
		}
		env.CorrelationID = env.ID
		if i > 0 && rng.IntN(4) == 0 {
			env.CausationID = r.sent[rng.IntN(i)].env.ID
		}
		amount := 1 + rng.IntN(20)
		switch rng.IntN(12) {
		case 0:
			env.Type, env.Payload = "box.crash", []byte(`{}`)
		case 1:
			env.Type, env.Payload = "box.empty", []byte(`{}`)
		case 2:
			env.Type, env.Payload = "box.nothing", []byte(`{}`)
		case 3, 4, 5, 6:
			env.Type, env.Payload = "box.take", fmt.Appendf(nil, `{"Amount":%d}`, amount)
		default:
			env.Type, env.Payload = "box.put", fmt.Appendf(nil, `{"Amount":%d}`, amount)
		}
		waiting, err := r.store.Parked(t.Context(), placing.Partition(key, runPartitions), env.Stream, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		switch c := rng.IntN(20); {
		case c < 3 && i > 0:
			env = r.sent[rng.IntN(i)].env
			if c == 0 {
				env.Payload = []byte(`{"Amount":3}`)
			}
			if c == 1 && rng.IntN(3) == 0 {
				env.Stream.Key = key
			}
		case c < 10 && len(waiting) > 0:
			env.Kind, env.Type = deja.KindAct, []string{deja.ActRetry, deja.ActSkip, deja.ActSkip}[rng.IntN(3)]
			env.Payload = fmt.Appendf(nil, `{"message":%q}`, waiting[0].Key)
		}
		r.deliver(sent{env: env, time: time.Unix(1e9+int64(i), 0).UTC()})
	}
	return r
}

// endsAgain reports whether the last message of a partition was a duplicate: decisions do not tell that it was handled, only
// the store does, and only at the end.
func (r *run) endsAgain(to int) bool {
	seen := map[int32]bool{}
	for i := to - 1; i > 0; i-- {
		p := placing.Partition(r.sent[i].env.Stream.Key, runPartitions)
		if !seen[p] && r.upTo[i][p] == r.upTo[i-1][p] {
			return true
		}
		seen[p] = true
	}
	return false
}

// randomEdit returns a random edit, and the messages with the same thing done to them.
func (r *run) randomEdit(rng *rand.Rand, h *History, to int) (Edit, []sent, bool) {
	list := slices.Clone(r.sent[:to])
	lim := Limits{Last: r.upTo[to-1]}
	pick := func() (*Step, int) { // a message that was decided first
		for range 50 {
			i := rng.IntN(to)
			e, err := h.Step(r.t.Context(), locate(r.t, r.sent[i].env.ID.String()))
			if err != nil {
				continue // of an ID in several tenants there may be several
			}
			if j, ok := r.origin[e.Position]; ok && j < to && e.N <= lim.Last[e.Position.Partition] && e.Status != deja.Conflicted {
				return e, j
			}
		}
		return nil, 0
	}
	s, i := pick()
	if s == nil {
		return Edit{}, nil, false
	}
	after := rng.IntN(to)
	p := placing.Partition(s.Stream.Key, runPartitions)
	for range 50 {
		if placing.Partition(r.sent[after].env.Stream.Key, runPartitions) == p {
			break
		}
		after = rng.IntN(to)
	}
	placed := r.sent[after].from
	if placed.Partition != p {
		return Edit{}, nil, false
	}
	at := locate(r.t, fmt.Sprintf("inbox:%d:%d", placed.Partition, placed.Offset))
	// A locator of a position means the last decision up to it: duplicates behind that one are passed over.
	lim2, _, err := h.Resolve(r.t.Context(), at, replay.Decided)
	if err != nil {
		r.t.Fatal(err)
	}
	offset, err := h.through(r.t.Context(), place{p, lim2.Last[p]})
	if err != nil {
		r.t.Fatal(err)
	}
	if after = r.origin[deja.Position{Topic: "boxes.inbox", Partition: p, Offset: offset}]; offset < 0 || after >= to {
		return Edit{}, nil, false
	}
	e := Edit{Message: locate(r.t, s.ID.String())}
	switch e.Do = Deed(1 + rng.IntN(5)); e.Do {
	case Drop:
		list = slices.Delete(list, i, i+1)
	case Set:
		e.Payload = fmt.Appendf(nil, `{"Amount":%d}`, rng.IntN(30))
		if s.Kind == deja.KindAct {
			return e, nil, false
		}
		list[i].env.Payload = e.Payload
	case Duplicate:
		again := list[i]
		again.from = deja.Position{}
		list = slices.Insert(list, i+1, again)
	case Move:
		e.After = at
		m := list[i]
		m.time = list[after].time
		if after == i {
			return e, nil, false
		}
		list = slices.Insert(list, after+1, m)
		if i > after {
			i++
		}
		list = slices.Delete(list, i, i+1)
	case Insert:
		env := r.sent[rng.IntN(len(r.sent))].env // of an ID that is known, perhaps, or will be
		if env.Kind == deja.KindAct || placing.Partition(env.Stream.Key, runPartitions) != p {
			return e, nil, false
		}
		if rng.IntN(2) == 0 {
			env.ID = deja.DeriveID("inserted", fmt.Sprint(rng.Uint64()))
		}
		e.Message, e.After = replay.Locator{}, at
		d := deliveryOf(wire.NewDecoder("boxes"), driver.Record{Value: wire.AppendMessage(nil, &env)})
		e.New = &d
		list = slices.Insert(list, after+1, sent{env: env, time: list[after].time})
	}
	return e, list, true
}

func locate(t testing.TB, text string) replay.Locator {
	t.Helper()
	l, err := replay.ParseLocator(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// after returns what a run ends with once a what-if is put onto it.
func (w *WhatIf) after(ends map[string]keyEnd, events map[string]int) {
	for _, d := range w.States {
		e := keyEnd{version: d.Version[1], parked: d.Parked[1], fields: maps.Clone(ends[d.Key].fields)}
		if e.fields == nil {
			e.fields = map[string]string{}
		}
		for _, f := range d.Fields {
			if e.fields[f.Path] = string(f.New); string(f.New) == "null" {
				delete(e.fields, f.Path)
			}
		}
		ends[d.Key] = e
	}
	for _, e := range w.Lost {
		events[eventText(e.Message, e.Key, e.Type, e.Payload)]--
	}
	for _, e := range w.Gained {
		events[eventText(e.Message, e.Key, e.Type, e.Payload)]++
	}
	maps.DeleteFunc(events, func(_ string, n int) bool { return n == 0 })
	maps.DeleteFunc(ends, func(_ string, e keyEnd) bool { return e.version+e.parked == 0 })
}

// decision returns a decision of partition 0.
func decision(t testing.TB, h *History, n int64) *Step {
	t.Helper()
	s, err := h.steps.decision(t.Context(), place{0, n})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// often returns how often to try something: seldom with -short, as the race detector does, which makes all of it slow.
func often(times, seldom int) int {
	if testing.Short() {
		return seldom
	}
	return times
}

// seedOf returns the seed of a test, and says how to repeat it.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := cmp.Or(*whatIfSeed, uint64(time.Now().UnixNano()))
	t.Logf("repeat with: go test ./history -run '^%s$' -whatif.seed=%d", t.Name(), seed)
	return seed
}

func whatIfSeeds(t *testing.T, runs int) []uint64 {
	if *whatIfSeed != 0 {
		return []uint64{*whatIfSeed}
	}
	first := uint64(time.Now().UnixNano())
	t.Logf("seeds from %d; repeat one with -whatif.seed=N", first)
	all := make([]uint64, runs**whatIfTimes)
	for i := range all {
		all[i] = first + uint64(i)
	}
	return all
}

// What if is what is: the same as to run the service again from its beginning on the edited inbox.
func TestWhatIfIsARunOfItsOwn(t *testing.T) {
	did := map[string]int{}
	stops, counted, fixedDiffers := 0, 0, 0
	complete := func() bool { return len(did) == 5 && stops > 0 && counted > 0 && fixedDiffers > 0 }
	for i, seed := range whatIfSeeds(t, 400) {
		if i >= often(100, 20)**whatIfTimes && complete() {
			break // more only for what has not come up yet
		}
		rng := rand.New(rand.NewPCG(seed, 3))
		r := randomRun(t, rng, 20+rng.IntN(100))
		ledger := rng.IntN(2) == 0
		h := r.open(ledger)
		to := len(r.sent)
		if rng.IntN(2) == 0 {
			to = 1 + rng.IntN(to)
		}
		for to > 0 && (!ledger || to < len(r.sent)) && r.endsAgain(to) {
			to--
		}
		if to == 0 {
			continue
		}
		e, list, ok := r.randomEdit(rng, h, to)
		if !ok {
			continue
		}
		was, would := newRun(t, boxes()), newRun(t, boxes())
		for _, s := range r.sent[:to] {
			was.deliver(s)
		}
		for _, s := range list {
			would.deliver(s)
		}
		for _, whole := range []bool{false, true} {
			w, err := h.WhatIf(t.Context(), Overlay{e}, WhatIfOptions{To: Limits{Last: r.upTo[to-1]}, Whole: whole})
			if err != nil {
				t.Fatalf("seed %d: %s %s: %v", seed, e.Do, e.Message, err)
			}
			ends, events := was.keys(), maps.Clone(was.events)
			w.after(ends, events)
			wantEnds := would.keys()
			maps.DeleteFunc(wantEnds, func(_ string, e keyEnd) bool { return e.version+e.parked == 0 })
			if fmt.Sprint(ends) != fmt.Sprint(wantEnds) {
				t.Fatalf("seed %d (whole %t): %s %s after %s up to %d:\n got %v\nwant %v\n was %v", seed, whole, e.Do, e.Message, e.After, to, ends, wantEnds, was.keys())
			}
			if fmt.Sprint(events) != fmt.Sprint(would.events) {
				t.Fatalf("seed %d (whole %t): %s %s after %s: events\n got %v\nwant %v\n%+v", seed, whole, e.Do, e.Message, e.After, events, would.events, w)
			}
			if whole {
				continue
			}
			did[e.Do.String()]++
			for _, d := range w.Differing {
				if d.Was == "duplicate" && d.Now != "duplicate" {
					counted++
				}
			}
		}
		early, err := h.WhatIf(t.Context(), Overlay{e}, WhatIfOptions{To: Limits{Last: r.upTo[to-1]}})
		if err != nil {
			t.Fatal(err)
		}
		full, err := h.WhatIf(t.Context(), Overlay{e}, WhatIfOptions{To: Limits{Last: r.upTo[to-1]}, Whole: true})
		if err != nil {
			t.Fatal(err)
		}
		if early.Lived < full.Lived {
			stops++
		}
		early.Lived, full.Lived = 0, 0
		a, _ := json.Marshal(early)
		b, _ := json.Marshal(full)
		if !bytes.Equal(a, b) {
			t.Fatalf("seed %d: stopped early\n%s\nlived to the end\n%s", seed, a, b)
		}
		// To leave what was decided as it was would be noticed.
		if fixed, err := h.WhatIf(t.Context(), Overlay{e}, WhatIfOptions{To: Limits{Last: r.upTo[to-1]}, Facts: Fixed}); err == nil {
			ends := was.keys()
			fixed.after(ends, map[string]int{})
			if fmt.Sprint(ends) != fmt.Sprint(would.keys()) {
				fixedDiffers++
			}
		}
	}
	t.Log(did, "stopped early", stops, "duplicates that count", counted, "not decided again and otherwise", fixedDiffers)
	if *whatIfSeed == 0 && !complete() {
		t.Error("not everything was tried")
	}
}

// With facts fixed, a dropped message's events are missing, and nothing else is.
func TestFactsFixed(t *testing.T) {
	tried := 0
	for _, seed := range whatIfSeeds(t, often(200, 50)) {
		rng := rand.New(rand.NewPCG(seed, 4))
		r := randomRun(t, rng, 60)
		h := r.open(true)
		s := decision(t, h, 1+rng.Int64N(h.steps.upTo()[0]))
		again := false
		for _, m := range r.sent {
			again = again || m.env.ID == s.ID && r.origin[s.Position] != r.origin[m.from]
		}
		if again || s.Kind == deja.KindAct || s.Stream.Key == "" {
			continue
		}
		tried++
		w, err := h.WhatIf(t.Context(), Overlay{{Do: Drop, Message: locate(t, s.ID.String())}}, WhatIfOptions{Facts: Fixed})
		if err != nil {
			t.Fatal(err)
		}
		want, err := r.m.NewState(s.Stream)
		if err != nil {
			t.Fatal(err)
		}
		var lost []string
		for o, err := range h.steps.key(t.Context(), s.Stream, 0, 1<<60, false) {
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range o.Events {
				if o.Position == s.Position {
					lost = append(lost, e.Type)
					continue
				}
				if err := r.m.Fold(want, &deja.Envelope{Type: e.Type, Stream: s.Stream, Payload: e.Payload}); err != nil {
					t.Fatal(err)
				}
			}
		}
		fields, err := h.flat(want)
		if err != nil {
			t.Fatal(err)
		}
		ends := r.keys()
		w.after(ends, map[string]int{})
		got := slices.SortedFunc(func(yield func(canon.Field) bool) {
			for p, v := range ends[s.Stream.String()].fields {
				if !yield(canon.Field{Path: p, Value: v}) {
					return
				}
			}
		}, func(a, b canon.Field) int { return cmp.Compare(a.Path, b.Path) })
		if fmt.Sprint(got) != fmt.Sprint(fields) || len(w.Lost) != len(lost) || len(w.Gained) > 0 {
			t.Fatalf("seed %d: drop %s\n got %v\nwant %v\nlost %v, want %v, gained %v", seed, s.ID, got, fields, w.Lost, lost, w.Gained)
		}
	}
	if tried == 0 && *whatIfSeed == 0 {
		t.Error("nothing was tried")
	}
}

// Edits that change nothing change nothing.
func TestAnOverlayOfNothing(t *testing.T) {
	r := newRun(t, boxes())
	put := func(i int, key string, amount int) deja.ID {
		id := deja.DeriveID("plain", fmt.Sprint(i))
		r.deliver(sent{time: time.Unix(1e9+int64(i), 0), env: deja.Envelope{
			ID: id, Kind: deja.KindCommand, Source: "boxes", ContentType: "application/json", CorrelationID: id,
			Stream: deja.Stream{Aggregate: "box", Key: key}, Type: "box.put", Payload: fmt.Appendf(nil, `{"Amount":%d}`, amount),
		}})
		return id
	}
	first := put(0, "a", 5)
	for i := range 300 {
		put(i+1, "a", i)
	}
	h := r.open(true)
	for _, e := range []Edit{
		{Do: Set, Message: locate(t, first.String()), Fields: map[string]json.RawMessage{"Amount": json.RawMessage("5")}},
		{Do: Move, Message: locate(t, first.String()), After: locate(t, "box/a@1")},
		{Do: Duplicate, Message: locate(t, first.String())},
	} {
		w, err := h.WhatIf(t.Context(), Overlay{e}, WhatIfOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if w.First != nil || len(w.States)+len(w.Gained)+len(w.Lost)+len(w.Paradoxes) > 0 || !w.Converged || !w.Complete || w.Lived > 100 {
			t.Errorf("%s: %+v", e.Do, w)
		}
	}
	w, err := h.WhatIf(t.Context(), nil, WhatIfOptions{})
	if err != nil || w.Lived != 0 || w.First != nil {
		t.Errorf("no overlay: %+v, %v", w, err)
	}
}

// What cannot be is said, not guessed.
func TestOverlaysThatCannotBe(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	r := randomRun(t, rng, 40)
	h := r.open(true)
	id := decision(t, h, 6).ID
	for want, o := range map[string]Overlay{
		"edited twice":                {{Do: Drop, Message: locate(t, id.String())}, {Do: Duplicate, Message: locate(t, id.String())}},
		"after the moment":            {{Do: Drop, Message: locate(t, decision(t, h, 10).ID.String())}},
		"no message":                  {{Do: Insert}},
		"no message's ID":             {{Do: Drop, Message: locate(t, "ffffffff-ffff-4fff-8fff-ffffffffffff")}},
		`there is no "x"`:             {{Do: Set, Message: locate(t, id.String()), Fields: map[string]json.RawMessage{"x.y": json.RawMessage("1")}}},
		`has no aggregate "nothing"`:  {{Do: Insert, New: &Delivery{Type: "nothing.put", Key: "a"}}},
		`no kind of message "letter"`: {{Do: Insert, New: &Delivery{Type: "box.put", Key: "a", Kind: "letter"}}},
		"says nothing about":          {{Do: Insert, New: &Delivery{Type: "box.put", Key: otherKey(0)}, After: locate(t, "inbox:0:3")}},
	} {
		_, err := h.WhatIf(t.Context(), o, WhatIfOptions{To: Limits{Last: []int64{8, 8}}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// otherKey returns a key that is not in a partition.
func otherKey(p int32) string {
	for i := 0; ; i++ {
		if k := fmt.Sprint(i); placing.Partition(k, runPartitions) != p {
			return k
		}
	}
}

// A key with other messages parked is not as it was, though its state is.
func TestAKeyThatWaitsIsNotAsItWas(t *testing.T) {
	r := newRun(t, boxes())
	send := func(typ, payload string) deja.ID {
		id := deja.DeriveID("waits", fmt.Sprint(len(r.sent)))
		r.deliver(sent{time: time.Unix(1e9+int64(len(r.sent)), 0), env: deja.Envelope{
			ID: id, Kind: deja.KindCommand, Source: "boxes", ContentType: "application/json", CorrelationID: id,
			Stream: deja.Stream{Aggregate: "box", Key: "a"}, Type: typ, Payload: []byte(payload),
		}})
		return id
	}
	crash := send("box.crash", `{}`)
	for range 40 {
		send("box.take", `{"Amount":1}`) // refused, were it not parked
	}
	put := send("box.put", `{"Amount":5}`)
	w, err := r.open(true).WhatIf(t.Context(), Overlay{{Do: Drop, Message: locate(t, crash.String())}}, WhatIfOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(w.States) != 1 || w.States[0].Parked != [2]int64{42, 0} || w.States[0].Version != [2]int64{0, 1} || len(w.Gained) != 1 || w.Gained[0].Message != put {
		t.Errorf("%+v", w)
	}
}

// A message that is moved behind others of its ID, in another partition, is the one in conflict. One that is not is not,
// whatever the clocks of the partitions say.
func TestAMessageMovedBehindItsConflict(t *testing.T) {
	p := placing.Partition("a", runPartitions)
	near, far := otherKey(1-p), otherKey(p)
	type message struct {
		id, key string
		second  int64 // at which it is appended
	}
	x, conflict := message{"x", "a", 1}, message{"x", far, 5}
	for name, c := range map[string]struct {
		messages []message
		after    string
		turns    bool
	}{
		"to a later time":                 {[]message{x, conflict, {"y", near, 6}}, "y", true},
		"to a time before it":             {[]message{x, {"y", near, 4}, conflict}, "y", false},
		"to where it was":                 {[]message{{"x", "a", 9}, conflict}, "x", false}, // appended by a slow clock
		"to an earlier place":             {[]message{{"y", near, 8}, {"x", "a", 9}, conflict}, "y", false},
		"behind what was decided late":    {[]message{x, {"y", near, 7}, {"z", near, 3}, conflict}, "z", true},
		"behind what was decided earlier": {[]message{x, {"y", near, 4}, {"z", near, 3}, conflict}, "z", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, boxes())
			id := func(name string) deja.ID { return deja.DeriveID("behind", name) }
			for i, m := range c.messages {
				r.deliver(sent{time: time.Unix(1e9+m.second, 0), env: deja.Envelope{
					ID: id(m.id), Kind: deja.KindCommand, Source: "boxes", ContentType: "application/json", CorrelationID: id(m.id),
					Stream: deja.Stream{Aggregate: "box", Key: m.key}, Type: "box.put", Payload: fmt.Appendf(nil, `{"Amount":%d}`, i),
				}})
			}
			place := slices.IndexFunc(c.messages, func(m message) bool { return m.id == c.after })
			first := slices.IndexFunc(c.messages, func(m message) bool { return m.id == "x" })
			for _, whole := range []bool{false, true} {
				w, err := r.open(true).WhatIf(t.Context(), Overlay{{
					Do: Move, Message: at(t, r.sent[first].from), After: at(t, r.sent[place].from),
				}}, WhatIfOptions{Whole: whole})
				if err != nil {
					t.Fatal(err)
				}
				now := map[string]string{}
				for _, d := range w.Differing {
					if d.ID == id("x") {
						now[d.Key] = d.Now
					}
				}
				want := map[string]string{"box/a": "applied"} // it is told of for it was edited
				if c.turns {
					want = map[string]string{"box/a": "conflict", "box/" + far: "applied"}
				}
				if !maps.Equal(now, want) {
					t.Errorf("whole %t: %v, want %v: %+v", whole, now, want, w)
				}
			}
		})
	}
}

func at(t testing.TB, p deja.Position) replay.Locator {
	return locate(t, fmt.Sprintf("inbox:%d:%d", p.Partition, p.Offset))
}
