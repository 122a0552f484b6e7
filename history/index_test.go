package history

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	past "github.com/dejalog/deja/internal/lived"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/trail"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

var indexSeed = flag.Uint64("index.seed", 0, "run the property tests about the index with this one seed")

// eachIndexed runs a test on random pasts.
func eachIndexed(t *testing.T, runs int, test func(t *testing.T, w *indexed)) {
	first := uint64(time.Now().UnixNano())
	if *indexSeed != 0 {
		first, runs = *indexSeed, 1
	}
	for i := range runs {
		seed := first + uint64(i)
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Logf("repeat with: go test ./history -run '%s' -index.seed=%d", strings.Split(t.Name(), "/")[0], seed)
			rng := rand.New(rand.NewPCG(seed, 3))
			test(t, newIndexed(t, rng))
		})
	}
}

// indexed is a past with an index.
type indexed struct {
	*past.Past
	t          *testing.T
	rng        *rand.Rand
	partitions int32
	path       string
	limits     trail.Limits
	live       int
	point      int
}

func newIndexed(t *testing.T, rng *rand.Rand) *indexed {
	w := &indexed{t: t, rng: rng, partitions: 1 + rng.Int32N(3), path: filepath.Join(t.TempDir(), "index")}
	w.Past = past.New(t, past.Service(), w.partitions)
	w.limits = trail.Limits{Rows: 1 + rng.IntN(100), Data: 1 + rng.IntN(20_000), Block: 1 + rng.IntN(4000)}
	w.live, w.point = 1+rng.IntN(6), 1+rng.IntN(40)
	return w
}

// live lets n messages come and be decided: those of shelves, and odd ones.
func (w *indexed) lives(n int) {
	for range n {
		switch w.rng.IntN(12) {
		case 0:
			w.odd()
		case 1:
			w.strange()
		default:
			w.Random(w.rng, 4)
		}
		if w.rng.IntN(6) == 0 {
			w.Handle(1 + w.rng.IntN(20))
		}
	}
	w.Handle(20)
}

// odd sends a message with odd names, and an ID of version 4 or 7.
func (w *indexed) odd() {
	id := deja.NewID()
	if w.rng.IntN(2) == 0 {
		id = deja.DeriveID("odd", fmt.Sprint(w.rng.Uint64()))
	}
	s := deja.Stream{
		Tenant: []string{"", "acme", "ünï"}[w.rng.IntN(3)], Aggregate: "shelf",
		Key: []string{"a", "a/b", "ключ", "a:b", strings.Repeat("long", 100), `"'`}[w.rng.IntN(6)],
	}
	w.Send(deja.Envelope{ID: id, Stream: s, Type: "shelf.limit", Payload: fmt.Appendf(nil, `{"name":"x","value":%d}`, w.rng.IntN(9)-3)})
}

// strange appends what is no message for its partition: it dies, and has no stream.
func (w *indexed) strange() {
	value := []byte("no message")
	if w.rng.IntN(2) == 0 {
		env := deja.Envelope{
			ID: deja.NewID(), Kind: deja.KindCommand, Type: "shelf.add", Source: "store", ContentType: "application/json",
			Stream: deja.Stream{Aggregate: "shelf", Key: "a"}, Payload: []byte(`{"amount":1}`),
		}
		value = wire.AppendMessage(nil, &env)
	}
	_, err := w.Log.Append(w.t.Context(), "store.inbox", []driver.Record{{Partition: w.rng.Int32N(w.partitions), Value: value}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *indexed) source() *replay.Source {
	w.t.Helper()
	var ledger driver.Reader
	if w.rng.IntN(2) == 0 {
		ledger = w.Store
	}
	return sourceOf(w.t, w.Log, ledger)
}

func sourceOf(t *testing.T, log driver.Log, ledger driver.Reader) *replay.Source {
	t.Helper()
	src, err := replay.Open(t.Context(), replay.Config{Service: past.Service(), Log: log, Store: ledger})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// open opens the index, with small limits.
func (w *indexed) open(build string) *index {
	w.t.Helper()
	x, err := w.tryOpen(w.t.Context(), build)
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

func (w *indexed) tryOpen(ctx context.Context, build string) (*index, error) {
	b := newBuilder(&Config{Log: w.Log, Index: w.path}, w.source())
	b.limits, b.live, b.point = w.limits, w.live, w.point
	return b.index(ctx, build)
}

func (w *indexed) naive() *folded {
	w.t.Helper()
	return foldOf(w.t, sourceOf(w.t, w.Log, w.Store))
}

func foldOf(t *testing.T, src *replay.Source) *folded {
	t.Helper()
	f, err := foldAll(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// mustAgree asks both everything.
func mustAgree(t *testing.T, rng *rand.Rand, x steps, f *folded) {
	t.Helper()
	if got := x.upTo(); !slices.Equal(got, f.upTo()) {
		t.Fatalf("it goes up to %v, want %v", got, f.upTo())
	}
	a := agreement{t, rng, x, f}
	a.decisions()
	a.keys()
	a.scans()
	a.ids()
	a.times()
}

type agreement struct {
	t   *testing.T
	rng *rand.Rand
	x   steps
	f   *folded
}

// plain returns a copy of a step in which what is empty is nil.
func plain(s *Step) *Step {
	c := *s
	c.Events, c.Writes = slices.Clone(s.Events), slices.Clone(s.Writes)
	for i := range c.Events {
		c.Events[i].Payload = bytes.Clone(c.Events[i].Payload)
	}
	if len(c.Events) == 0 {
		c.Events = nil
	}
	if len(c.Writes) == 0 {
		c.Writes = nil
	}
	return &c
}

func (a *agreement) same(what string, got, want *Step) {
	a.t.Helper()
	if !reflect.DeepEqual(plain(got), plain(want)) {
		a.t.Fatalf("%s is\n%+v, want\n%+v", what, got, want)
	}
}

func (a *agreement) decisions() {
	a.t.Helper()
	for p, list := range a.f.partitions {
		for _, n := range []int64{-1, 0, int64(len(list)) + 1} {
			if _, err := a.x.decision(a.t.Context(), place{int32(p), n}); !errors.Is(err, replay.ErrNotFound) {
				a.t.Fatalf("decision %d of %d: %v", n, p, err)
			}
		}
		for _, want := range list {
			got, err := a.x.decision(a.t.Context(), place{int32(p), want.N})
			if err != nil {
				a.t.Fatal(err)
			}
			a.same("a decision", got, want)
		}
	}
}

// numbers returns a range of decisions, of the whole history half of the time.
func (a *agreement) numbers() (after, last int64) {
	most := slices.Max(a.f.upTo())
	if a.rng.IntN(2) == 0 {
		return 0, most
	}
	return a.rng.Int64N(most + 1), a.rng.Int64N(most + 2)
}

func (a *agreement) keys() {
	a.t.Helper()
	streams := append(slices.Clone(a.f.streams), deja.Stream{Aggregate: "shelf", Key: "nobody's"}, deja.Stream{Aggregate: "unknown", Key: "a"})
	for _, s := range streams {
		after, last := a.numbers()
		for _, back := range []bool{false, true} {
			var want []*Step
			for st, err := range a.f.key(a.t.Context(), s, after, last, back) {
				if err != nil {
					a.t.Fatal(err)
				}
				want = append(want, st)
			}
			i := 0
			for got, err := range a.x.key(a.t.Context(), s, after, last, back) {
				if err != nil {
					a.t.Fatal(err)
				}
				if i == len(want) {
					a.t.Fatalf("%s has a step too much: %+v", s, got)
				}
				a.same(fmt.Sprintf("step %d of %s, back %v,", i, s, back), got, want[i])
				i++
			}
			if i != len(want) {
				a.t.Fatalf("%s from %d to %d, back %v: %d steps, want %d", s, after, last, back, i, len(want))
			}
		}
		a.states(s)
	}
}

func (a *agreement) states(s deja.Stream) {
	a.t.Helper()
	for range 8 {
		_, last := a.numbers()
		want, wantErr := a.f.state(a.t.Context(), s, last)
		got, err := a.x.state(a.t.Context(), s, last)
		if (err == nil) != (wantErr == nil) {
			a.t.Fatalf("state of %s at %d: %v, want %v", s, last, err, wantErr)
		}
		if err != nil {
			continue
		}
		wantData, _ := want.Encode()
		gotData, err := got.Encode()
		if err != nil || got.Version != want.Version || got.Stream != want.Stream || !bytes.Equal(gotData, wantData) {
			a.t.Fatalf("state of %s at %d is %s at version %d, %v; want %s at %d", s, last, gotData, got.Version, err, wantData, want.Version)
		}
	}
}

func (a *agreement) scans() {
	a.t.Helper()
	for _, match := range []func(deja.Stream) bool{
		func(deja.Stream) bool { return true },
		func(s deja.Stream) bool { return s.Tenant == "" && s.Key > "a" },
	} {
		last := a.f.upTo()
		for p := range last {
			if a.rng.IntN(2) == 0 {
				last[p] = a.rng.Int64N(last[p] + 2)
			}
		}
		var want []*Step
		for s, err := range a.f.scan(a.t.Context(), match, last) {
			if err != nil {
				a.t.Fatal(err)
			}
			want = append(want, s)
		}
		i := 0
		for got, err := range a.x.scan(a.t.Context(), match, last) {
			if err != nil {
				a.t.Fatal(err)
			}
			if i == len(want) {
				a.t.Fatalf("a scan has a step too much: %+v", got)
			}
			a.same(fmt.Sprintf("step %d of a scan", i), got, want[i])
			i++
		}
		if i != len(want) {
			a.t.Fatalf("a scan up to %v has %d steps, want %d", last, i, len(want))
		}
	}
}

func (a *agreement) ids() {
	a.t.Helper()
	id := func(of func(*Step) deja.ID) deja.ID {
		list := a.f.partitions[a.rng.IntN(len(a.f.partitions))]
		if len(list) == 0 {
			return deja.NewID()
		}
		return of(list[a.rng.IntN(len(list))])
	}
	for range 40 {
		lo := id(func(s *Step) deja.ID { return s.ID })
		hi := lo
		if a.rng.IntN(2) == 0 {
			hi = id(func(s *Step) deja.ID { return s.ID })
		}
		most := 1 + a.rng.IntN(6)
		want, _ := a.f.find(a.t.Context(), lo, hi, most)
		if got, err := a.x.find(a.t.Context(), lo, hi, most); err != nil || !slices.Equal(got, want) {
			a.t.Fatalf("%d of %s to %s: %v, %v; want %v", most, lo, hi, got, err, want)
		}
		cause := id(func(s *Step) deja.ID { return s.Cause })
		if cause.IsZero() {
			cause = lo
		}
		want, _ = a.f.caused(a.t.Context(), cause)
		if got, err := a.x.caused(a.t.Context(), cause); err != nil || !slices.Equal(got, want) {
			a.t.Fatalf("caused by %s: %v, %v; want %v", cause, got, err, want)
		}
	}
}

func (a *agreement) times() {
	a.t.Helper()
	for p, list := range a.f.partitions {
		for range 8 {
			at := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
			if len(list) > 0 {
				at = list[a.rng.IntN(len(list))].Time.Add(time.Duration(a.rng.IntN(3)-1) * time.Nanosecond)
			}
			want, _ := a.f.decidedBy(a.t.Context(), int32(p), at)
			if got, err := a.x.decidedBy(a.t.Context(), int32(p), at); err != nil || got != want {
				a.t.Fatalf("by %v: %d, %v; want %d", at, got, err, want)
			}
		}
	}
}

// The index answers as a naive fold does: built at once, or as the history grew, with or without a name.
func TestAnIndexAnswersAsAFoldDoes(t *testing.T) {
	eachIndexed(t, often(15, 4), func(t *testing.T, w *indexed) {
		for range 1 + w.rng.IntN(6) {
			w.lives(w.rng.IntN(120))
			if x := w.open("build"); w.rng.IntN(3) > 0 {
				if len(x.notes) > 0 {
					t.Errorf("it was made anew: %v", x.notes)
				}
				mustClose(t, x)
			} else {
				mustAgree(t, w.rng, x, w.naive())
				mustClose(t, x)
			}
		}
		naive := w.naive()
		for range 2 {
			x := w.open("build")
			mustAgree(t, w.rng, x, naive)
			mustClose(t, x)
		}
		w.path = ""
		x := w.open("build")
		mustAgree(t, w.rng, x, naive)
		mustClose(t, x)
	})
}

func mustClose(t *testing.T, x *index) {
	t.Helper()
	if err := x.close(); err != nil {
		t.Fatal(err)
	}
}

// An index that is cut off anywhere, or has a bit that flipped, gives the right answers all the same.
func TestADamagedIndexIsMadeAnew(t *testing.T) {
	eachIndexed(t, often(2, 1), func(t *testing.T, w *indexed) {
		w.lives(150)
		mustClose(t, w.open("build"))
		w.lives(30)
		mustClose(t, w.open("build"))
		whole, err := os.ReadFile(w.path)
		if err != nil {
			t.Fatal(err)
		}
		naive := w.naive()
		anew := 0
		for i := range 40 {
			data := bytes.Clone(whole)
			var what string
			if at := w.rng.IntN(len(data)); i%2 == 0 {
				data, what = data[:at], fmt.Sprintf("cut off at %d of %d", at, len(whole))
			} else {
				if i%4 == 1 {
					at = w.rng.IntN(1100) // the header
				}
				data[at] ^= 1 << w.rng.IntN(8)
				what = fmt.Sprintf("byte %d is not %#x", at, whole[at])
			}
			if err := os.WriteFile(w.path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			x, err := w.tryOpen(t.Context(), "build")
			if errors.Is(err, trail.ErrForeign) && len(data) < 8 {
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			mustAgree(t, w.rng, x, naive)
			if len(x.notes) > 0 {
				anew++
			}
			if t.Failed() {
				t.Fatal(what)
			}
			mustClose(t, x)
			after := w.open("build")
			if len(after.notes) > 0 {
				t.Fatalf("%s: it was not mended: %v", what, after.notes)
			}
			mustClose(t, after)
		}
		if anew < 20 {
			t.Errorf("only %d of 40 were made anew", anew)
		}
	})
}

// An index of another log, build, service or number of partitions is not believed.
func TestAnotherHistorysIndexIsMadeAnew(t *testing.T) {
	eachIndexed(t, 5, func(t *testing.T, w *indexed) {
		w.lives(60)
		mustClose(t, w.open("build"))
		x := w.open("another build")
		if len(x.notes) != 1 || !strings.Contains(x.notes[0], "build") {
			t.Errorf("of another build: %v", x.notes)
		}
		mustAgree(t, w.rng, x, w.naive())
		mustClose(t, x)

		other := newIndexed(t, w.rng)
		other.path = w.path
		other.lives(60)
		x = other.open("another build")
		if len(x.notes) != 1 {
			t.Errorf("of another log: %v", x.notes)
		}
		mustAgree(t, w.rng, x, other.naive())
		mustClose(t, x)
	})
}

// A log that was set back, or was and has grown again otherwise, is another history, though it says that it is the same log.
func TestAnIndexOfALogThatForkedIsMadeAnew(t *testing.T) {
	eachIndexed(t, 6, func(t *testing.T, w *indexed) {
		w.lives(40)
		fork := w.Log.Clone()
		w.lives(20 + w.rng.IntN(20))
		mustClose(t, w.open("build"))
		grown := w.rng.IntN(2) == 0
		for p := range w.partitions {
			kept := len(records(t, fork, "store.journal", p))
			if grown {
				grow(t, fork, p, records(t, w.Log, "store.journal", p)[kept:])
			}
		}
		x, err := newBuilder(&Config{Log: fork, Index: w.path}, sourceOf(t, fork, nil)).index(t.Context(), "build")
		if err != nil {
			t.Fatal(err)
		}
		if len(x.notes) != 1 || !strings.Contains(x.notes[0], "not the one that was read") {
			t.Errorf("it was not noticed: %v", x.notes)
		}
		mustAgree(t, w.rng, x, foldOf(t, sourceOf(t, fork, nil)))
		mustClose(t, x)
	})
}

// grow appends decisions to a journal as if they had been made a second later.
func grow(t *testing.T, log *memory.Log, partition int32, recs []driver.Record) {
	t.Helper()
	have := records(t, log, "store.journal", partition)
	chain := wire.Genesis("store", partition)
	if len(have) > 0 {
		chain = wire.Hash(have[len(have)-1].Value)
	}
	for _, rec := range recs {
		r, err := wire.NewDecoder("store").Record(partition, rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		r.Prev, r.Time = chain, r.Time.Add(time.Second)
		rec.Value = wire.AppendRecord(nil, r)
		chain = wire.Hash(rec.Value)
		if _, err := log.Append(t.Context(), "store.journal", []driver.Record{rec}); err != nil {
			t.Fatal(err)
		}
	}
}

// What a log no longer has is not needed once it is indexed; and without it no index is begun.
func TestATrimmedJournalIsSaid(t *testing.T) {
	eachIndexed(t, 4, func(t *testing.T, w *indexed) {
		w.lives(60)
		naive := w.naive()
		mustClose(t, w.open("build"))
		for p := range w.partitions {
			w.Log.Trim("store.journal", p, int64(len(naive.partitions[p])/2))
		}
		x, err := newBuilder(&Config{Log: w.Log, Index: w.path}, sourceOf(t, w.Log, nil)).index(t.Context(), "build")
		if err != nil || len(x.notes) > 0 {
			t.Fatalf("an index that has all is of no use: %v", err)
		}
		mustAgree(t, w.rng, x, naive)
		mustClose(t, x)
		if err := os.Remove(w.path); err != nil {
			t.Fatal(err)
		}
		if _, err := w.tryOpen(t.Context(), "build"); !errors.Is(err, driver.ErrTrimmed) {
			t.Errorf("it is built without the beginning: %v", err)
		}
	})
}

// records returns all records of a partition.
func records(t *testing.T, log driver.Log, topic string, partition int32) []driver.Record {
	t.Helper()
	at := deja.Position{Topic: topic, Partition: partition}
	var all []driver.Record
	_, end, err := log.Bounds(t.Context(), topic, partition)
	for err == nil && at.Offset < end {
		var recs []driver.Record
		recs, err = log.Fetch(t.Context(), at, 1000)
		all = append(all, recs...)
		at.Offset = int64(len(all))
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// While another process builds the index, or it cannot be written, it is left alone, and what is new is indexed elsewhere.
func TestALockedIndexIsLeftAlone(t *testing.T) {
	eachIndexed(t, 5, func(t *testing.T, w *indexed) {
		if w.rng.IntN(3) > 0 {
			w.lives(60)
			mustClose(t, w.open("build"))
		}
		unlock, err := trail.Lock(w.path)
		if err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(w.path)
		w.lives(30)
		x := w.open("build")
		if len(x.notes) != 1 || !strings.Contains(x.notes[0], trail.ErrLocked.Error()) {
			t.Errorf("it does not say so: %v", x.notes)
		}
		mustAgree(t, w.rng, x, w.naive())
		mustClose(t, x)
		if after, _ := os.ReadFile(w.path); !bytes.Equal(before, after) {
			t.Error("the index was changed")
		}
		if err := unlock(); err != nil {
			t.Fatal(err)
		}
		x = w.open("build")
		mustAgree(t, w.rng, x, w.naive())
		mustClose(t, x)
	})
}

// A file that is something else is not overwritten.
func TestAnIndexDoesNotReplaceOtherFiles(t *testing.T) {
	w := newIndexed(t, rand.New(rand.NewPCG(1, 1)))
	w.lives(10)
	if err := os.WriteFile(w.path, []byte("SQLite format 3"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.tryOpen(t.Context(), "build"); !errors.Is(err, trail.ErrForeign) {
		t.Errorf("it is opened: %v", err)
	}
	if data, err := os.ReadFile(w.path); err != nil || string(data) != "SQLite format 3" {
		t.Errorf("it is %q now, %v", data, err)
	}
}

// Building that is cancelled keeps what it has, and goes on from there.
func TestACancelledIndexGoesOn(t *testing.T) {
	eachIndexed(t, 5, func(t *testing.T, w *indexed) {
		w.limits.Rows = min(w.limits.Rows, 20)
		w.lives(150)
		kept := int64(0)
		for {
			ctx, cancel := context.WithCancel(t.Context())
			b := newBuilder(&Config{Log: w.Log, Index: w.path}, w.source())
			b.limits, b.live, b.point = w.limits, w.live, w.point
			b.every, b.progress = 25, func(int64, int64) { cancel() }
			x, err := b.index(ctx, "build")
			cancel()
			if err == nil {
				mustAgree(t, w.rng, x, w.naive())
				mustClose(t, x)
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			tr, err := trail.Open(w.path, false)
			if err != nil {
				t.Fatal(err)
			}
			has := int64(0)
			for p := range tr.Partitions() {
				has += tr.Mark(p).N
			}
			if has <= kept {
				t.Fatalf("it has %d decisions, and had %d", has, kept)
			}
			kept = has
			if err := tr.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// An answer that comes upon damage goes on where it was, from the index that is built anew meanwhile.
func TestAnAnswerGoesOnPastDamage(t *testing.T) {
	eachIndexed(t, 6, func(t *testing.T, w *indexed) {
		w.limits = trail.Limits{Rows: 30, Data: 1 << 20, Block: 500}
		w.lives(250)
		mustClose(t, w.open("build"))
		naive := w.naive()
		busiest := slices.MaxFunc(naive.streams, func(a, b deja.Stream) int { return len(naive.keys[a]) - len(naive.keys[b]) })
		for _, ask := range []func(steps) iter.Seq2[*Step, error]{
			func(x steps) iter.Seq2[*Step, error] { return x.key(t.Context(), busiest, 0, 1<<40, false) },
			func(x steps) iter.Seq2[*Step, error] { return x.key(t.Context(), busiest, 0, 1<<40, true) },
			func(x steps) iter.Seq2[*Step, error] {
				return x.scan(t.Context(), func(deja.Stream) bool { return true }, x.upTo())
			},
		} {
			var want []*Step
			for s, err := range ask(naive) {
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, s)
			}
			x := w.open("build")
			i, ruins := 0, maxHealed // more often than that is too often
			for got, err := range ask(x) {
				if err != nil {
					t.Fatal(err)
				}
				if i == len(want) {
					t.Fatalf("there are more than %d steps", i)
				}
				if ruins > 0 && w.rng.IntN(6) == 0 {
					ruin(t, w.path)
					ruins--
				}
				if !reflect.DeepEqual(plain(got), plain(want[i])) {
					t.Fatalf("step %d is\n%+v, want\n%+v", i, got, want[i])
				}
				i++
			}
			if i != len(want) {
				t.Fatalf("%d steps, want %d", i, len(want))
			}
			mustClose(t, x)
		}
	})
}

// ruin overwrites all of an index but its header, once.
func ruin(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, info.Size()-4096), 4096); err != nil {
		t.Fatal(err)
	}
}
