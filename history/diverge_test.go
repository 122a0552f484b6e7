package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	placing "github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/wire"
)

// mixed lets a till live random messages: some twice, some with another's ID, some that fail, and acts on these.
func mixed(t *testing.T, rng *rand.Rand, variant string, n int) *lived {
	t.Helper()
	l := newLived(t, tillOf(variant))
	var sent []deja.Envelope
	parked := map[string]deja.ID{}
	for range n {
		key := string(rune('a' + rng.IntN(5)))
		env := deja.Envelope{Stream: deja.Stream{Aggregate: "till", Key: key}}
		amount := 1 + rng.IntN(60)
		switch rng.IntN(11) {
		case 9, 10:
			env.Stream.Aggregate, env.Type, env.Payload = "slot", "slot.set", fmt.Appendf(nil, `{"Value":%d}`, amount)
		case 0:
			env.Type, env.Payload = "till.crash", []byte(`{"How":"error"}`)
		case 1:
			env.Type, env.Payload = "till.twice", fmt.Appendf(nil, `{"Amount":%d}`, amount)
		case 2, 3, 4, 5:
			env.Type, env.Payload = "till.take", fmt.Appendf(nil, `{"Amount":%d}`, amount)
		case 6:
			env.Type, env.Payload = "till.nothing", []byte(`{}`)
		default:
			env.Type, env.Payload = "till.put", fmt.Appendf(nil, `{"Amount":%d}`, amount)
		}
		switch r := rng.IntN(20); {
		case r == 0 && len(sent) > 0:
			env = sent[rng.IntN(len(sent))]
		case r == 1 && len(sent) > 0:
			// Across partitions it hangs on which is first: naively does not know.
			other := sent[rng.IntN(len(sent))]
			if placing.Partition(other.Stream.Key, livedPartitions) == placing.Partition(key, livedPartitions) {
				env.ID = other.ID
			}
		case r < 6:
			if id, ok := parked[key]; ok && env.Stream.Aggregate == "till" {
				env.Kind, env.Type = deja.KindAct, []string{deja.ActRetry, deja.ActSkip}[rng.IntN(2)]
				env.Payload = fmt.Appendf(nil, `{"message":%q}`, id)
				delete(parked, key)
			}
		}
		e := *l.send(env)
		if e.Type == "till.crash" && parked[key].IsZero() {
			parked[key] = e.ID
		}
		sent = append(sent, e)
	}
	return l
}

// sides is what comparing two builds comes to, told by living all of the inbox with both in this process.
type sides struct {
	first map[string]deja.ID // of each key that differs, the message
	state map[string]string
}

func naively(t *testing.T, l *lived, variants [2]string) sides {
	t.Helper()
	type side struct {
		w   *relive.World
		got []string
	}
	n := sides{map[string]deja.ID{}, map[string]string{}}
	for p := range int32(livedPartitions) {
		var both [2]side
		for i := range both {
			m, err := deja.Compile(tillOf(variants[i]))
			if err != nil {
				t.Fatal(err)
			}
			s := &both[i]
			s.w, err = relive.New(t.Context(), relive.Config{Machine: m, Partitions: livedPartitions, Decided: func(d relive.Decision) {
				text := fmt.Sprint(d.Cause.ID, d.Decided.Status, d.Decided.Reason.Code, d.Changes)
				for _, e := range d.Decided.Events {
					text += fmt.Sprint(e.Type, string(e.Payload))
				}
				s.got = append(s.got, text)
			}}, relive.Past{})
			if err != nil {
				t.Fatal(err)
			}
		}
		_, end, err := l.Log.Bounds(t.Context(), "shop.inbox", p)
		if err != nil {
			t.Fatal(err)
		}
		was := map[string]bool{}
		for o := range end {
			recs, err := l.Log.Fetch(t.Context(), deja.Position{Topic: "shop.inbox", Partition: p, Offset: o}, 1)
			if err != nil {
				t.Fatal(err)
			}
			env, err := wire.NewDecoder("shop").Message(recs[0].Value)
			if err != nil {
				t.Fatal(err)
			}
			var rows [2]driver.State
			for i := range both {
				s := &both[i]
				s.got = nil
				if err := s.w.Live(t.Context(), []relive.Message{s.w.Prepare(recs[0])}); err != nil {
					t.Fatal(err)
				}
				if rows[i], err = s.w.Row(t.Context(), env.Stream); err != nil {
					t.Fatal(err)
				}
			}
			key := env.Stream.String()
			if _, ok := n.first[key]; !ok && !slices.Equal(both[0].got, both[1].got) {
				n.first[key] = env.ID
			}
			apart := string(rows[0].Data) != string(rows[1].Data)
			was[key] = was[key] || apart
			switch {
			case apart:
				n.state[key] = "differ"
			case was[key]:
				n.state[key] = "reconverged"
			default:
				n.state[key] = "never_differed"
			}
		}
	}
	return n
}

// sidesOf returns an answer as sides.
func sidesOf(d *Divergence) sides {
	n := sides{map[string]deja.ID{}, map[string]string{}}
	for _, p := range d.Differ {
		n.first[p.Key], n.state[p.Key] = p.Message.ID, p.States
	}
	return n
}

// Of random histories, keys, first messages and what became of the states are what living all of it in one process gives.
func TestDivergeIsWhatLivingBothGives(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 5))
	variants := []string{"max=0", "max=30", "max=50 off", "broken", "broken max=30 off"}
	programs := map[string]string{}
	for _, v := range variants {
		programs[v] = buildOf(t, v)
	}
	var reconverged, differ int
	for range 12 {
		recorded := variants[rng.IntN(len(variants))]
		a, b := recorded, variants[rng.IntN(len(variants))]
		q := Diverge{A: Recorded, B: programs[b]}
		if rng.IntN(2) == 0 {
			a = variants[rng.IntN(len(variants))]
			q.A = programs[a]
		}
		l := mixed(t, rng, recorded, 150)
		h := l.open()
		d, err := h.Diverge(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		want, got := naively(t, l, [2]string{a, b}), sidesOf(d)
		for key := range want.state {
			if _, ok := want.first[key]; !ok {
				delete(want.state, key)
			}
		}
		if !reflect.DeepEqual(got, want) || d.Equal != (len(want.first) == 0) || !d.Complete {
			t.Fatalf("seed %d, recorded by %q, %q against %q:\n got %v\nwant %v\n%v", seed, recorded, a, b, got, want, d.Faults)
		}
		differ, reconverged = differ+len(d.Differ), reconverged+len(d.Reconverged)
		checkPartings(t, d)
		one := Scope{aggregate: "till", key: "a"}
		q.Scope = one
		single, err := h.Diverge(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		whole := slices.DeleteFunc(slices.Clone(d.Differ), func(p *Parting) bool { return p.Key != "till/a" })
		if !reflect.DeepEqual(asText(t, single.Differ), asText(t, whole)) {
			t.Fatalf("seed %d: of one key:\n got %s\nwant %s", seed, asText(t, single.Differ), asText(t, whole))
		}
	}
	t.Logf("%d keys differ, %d of them re-converged", differ, reconverged)
	if differ == 0 || reconverged == 0 {
		t.Error("nothing was compared")
	}
}

func asText(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// checkPartings checks what an answer says of each key by itself.
func checkPartings(t *testing.T, d *Divergence) {
	t.Helper()
	for _, p := range d.Differ {
		if p.Field == "" || p.ChainA == p.ChainB || p.Message.Payload == nil {
			t.Errorf("%s: %+v", p.Key, p)
		}
		if (p.States == "differ") != (len(p.Fields) > 0) || (p.States == "reconverged") != (p.Again != nil) {
			t.Errorf("%s: states %s, fields %v, equal from %v", p.Key, p.States, p.Fields, p.Again)
		}
		if p.A != nil && p.B != nil && reflect.DeepEqual(p.A.Emits, p.B.Emits) && p.A.Outcome == p.B.Outcome && p.A.Reason == p.B.Reason && reflect.DeepEqual(p.A.Writes, p.B.Writes) {
			t.Errorf("%s: both are %s", p.Key, p.A)
		}
	}
	var keys int64
	for _, c := range d.Clusters {
		keys += c.Keys
	}
	if keys != int64(len(d.Differ)) {
		t.Errorf("%d keys in clusters, %d differ", keys, len(d.Differ))
	}
}

// The build that decided differs from the record nowhere, from whatever point on it is lived.
func TestTheSameBuildNeverDiffers(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 6))
	same := buildOf(t, "broken max=40 off")
	l := mixed(t, rng, "broken max=40 off", 200)
	h := l.open()
	all := h.All()
	for range 12 {
		lim := h.All()
		for p := range lim.After {
			lim.After[p] = rng.Int64N(all.Last[p])
			lim.Last[p] = lim.After[p] + rng.Int64N(all.Last[p]-lim.After[p]+1)
		}
		d, err := h.Diverge(t.Context(), Diverge{A: Recorded, B: same, Limits: lim})
		if err != nil {
			t.Fatal(err)
		}
		if !d.Equal || !d.Complete {
			t.Fatalf("seed %d, limits %v: %s", seed, lim, asText(t, d))
		}
	}
}

// What a program that fails had decided by then is compared, and the message under way is named.
func TestDivergeSurvivesPrograms(t *testing.T) {
	l := newLived(t, tillOf("max=0"))
	put := deja.Envelope{Type: "till.put", Stream: deja.Stream{Key: "a"}, Payload: []byte(`{"Amount":5}`)}
	crash := deja.Envelope{Type: "till.crash", Stream: deja.Stream{Key: "a"}, Payload: []byte(`{"How":"error"}`)}
	take := deja.Envelope{Type: "till.take", Stream: deja.Stream{Key: "a"}, Payload: []byte(`{"Amount":4}`)}
	l.send(put)
	first := l.send(take)
	at := l.send(crash)
	l.send(put)
	h := l.open()
	partition := placing.Partition("a", livedPartitions)
	for variant, want := range map[string]struct {
		patience             time.Duration
		kind, detail, stderr string
	}{
		"max=2 exit": {time.Minute, "crashed", "exit status 9", "gone"},
		"max=2 hang": {time.Second, "hung", "it said nothing for ", ""},
	} {
		var d *Divergence
		for patience := want.patience; ; patience *= 2 { // it may take that long to come to where it hangs
			var err error
			if d, err = h.Diverge(t.Context(), Diverge{A: Recorded, B: buildOf(t, variant), Patience: patience}); err != nil {
				t.Fatal(err)
			}
			if patience >= time.Minute || len(d.Faults) == 1 && d.Faults[0].Message != nil && d.Faults[0].Message.ID == at.ID {
				break
			}
		}
		if d.Equal || d.Complete || len(d.Faults) != 1 {
			t.Fatalf("%s: %s", variant, asText(t, d))
		}
		f := d.Faults[0]
		if f.Side != "b" || f.Kind != want.kind || !strings.Contains(f.Detail, want.detail) || !strings.Contains(f.Stderr, want.stderr) {
			t.Errorf("%s: %+v", variant, f)
		}
		if f.Message == nil || f.Message.ID != at.ID || f.Message.Position != (deja.Position{Topic: "shop.inbox", Partition: partition, Offset: 2}) {
			t.Errorf("%s: under way was %+v", variant, f.Message)
		}
		if len(d.Differ) != 1 || d.Differ[0].Message.ID != first.ID || d.Differ[0].Field != "outcome" {
			t.Errorf("%s: before it: %s", variant, asText(t, d.Differ))
		}
	}
	d, err := h.Diverge(t.Context(), Diverge{A: buildOf(t, "exit"), B: buildOf(t, "exit")})
	if err != nil || len(d.Faults) != 2 || d.Faults[0].Side != "a" || d.Faults[1].Side != "b" {
		t.Errorf("both fail: %+v, %v", d, err)
	}
	if d, err := h.Diverge(t.Context(), Diverge{A: Recorded, B: buildOf(t, "print")}); err != nil || !d.Equal {
		t.Errorf("one prints: %+v, %v", d, err)
	}
	if _, err := h.Diverge(t.Context(), Diverge{A: Recorded, B: "/dev/null"}); !errors.Is(err, ErrProgram) {
		t.Errorf("no program: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := h.Diverge(ctx, Diverge{A: Recorded, B: buildOf(t, "hang")}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Commands of repairs are in the record, and no program lives them: what they bring back together is named.
func TestRepairsAreLeftOut(t *testing.T) {
	l := newLived(t, tillOf("max=0"))
	key := deja.Stream{Key: "a"}
	l.send(deja.Envelope{Type: "till.put", Stream: key, Payload: []byte(`{"Amount":9}`)})
	l.send(deja.Envelope{Type: "till.take", Stream: key, Payload: []byte(`{"Amount":9}`)})
	mended := l.send(deja.Envelope{Type: "till.put", Stream: key, Payload: []byte(`{"Amount":9}`), Headers: map[string]string{RepairHeader: "x"}})
	d, err := l.open().Diverge(t.Context(), Diverge{A: Recorded, B: buildOf(t, "max=5")})
	if err != nil {
		t.Fatal(err)
	}
	p := d.Differ[0]
	if d.Repairs != 1 || d.Messages != 2 || len(p.Fields) != 1 || p.Fields[0].Path != "moves" { // it moved more often
		t.Errorf("%s", asText(t, d))
	}
	d, err = l.open().Diverge(t.Context(), Diverge{A: Recorded, B: buildOf(t, "max=0")})
	if err != nil || len(d.Differ) != 1 || d.Differ[0].Field != "repair" || d.Differ[0].Message.ID != mended.ID {
		t.Errorf("what nobody had to repair: %s, %v", asText(t, d), err)
	}
}
