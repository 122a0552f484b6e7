package trail

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// past is what a trail should answer from: all entries, by partition.
type past struct {
	rng        *rand.Rand
	partitions [][]*Entry
	tokens     map[deja.Stream]map[string]string
	versions   map[deja.Stream]int64
	ids        []deja.ID
	now        time.Time
}

func newPast(seed uint64) *past {
	rng := rand.New(rand.NewPCG(seed, 7))
	return &past{
		rng: rng, partitions: make([][]*Entry, 1+rng.IntN(3)), tokens: map[deja.Stream]map[string]string{},
		versions: map[deja.Stream]int64{}, now: time.UnixMicro(1_600_000_000_000_000).UTC(),
	}
}

// grow adds n entries, of odd keys and all kinds.
func (p *past) grow(n int) {
	for range n {
		part := p.rng.IntN(len(p.partitions))
		p.partitions[part] = append(p.partitions[part], p.entry(int32(part)))
	}
}

func (p *past) entry(part int32) *Entry {
	r := p.rng
	p.now = p.now.Add(time.Duration(r.IntN(3)) * time.Millisecond)
	list := p.partitions[part]
	e := &Entry{
		Partition: part, N: int64(len(list)) + 1, Offset: int64(len(list) + r.IntN(4)), Kind: deja.Kind(1 + r.IntN(6)), Status: deja.Status(1 + r.IntN(6)),
		Type: pick(r, "account.open", "account.deposit.v2", "", "x"), Hash: r.Uint64(), Time: p.now,
	}
	if r.IntN(20) > 0 {
		e.Stream = deja.Stream{Tenant: pick(r, "", "", "acme"), Aggregate: pick(r, "account", "acc"), Key: fmt.Sprintf("%s%d-%d", pick(r, "", "ключ ", "a/"), part, r.IntN(12))}
	}
	if e.ID = p.id(); r.IntN(4) == 0 {
		e.Cause = p.someID()
	}
	if r.IntN(9) == 0 {
		e.Act = p.id()
	}
	if r.IntN(3) == 0 {
		e.BusinessTime = p.now.Add(-time.Duration(r.IntN(1e6)) * time.Microsecond * 1000)
	}
	if e.Status == deja.Applied {
		p.change(e)
	}
	if e.Status != deja.Conflicted && e.Status != deja.DeadLetter {
		e.Version = p.versions[e.Stream]
	}
	return e
}

// change lets an entry record events, and change fields.
func (p *past) change(e *Entry) {
	r := p.rng
	if r.IntN(4) == 0 {
		e.Point, e.PointVersion = bytes.Repeat([]byte("p"), 1+r.IntN(50)), p.versions[e.Stream]
	}
	for range r.IntN(4) {
		ev := Event{Type: pick(r, "account.opened", "account.moved")}
		if r.IntN(5) > 0 {
			ev.Payload = fmt.Appendf(nil, `{"amount":%d,"text":%q}`, r.IntN(1000), bytes.Repeat([]byte("t"), r.IntN(30)))
		}
		e.Events = append(e.Events, ev)
	}
	p.versions[e.Stream] += int64(len(e.Events))
	tokens := p.tokens[e.Stream]
	if tokens == nil {
		tokens = map[string]string{}
		p.tokens[e.Stream] = tokens
	}
	for _, path := range []string{"balance", "items.#", fmt.Sprintf("items.%d", r.IntN(30)), `limits["a.b"]`} {
		if len(e.Events) > 0 && r.IntN(2) == 0 {
			token := pick(r, "", "0", fmt.Sprint(r.IntN(100000)), `"a text that is longer"`)
			if token != tokens[path] {
				e.Writes = append(e.Writes, Write{path, tokens[path], token})
				tokens[path] = token
			}
		}
	}
}

// id returns a new ID of version 4 or 7, one that is close to another, or one that was there before.
func (p *past) id() deja.ID {
	var id deja.ID
	for i := range id {
		id[i] = byte(p.rng.UintN(256))
	}
	switch p.rng.IntN(8) {
	case 0, 1, 2:
		copy(id[:], []byte{1, 0x90, byte(len(p.ids) >> 12), byte(len(p.ids) >> 4), byte(len(p.ids) << 4), 0})
	case 3:
		if len(p.ids) > 0 {
			id = p.someID()
			id[8+p.rng.IntN(8)]++
		}
	case 4:
		if len(p.ids) > 0 {
			return p.someID()
		}
	}
	p.ids = append(p.ids, id)
	return id
}

func (p *past) someID() deja.ID {
	if len(p.ids) == 0 {
		return deja.ID{1}
	}
	return p.ids[p.rng.IntN(len(p.ids))]
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func markAt(n int64) driver.Logged {
	m := driver.Logged{N: n, Offset: n * 2, Incarnation: driver.Incarnation{Number: n / 50}}
	m.Chain[0] = byte(n)
	return m
}

// build brings a trail up to the past.
func (p *past) build(t *testing.T, tr *Trail, limits Limits) {
	t.Helper()
	b, err := tr.Build(limits)
	if err != nil {
		t.Fatal(err)
	}
	for part, list := range p.partitions {
		from := tr.Mark(int32(part)).N
		if from == int64(len(list)) {
			continue
		}
		if err := b.Begin(int32(part), int64(len(list))-from); err != nil {
			t.Fatal(err)
		}
		for _, e := range list[from:] {
			if err := b.Add(e, markAt(e.N)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// check asks a trail everything.
func (p *past) check(t *testing.T, tr *Trail) {
	t.Helper()
	var all []*Entry
	last := make([]int64, len(p.partitions))
	for part, list := range p.partitions {
		all = append(all, list...)
		if got := tr.Mark(int32(part)); len(list) > 0 && got != markAt(int64(len(list))) {
			t.Fatalf("partition %d is at %+v", part, got)
		}
		last[part] = int64(p.rng.IntN(len(list) + 1))
		for _, e := range list {
			got, err := tr.Decision(Place{int32(part), e.N})
			if err != nil || !reflect.DeepEqual(got, e) {
				t.Fatalf("decision %d of %d is\n%+v, %v; want\n%+v", e.N, part, got, err, e)
			}
		}
	}
	p.checkKeys(t, tr)
	p.checkScan(t, tr, all, last)
	p.checkIDs(t, tr, all)
	p.checkTimes(t, tr)
}

func (p *past) checkKeys(t *testing.T, tr *Trail) {
	t.Helper()
	for part, list := range p.partitions {
		streams := map[deja.Stream]bool{{Aggregate: "nobody", Key: "x"}: true}
		for _, e := range list {
			streams[e.Stream] = true
		}
		for s := range streams {
			after, last := int64(p.rng.IntN(len(list)+1)), int64(p.rng.IntN(len(list)+2))
			if p.rng.IntN(2) == 0 {
				after, last = 0, int64(len(list))
			}
			var want []*Entry
			for _, e := range list {
				if e.Stream == s && e.N > after && e.N <= last {
					want = append(want, e)
				}
			}
			for _, back := range []bool{false, true} {
				var got []*Entry
				for e, err := range tr.Key(t.Context(), int32(part), s, after, last, back) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, e)
				}
				if back {
					slices.Reverse(got)
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%v of %d from %d to %d, back %v: %d entries, want %d", s, part, after, last, back, len(got), len(want))
				}
			}
		}
	}
}

func (p *past) checkScan(t *testing.T, tr *Trail, all []*Entry, last []int64) {
	t.Helper()
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b *Entry) int { return a.Stream.Compare(b.Stream) })
	match := func(s deja.Stream) bool { return s.Tenant == "" }
	if p.rng.IntN(2) == 0 {
		match = func(deja.Stream) bool { return true }
	}
	var want []*Entry
	for _, e := range sorted {
		if match(e.Stream) && e.N <= last[e.Partition] {
			want = append(want, e)
		}
	}
	begin := From{}
	if len(want) > 0 && p.rng.IntN(2) == 0 {
		k := p.rng.IntN(len(want))
		begin = From{want[k].Stream, want[k].Partition, want[k].N}
		want = want[k+1:]
	}
	i := 0
	for e, err := range tr.Scan(t.Context(), match, last, begin) {
		if err != nil {
			t.Fatal(err)
		}
		if i >= len(want) || !reflect.DeepEqual(e.clone(), want[i]) {
			t.Fatalf("entry %d of a scan is\n%+v; want\n%+v", i, e, want[min(i, len(want)-1)])
		}
		i++
	}
	if i != len(want) {
		t.Fatalf("a scan has %d entries, want %d", i, len(want))
	}
}

func (p *past) checkIDs(t *testing.T, tr *Trail, all []*Entry) {
	t.Helper()
	byID := slices.Clone(all)
	slices.SortStableFunc(byID, func(a, b *Entry) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	for range 60 {
		lo, hi := p.someID(), p.someID()
		if p.rng.IntN(2) == 0 {
			hi = lo
		}
		most := 1 + p.rng.IntN(8)
		var want, caused []Place
		for _, e := range byID {
			if bytes.Compare(e.ID[:], lo[:]) >= 0 && bytes.Compare(e.ID[:], hi[:]) <= 0 && len(want) < most {
				want = append(want, Place{e.Partition, e.N})
			}
		}
		for _, e := range all {
			if e.Cause == lo {
				caused = append(caused, Place{e.Partition, e.N})
			}
		}
		if got, err := tr.Find(t.Context(), lo, hi, most); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%d from %v to %v: %v, %v; want %v", most, lo, hi, got, err, want)
		}
		if got, err := tr.Caused(t.Context(), lo); err != nil || !reflect.DeepEqual(got, caused) {
			t.Fatalf("caused by %v: %v, %v; want %v", lo, got, err, caused)
		}
	}
}

func (p *past) checkTimes(t *testing.T, tr *Trail) {
	t.Helper()
	for part, list := range p.partitions {
		for range 10 {
			at := p.now.Add(-time.Duration(p.rng.IntN(int(p.now.Sub(time.UnixMicro(1_599_999_999_990_000))))))
			want := int64(0)
			for _, e := range list {
				if !e.Time.After(at) {
					want = e.N
				}
			}
			if got, err := tr.DecidedBy(t.Context(), int32(part), at); err != nil || got != want {
				t.Fatalf("by %v: %d, %v; want %d", at, got, err, want)
			}
		}
	}
}

// A trail answers as a naive list does, however it was built.
func TestATrailAnswersAsAListDoes(t *testing.T) {
	first := cmp.Or(seedFromEnv(t), uint64(time.Now().UnixNano()))
	runs := uint64(40)
	if testing.Short() {
		runs = 8
	}
	for i := range runs {
		seed := first + i
		t.Run(fmt.Sprint(seed), func(t *testing.T) { answersAsAList(t, seed) })
	}
}

func answersAsAList(t *testing.T, seed uint64) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with: DEJA_SEED=%d go test ./internal/trail -run TestATrailAnswersAsAListDoes", seed)
		}
	})
	p := newPast(seed)
	limits := Limits{Rows: 1 + p.rng.IntN(120), Data: 1 + p.rng.IntN(20000), Block: 1 + p.rng.IntN(3000)}
	path := filepath.Join(t.TempDir(), "index")
	tr, err := Create(path, "mine", int32(len(p.partitions)))
	if err != nil {
		t.Fatal(err)
	}
	for range 1 + p.rng.IntN(8) {
		p.grow(p.rng.IntN(200))
		p.build(t, tr, limits)
		switch p.rng.IntN(4) {
		case 0:
			p.check(t, tr)
		case 1:
			tr = reopened(t, tr, path)
		}
	}
	p.check(t, tr)
	tr = reopened(t, tr, path)
	p.check(t, tr)
	copied, err := tr.Copy()
	if err != nil {
		t.Fatal(err)
	}
	p.check(t, copied)
	if err := errors.Join(copied.Close(), tr.Close()); err != nil {
		t.Fatal(err)
	}
}

func seedFromEnv(t *testing.T) (seed uint64) {
	t.Helper()
	if text := os.Getenv("DEJA_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	return seed
}

func reopened(t *testing.T, tr *Trail, path string) *Trail {
	t.Helper()
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	tr, err := Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if tr.Identity() != "mine" {
		t.Fatalf("it is %q", tr.Identity())
	}
	return tr
}
