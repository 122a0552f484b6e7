package history

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/till"
)

// moved is a message to a till, as a test sends it: an amount put in, or taken out.
type moved struct {
	take   bool
	amount int64
}

// balances returns the balances after each of some messages, by plain arithmetic: a till gives out no more than it has.
func balances(all []moved, without ...int) (after []int64) {
	var balance int64
	for i, m := range all {
		switch {
		case slices.Contains(without, i):
			continue
		case !m.take:
			balance += m.amount
		case m.amount <= balance:
			balance -= m.amount
		}
		after = append(after, balance)
	}
	return after
}

// nearest returns the least balance from the first message on that recorded something, if one did.
func nearest(all []moved, after []int64) (least int64, ok bool) {
	for i, m := range all {
		if !m.take || m.amount == 0 {
			return slices.Min(after[i:]), true
		}
	}
	return 0, false
}

func (l *lived) move(key string, m moved) *deja.Envelope {
	l.t.Helper()
	name := "till.put"
	if m.take {
		name = "till.take"
	}
	return l.send(deja.Envelope{Type: name, Stream: deja.Stream{Key: key}, Payload: fmt.Appendf(nil, `{"Amount":%d}`, m.amount)})
}

// suspect is what is wrong with a till that owes.
func suspect(t *testing.T, h *History, scope, when string) Suspect {
	t.Helper()
	in, err := ParseScope(h.machine, scope)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(h.machine, in, when)
	if err != nil {
		t.Fatal(err)
	}
	return Suspect{Scope: in, When: p}
}

func pinOf(t *testing.T, h *History, s Suspect) *Pin {
	t.Helper()
	p, err := h.Pin(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p)
	if err != nil || strings.Contains(string(data), `"last_writers":null`) || strings.Contains(string(data), `"cause":null`) {
		t.Fatalf("%v: %s", err, data)
	}
	return p
}

const owes = "state.balance < 0"

// Over random histories: what is pinned, confirmed and left out agrees with plain arithmetic.
func TestPinAgreesWithArithmetic(t *testing.T) {
	seed := seedOf(t)
	seen := map[string]int{}
	for run := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed+run, 0))
		l := newLived(t, till.Service(till.Variant{}))
		var all []moved
		var ids []deja.ID
		for range 2 + rng.IntN(12) {
			m := moved{rng.IntN(2) == 0, int64(rng.IntN(40))}
			if !m.take && rng.IntN(3) == 0 {
				m.amount = -m.amount
			}
			all, ids = append(all, m), append(ids, l.move("a", m).ID)
		}
		h := l.open()
		p := pinOf(t, h, suspect(t, h, "till/a", owes))
		after := balances(all)
		first := slices.IndexFunc(after, func(b int64) bool { return b < 0 })
		if first < 0 {
			want, ok := nearest(all, after)
			if p.FirstBad != nil || (p.NearestMiss != nil) != ok || ok && p.NearestMiss.Value.Int64() != want {
				t.Fatalf("seed %d: %v never owes; got %+v, %+v", seed+run, all, p, p.NearestMiss)
			}
			seen["never"]++
			continue
		}
		end := first
		for end+1 < len(after) && after[end+1] < 0 {
			end++
		}
		if p.FirstBad == nil || p.FirstBad.ID != ids[first] || p.Target.ID != ids[end] || !p.Complete {
			t.Fatalf("seed %d: %v owes from %d to %d; got %+v", seed+run, all, first, end, p)
		}
		owing := func(without ...int) bool {
			after := balances(all[:end+1], without...)
			return len(after) > 0 && after[len(after)-1] < 0
		}
		if p.Confirmed == nil || *p.Confirmed == owing(first) {
			t.Fatalf("seed %d: %v owes from %d to %d, without it %v; confirmed %v", seed+run, all, first, end, owing(first), p.Confirmed)
		}
		seen[fmt.Sprint("confirmed ", *p.Confirmed)]++
		single := slices.ContainsFunc(ids[:end+1], func(id deja.ID) bool { return !owing(slices.Index(ids, id)) })
		if s := p.SmallestSet; (s == nil) != *p.Confirmed || s != nil && ((s.Messages == 1) != single || !s.Minimal) {
			t.Fatalf("seed %d: %v, single %v; set %+v", seed+run, all, single, s)
		}
		if p.Minimal == nil || !p.Minimal.Minimal || p.Minimal.Messages > first+1 || !p.Handler.Same {
			t.Fatalf("seed %d: %v; minimal %+v, handler %+v", seed+run, all, p.Minimal, p.Handler)
		}
	}
	if len(seen) != 3 {
		t.Errorf("seed %d: only %v were tried", seed, seen)
	}
}

func TestPinFollowsCausesAndKeys(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	root := l.move("b", moved{false, 5})
	put := func(key string, cause deja.ID, amount int64) *deja.Envelope {
		return l.send(deja.Envelope{Type: "till.put", Stream: deja.Stream{Key: key}, CausationID: cause, Payload: fmt.Appendf(nil, `{"Amount":%d}`, amount)})
	}
	middle := put("b", root.ID, 1)
	bad := put("a", middle.ID, -7)
	put("c", root.ID, -9)
	lost := put("d", deja.DeriveID("x", "elsewhere"), -1)
	h := l.open()
	p := pinOf(t, h, suspect(t, h, "till/*", owes))
	if p.FirstBad.ID != bad.ID || p.Key != "till/a" || p.Keys != 3 || len(p.Cause) != 2 || p.Cause[0].ID != middle.ID || p.Cause[1].ID != root.ID {
		t.Errorf("got %+v", p)
	}
	if len(p.LastWriters) != 1 || p.LastWriters[0].Path != "balance" || p.LastWriters[0].New != "-7" || p.LastWriters[0].ID != bad.ID {
		t.Errorf("last writers %+v", p.LastWriters)
	}
	p = pinOf(t, h, suspect(t, h, "till/d", owes))
	if l, _ := p.Level(CauseChain); p.FirstBad.ID != lost.ID || l.Reached || !strings.Contains(l.Why, "not in this history") {
		t.Errorf("level %+v of %+v", l, p)
	}
}

// What was decided by a handler that is mended by now is told as the handler's fault, and nothing is claimed of the message.
func TestPinTellsOfAnotherHandler(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	l.move("a", moved{false, 10})
	bad := l.move("a", moved{true, 9})
	l.Service = till.Service(till.Variant{MaxTake: 5})
	h := l.open()
	p := pinOf(t, h, suspect(t, h, "till/a", "state.balance == 1"))
	c, _ := p.Level(Confirmed)
	m, _ := p.Level(MinimalSet)
	if p.FirstBad.ID != bad.ID || p.Confirmed != nil || p.Minimal != nil || c.Reached || m.Reached || c.Why == "" {
		t.Errorf("got %+v", p)
	}
	if w := p.Handler; w == nil || w.Same || w.Differs.ID != bad.ID || !strings.HasPrefix(w.Recorded, "applied; till.removed") || w.Now != "rejected" || !strings.Contains(w.Says, "diverge") {
		t.Errorf("handler %+v", p.Handler)
	}
}

func TestPinWithoutEffortClaimsNothing(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	for range 29 {
		l.move("a", moved{false, 1})
	}
	l.move("a", moved{false, -100})
	h := l.open()
	for effort, want := range map[int64]struct{ confirmed, minimal bool }{-1: {}, 10: {}, 90: {true, false}, 1_000_000: {true, true}} {
		s := suspect(t, h, "till/a", owes)
		s.Effort = effort
		p := pinOf(t, h, s)
		if p.FirstBad == nil || (p.Confirmed != nil) != want.confirmed {
			t.Errorf("effort %d: confirmed %v", effort, p.Confirmed)
		}
		if m, _ := p.Level(MinimalSet); m.Reached != want.minimal || !m.Reached && m.Why == "" {
			t.Errorf("effort %d: %+v", effort, m)
		}
	}
}

func TestPinOfTheTimeInWhichItHolds(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	var sent []*deja.Envelope
	for _, amount := range []int64{-1, 2, -3, 5, -9} {
		sent = append(sent, l.move("a", moved{false, amount}))
	}
	h := l.open()
	s := suspect(t, h, "till/a", owes)
	if p := pinOf(t, h, s); p.FirstBad.ID != sent[0].ID || p.Until.ID != sent[1].ID || p.Times != 3 || p.Target.ID != sent[0].ID || !*p.Confirmed {
		t.Errorf("the first time: %+v", p)
	}
	s.Current = true
	if p := pinOf(t, h, s); p.FirstBad.ID != sent[4].ID || p.Until != nil || p.Target.ID != sent[4].ID {
		t.Errorf("the present time: %+v", p)
	}
	s.Limits = h.All()
	for p := range s.Limits.Last {
		s.Limits.Last[p] = min(s.Limits.Last[p], 4)
	}
	if p := pinOf(t, h, s); p.FirstBad.ID != sent[0].ID {
		t.Errorf("it does not hold at the target: %+v", p)
	}
}

// A predicate in Go is pinned, but nothing is told that needs its text.
func TestPinOfAFunction(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	l.move("a", moved{false, 1})
	bad := l.move("a", moved{false, -2})
	h := l.open()
	dir := filepath.Join(t.TempDir(), "pinned")
	p := pinOf(t, h, Suspect{
		When: Func("owes", func(s till.Till) bool { return s.Balance < 0 }), Scope: ScopeOf(deja.Stream{Aggregate: "till", Key: "a"}),
		Test: &TestPlan{Dir: dir, New: exported},
	})
	w, _ := p.Level(LastWriter)
	e, _ := p.Level(TestFails)
	if p.FirstBad.ID != bad.ID || w.Reached || e.Reached || !strings.Contains(e.Why, "Go function") || !*p.Confirmed {
		t.Errorf("got %+v", p)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a directory was made")
	}
}

func exported() *deja.Service { return till.Service(till.Variant{}) }
