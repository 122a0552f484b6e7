package dejatest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// entry is one thing of a world's script: what comes from outside, at a time.
type entry struct {
	at        time.Time
	service   int            // whose client asks
	request   *deja.Envelope // what it asks; nil for nothing
	delivered []delivery     // what comes into inboxes; of a request, its message
	waits     deja.ID        // the command or the effect that is answered; zero for none
	performs  []deja.Performer
	text      string
}

// delivery is a message for a service's inbox.
type delivery struct {
	service string
	record  driver.Record
}

// An actor is one of those that take steps.
type actor struct {
	kind    actorKind
	service int
	n       int // a partition, or the index of a carrier
}

type actorKind uint8

// The kinds of actors.
const (
	handling   actorKind = iota // handles messages of a partition
	carrying                    // carries from a partition of a journal into an inbox
	performing                  // performs effects
	firing                      // has timers of a partition fire
	outside                     // the clock, and all that comes from outside
)

// A course is a run of a script: the processes of all services over one disk, a step at a time and one at a time. Who
// goes next follows from what is on the disk: the first in order that has something to do.
type course struct {
	w      *World
	disk   *disk
	lives  []*life
	order  []actor
	script []entry
	next   int                                               // the entry of the script that is not over yet
	asked  deja.Position                                     // where the message of that entry is, if it was asked
	told   []string                                          // what the requests were told, in order
	last   *answer                                           // the last of these
	front  []driver.Log                                      // what stands before the log, for each service
	back   []driver.Store                                    // and before its store
	check  func(s int, p int32, done *step.Settlement) error // called with each settlement; or nil
	note   func(format string, args ...any)                  // called with each step; or nil

	max   int // messages in a step
	drift int // how often the clock may go on once the script is over
}

// newCourse returns a course at its beginning, with no process started.
func newCourse(w *World) *course {
	c := &course{w: w, disk: newDisk(len(w.members)), lives: make([]*life, len(w.members)), max: 1000}
	for s := range w.members {
		c.front, c.back = append(c.front, c.disk.log), append(c.back, c.disk.stores[s])
	}
	c.order = actors(w.members)
	return c
}

// actors returns all that take steps, in the order in which they go first.
func actors(members []*member) []actor {
	var as []actor
	each := func(kind actorKind, count func(*member) int) {
		for s, m := range members {
			for n := range count(m) {
				as = append(as, actor{kind, s, n})
			}
		}
	}
	each(handling, func(*member) int { return partitions })
	each(carrying, func(m *member) int { return partitions * (len(m.talks.Targets) + len(m.talks.Sources)) })
	each(performing, func(m *member) int { return min(1, len(m.m.Effects())) })
	each(firing, func(*member) int { return partitions })
	return append(as, actor{kind: outside})
}

// name names an actor.
func (c *course) name(a actor) string {
	if a.kind == outside {
		return "the clock and the client"
	}
	service := c.w.members[a.service].name()
	switch a.kind {
	case handling:
		return fmt.Sprintf("%s/%d", service, a.n)
	case carrying:
		return c.lives[a.service].carriers[a.n].String()
	case firing:
		return fmt.Sprintf("timers of %s/%d", service, a.n)
	default:
		return "effects of " + service
	}
}

// start starts the process of a service. The client asks it again what it has not told.
func (c *course) start(ctx context.Context, s int) error {
	store := c.back[s]
	if c.w.before != nil {
		store = c.w.before(store)
	}
	l, err := start(ctx, c.w.members[s], c.disk, c.disk.stores[s], c.front[s], store)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.w.members[s].name(), err)
	}
	c.lives[s] = l
	if c.next < len(c.script) && c.script[c.next].service == s {
		c.asked = deja.Position{}
	}
	return nil
}

// startAll starts the processes that do not run.
func (c *course) startAll(ctx context.Context) error {
	for s, l := range c.lives {
		if l == nil {
			if err := c.start(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// run takes steps until there are none to take.
func (c *course) run(ctx context.Context) error {
	for {
		a, ok, err := c.first()
		if err != nil || !ok {
			return err
		}
		if err := c.take(ctx, a); err != nil {
			return err
		}
	}
}

// first returns the first actor in order that has something to do.
func (c *course) first() (actor, bool, error) {
	for _, a := range c.order {
		if ok, err := c.can(a); ok || err != nil {
			return a, ok, err
		}
	}
	return actor{}, false, nil
}

// can reports whether an actor has something to do.
func (c *course) can(a actor) (bool, error) {
	l := c.lives[a.service]
	switch a.kind {
	case handling:
		return l.waiting(int32(a.n)), nil
	case carrying:
		return l.behind(l.carriers[a.n])
	case performing:
		return l.wanted() != nil, nil
	case firing:
		if err := l.watch(int32(a.n)); err != nil {
			return false, err
		}
		t, err := l.due(int32(a.n))
		return t != nil, err
	default:
		_, what, err := c.upcoming()
		return what != nothing, err
	}
}

// take takes an actor's next step, which it must have.
func (c *course) take(ctx context.Context, a actor) error {
	l := c.lives[a.service]
	switch a.kind {
	case handling:
		return c.handle(ctx, a)
	case carrying:
		ms, err := l.carryOn(ctx, l.carriers[a.n], c.max)
		if err == nil && c.note != nil {
			c.note("%s: carries %s", c.name(a), orNothing(routeLines(ms)))
		}
		return err
	case performing:
		e := l.wanted()
		how, err := l.perform(ctx, e)
		if err == nil && c.note != nil {
			c.note("%s: %s of %s is called for: %s", c.name(a), line(&e.Envelope), e.Stream, how)
		}
		return err
	case firing:
		t, err := l.due(int32(a.n))
		if err != nil {
			return err
		}
		if c.note != nil {
			c.note("%s: %q of %s fires", c.name(a), t.Name, t.Command.Stream)
		}
		return l.fire(ctx, t)
	default:
		return c.advance(ctx)
	}
}

// handle lets a partition handle messages, and the client hear what it was waiting for.
func (c *course) handle(ctx context.Context, a actor) error {
	l, p := c.lives[a.service], int32(a.n)
	done, err := l.handle(ctx, p, c.max)
	if err != nil {
		return err
	}
	for i := range done {
		if c.note != nil {
			c.note("%s: handles %s", c.name(a), settlementText(&done[i]))
		}
		if c.check != nil {
			if err := c.check(a.service, p, &done[i]); err != nil {
				return err
			}
		}
		if c.asked == (deja.Position{Topic: wire.Inbox(l.name()), Partition: p, Offset: done[i].Offset}) {
			if c.last, err = l.answer(ctx, p, &done[i]); err != nil {
				return err
			}
			c.told = append(c.told, c.last.String())
			c.next, c.asked = c.next+1, deja.Position{}
		}
	}
	return nil
}

// What the outside does next.
const (
	nothing = iota
	later   // the clock moves on to a time at which a timer is due, or an effect is tried again
	comes   // the script's next entry
	dropped // that entry is passed over: what it answers was never asked, and nothing else will happen
)

// upcoming returns what the outside does next, and when.
func (c *course) upcoming() (at time.Time, what int, err error) {
	for _, l := range c.lives {
		t, err := l.wakes()
		if err != nil {
			return t, nothing, err
		}
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at, what = t, later
		}
	}
	if c.next == len(c.script) {
		if c.drift <= 0 {
			what = nothing
		}
		return at, what, nil
	}
	e := &c.script[c.next]
	switch {
	case c.asked != (deja.Position{}): // the client waits
	case !c.awaited(e):
		if what == nothing {
			what = dropped
		}
	case what == nothing || e.at.Before(at):
		at, what = e.at, comes
	}
	return at, what, nil
}

// awaited reports whether what an entry answers was asked.
func (c *course) awaited(e *entry) bool {
	if e.waits.IsZero() {
		return true
	}
	return slices.ContainsFunc(c.unanswered(), func(m deja.Envelope) bool { return m.ID == e.waits })
}

// advance lets the outside do what it does next.
func (c *course) advance(ctx context.Context) error {
	at, what, err := c.upcoming()
	if err != nil {
		return err
	}
	if what == later {
		c.disk.pass(at)
		if c.next == len(c.script) {
			c.drift--
		}
		if c.note != nil {
			c.note("the clock: it is %s later", c.disk.now.Sub(began))
		}
		return nil
	}
	e := &c.script[c.next]
	if c.note != nil {
		if what == dropped {
			c.note("the test: nobody waits for %s", e.text)
		} else {
			c.note("%s", e.text)
		}
	}
	if what == dropped {
		c.next++
		return nil
	}
	c.disk.pass(e.at)
	for i := range e.performs {
		c.disk.performers[e.performs[i].EffectType()] = &e.performs[i]
	}
	for i := range e.delivered {
		d := &e.delivered[i]
		log := driver.Log(c.disk.log)
		if e.request != nil {
			log = c.lives[e.service].log
		}
		pos, err := c.disk.deliver(ctx, log, d.service, []driver.Record{d.record})
		if err != nil {
			return err
		}
		if e.request != nil {
			c.asked = pos[0]
		}
	}
	if e.request == nil {
		c.next++
	}
	return nil
}

// ask asks a request of the script again, and returns what it is told.
func (c *course) ask(ctx context.Context, e *entry) (*answer, error) {
	l, r := c.lives[e.service], e.delivered[0].record
	pos, err := c.disk.deliver(ctx, l.log, l.name(), []driver.Record{r})
	if err != nil {
		return nil, err
	}
	for l.waiting(r.Partition) {
		done, err := l.handle(ctx, r.Partition, c.max)
		if err != nil {
			return nil, err
		}
		for i := range done {
			if done[i].Offset == pos[0].Offset {
				return l.answer(ctx, r.Partition, &done[i])
			}
		}
	}
	return nil, fmt.Errorf("the message at %s was not settled", pos[0])
}

// find returns the life of the service that has an aggregate.
func (c *course) find(aggregate string) (*life, error) {
	for _, l := range c.lives {
		if l.m.Saga(aggregate) != nil {
			return l, nil
		}
	}
	names := make([]string, len(c.lives))
	for i, l := range c.lives {
		names[i] = l.name()
	}
	return nil, fmt.Errorf("the world of %s has no aggregate %q", strings.Join(names, ", "), aggregate)
}
