package history

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/relive"
)

// A safe springs open when three of its many wheels stand right.
type safe struct {
	Turns int64            `json:"turns"`
	Right map[string]int64 `json:"right"`
	Open  bool             `json:"open"`
}

type (
	turnWheel   struct{ Wheel int64 }
	wheelTurned struct{ Wheel int64 }
)

func (turnWheel) CommandType() string { return "safe.turn" }
func (wheelTurned) EventType() string { return "safe.turned" }

func safes(right ...int64) *deja.Service {
	return &deja.Service{Name: "boxes", Aggregates: []deja.AnyAggregate{deja.NewAggregate("safe",
		deja.Handle(func(_ safe, d *deja.Decision, c turnWheel) error { d.Record(wheelTurned(c)); return nil }),
		deja.Apply(func(s *safe, e wheelTurned) {
			s.Turns++
			if slices.Contains(right, e.Wheel) {
				if s.Right == nil {
					s.Right = map[string]int64{}
				}
				s.Right[fmt.Sprint(e.Wheel)] = 1
			}
			s.Open = s.Open || len(s.Right) == len(right)
		}),
	)}}
}

func turn(i int, wheel int64, cause deja.ID) sent {
	id := deja.DeriveID("turn", fmt.Sprint(i))
	return sent{time: time.Unix(1e9+int64(i), 0), env: deja.Envelope{
		ID: id, Kind: deja.KindCommand, Source: "boxes", ContentType: "application/json", CorrelationID: id, CausationID: cause,
		Stream: deja.Stream{Aggregate: "safe", Key: "a"}, Type: "safe.turn", Payload: fmt.Appendf(nil, `{"Wheel":%d}`, wheel),
	}}
}

// firstBad returns the first message after which a predicate holds.
func firstBad(t testing.TB, h *History, scope, when string) (*Step, Predicate) {
	t.Helper()
	s, err := ParseScope(h.machine, scope)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(h.machine, s, when)
	if err != nil {
		t.Fatal(err)
	}
	for holding, err := range h.When(t.Context(), s, p, Limits{}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(holding.Intervals) > 0 {
			return holding.Intervals[0].From.Step, p
		}
	}
	return nil, p
}

// Three messages of ten thousand, found in a hundred tests or so.
func TestAFaultOfThreeMessages(t *testing.T) {
	messages := often(10_000, 2_000)
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 5))
	at := []int{rng.IntN(messages / 3), messages/3 + rng.IntN(messages/3), messages/3*2 + rng.IntN(messages/3-1)}
	r := newRun(t, safes(7, 70, 700))
	for i := range messages {
		wheel := int64(1000 + i)
		if n := slices.Index(at, i); n >= 0 {
			wheel = []int64{7, 70, 700}[n]
		}
		r.deliver(turn(i, wheel, deja.ID{}))
	}
	h := r.open(true)
	first, p := firstBad(t, h, "safe/a", "state.open")
	began := time.Now()
	m, err := h.Minimal(t.Context(), first, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages lived in %d tests, %s", m.Lived, m.Tests, time.Since(began))
	var got []int
	for _, s := range m.steps {
		got = append(got, int(s.N-1))
	}
	if !slices.Equal(got, at) || !m.Minimal || !m.Complete || !m.Reproduced || m.Of != at[2]+1 {
		t.Fatalf("left %v, want %v: %+v", got, at, m)
	}
	if m.Tests > 300 {
		t.Errorf("%d tests for three messages", m.Tests)
	}
	again, err := h.Minimal(t.Context(), first, p)
	if err != nil || !slices.Equal(idsOf(again), idsOf(m)) || again.Tests != m.Tests {
		t.Errorf("looked for again, it is another: %+v, %v", again, err)
	}
}

func idsOf(m *Minimal) []deja.ID {
	var ids []deja.ID
	for _, o := range m.Messages {
		ids = append(ids, o.ID)
	}
	return ids
}

// Cut off, it is the smallest so far, and says so.
func TestMinimalIsCutOff(t *testing.T) {
	r := newRun(t, safes(1, 2, 3))
	for i := range 600 {
		r.deliver(turn(i, int64(i%200+1)*int64(min(1, i/397)), deja.ID{}))
	}
	h := r.open(true)
	first, p := firstBad(t, h, "safe/a", "state.open")
	if first == nil {
		t.Fatal("it never opens")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	q := p
	q.programs, q.fn = nil, func(st *deja.State) (bool, error) {
		if n++; n == int(first.N)+300 {
			cancel()
		}
		return st.Value().(*safe).Open, nil
	}
	m, err := h.Minimal(ctx, first, q)
	if err != nil || m.Complete || m.Minimal || !m.Reproduced || len(m.Messages) < 3 || len(m.Messages) > m.Of {
		t.Fatalf("%+v, %v", m, err)
	}
}

// What is left fails; without any one of it, and what that has caused, it does not; and with each message there is its cause.
func TestMinimalHistoriesAreMinimal(t *testing.T) {
	kept, closed := 0, 0
	for _, seed := range whatIfSeeds(t, often(150, 50)) {
		rng := rand.New(rand.NewPCG(seed, 6))
		r := randomRun(t, rng, 80)
		h := r.open(true)
		when := []string{"state.balance > 40", "state.items.size() == 4", "state.balance < prev.balance && prev.balance > 10"}[rng.IntN(3)]
		first, p := firstBad(t, h, "box/*", when)
		if first == nil {
			continue
		}
		m, err := h.Minimal(t.Context(), first, p)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !m.Reproduced || !m.Minimal || !m.Complete {
			t.Fatalf("seed %d: %s of %s: %+v", seed, when, first.ID, m)
		}
		kept += len(m.Messages)
		c, err := m.Capsule(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if _, err := c.WriteTo(&text); err != nil {
			t.Fatal(err)
		}
		if c, err = ReadCapsule(&text); err != nil {
			t.Fatal(err)
		}
		if !capsuleFails(t, r, c, first, p) {
			t.Fatalf("seed %d: %s: what is left does not fail: %v", seed, when, m.Messages)
		}
		ids := map[deja.ID]bool{}
		for _, s := range m.steps {
			ids[s.ID] = true
		}
		for _, s := range m.steps {
			if cause, err := h.withCauses(t.Context(), []*Step{s}); err != nil {
				t.Fatal(err)
			} else {
				for _, o := range cause {
					if closed++; !ids[o.ID] {
						t.Fatalf("seed %d: %s is there without %s, which caused it", seed, s.ID, o.ID)
					}
				}
			}
			gone := map[deja.ID]bool{s.ID: true}
			for range m.steps { // and all that it has caused
				for _, o := range m.steps {
					gone[o.ID] = gone[o.ID] || gone[o.Cause]
				}
			}
			if gone[first.ID] || s.Stream != first.Stream {
				continue
			}
			less := *c
			less.Messages = slices.DeleteFunc(slices.Clone(c.Messages), func(d Delivery) bool { return gone[d.ID] })
			if capsuleFails(t, r, &less, first, p) {
				t.Fatalf("seed %d: %s: it fails without %s, too: %v", seed, when, s.ID, m.Messages)
			}
		}
	}
	if *whatIfSeed == 0 && (kept == 0 || closed == 0) {
		t.Error("nothing was tried")
	}
}

// capsuleFails lives a capsule, and reports whether the message makes the predicate true in it as it did.
func capsuleFails(t testing.TB, r *run, c *Capsule, first *Step, p Predicate) bool {
	t.Helper()
	recs, err := c.Records()
	if err != nil {
		t.Fatal(err)
	}
	prev, err := r.m.NewState(first.Stream)
	if err != nil {
		t.Fatal(err)
	}
	fails, before := false, false
	var w *relive.World
	told := func(d relive.Decision) {
		if d.Cause.Stream != first.Stream {
			return
		}
		st, err := r.m.DecodeState(first.Stream, 0, nil)
		if data, eerr := prev.Encode(); err == nil && eerr == nil {
			st, err = r.m.DecodeState(first.Stream, prev.Version, data)
		}
		if err != nil {
			t.Fatal(err)
		}
		var events []Event
		for i := range d.Decided.Events {
			e := &d.Decided.Events[i]
			events = append(events, Event{e.Type, e.Payload})
			if err := r.m.Fold(st, e); err != nil {
				t.Fatal(err)
			}
		}
		holds := before
		if len(events) > 0 {
			if holds, err = p.eval(prev, st, events...); err != nil {
				t.Fatal(err)
			}
		}
		if d.Cause.ID == first.ID && d.Act.IsZero() == first.Act.IsZero() {
			s := &Step{Status: d.Decided.Status, Events: events}
			for _, ch := range d.Changes {
				s.Writes = append(s.Writes, Write{ch.Path, ch.Old, ch.New})
			}
			paths, _ := p.Reads()
			fails = holds && !before && (&reduction{first: first, paths: paths}).alike(s)
		}
		before, prev = holds, st
	}
	w, err = relive.New(t.Context(), relive.Config{Machine: r.m, Partitions: c.Partitions, MaxRecord: c.MaxRecord, Decided: told}, relive.Past{})
	if err != nil {
		t.Fatal(err)
	}
	var ms []relive.Message
	for _, rec := range recs {
		ms = append(ms, w.Prepare(rec))
	}
	if err := w.Live(t.Context(), ms); err != nil {
		t.Fatal(err)
	}
	return fails
}

// A build that decides otherwise does not come there, and that is said.
func TestMinimalOfAnotherBuild(t *testing.T) {
	r := newRun(t, safes(1, 2))
	for i := range 20 {
		r.deliver(turn(i, int64(i), deja.ID{}))
	}
	h := r.open(true)
	first, p := firstBad(t, h, "safe/a", "state.open")
	mended, err := Open(t.Context(), Config{Service: safes(1, 2, 99), Log: r.log.ReadOnly(), Ledger: r.store})
	if err != nil {
		t.Fatal(err)
	}
	defer mended.Close()
	m, err := mended.Minimal(t.Context(), first, p)
	if err != nil || m.Reproduced || len(m.Messages) > 0 {
		t.Errorf("%+v, %v", m, err)
	}
}

// What a capsule is read from is what it was written as, and another format is refused.
func TestCapsule(t *testing.T) {
	want := &Capsule{Format: 1, Service: "boxes", Partitions: 2, MaxRecord: 1 << 20, Messages: []Delivery{
		{Partition: 1, Offset: 3, Time: time.Unix(1e9, 1000).UTC(), ID: deja.DeriveID("a", "b"), Kind: "command", Type: "box.put", Aggregate: "box", Key: "a<b>", Payload: json.RawMessage(`{"Amount":9007199254740993}`)},
		{Partition: 0, Offset: 4, Raw: []byte{1, 2}},
		{Partition: 0, Offset: 5, ID: deja.DeriveID("a", "c"), Kind: "act", Type: "deja.skip", Aggregate: "box", Key: "b", ContentType: "text/plain", Data: []byte("x")},
	}}
	var text bytes.Buffer
	if n, err := want.WriteTo(&text); err != nil || n != int64(text.Len()) {
		t.Fatal(n, err)
	}
	if golden := `{"format": 1, "service": "boxes", "partitions": 2, "max_record": 1048576, "messages": [
{"partition":1,"offset":3,"time":"2001-09-09T01:46:40.000001Z","id":"` + want.Messages[0].ID.String() + `","kind":"command","type":"box.put","aggregate":"box","key":"a<b>","payload":{"Amount":9007199254740993}}
,
{"partition":0,"offset":4,"time":"0001-01-01T00:00:00Z","raw":"AQI="}
,
{"partition":0,"offset":5,"time":"0001-01-01T00:00:00Z","id":"` + want.Messages[2].ID.String() + `","kind":"act","type":"deja.skip","aggregate":"box","key":"b","content_type":"text/plain","data":"eA=="}
]}
`; text.String() != golden {
		t.Errorf("written\n%swant\n%s", text.String(), golden)
	}
	got, err := ReadCapsule(bytes.NewReader(text.Bytes()))
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%+v, %v\nwant %+v", got, err, want)
	}
	recs, err := got.Records()
	if err != nil || len(recs) != 3 || !bytes.Equal(recs[1].Value, []byte{1, 2}) {
		t.Fatal(recs, err)
	}
	if _, err := ReadCapsule(bytes.NewReader(bytes.Replace(text.Bytes(), []byte(`"format": 1`), []byte(`"format": 2`), 1))); err == nil {
		t.Error("another format is read")
	}
	if _, err := ReadCapsule(bytes.NewReader(text.Bytes()[:text.Len()/2])); err == nil {
		t.Error("half a capsule is read")
	}
	want.Messages[0].Partition = 2
	if _, err := want.Records(); err == nil {
		t.Error("a partition that there is not")
	}
}
