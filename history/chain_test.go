package history

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/remit"
)

// links tells of all links of a walk, and of the error that ended it.
func links(c *Chain, of *Step, impact bool) (texts []string) {
	walk := c.Why(of.ID)
	if impact {
		walk = c.Impact(of.ID)
	}
	for l, err := range walk {
		if err != nil {
			return append(texts, err.Error())
		}
		texts = append(texts, fmt.Sprint(l.Depth, l.Service, l.Position, l.N, l.Status))
	}
	return texts
}

// What is left unread of the journals changes no answer: neither in a moment's time, in which most causes are, nor where each
// message's are before it.
func TestAChainReadInPartIsTheWhole(t *testing.T) {
	h := newRemitted(t)
	services := []string{remit.Ledger}
	read := map[bool]int64{}
	eachDecision(t, h, func(s *Step) {
		talks, err := h.Talks(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if !talks {
			return
		}
		whole, err := h.Chain(t.Context(), s, Beyond{Services: services})
		if err != nil {
			t.Fatal(err)
		}
		for _, ask := range []Beyond{{Why: true}, {Impact: true}, {Why: true, Impact: true}} {
			for _, d := range []time.Duration{1, time.Second} {
				ask.Services, ask.slack, ask.nearby = services, d, 1
				part, err := h.Chain(t.Context(), s, ask)
				if err != nil {
					t.Fatal(err)
				}
				for impact, asked := range map[bool]bool{false: ask.Why, true: ask.Impact} {
					if got, want := links(part, s, impact), links(whole, s, impact); asked && !slices.Equal(got, want) {
						t.Errorf("%s %s of %s, slack %s, impact %t: read in part it is\n%q, the whole is\n%q", s.Kind, s.Type, s.Stream, d, impact, got, want)
					}
				}
				if part.window.middle {
					read[ask.Impact]++
				}
			}
		}
	})
	if read[false] == 0 || read[true] == 0 {
		t.Errorf("of so many chains the answer came from a part: why alone %d, impact %d", read[false], read[true])
	}
}

// A part of a journal may have a parked message decided again, without the decision that parked it.
func TestACauseThatWasDecidedAgainIsLookedForEarlier(t *testing.T) {
	id := deja.NewID()
	for act, want := range map[deja.ID]bool{{}: true, deja.NewID(): false} {
		c := &Chain{first: map[deja.ID]Link{id: {Step: &Step{ID: id, Act: act}}}}
		if got := c.leads(id); got != want {
			t.Errorf("decided for act %s: all causes are there: %t, want %t", act, got, want)
		}
	}
}

// An effect's ID tells when its first cause was made, and that is where it is looked for first.
func TestAnEmissionIsFoundFromItsTimeOn(t *testing.T) {
	h := newRemitted(t)
	found := 0
	for p := range h.source.Partitions() {
		for e, err := range h.source.Decisions(t.Context(), p, 1) {
			if err != nil {
				t.Fatal(err)
			}
			for _, es := range e.Decided.Effects {
				s, what, err := h.Emitted(t.Context(), es.ID, nil)
				if err != nil || s.N != e.N || s.ID != e.Cause.ID || what != "effect "+es.Type {
					t.Errorf("effect %s of decision %d comes from %+v, as %q, %v", es.ID, e.N, s, what, err)
				}
				found++
			}
		}
	}
	if found == 0 {
		t.Error("there was no effect")
	}
}
