package history

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/cond"
	"github.com/dejalog/deja/internal/emit"
)

// A Suspect is what is wrong, and where.
type Suspect struct {
	Scope  Scope
	When   Predicate
	Limits Limits // the history as far as it is looked at; its end is the target. The zero Limits are all of it

	// Current pins the beginning of the time in which the predicate holds at the target, instead of the first time that it came to
	// hold; the first time, if it does not hold at the target.
	Current bool

	// Effort bounds how many messages are decided again: 0 is [DefaultEffort], and below 0 none is. What is not found within
	// it is not told, or told as not minimal.
	Effort int64

	Test *TestPlan // nil: no test is written
}

// DefaultEffort is how many messages a pin decides again at most, each as often as it takes.
const DefaultEffort = 2_000_000

// The levels of evidence of a [Pin], in order. Each stands for itself.
const (
	FirstBad   = "FIRST-BAD"   // the predicate is false before this message, and true after it
	LastWriter = "LAST-WRITER" // the message that last wrote a field which the predicate reads
	CauseChain = "CAUSE"       // what caused the message, up to the root command
	TwinFound  = "TWIN"        // messages that say the same under different IDs
	Confirmed  = "CONFIRMED"   // without the message the predicate is false at the target
	MinimalSet = "MINIMAL"     // a history from which nothing can be left out
	TestFails  = "TEST"        // a Go test that fails on this build
)

// A Level says whether a level of evidence was reached, and if not, why.
type Level struct {
	Name    string `json:"level"`
	Reached bool   `json:"reached"`
	Why     string `json:"why,omitempty"`
}

// A Pin is the message that led to something wrong, and what is known of it. All but the members up to Complete are there where they
// say something.
type Pin struct {
	FirstBad    *Message    `json:"first_bad"` // null: the predicate never holds
	LastWriters []PinWriter `json:"last_writers"`
	Cause       []Message   `json:"cause"` // the message's cause, that one's cause, and so on

	// Confirmed is true if the predicate is false at the target without the message, false if that does not help, and null if it
	// was not tried or could not be told.
	Confirmed *bool         `json:"confirmed"`
	Minimal   *Reproduction `json:"minimal"`
	Complete  bool          `json:"complete"` // the whole history up to the target was looked at

	Key         string   `json:"key,omitempty"`
	When        string   `json:"when"`
	Until       *Message `json:"until,omitempty"`  // the message at which it stopped holding
	Target      *Message `json:"target,omitempty"` // the key's last message while it held: where CONFIRMED looks
	Times       int      `json:"times"`            // how often it came to hold for the key
	Keys        int64    `json:"keys"`             // for how many keys it did
	Twins       []*Twins `json:"twins,omitempty"`
	SmallestSet *Without `json:"smallest_set,omitempty"` // without these it is false at the target
	Handler     *Handler `json:"handler,omitempty"`
	NearestMiss *Miss    `json:"nearest_miss,omitempty"`
	Test        *Test    `json:"test,omitempty"`
	Levels      []Level  `json:"levels"`
}

// A PinWriter is the message that last wrote a field.
type PinWriter struct {
	Path string `json:"path"`
	Old  string `json:"old"` // canonical JSON; "" where the field was absent, or zero
	New  string `json:"new"`
	Message
}

// A Reproduction is a history that fails in the same way, as [History.Minimal] finds it.
type Reproduction struct {
	Messages int  `json:"messages"`         // of the key
	Causes   int  `json:"causes,omitempty"` // messages of other keys that caused them
	Of       int  `json:"of"`               // how many the key had
	Minimal  bool `json:"minimal"`          // none of them can be left out
}

// A Without is messages without which the predicate is false at the target.
type Without struct {
	Messages int     `json:"messages"`
	Minimal  bool    `json:"minimal"`  // none of them can be kept
	Smallest bool    `json:"smallest"` // no smaller set does
	First    Message `json:"first"`
	Last     Message `json:"last"`
}

// A Miss is the message after which the predicate was closest to holding.
type Miss struct {
	Message
	Key     string   `json:"key"`
	Subject string   `json:"subject"` // the text of the integer that the predicate is about
	Value   *big.Int `json:"value"`
}

// reach notes that a level is reached.
func (p *Pin) reach(level string) { p.Levels = append(p.Levels, Level{level, true, ""}) }

// miss notes that a level is not reached, and why.
func (p *Pin) miss(level, why string, args ...any) {
	p.Levels = append(p.Levels, Level{level, false, fmt.Sprintf(why, args...)})
}

// Level returns what the pin says of a level; ok is false if it was not come to.
func (p *Pin) Level(name string) (l Level, ok bool) {
	for _, l := range p.Levels {
		if l.Name == name {
			return l, true
		}
	}
	return Level{}, false
}

// Pin finds the message that made a predicate true, and gathers evidence, level by level.
func (h *History) Pin(ctx context.Context, s Suspect) (*Pin, error) {
	s.Limits = h.within(s.Limits)
	if s.Effort == 0 {
		s.Effort = DefaultEffort
	}
	if s.Test != nil {
		if err := emit.Free(s.Test.Dir); err != nil {
			return nil, err
		}
	}
	g := &pinning{h: h, Suspect: s, pin: &Pin{When: s.When.String(), LastWriters: []PinWriter{}, Cause: []Message{}}}
	if err := g.search(ctx); err != nil {
		return nil, err
	}
	if g.first == nil {
		g.pin.miss(FirstBad, "%s is never true", g.pin.When)
		return g.pin, nil
	}
	for _, gather := range []func(context.Context) error{g.writers, g.causes, g.twins, g.again, g.test} {
		if err := gather(ctx); err != nil {
			return nil, err
		}
	}
	return g.pin, nil
}

// pinning is a pin in the making.
type pinning struct {
	h *History
	Suspect
	pin *Pin

	first   *Step // FIRST-BAD
	target  *Step // the last decision of the key that is looked at
	rerun   *rerun
	minimal *Minimal // nil: none was found
}

// search finds FIRST-BAD: of several keys the one in which it was decided first.
func (g *pinning) search(ctx context.Context) error {
	g.pin.Complete = true
	var best *Interval
	for k, err := range g.h.When(ctx, g.Scope, g.When, g.Limits) {
		if err != nil {
			return err
		}
		g.pin.Complete = g.pin.Complete && k.Complete
		if len(k.Intervals) == 0 {
			continue
		}
		g.pin.Keys++
		at := &k.Intervals[0]
		if last := &k.Intervals[len(k.Intervals)-1]; g.Current && last.To == nil {
			at = last
		}
		if g.first == nil || before(at.From.Step, g.first) {
			best, g.first, g.pin.Times = at, at.From.Step, len(k.Intervals)
		}
	}
	if best == nil {
		return g.nearest(ctx)
	}
	g.pin.FirstBad, g.pin.Until, g.pin.Key = &best.From, best.To, g.first.Stream.String()
	g.pin.reach(FirstBad)
	return g.aim(ctx)
}

// nearest finds the message after which the predicate was closest to holding, if it compares integers.
func (g *pinning) nearest(ctx context.Context) error {
	var run *along
	var best *Step
	var lacks cond.Number
	on := deja.Stream{}
	for s, err := range g.h.steps.scan(ctx, g.Scope.Matches, g.Limits.Last) {
		if err != nil {
			return err
		}
		if s.Stream != on {
			on = s.Stream
			if run, err = g.When.along(g.h.machine, on); err != nil {
				return err
			}
		}
		if len(s.Events) == 0 {
			continue
		}
		if _, err := run.step(s); err != nil {
			return err
		}
		n, ok := run.run.lacks()
		if !ok || best != nil && !n.Less(lacks) {
			continue
		}
		best, lacks = s.clone(), n
		m, ok := run.run.subject()
		if !ok {
			continue
		}
		g.pin.NearestMiss = &Miss{Key: on.String(), Subject: g.When.Subject(), Value: m.Big()}
	}
	if best == nil {
		return nil
	}
	var err error
	g.pin.NearestMiss.Message, err = g.h.message(ctx, best)
	return err
}

// before reports whether a decision was made before another.
func before(a, b *Step) bool {
	if !a.Time.Equal(b.Time) {
		return a.Time.Before(b.Time)
	}
	return a.Position.Partition < b.Position.Partition
}

// aim finds the target: the key's last decision before the predicate stopped holding, or the last of all.
func (g *pinning) aim(ctx context.Context) error {
	last := g.Limits.Last[g.first.Position.Partition]
	if g.pin.Until != nil {
		last = g.pin.Until.Step.N - 1
	}
	for s, err := range g.h.steps.key(ctx, g.first.Stream, g.first.N-1, last, true) {
		if err != nil {
			return err
		}
		g.target = s
		break
	}
	m, err := g.h.message(ctx, g.target)
	g.pin.Target = &m
	return err
}

// writers finds LAST-WRITER of each field that the predicate reads.
func (g *pinning) writers(ctx context.Context) error {
	paths, static := g.When.Reads()
	if !static {
		g.pin.miss(LastWriter, "which fields the predicate reads cannot be told from its text")
		return nil
	}
	if len(paths) == 0 {
		g.pin.miss(LastWriter, "the predicate reads no field of the state")
		return nil
	}
	all, err := g.h.BlameOf(ctx, Point{Stream: g.first.Stream, Step: g.first}, paths...)
	if err != nil {
		return err
	}
	for _, b := range all {
		if b.By == nil || len(g.pin.LastWriters) == maxWriters {
			continue
		}
		m, err := g.h.message(ctx, b.By.Step)
		if err != nil {
			return err
		}
		g.pin.LastWriters = append(g.pin.LastWriters, PinWriter{b.Path, b.Old, b.New, m})
	}
	if len(g.pin.LastWriters) == 0 {
		g.pin.miss(LastWriter, "no message wrote any of them: they are as in an empty state")
		return nil
	}
	g.pin.reach(LastWriter)
	return nil
}

// maxWriters bounds how many writers are told, where a predicate reads a whole map or a whole state.
const maxWriters = 100

// causes follows CAUSE to the root, as far as it is in this history.
func (g *pinning) causes(ctx context.Context) error {
	for l, err := range g.h.Why(ctx, g.first) {
		if errors.Is(err, ErrOutside) {
			return g.outside(ctx, err)
		}
		if err != nil {
			return err
		}
		if l.Depth == 0 {
			continue
		}
		m, err := g.h.message(ctx, l.Step)
		if err != nil {
			return err
		}
		g.pin.Cause = append(g.pin.Cause, m)
	}
	g.pin.reach(CauseChain) // without a cause, the message is itself the root
	return nil
}

// outside says that CAUSE leads out of this history: into another service's, it may be.
func (g *pinning) outside(ctx context.Context, err error) error {
	talks, terr := g.h.Talks(ctx, g.first)
	if terr != nil {
		return terr
	}
	where := ""
	if talks {
		where = "; it may be in another service's, where trace follows it"
	}
	g.pin.miss(CauseChain, "%s%s", err, where)
	return nil
}

// twins finds TWIN: those of the key up to the target, those of FIRST-BAD first.
func (g *pinning) twins(ctx context.Context) error {
	all, err := g.h.twinsOf(ctx, g.first.Stream, 0, g.target.N)
	if err != nil {
		return err
	}
	var own, others []*Twins
	for _, t := range all {
		if t.has(g.first.ID) {
			own = append(own, t)
		} else {
			others = append(others, t)
		}
	}
	all = slices.Concat(own, others)
	g.pin.Twins = all[:min(len(all), maxTwins)]
	if len(all) == 0 {
		g.pin.miss(TwinFound, "no two messages of %s up to the target say the same under different IDs", g.first.Stream)
		return nil
	}
	g.pin.reach(TwinFound)
	return nil
}

// maxTwins bounds how many twins a pin tells.
const maxTwins = 20
