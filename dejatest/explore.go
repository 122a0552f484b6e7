package dejatest

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/dejalog/deja/internal/fault"
)

var scenarioFlag = flag.String("dejatest.scenario", "", "the one scenario that Explore runs and shows, as a failure has printed it")

// An Exploration says what Explore looks for, and how far it goes. Zero fields are good.
type Exploration struct {
	// Invariant returns an error if a world is not as it must be when nothing can happen any more. It may look at the
	// world, and not go on with it.
	Invariant func(w *World) error

	Runs       int    // how many runs are made at most, beside the random ones; 0: 1,000, which take seconds
	Departures int    // how many departures a run has at most, beside the random ones; 0: 3
	Random     int    // how many random runs are made then; 0: 200; below zero: none
	Seed       uint64 // of these; 0: that of -dejatest.seed, or a new one each time
}

// Explore looks for a way in which the world's scenario, all that came from outside so far, ends with an invariant broken:
// it is [World.ExploreWith] with nothing else said.
func (w *World) Explore(invariant func(w *World) error) {
	w.t.Helper()
	w.ExploreWith(Exploration{Invariant: invariant})
}

// ExploreWith runs the world's scenario again and again, each time departing from the usual course in other ways, and ends
// the test if one run ends with the invariant broken; with a message that failed or a saga that has ended more than once,
// where the world has none yet; or with a saga that waits for nothing and has not ended, where the usual course has none.
// A run is over when nothing can happen any more, however much time goes by: timers fire, also those that usually are
// cancelled before.
//
// A step is what one of these does with one message: a partition of a service that handles it, a route, the timers of a
// partition, the effects of a service, the clock or the client. Usually they go in a fixed order, and time goes by when
// nobody has anything to do. A run departs from that at one of its steps:
//
//   - wait: who would go next is held up, until nothing else can happen, also not by time going by; so replies are overtaken
//     by timers, partitions and routes by others, and sagas by the next requests;
//   - twice: what is delivered comes twice;
//   - lost: the cursor of a route is lost, and all is carried again;
//   - crash: the service dies before or after one of its calls of log and store that write, and starts again.
//
// Runs with fewer departures come first, and those that led to a history which is known are not gone on from; so what
// is found first has the fewest departures, and is printed step by step, with the flag -dejatest.scenario that repeats it.
// When the runs are used up, some are made with more departures, at random.
func (w *World) ExploreWith(x Exploration) {
	w.t.Helper()
	x.Runs, x.Departures = cmp.Or(x.Runs, 1000), cmp.Or(x.Departures, 3)
	x.Random, x.Seed = max(cmp.Or(x.Random, 200), 0), cmp.Or(x.Seed, *seedFlag, rand.Uint64())
	s := &search{w: w, x: x, known: map[[32]byte]bool{}, most: 10_000}
	var err error
	if s.world, err = w.course.unrest(); err != nil {
		w.t.Fatalf("%v", err)
	}
	if *scenarioFlag != "" {
		s.repeat(*scenarioFlag)
		return
	}
	usually, found := s.try(nil)
	if found == nil && len(usually.steps) < minSteps {
		w.t.Fatalf("Explore: the scenario takes %d steps; with fewer than %d it is too small to mean anything", len(usually.steps), minSteps)
	}
	if found == nil {
		found = s.systematically(usually)
	}
	if found == nil {
		found = s.randomly(len(usually.steps))
	}
	if found != nil {
		s.report(found)
		return
	}
	w.t.Logf("Explore: %d runs came to %d histories, and nothing was found; departures in a run: up to %d in all ways, up to %d in some; %d runs were random (-dejatest.seed=%d)",
		s.runs, len(s.known), s.all, s.deepest, s.random, x.Seed)
}

// minSteps is how many steps a scenario must take to be worth exploring.
const minSteps = 5

// search is an exploration at work.
type search struct {
	w     *World
	x     Exploration
	known map[[32]byte]bool // histories
	world unrest            // of the world as it is, before time has gone by
	base  *unrest           // of the usual course
	most  int               // steps of a run: many times the usual

	runs, random int
	all, deepest int // with how many departures all runs were made, and any
}

// finding is a run that should not be.
type finding struct {
	plan plan
	why  error
}

// try makes a run, and returns what is wrong with its end.
func (s *search) try(p plan) (*outing, *finding) {
	s.runs++
	o, err := s.w.goOut(p, s.most, false)
	if len(p) == 0 {
		s.most = 200 + 20*len(o.steps)
	}
	s.deepest = max(s.deepest, len(o.kept))
	if err == nil {
		err = s.judge(o)
	}
	if err != nil {
		return o, &finding{o.kept, err}
	}
	return o, nil
}

// judge returns what is wrong with the end of a run.
func (s *search) judge(o *outing) error {
	u, err := o.unrest()
	if err != nil {
		return err
	}
	if s.base == nil {
		s.base = &u
	}
	if len(s.world.parked) == 0 && len(u.parked) > 0 {
		return fmt.Errorf("messages of %s have failed", strings.Join(u.parked, ", "))
	}
	if len(s.base.idle) == 0 && len(u.idle) > 0 {
		return fmt.Errorf("%s: not ended, and waiting for nothing", strings.Join(u.idle, ", "))
	}
	if len(s.world.ended) == 0 && len(u.ended) > 0 {
		return fmt.Errorf("more than one end: %s", strings.Join(u.ended, ", "))
	}
	if s.x.Invariant == nil {
		return nil
	}
	return s.x.Invariant(&World{t: s.w.t, members: s.w.members, course: o.course, script: s.w.script, seen: map[[32]byte]view{}, over: true})
}

// fresh notes the history of a run, and reports whether it was not known.
func (s *search) fresh(o *outing) bool {
	h := o.history()
	known := s.known[h]
	s.known[h] = true
	return !known
}

// systematically tries all departures in turn: first those that wait, then all others; and then with one departure more.
func (s *search) systematically(usually *outing) *finding {
	s.fresh(usually)
	level := []*outing{usually}
	for range s.x.Departures {
		var next []*outing
		for _, kinds := range [][]departureKind{{wait}, {twice, lost}, {crash}} {
			for _, from := range level {
				for _, p := range from.departures(kinds) {
					if s.runs >= s.x.Runs {
						return nil
					}
					o, found := s.try(p)
					if found != nil {
						return found
					}
					if s.fresh(o) {
						next = append(next, o)
					}
				}
			}
		}
		s.all++
		level = next
	}
	return nil
}

// departures returns the plans that go on from a run: with one departure more, of certain kinds.
func (o *outing) departures(kinds []departureKind) []plan {
	var ps []plan
	from, waits := 0, true
	if n := len(o.kept); n > 0 {
		from, waits = o.kept[n-1].step, o.kept[n-1].kind == wait
	}
	if !waits {
		from++
	}
	for i := from; i < len(o.steps); i++ {
		t := &o.steps[i]
		for _, kind := range kinds {
			d := departure{step: i, kind: kind}
			switch {
			case kind == wait && t.rivals, kind == twice && t.delivers, kind == lost && t.actor.kind == carrying:
				ps = append(ps, o.kept.with(d))
			case kind == crash:
				for n, call := range t.writes {
					if d.call, d.mode = call, fault.CrashBefore; n == 0 { // before the next one is after this one
						ps = append(ps, o.kept.with(d))
					}
					d.mode = fault.CrashAfter
					ps = append(ps, o.kept.with(d))
				}
			}
		}
	}
	return ps
}

// randomly makes runs with any departures.
func (s *search) randomly(steps int) *finding {
	rng := rand.New(rand.NewPCG(s.x.Seed, 0))
	for range s.x.Random {
		s.random++
		o, found := s.try(chance(rng, steps))
		if found != nil {
			return found
		}
		s.fresh(o)
	}
	return nil
}

// chance returns a plan of up to eight departures.
func chance(rng *rand.Rand, steps int) plan {
	p := make(plan, 1+rng.IntN(8))
	for i := range p {
		p[i] = departure{step: rng.IntN(steps + steps/4), kind: wait}
		switch r := rng.IntN(10); {
		case r < 2:
			p[i].kind, p[i].call, p[i].mode = crash, 1+rng.IntN(15), fault.CrashBefore
			if rng.IntN(2) == 0 {
				p[i].mode = fault.CrashAfter
			}
		case r < 3:
			p[i].kind = twice
		case r < 4:
			p[i].kind = lost
		}
	}
	return sorted(p)
}

// report leaves out of a finding what it does not need, and ends the test with it.
func (s *search) report(f *finding) {
	s.w.t.Helper()
	runs := s.runs
	for i := 0; i < len(f.plan); {
		if _, less := s.try(slices.Delete(slices.Clone(f.plan), i, i+1)); less != nil {
			f, i = less, 0
		} else {
			i++
		}
	}
	o, _ := s.w.goOut(f.plan, s.most, true)
	s.w.t.Fatalf("Explore: run %d: %v\nto repeat it: go test -run '^%s$' -dejatest.scenario=%s\n%s",
		runs, f.why, s.w.t.Name(), f.plan, o.story())
}

// repeat makes one run, and shows it.
func (s *search) repeat(text string) {
	s.w.t.Helper()
	p, err := parsePlan(text)
	if err != nil {
		s.w.t.Fatalf("Explore: %v", err)
	}
	if _, found := s.try(nil); found != nil && len(p) > 0 {
		s.w.t.Fatalf("Explore: the usual course: %v", found.why)
	}
	o, err := s.w.goOut(p, s.most, true)
	if err == nil {
		err = cmp.Or(s.judge(o), kept(o, p))
	}
	if err != nil {
		s.w.t.Fatalf("Explore: scenario %s: %v\n%s", text, err, o.story())
	}
	s.w.t.Logf("Explore: scenario %s: nothing wrong\n%s", text, o.story())
}

var errOther = errors.New("the scenario is of other code, or of another test: some of its departures make no difference here")

func kept(o *outing, p plan) error {
	if slices.Equal(o.kept, p) {
		return nil
	}
	return errOther
}
