package history

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/relive"
)

// A Handler tells what this build makes of the messages that led to a fault.
type Handler struct {
	Same     bool     `json:"same"`                        // it decides as was recorded, up to the target
	Differs  *Message `json:"first_difference,omitempty"`  // else the first message of which it makes something else
	Recorded string   `json:"recorded_decision,omitempty"` // as it was decided
	Now      string   `json:"decision_now,omitempty"`      // as this build decides
	Build    string   `json:"recorded_build,omitempty"`    // the one that decided it
	Says     string   `json:"says"`                        // what follows
}

// again decides the messages again, for CONFIRMED and MINIMAL.
func (g *pinning) again(ctx context.Context) error {
	if g.Effort < 0 {
		g.skip("nothing is decided again with an effort below 0")
		return nil
	}
	var err error
	g.rerun, err = g.h.newRerun(ctx, g.first.Stream, g.target.N, g.Effort)
	if errors.Is(err, driver.ErrTrimmed) {
		g.skip("the inbox has lost messages of %s: %s", g.first.Stream, err)
		return nil
	}
	if err != nil {
		return err
	}
	all := numbers(len(g.rerun.steps))
	if !g.rerun.affords(len(all)) {
		g.skip("%s has %d messages up to the target: an effort of %d does not suffice to decide them again", g.first.Stream, len(all), g.Effort)
		return nil
	}
	holds, err := g.compare(ctx, all)
	if err != nil {
		return err
	}
	if !holds {
		g.pin.Handler.Says = "as this build decides, the predicate is false at the target: the fault was in the handler that decided then, or is mended; diverge compares the two builds"
		g.skip("this build decides otherwise, and does not come there")
		return nil
	}
	if err := g.confirm(ctx, all); err != nil {
		return err
	}
	if err := g.minimize(ctx); err != nil {
		return err
	}
	g.blame()
	return nil
}

func (g *pinning) skip(why string, args ...any) {
	g.pin.miss(Confirmed, why, args...)
	g.pin.miss(MinimalSet, why, args...)
}

// compare decides all messages again, looks for the first decision that is not as recorded, and reports whether the predicate
// holds at the target all the same.
func (g *pinning) compare(ctx context.Context, all []int) (holds bool, err error) {
	recorded, stop := g.h.recorded(ctx, g.first.Stream, g.target.N)
	defer stop()
	along, err := g.When.along(g.h.machine, g.first.Stream)
	if err != nil {
		return false, err
	}
	g.pin.Handler = &Handler{Same: true}
	var differs *Step
	err = g.rerun.live(ctx, all, func(s *Step, d *relive.Decision) (err error) {
		if differs == nil {
			was, err := recorded()
			if err != nil {
				return err
			}
			if was == nil || !alike(was, s) {
				differs = s
				g.pin.Handler.Now, g.pin.Handler.Recorded = decisionText(s), "none"
				if was != nil {
					differs, g.pin.Handler.Recorded = was, decisionText(was)
				}
			}
		}
		holds, err = along.step(s)
		return err
	})
	if err != nil || differs == nil {
		return holds, err
	}
	m, err := g.h.message(ctx, differs)
	if err != nil {
		return holds, err
	}
	g.pin.Handler.Same, g.pin.Handler.Differs = false, &m
	if d, err := g.h.source.Decision(ctx, differs.Position.Partition, differs.N); err == nil {
		g.pin.Handler.Build = d.Build
	}
	return holds, nil
}

// recorded returns a function that returns the next recorded decision of a key, nil behind the last, conflicts left out.
func (h *History) recorded(ctx context.Context, s deja.Stream, last int64) (next func() (*Step, error), stop func()) {
	pull, stop := iter.Pull2(h.steps.key(ctx, s, 0, last, false))
	return func() (*Step, error) {
		for {
			st, err, ok := pull()
			if !ok || err != nil {
				return nil, err
			}
			if st.Status != deja.Conflicted {
				return st, nil
			}
		}
	}, stop
}

// alike reports whether two decisions of a message are the same.
func alike(a, b *Step) bool {
	return a.ID == b.ID && a.Status == b.Status && slices.Equal(a.Writes, b.Writes) &&
		slices.EqualFunc(a.Events, b.Events, sameEvent)
}

// decisionText writes a decision for people.
func decisionText(s *Step) string {
	text := s.Status.String()
	for _, ev := range s.Events {
		text += fmt.Sprintf("; %s %s", ev.Type, ev.Payload)
	}
	return text
}

// confirm looks whether the predicate is false at the target without FIRST-BAD, or else without which other messages.
func (g *pinning) confirm(ctx context.Context, all []int) error {
	first := g.number()
	budget := g.rerun.most / 2
	holds, err := g.rerun.holds(ctx, g.When, without(all, first))
	if err != nil {
		return err
	}
	yes := !holds
	g.pin.Confirmed = &yes
	if yes {
		g.pin.reach(Confirmed)
		return nil
	}
	// Its neighbours are tried first: those before it, from the last on, then those behind it.
	tried := slices.Concat(backwards(all[:first]), all[first+1:])
	for i, n := range tried {
		if g.rerun.spent+int64(len(all)) > budget {
			g.pin.miss(Confirmed, "without it the predicate holds at the target all the same; %d of %d others were tried, and none of them alone helps", i, len(tried))
			return g.smallest(ctx, all, false)
		}
		holds, err := g.rerun.holds(ctx, g.When, without(all, n))
		if err != nil {
			return err
		}
		if !holds {
			g.pin.miss(Confirmed, "without it the predicate holds at the target all the same, but not without message %s", g.rerun.steps[n].ID)
			return g.set(ctx, []int{n}, true, true)
		}
	}
	g.pin.miss(Confirmed, "no single message makes the predicate false at the target by not being there")
	return g.smallest(ctx, all, true)
}

// number returns which of the rerun's messages is FIRST-BAD: of what an act had decided again, the parked message.
func (g *pinning) number() int {
	return slices.IndexFunc(g.rerun.steps, func(s *Step) bool { return s.Position == g.first.Position })
}

func without(all []int, n int) []int {
	return slices.DeleteFunc(slices.Clone(all), func(i int) bool { return i == n })
}

func backwards(s []int) []int {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}

// smallest looks for a small set of messages without which the predicate is false at the target: at the most all from FIRST-BAD on.
func (g *pinning) smallest(ctx context.Context, all []int, singles bool) error {
	first, budget := g.number(), g.rerun.most*3/4
	left, minimal, err := shrink(all[first:], nil, func(dropped []int) (helps, more bool, err error) {
		if g.rerun.spent+int64(len(all)) > budget {
			return false, false, nil
		}
		kept := slices.DeleteFunc(slices.Clone(all), func(n int) bool { _, drop := slices.BinarySearch(dropped, n); return drop })
		holds, err := g.rerun.holds(ctx, g.When, kept)
		return !holds, true, err
	})
	if err != nil {
		return err
	}
	return g.set(ctx, left, minimal, minimal && singles && len(left) == 2)
}

func (g *pinning) set(ctx context.Context, dropped []int, minimal, smallest bool) error {
	s := &Without{Messages: len(dropped), Minimal: minimal, Smallest: smallest}
	for _, at := range []struct {
		n  int
		to *Message
	}{{dropped[0], &s.First}, {dropped[len(dropped)-1], &s.Last}} {
		m, err := g.h.message(ctx, g.rerun.steps[at.n])
		if err != nil {
			return err
		}
		*at.to = m
	}
	g.pin.SmallestSet = s
	return nil
}

// minimize looks for MINIMAL.
func (g *pinning) minimize(ctx context.Context) error {
	m, err := g.h.minimal(ctx, g.first, g.When, g.Effort-g.rerun.spent)
	if err != nil {
		return err
	}
	if !m.Reproduced {
		g.pin.miss(MinimalSet, "this build decides otherwise, and the message does not make the predicate true in it")
		return nil
	}
	g.minimal = m
	g.pin.Minimal = &Reproduction{Messages: len(m.Messages) - m.Causes, Causes: m.Causes, Of: m.Of, Minimal: m.Minimal}
	if m.Minimal {
		g.pin.reach(MinimalSet)
	} else {
		g.pin.miss(MinimalSet, "after %d decisions there was no effort left to leave more out", g.rerun.spent+m.Lived)
	}
	return nil
}

// blame says what the evidence says of the handler.
func (g *pinning) blame() {
	h := g.pin.Handler
	switch {
	case !h.Same:
		h.Says = "this build comes there, too, but decides otherwise than was recorded; diverge compares the two builds"
	case *g.pin.Confirmed:
		h.Says = "this build decides all as was recorded: what the message says leads there, or what its handler makes of it"
	case g.pin.Minimal != nil && g.pin.Minimal.Messages == 1:
		h.Says = "this build decides all as was recorded, and the message alone comes there: if what it says is right, the fault is in its handler"
	default:
		h.Says = "this build decides all as was recorded, and leaving the message out does not mend it: either what it says is wrong, or what its handler makes of it; diverge compares with a build that is thought to be right"
	}
}
