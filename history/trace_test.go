package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/till"
)

func put(key string, amount int, cause deja.ID) deja.Envelope {
	return deja.Envelope{
		Type: "till.put", Stream: deja.Stream{Aggregate: "till", Key: key}, CausationID: cause,
		Payload: fmt.Appendf(nil, `{"amount":%d}`, amount),
	}
}

// In a random forest of causes, why is the path to the root, and impact the whole tree below.
func TestTraceFollowsCausesBothWays(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	l := newLived(t, till.Service(till.Variant{}))
	outside := deja.DeriveID("elsewhere", "1")
	parent := map[deja.ID]deja.ID{}
	var ids []deja.ID
	for i := range 120 {
		var cause deja.ID
		switch n := rng.IntN(10); {
		case i == 0 || n == 0:
		case n == 1:
			cause = outside
		default:
			cause = ids[rng.IntN(len(ids))]
		}
		env := l.send(put(fmt.Sprint(rng.IntN(7)), 1, cause))
		ids, parent[env.ID] = append(ids, env.ID), cause
		if n := rng.IntN(8); n == 0 { // again: a duplicate is no effect of its own
			l.send(*env)
		} else if n == 1 { // and a conflict is none
			again := *env
			again.Payload = []byte(`{"amount":77}`)
			l.send(again)
		}
	}
	h := l.open()
	for _, id := range ids {
		s, err := h.first(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var want, got []deja.ID
		last := id
		for at := id; !at.IsZero() && at != outside; at = parent[at] {
			want, last = append(want, at), parent[at]
		}
		missing := false
		for link, err := range h.Why(t.Context(), s) {
			if errors.Is(err, ErrOutside) {
				missing = true
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if link.Depth != len(got) {
				t.Errorf("link %d of %s has depth %d", len(got), id, link.Depth)
			}
			got = append(got, link.ID)
		}
		if !slices.Equal(got, want) || missing != (last == outside) {
			t.Fatalf("why %s: got %v (outside %v), want %v", id, got, missing, want)
		}
		below := map[deja.ID]bool{}
		for _, other := range ids {
			for at := other; !at.IsZero() && at != outside; at = parent[at] {
				if at == id {
					below[other] = true
				}
			}
		}
		seen := map[deja.ID]bool{}
		for link, err := range h.Impact(t.Context(), s) {
			if err != nil {
				t.Fatal(err)
			}
			if seen[link.ID] || !below[link.ID] || link.ID != id && !seen[parent[link.ID]] {
				t.Fatalf("impact of %s: %s comes twice, or before its cause, or is none", id, link.ID)
			}
			seen[link.ID] = true
		}
		if len(seen) != len(below) {
			t.Fatalf("impact of %s: %d messages, want %d", id, len(seen), len(below))
		}
	}
}

// Clients can name any cause, also one that follows from the message itself.
func TestTraceEndsInACircle(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	a, b := deja.DeriveID("circle", "a"), deja.DeriveID("circle", "b")
	for id, cause := range map[deja.ID]deja.ID{a: b, b: a} {
		env := put("1", 1, cause)
		env.ID = id
		l.send(env)
	}
	h := l.open()
	s, err := h.first(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	for name, links := range map[string]func(context.Context, *Step) func(func(Link, error) bool){
		"why":    func(ctx context.Context, s *Step) func(func(Link, error) bool) { return h.Why(ctx, s) },
		"impact": func(ctx context.Context, s *Step) func(func(Link, error) bool) { return h.Impact(ctx, s) },
	} {
		n, ended := 0, false
		for _, err := range links(t.Context(), s) {
			if n++; n > 10 {
				t.Fatalf("%s does not end", name)
			}
			ended = ended || err != nil && strings.Contains(err.Error(), "among its own causes")
		}
		if !ended {
			t.Errorf("%s says nothing of the circle", name)
		}
	}
}
