package relive_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
)

var seedFlag = flag.Uint64("relive.seed", 0, "run the property tests with this one seed")

const (
	inbox      = "shop.inbox"
	partitions = 2
)

// past is a service that lived: its inbox, and what each of its decisions was.
type past struct {
	t       *testing.T
	rng     *rand.Rand
	m       *deja.Machine
	log     *memory.Log
	store   *memory.Store
	workers []*step.Worker
	now     time.Time
	sent    []*deja.Envelope
	decided [partitions][]relive.Decision
}

func machine(t testing.TB) *deja.Machine {
	t.Helper()
	m, err := deja.Compile(till.Service(till.Variant{Broken: func() bool { return true }, MaxTake: 80}))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newPast(t *testing.T, seed uint64) *past {
	p := &past{t: t, rng: rand.New(rand.NewPCG(seed, 7)), m: machine(t), now: time.Unix(1e9, 0).UTC()}
	p.log = memory.NewLog(memory.LogConfig{Partitions: partitions, MaxRecord: 1 << 13, Now: func() time.Time { return p.now }})
	p.store = memory.NewStore()
	for n := range partitions {
		w, err := step.New(t.Context(), step.Config{
			Machine: p.m, Log: p.log, Store: p.store, Partition: int32(n), Build: "b", NewNonce: func() [16]byte { return [16]byte{1} },
			Settled: func(done []step.Settlement) {
				for _, d := range done {
					if d.Record != nil {
						p.decided[n] = append(p.decided[n], relive.Decision{Record: d.Record, Changes: d.Changes})
					}
				}
			},
		})
		if err == nil {
			err = w.Takeover(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		p.workers = append(p.workers, w)
	}
	return p
}

// send appends a message: a new one, one again, another of a known ID, or an act on the oldest parked one of a key.
func (p *past) send() {
	key := string(rune('a' + p.rng.IntN(4)))
	env := &deja.Envelope{
		ID: deja.DeriveID("past", fmt.Sprint(len(p.sent))), Kind: deja.KindCommand, Source: "shop", ContentType: "application/json",
		Stream: deja.Stream{Aggregate: "till", Key: key},
	}
	amount := 1 + p.rng.IntN(100)
	switch p.rng.IntN(8) {
	case 0:
		env.Type, env.Payload = "till.crash", []byte(`{}`)
	case 1:
		env.Type, env.Payload = "till.big", []byte(`{"Bytes":1500}`)
	case 2, 3, 4:
		env.Type, env.Payload = "till.take", fmt.Appendf(nil, `{"Amount":%d}`, amount)
	default:
		env.Type, env.Payload = "till.twice", fmt.Appendf(nil, `{"Amount":%d}`, amount)
	}
	switch r := p.rng.IntN(20); {
	case r < 4 && len(p.sent) > 0:
		old := *p.sent[p.rng.IntN(len(p.sent))]
		if r == 0 {
			old.Payload = []byte(`{"Amount":3}`)
		}
		if r == 1 {
			old.Stream.Key = key
		}
		env = &old
	case r < 9:
		waiting, err := p.store.Parked(p.t.Context(), place.Partition(key, partitions), env.Stream, 0, 1)
		if err != nil {
			p.t.Fatal(err)
		}
		if len(waiting) > 0 {
			env.Kind, env.Type = deja.KindAct, []string{deja.ActRetry, deja.ActSkip}[p.rng.IntN(2)]
			env.Payload = fmt.Appendf(nil, `{"message":%q}`, waiting[0].Key)
		}
	}
	p.sent = append(p.sent, env)
	p.now = p.now.Add(time.Duration(p.rng.IntN(1000)) * time.Millisecond)
	rec := driver.Record{Partition: place.Partition(env.Stream.Key, partitions), Value: wire.AppendMessage(nil, env)}
	if _, err := p.log.Append(p.t.Context(), inbox, []driver.Record{rec}); err != nil {
		p.t.Fatal(err)
	}
}

// handle lets both workers handle all there is, up to so many messages a transaction.
func (p *past) handle(most int) {
	for n, w := range p.workers {
		_, end, err := p.log.Bounds(p.t.Context(), inbox, int32(n))
		if err != nil {
			p.t.Fatal(err)
		}
		for w.Position().Offset < end {
			recs, err := p.log.Fetch(p.t.Context(), w.Position(), most)
			if err == nil {
				_, err = w.Handle(p.t.Context(), step.NewPreparer(p.m, partitions).Prepare(recs))
			}
			if err != nil {
				p.t.Fatal(err)
			}
		}
	}
}

// inbox returns the records of a partition from an offset on.
func (p *past) inbox(n int32, from int64) []driver.Record {
	_, end, err := p.log.Bounds(p.t.Context(), inbox, n)
	if err != nil || from >= end {
		return nil
	}
	recs, err := p.log.Fetch(p.t.Context(), deja.Position{Topic: inbox, Partition: n, Offset: from}, int(end))
	if err != nil {
		p.t.Fatal(err)
	}
	return recs
}

func seeds(t *testing.T, runs int) []uint64 {
	if *seedFlag != 0 {
		return []uint64{*seedFlag}
	}
	first := uint64(time.Now().UnixNano())
	t.Logf("seeds from %d; repeat one with -relive.seed=N", first)
	all := make([]uint64, runs)
	for i := range all {
		all[i] = first + uint64(i)
	}
	return all
}

// bare is a decision but for its place among others, which changes its size.
func bare(d relive.Decision) string {
	r := *d.Record
	if r.Decided.Reason.Code == deja.CodeTooLarge {
		r.Decided.Reason.Detail = ""
	}
	r.N, r.Prev, r.Covers, r.Incarnation, r.Build = 1, [32]byte{}, 0, driver.Incarnation{}, ""
	return fmt.Sprintf("%s %x %v", r.Cause.ID, wire.AppendRecord(nil, &r), d.Changes)
}

func compare(t *testing.T, seed uint64, got, want []relive.Decision) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got) || i >= len(want):
			t.Fatalf("seed %d: %d decisions, want %d", seed, len(got), len(want))
		case bare(got[i]) != bare(want[i]):
			t.Fatalf("seed %d, decision %d:\n got %+v\nwant %+v", seed, i, *got[i].Record, *want[i].Record)
		}
	}
}

func sameRows(t *testing.T, seed uint64, w *relive.World, p *past) {
	t.Helper()
	got, err := w.Rows(t.Context(), deja.Stream{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	want, err := p.store.States(t.Context(), deja.Stream{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, want, func(a, b driver.State) bool {
		return a.Stream == b.Stream && a.Version == b.Version && a.Parked == b.Parked && bytes.Equal(a.Data, b.Data)
	}) {
		t.Fatalf("seed %d: rows %+v\nwant %+v", seed, got, want)
	}
}

// What is lived again from the beginning is what was, byte by byte, whatever the transactions were.
func TestALifeLivedAgainIsTheSame(t *testing.T) {
	whole := 0
	for _, seed := range seeds(t, 200) {
		p := newPast(t, seed)
		for range 60 {
			p.send()
			if p.rng.IntN(3) == 0 {
				p.handle(1 + p.rng.IntN(9))
			}
		}
		p.handle(100)
		if crossed(p) {
			continue
		}
		whole++
		var got [partitions][]relive.Decision
		w := newWorld(t, p, relive.Past{}, func(d relive.Decision) { got[d.Cause.Position.Partition] = append(got[d.Cause.Position.Partition], d) })
		live(t, w, append(p.inbox(0, 0), p.inbox(1, 0)...))
		for n := range got {
			compare(t, seed, got[n], p.decided[n])
		}
		sameRows(t, seed, w, p)
	}
	if whole == 0 {
		t.Error("every past had an ID in two partitions")
	}
}

// crossed reports whether an ID was used in both partitions: then it matters which of them was first.
func crossed(p *past) bool {
	where := map[deja.ID]int32{}
	for _, e := range p.sent {
		n := place.Partition(e.Stream.Key, partitions)
		if old, ok := where[e.ID]; ok && old != n {
			return true
		}
		where[e.ID] = n
	}
	return false
}

func newWorld(t testing.TB, p *past, from relive.Past, told func(relive.Decision)) *relive.World {
	t.Helper()
	w, err := relive.New(t.Context(), relive.Config{Machine: p.m, Partitions: partitions, MaxRecord: 1 << 13, Build: "b", Decided: told}, from)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func live(t testing.TB, w *relive.World, recs []driver.Record) {
	t.Helper()
	ms := make([]relive.Message, len(recs))
	for i := range recs {
		ms[i] = w.Prepare(recs[i])
	}
	if err := w.Live(t.Context(), ms); err != nil {
		t.Fatal(err)
	}
}

// A life goes on from what was before it, parked messages and known IDs among it.
func TestALifeGoesOnFromAPast(t *testing.T) {
	parked := 0
	for _, seed := range seeds(t, 200) {
		p := newPast(t, seed)
		for range 40 {
			p.send()
			p.handle(3)
		}
		from := relive.Past{}
		var err error
		if from.States, err = p.store.States(t.Context(), deja.Stream{}, 100); err != nil {
			t.Fatal(err)
		}
		lo, hi := deja.ID{}, deja.ID(bytes.Repeat([]byte{0xff}, 16))
		if from.Ledger, err = p.store.Find(t.Context(), lo, hi, 1000); err != nil {
			t.Fatal(err)
		}
		begin := [partitions]int64{p.workers[0].Position().Offset, p.workers[1].Position().Offset}
		for n := range int32(partitions) {
			ps, err := p.store.Parked(t.Context(), n, deja.Stream{}, 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			from.Parked = append(from.Parked, ps...)
			from.Inbox = append(from.Inbox, p.inbox(n, 0)...)
		}
		parked += len(from.Parked)
		before := [partitions]int{len(p.decided[0]), len(p.decided[1])}
		for range 40 {
			p.send()
		}
		p.handle(7)
		var got [partitions][]relive.Decision
		w := newWorld(t, p, from, func(d relive.Decision) { got[d.Cause.Position.Partition] = append(got[d.Cause.Position.Partition], d) })
		for n := range int32(partitions) {
			live(t, w, p.inbox(n, begin[n]))
			compare(t, seed, got[n], p.decided[n][before[n]:])
		}
		sameRows(t, seed, w, p)
	}
	if parked == 0 {
		t.Error("no past had a parked message")
	}
}

// A message can be lived without those of other keys: decided no earlier than it was.
func TestNotBefore(t *testing.T) {
	p := newPast(t, 1)
	w := newWorld(t, p, relive.Past{}, func(d relive.Decision) { p.decided[0] = append(p.decided[0], d) })
	p.sent = nil
	for p.send(); place.Partition(p.sent[len(p.sent)-1].Stream.Key, partitions) != 0; p.send() {
	}
	late := p.now.Add(time.Hour)
	if err := w.Live(t.Context(), []relive.Message{w.Prepare(p.inbox(0, 0)[0]).NotBefore(late)}); err != nil {
		t.Fatal(err)
	}
	if at := p.decided[0][0].Time; !at.Equal(late) {
		t.Errorf("decided at %s, want %s", at, late)
	}
}

// What killed processes then does not get near this one.
func TestKilledMessagesAreParked(t *testing.T) {
	p := newPast(t, 1)
	var got []relive.Decision
	w := newWorld(t, p, relive.Past{}, func(d relive.Decision) { got = append(got, d) })
	env := &deja.Envelope{
		ID: deja.NewID(), Kind: deja.KindCommand, Source: "shop", ContentType: "application/json",
		Stream: deja.Stream{Aggregate: "till", Key: "a"}, Type: "till.put", Payload: []byte(`{"Amount":1}`),
	}
	rec := driver.Record{Partition: place.Partition("a", partitions), Value: wire.AppendMessage(nil, env), Time: p.now}
	if err := w.Live(t.Context(), []relive.Message{w.Killed(rec, 3)}); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Decided.Reason.Code != deja.CodeKilled {
		t.Errorf("decided %+v", got)
	}
}

func TestMessagesComeInOrder(t *testing.T) {
	p := newPast(t, 1)
	for range 10 {
		p.send()
	}
	for n := range int32(partitions) {
		recs := p.inbox(n, 0)
		if len(recs) < 2 {
			continue
		}
		w := newWorld(t, p, relive.Past{}, nil)
		if err := w.Live(t.Context(), []relive.Message{w.Prepare(recs[1]), w.Prepare(recs[0])}); err == nil {
			t.Error("a message is lived before one that was lived already")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := newWorld(t, p, relive.Past{}, nil)
	cancel()
	if err := w.Live(ctx, []relive.Message{w.Prepare(append(p.inbox(0, 0), p.inbox(1, 0)...)[0])}); err == nil {
		t.Error("a cancelled life goes on")
	}
}

func BenchmarkLive(b *testing.B) {
	m := machine(b)
	const messages = 10_000
	recs := make([]driver.Record, messages)
	for i := range recs {
		env := &deja.Envelope{
			ID: deja.NewID(), Kind: deja.KindCommand, Source: "shop", ContentType: "application/json",
			Stream: deja.Stream{Aggregate: "till", Key: "a"}, Type: "till.put", Payload: fmt.Appendf(nil, `{"Amount":%d}`, i),
		}
		recs[i] = driver.Record{Offset: int64(i), Value: wire.AppendMessage(nil, env), Time: time.Unix(1e9+int64(i), 0)}
	}
	var ms []relive.Message
	for b.Loop() {
		w, err := relive.New(b.Context(), relive.Config{Machine: m, Partitions: 1, Decided: func(relive.Decision) {}}, relive.Past{})
		if err != nil {
			b.Fatal(err)
		}
		if ms == nil {
			for _, r := range recs {
				ms = append(ms, w.Prepare(r))
			}
		}
		if err := w.Live(b.Context(), ms); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*messages), "ns/message")
}
