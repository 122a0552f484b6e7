package history

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/dejalog/deja"
)

// Bisect finds what looking at each message finds, where what is bad stays bad; and with messages that cannot be told, the
// suspects are exactly those between the last good and the first bad one.
func TestBisect(t *testing.T) {
	const n = 40
	l := newLived(t, crates())
	key := deja.Stream{Aggregate: "crate", Key: "1"}
	for i := range n {
		payload, _ := json.Marshal(change{Sets: []changed{{What: "a", N: int64(i + 1)}, {What: "touch"}}})
		if i%5 == 4 { // which is not tested
			payload, _ = json.Marshal(change{Sets: []changed{{What: "refuse"}}})
		}
		l.send(deja.Envelope{Type: "crate.change", Stream: key, Payload: payload})
	}
	h := l.open()
	var values []int64 // of a, after each message that recorded something
	for i := range int64(n) {
		if i%5 != 4 {
			values = append(values, i+1)
		}
	}
	rnd := rand.New(rand.NewPCG(3, 3))
	for turn := range 300 {
		first := rnd.IntN(len(values) + 1) // beyond: nothing is bad
		skips := map[int64]bool{}
		for range rnd.IntN(12) {
			skips[values[rnd.IntN(len(values)-1)]] = true
		}
		exact, tested := turn%2 == 0, 0
		verdict := func(v int64) Verdict {
			switch {
			case skips[v]:
				return Skip
			case first < len(values) && v >= values[first]:
				return Bad
			}
			return Good
		}
		got, err := h.Bisect(t.Context(), key, Limits{}, exact, func(_ context.Context, p *Tried) (Verdict, error) {
			tested++
			return verdict(p.State.Value().(*crate).A), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		good, bad := -1, len(values)
		for i, v := range values {
			if verdict(v) == Bad {
				bad = i
				break
			}
			if verdict(v) == Good {
				good = i
			}
		}
		want := "none"
		switch {
		case bad == len(values):
		case bad-good == 1:
			want = fmt.Sprint("first ", bad)
		default:
			want = fmt.Sprint("among ", good+1, " to ", bad)
		}
		if text := bisected(got); text != want {
			t.Errorf("exact %v, bad from %d, skipped %v: got %s, want %s", exact, first, skips, text, want)
		}
		if got.Tested != tested || exact != (got.Assumed == "") || !got.Complete || !exact && tested > 8+2*len(skips) {
			t.Errorf("%d tests, said %d, assumed %q", tested, got.Tested, got.Assumed)
		}
	}
}

// bisected writes what was found, by the number of messages that recorded something; each moved the version on by two.
func bisected(b *Bisection) string {
	nth := func(m *Message) int64 { return m.Version/2 - 1 }
	switch {
	case b.FirstBad != nil:
		return fmt.Sprint("first ", nth(b.FirstBad))
	case len(b.Suspects) > 0:
		return fmt.Sprint("among ", nth(&b.Suspects[0]), " to ", nth(&b.Suspects[len(b.Suspects)-1]))
	}
	return "none"
}

func TestScopes(t *testing.T) {
	m, err := deja.Compile(crates())
	if err != nil {
		t.Fatal(err)
	}
	keys := []deja.Stream{{Aggregate: "crate", Key: "42"}, {Aggregate: "crate", Key: "4"}, {Aggregate: "crate", Key: "a/b"}, {Tenant: "t", Aggregate: "crate", Key: "42"}, {Aggregate: "other", Key: "42"}}
	for text, want := range map[string]string{
		"*": "11111", "crate/*": "11100", "crate/4*": "11000", "crate/42": "10000", "crate/a/b": "00100", "t:crate/*": "00010", "*:crate/*": "11110", "*:crate/42*": "10010", "t:crate/42": "00010",
	} {
		s, err := ParseScope(m, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got := ""
		for _, k := range keys {
			got += map[bool]string{true: "1", false: "0"}[s.Matches(k)]
		}
		if got != want || s.String() != text {
			t.Errorf("%s: matches %s, want %s; written %s", text, got, want, s)
		}
		if k, ok := s.Single(); ok != (text[len(text)-1] != '*') || ok && k.String() != text {
			t.Errorf("%s: single %v %s", text, ok, k)
		}
	}
	for text, want := range map[string]string{
		"":            "\n  \n  ^ want <aggregate>/<key>",
		"crate":       "\n  crate\n       ^ want <aggregate>/<key>",
		"crat/1":      "\n  crat/1\n  ^ there is no aggregate \"crat\"",
		"t:crat/1":    "\n  t:crat/1\n    ^ there is no aggregate",
		"crate/":      "\n  crate/\n        ^ the key is empty",
		"*:crate/4":   "want *:crate/4*",
		"crate/a\x01": "control character",
	} {
		if _, err := ParseScope(m, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}
