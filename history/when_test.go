package history

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dejalog/deja"
)

// crate has a field of each kind that a state can have.
type crate struct {
	A     int64             `json:"a"`
	B     int64             `json:"b"`
	Flag  bool              `json:"flag"`
	Name  string            `json:"name"`
	In    packed            `json:"in"`
	Next  *packed           `json:"next"`
	Opt   *int64            `json:"opt"`
	By    map[string]packed `json:"by"`
	Sums  map[string]int64  `json:"sums"`
	Items []packed          `json:"items"`
	Pair  [2]int64          `json:"pair"`
}

type packed struct {
	N int64  `json:"n"`
	S string `json:"s"`
}

// change is a command: the events to record. An event sets some fields.
type change struct {
	Sets []changed `json:"sets"`
}

type changed struct {
	What  string `json:"what"`
	Key   string `json:"key"`
	N     int64  `json:"n"`
	Other string `json:"type"` // a payload may have a type of its own
}

func (change) CommandType() string { return "crate.change" }
func (changed) EventType() string  { return "crate.changed" }

// touched is an event that changes nothing.
type touched struct{}

func (touched) EventType() string { return "crate.touched" }

func (b crate) change(d *deja.Decision, c change) error {
	for _, s := range c.Sets {
		switch s.What {
		case "refuse":
			return deja.NewRejection("crate.refused")
		case "touch":
			d.Record(touched{})
		default:
			d.Record(s)
		}
	}
	return nil
}

func (b *crate) changed(e changed) {
	text := strings.Repeat("x", int(e.N&1)) + strings.Repeat("\"é\n", int(e.N>>1&1))
	in := packed{e.N, text}
	switch e.What {
	case "a":
		b.A = e.N
	case "b":
		b.B = e.N
	case "flag":
		b.Flag = e.N > 0
	case "name":
		b.Name = text
	case "in":
		b.In = in
	case "next":
		b.Next = nil
		if e.N != 0 {
			b.Next = &packed{N: e.N / 2}
		}
	case "opt":
		b.Opt = nil
		if e.N != 0 {
			n := e.N / 2
			b.Opt = &n
		}
	case "by":
		if b.By == nil {
			b.By = map[string]packed{}
		}
		b.By[e.Key] = in
	case "sums":
		if b.Sums == nil {
			b.Sums = map[string]int64{}
		}
		b.Sums[e.Key] += e.N
	case "drop":
		delete(b.By, e.Key)
		delete(b.Sums, e.Key)
	case "push":
		b.Items = append(b.Items, in)
	case "pop":
		b.Items = b.Items[:max(len(b.Items)-1, 0)]
	case "pair":
		b.Pair[e.N&1] = e.N
	}
}

func crates() *deja.Service {
	return &deja.Service{Name: "crates", Aggregates: []deja.AnyAggregate{deja.NewAggregate("crate",
		deja.Handle(crate.change), deja.Apply((*crate).changed), deja.Apply(func(*crate, touched) {}))}}
}

var (
	whats     = []string{"a", "b", "flag", "name", "in", "next", "opt", "by", "by", "sums", "sums", "drop", "push", "pop", "pair", "touch"}
	crateKeys = []string{"k", "a.b", "#", "x y", "0"}
)

// liveCrates lets a few crates live a random life.
func liveCrates(t *testing.T, rnd *rand.Rand, messages int) *lived {
	l := newLived(t, crates())
	for range messages {
		var c change
		for range rnd.IntN(4) {
			c.Sets = append(c.Sets, changed{
				What: whats[rnd.IntN(len(whats))], Key: crateKeys[rnd.IntN(len(crateKeys))], N: rnd.Int64N(9) - 4, Other: "o" + strconv.Itoa(rnd.IntN(3)),
			})
		}
		if rnd.IntN(10) == 0 {
			c.Sets = append(c.Sets, changed{What: "refuse"})
		}
		payload, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		l.send(deja.Envelope{Type: "crate.change", Stream: deja.Stream{Aggregate: "crate", Key: strconv.Itoa(rnd.IntN(3))}, Payload: payload})
	}
	return l
}

// moment is what a predicate sees, in Go.
type moment struct {
	prev, state crate
	events      []Event
}

// told is a predicate as its text and as what it means.
type told[T any] struct {
	text  string
	means func(m *moment) T
}

// A grammar makes random predicates.
type grammar struct{ *rand.Rand }

func pick[T any](g grammar, of ...T) T { return of[g.IntN(len(of))] }

func (g grammar) constant() told[int64] {
	n := g.Int64N(9) - 4
	return told[int64]{strconv.FormatInt(n, 10), func(*moment) int64 { return n }}
}

func (g grammar) field() told[int64] {
	return pick(g,
		told[int64]{"state.a", func(m *moment) int64 { return m.state.A }},
		told[int64]{"state.b", func(m *moment) int64 { return m.state.B }},
		told[int64]{"state.`in`.n", func(m *moment) int64 { return m.state.In.N }},
		told[int64]{"prev.a", func(m *moment) int64 { return m.prev.A }},
		told[int64]{"prev.`in`.n", func(m *moment) int64 { return m.prev.In.N }},
		told[int64]{"size(state.items)", func(m *moment) int64 { return int64(len(m.state.Items)) }},
		told[int64]{"state.by.size()", func(m *moment) int64 { return int64(len(m.state.By)) }},
		told[int64]{"size(prev.sums)", func(m *moment) int64 { return int64(len(m.prev.Sums)) }},
		told[int64]{"state.pair[1]", func(m *moment) int64 { return m.state.Pair[1] }},
		told[int64]{"(has(state.sums.k) ? state.sums.k : 7)", func(m *moment) int64 { return entry(m.state.Sums, "k") }},
		told[int64]{"('a.b' in state.sums ? state.sums['a.b'] : 7)", func(m *moment) int64 { return entry(m.state.Sums, "a.b") }},
		told[int64]{"(state.next == null ? -1 : state.next.n)", func(m *moment) int64 {
			if m.state.Next == nil {
				return -1
			}
			return m.state.Next.N
		}},
		told[int64]{"events.size()", func(m *moment) int64 { return int64(len(m.events)) }},
	)
}

func entry(m map[string]int64, key string) int64 {
	if n, ok := m[key]; ok {
		return n
	}
	return 7
}

func (g grammar) integer() told[int64] {
	x := g.field()
	switch g.IntN(4) {
	case 0:
		y := g.field()
		return told[int64]{"(" + x.text + " + " + y.text + ")", func(m *moment) int64 { return x.means(m) + y.means(m) }}
	case 1:
		return told[int64]{"-" + x.text, func(m *moment) int64 { return -x.means(m) }}
	}
	return x
}

func (g grammar) comparison() (c told[bool], left, right told[int64], constant bool) {
	left, right, constant = g.integer(), g.constant(), true
	if g.IntN(3) == 0 {
		right, constant = g.integer(), false
	}
	op := pick(g, "<", "<=", ">", ">=", "==", "!=")
	return told[bool]{left.text + " " + op + " " + right.text, func(m *moment) bool {
		x, y := left.means(m), right.means(m)
		switch op {
		case "<":
			return x < y
		case "<=":
			return x <= y
		case ">":
			return x > y
		case ">=":
			return x >= y
		case "==":
			return x == y
		}
		return x != y
	}}, left, right, constant
}

func (g grammar) atom() told[bool] {
	n := g.Int64N(5) - 2
	if g.IntN(2) == 0 {
		c, _, _, _ := g.comparison()
		return c
	}
	return pick(g,
		told[bool]{"state.flag", func(m *moment) bool { return m.state.Flag }},
		told[bool]{"state.name == 'x'", func(m *moment) bool { return m.state.Name == "x" }},
		told[bool]{`state.name == "\"é\n"`, func(m *moment) bool { return m.state.Name == "\"é\n" }},
		told[bool]{"has(state.b)", func(m *moment) bool { return m.state.B != 0 }},
		told[bool]{"state.opt == 0", func(m *moment) bool { return m.state.Opt != nil && *m.state.Opt == 0 }},
		told[bool]{"has(state.next)", func(m *moment) bool { return m.state.Next != nil }},
		told[bool]{"state.next == prev.next", func(m *moment) bool { return reflect.DeepEqual(m.state.Next, m.prev.Next) }},
		told[bool]{"state.`in` != prev.`in`", func(m *moment) bool { return m.state.In != m.prev.In }},
		told[bool]{"state == prev", func(m *moment) bool { return same(m.state, m.prev) }},
		told[bool]{"state.by == prev.by", func(m *moment) bool { return maps.Equal(m.state.By, m.prev.By) }},
		told[bool]{"'#' in state.by", func(m *moment) bool { _, ok := m.state.By["#"]; return ok }},
		told[bool]{"'x y' in state.by && state.by['x y'].s == ''", func(m *moment) bool { in, ok := m.state.By["x y"]; return ok && in.S == "" }},
		told[bool]{fmt.Sprintf("state.items.exists(i, i.n > %d)", n), func(m *moment) bool {
			return slices.ContainsFunc(m.state.Items, func(i packed) bool { return i.N > n })
		}},
		told[bool]{fmt.Sprintf("state.sums.all(k, state.sums[k] > %d)", n), func(m *moment) bool {
			for _, s := range m.state.Sums {
				if s <= n {
					return false
				}
			}
			return true
		}},
		told[bool]{"size(state.items) > 0 && state.items[0].n > 0", func(m *moment) bool { return len(m.state.Items) > 0 && m.state.Items[0].N > 0 }},
		told[bool]{"event.type == 'crate.touched'", func(m *moment) bool { return m.events[len(m.events)-1].Type == "crate.touched" }},
		told[bool]{fmt.Sprintf("has(event.n) && event.n > %d && event.payload.type != 'o1'", n), func(m *moment) bool {
			e := lastChange(m)
			return e != nil && e.N > n && e.Other != "o1"
		}},
		told[bool]{"true", func(*moment) bool { return true }},
	)
}

func lastChange(m *moment) *changed {
	last := m.events[len(m.events)-1]
	if last.Type != "crate.changed" {
		return nil
	}
	var e changed
	if err := json.Unmarshal(last.Payload, &e); err != nil {
		panic(err)
	}
	return &e
}

// same compares states; nil and empty are one.
func same(a, b crate) bool {
	for _, x := range []*crate{&a, &b} {
		if len(x.Items) == 0 {
			x.Items = nil
		}
		if len(x.By) == 0 {
			x.By = nil
		}
		if len(x.Sums) == 0 {
			x.Sums = nil
		}
	}
	return reflect.DeepEqual(a, b)
}

func (g grammar) predicate(depth int) told[bool] {
	if depth == 0 {
		return g.atom()
	}
	x := g.predicate(depth - 1)
	switch g.IntN(5) {
	case 0:
		y := g.predicate(depth - 1)
		return told[bool]{"(" + x.text + ") && (" + y.text + ")", func(m *moment) bool { return x.means(m) && y.means(m) }}
	case 1:
		y := g.predicate(depth - 1)
		return told[bool]{"(" + x.text + ") || (" + y.text + ")", func(m *moment) bool { return x.means(m) || y.means(m) }}
	case 2:
		return told[bool]{"!(" + x.text + ")", func(m *moment) bool { return !x.means(m) }}
	}
	return x
}

// looked is what a message left behind.
type looked struct {
	moment
	step *Step
}

// look returns what each message of a key that recorded something left behind, folded anew for each.
func look(t *testing.T, h *History, key deja.Stream) (all []looked) {
	t.Helper()
	prev, err := h.machine.NewState(key)
	if err != nil {
		t.Fatal(err)
	}
	for s, err := range h.steps.key(t.Context(), key, 0, math.MaxInt64, false) {
		if err != nil {
			t.Fatal(err)
		}
		st, err := h.steps.state(t.Context(), key, s.N)
		if err != nil {
			t.Fatal(err)
		}
		if st.Version > prev.Version {
			all = append(all, looked{moment{*prev.Value().(*crate), *st.Value().(*crate), s.Events}, s.clone()})
		}
		prev = st
	}
	return all
}

// naive returns where a predicate holds, by looking at each state, with the integer that it is about, if any.
func naive(all []looked, lim Limits, holds func(*moment) bool, about func(*moment) int64) (found []Interval) {
	open := false
	for i := range all {
		m, s := &all[i].moment, all[i].step
		p := s.Position.Partition
		if s.N > lim.Last[p] {
			break
		}
		now := holds(m)
		switch {
		case now && !open:
			found = append(found, Interval{From: Message{ID: s.ID, Version: s.Version}})
		case !now && open && s.N <= lim.After[p]:
			found = found[:len(found)-1]
		case !now && open:
			found[len(found)-1].To = &Message{ID: s.ID, Version: s.Version}
		}
		if open = now; now && about != nil {
			in, n := &found[len(found)-1], big.NewInt(about(m))
			if in.Min == nil || n.Cmp(in.Min) < 0 {
				in.Min = n
			}
			if in.Max == nil || n.Cmp(in.Max) > 0 {
				in.Max = n
			}
		}
	}
	return found
}

// show writes intervals to be compared.
func show(ins []Interval, extremes bool) string {
	var b strings.Builder
	for _, in := range ins {
		fmt.Fprintf(&b, "%s@%d", in.From.ID, in.From.Version)
		if in.To != nil {
			fmt.Fprintf(&b, " to %s@%d", in.To.ID, in.To.Version)
		}
		if extremes {
			fmt.Fprintf(&b, " %v %v", in.Min, in.Max)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// whenSeeds are the histories that a test looks at. DEJA_SEED names one more.
func whenSeeds(t *testing.T, n uint64) (seeds []uint64) {
	for seed := range n {
		seeds = append(seeds, seed)
	}
	if s := os.Getenv("DEJA_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	return seeds
}

func TestWhenIsWhatLookingAtEachStateGives(t *testing.T) {
	t.Parallel()
	for _, seed := range whenSeeds(t, 15) {
		t.Run(fmt.Sprint("DEJA_SEED=", seed), func(t *testing.T) {
			t.Parallel()
			if diff := compareWhen(t, seed, func(s steps) steps { return s }); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// forgetful lacks the writes of a field.
type forgetful struct {
	steps
	path string
}

func (f forgetful) scan(ctx context.Context, match func(deja.Stream) bool, last []int64) iter.Seq2[*Step, error] {
	return func(yield func(*Step, error) bool) {
		for s, err := range f.steps.scan(ctx, match, last) {
			if s != nil {
				s = s.clone()
				s.Writes = slices.DeleteFunc(s.Writes, func(w Write) bool { return w.Path == f.path })
			}
			if !yield(s, err) {
				return
			}
		}
	}
}

func TestTheComparisonNoticesALostWrite(t *testing.T) {
	for _, path := range []string{"a", "in.n", "items.#", "next"} {
		noticed := false
		for seed := range uint64(15) {
			noticed = noticed || compareWhen(t, seed, func(s steps) steps { return forgetful{s, path} }) != ""
		}
		if !noticed {
			t.Errorf("without the writes of %s all is the same", path)
		}
	}
}

// compareWhen compares random predicates over a random history; "" if nothing differs.
func compareWhen(t *testing.T, seed uint64, through func(steps) steps) string {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	h := liveCrates(t, rnd, 120).open()
	all := map[deja.Stream][]looked{}
	for i := range 3 {
		key := deja.Stream{Aggregate: "crate", Key: strconv.Itoa(i)}
		all[key] = look(t, h, key)
	}
	h.steps = through(h.steps)
	g := grammar{rnd}
	scope, err := ParseScope(h.machine, "crate/*")
	if err != nil {
		t.Fatal(err)
	}
	for range 60 {
		lim := h.All()
		if g.IntN(2) == 0 {
			for p, last := range lim.Last {
				lim.Last[p] = g.Int64N(last + 1)
				lim.After[p] = g.Int64N(lim.Last[p] + 1)
			}
		}
		want, about, extremes := g.predicate(2), (func(*moment) int64)(nil), false
		if g.IntN(2) == 0 {
			c, left, right, constant := g.comparison()
			want, about, extremes = c, left.means, true
			if !constant {
				about = func(m *moment) int64 { return left.means(m) - right.means(m) }
			}
		}
		p, err := Compile(h.machine, scope, want.text)
		if err != nil {
			t.Fatal(err)
		}
		for got, err := range h.When(t.Context(), scope, p, lim) {
			if err != nil {
				t.Fatalf("%s: %v", want.text, err)
			}
			must := naive(all[got.Key], lim, want.means, about)
			if g, w := show(got.Intervals, extremes), show(must, extremes); g != w {
				return fmt.Sprintf("%s, limits %v, predicate %s:\ngot\n%swant\n%s", got.Key, lim, want.text, g, w)
			}
			if !got.Complete {
				return "the history is whole"
			}
		}
	}
	return ""
}

func TestAPredicateOfOneKeyOrInGo(t *testing.T) {
	rnd := rand.New(rand.NewPCG(99, 1))
	h := liveCrates(t, rnd, 200).open()
	scope, _ := ParseScope(h.machine, "crate/1")
	key, _ := scope.Single()
	inCEL, err := Compile(h.machine, scope, "state.a > 0 && state.items.size() > 0")
	if err != nil {
		t.Fatal(err)
	}
	inGo := Func("a is positive and there are items", func(b crate) bool { return b.A > 0 && len(b.Items) > 0 })
	want := show(naive(look(t, h, key), h.All(), func(m *moment) bool { return m.state.A > 0 && len(m.state.Items) > 0 }, nil), false)
	if want == "" {
		t.Fatal("nothing to find")
	}
	for scan, p := range map[Scan]Predicate{ScanWrites: inCEL, ScanAll: inGo} {
		n := 0
		for got, err := range h.When(t.Context(), scope, p, Limits{}) {
			if n++; err != nil {
				t.Fatal(err)
			}
			if g := show(got.Intervals, false); g != want || got.Scan != scan || got.Key != key {
				t.Errorf("%s: scan %s of %s:\n%swant\n%s", p, got.Scan, got.Key, g, want)
			}
		}
		if n != 1 {
			t.Errorf("%d answers about one key", n)
		}
	}
}

// A predicate is evaluated on given states as it is along the history.
func TestEval(t *testing.T) {
	h := liveCrates(t, rand.New(rand.NewPCG(5, 1)), 100).open()
	g := grammar{rand.New(rand.NewPCG(6, 1))}
	for range often(100, 20) {
		want := g.predicate(1)
		p, err := Compile(h.machine, Scope{}, want.text)
		if err != nil {
			t.Fatal(err)
		}
		for s, err := range h.steps.scan(t.Context(), func(deja.Stream) bool { return true }, h.steps.upTo()) {
			if err != nil {
				t.Fatal(err)
			}
			prev, _ := h.steps.state(t.Context(), s.Stream, s.N-1)
			st, _ := h.steps.state(t.Context(), s.Stream, s.N)
			must := false
			if st.Version > 0 && len(s.Events) > 0 {
				must = want.means(&moment{*prev.Value().(*crate), *st.Value().(*crate), s.Events})
			} else if st.Version > 0 {
				continue
			}
			if got, err := p.eval(prev, st, s.Events...); err != nil || got != must {
				t.Fatalf("%s after decision %d of %s: got %v %v, want %v", want.text, s.N, s.Stream, got, err, must)
			}
		}
	}
}

func TestExtremesOf64Bits(t *testing.T) {
	l := newLived(t, crates())
	for _, s := range []changed{{What: "a", N: math.MinInt64}, {What: "b", N: math.MaxInt64}, {What: "a", N: math.MaxInt64}, {What: "b", N: math.MinInt64}} {
		payload, _ := json.Marshal(change{Sets: []changed{s}})
		l.send(deja.Envelope{Type: "crate.change", Stream: deja.Stream{Aggregate: "crate", Key: "1"}, Payload: payload})
	}
	h := l.open()
	for text, want := range map[string]string{
		"state.a < state.b":                          "1@1 to 3 -18446744073709551615 -9223372036854775808",
		"state.a > state.b":                          "4@4 18446744073709551615 18446744073709551615",
		"state.a == -9223372036854775808":            "1@1 to 3 -9223372036854775808 -9223372036854775808",
		"state.a > 9223372036854775806":              "3@3 9223372036854775807 9223372036854775807",
		"state.a != 9007199254740993 && state.b > 0": "2@2 to 4 -9223372036854775808 9223372036854775807",
	} {
		if got := whenText(t, h, "crate/1", text); got != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
}

// whenText answers with the versions of the intervals of one key.
func whenText(t *testing.T, h *History, scope, text string) string {
	t.Helper()
	s, err := ParseScope(h.machine, scope)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(h.machine, s, text)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for got, err := range h.When(t.Context(), s, p, Limits{}) {
		if err != nil {
			return err.Error()
		}
		for _, in := range got.Intervals {
			one := fmt.Sprintf("%d@%d", in.From.Version, in.From.Position.Offset+1)
			if in.To != nil {
				one += fmt.Sprintf(" to %d", in.To.Version)
			}
			all = append(all, fmt.Sprintf("%s %v %v", one, in.Min, in.Max))
		}
	}
	return strings.Join(all, "; ")
}
