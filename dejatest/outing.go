package dejatest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/wire"
)

// An outing is an explored run: a course that keeps to a plan of departures, a message a step.
type outing struct {
	*course
	plan  plan    // what is left of it
	kept  plan    // what of it made a difference
	steps []taken // so far
	ins   []*fault.Injector
	calls []fault.Step // of the step that is taken
	armed departure    // the crash of the step that is taken; of kind crash, or none
	lines []string     // if it is told
}

// taken is a step, as far as departures from it are concerned.
type taken struct {
	actor    actor
	rivals   bool // somebody else could have gone
	delivers bool
	writes   []int // which of the calls that it made, from 1, changed what is on the disk
}

// maxDrift is how often the clock goes on, in an outing, once the script is over.
const maxDrift = 64

var errRestless = errors.New("it does not come to rest")

// goOut runs the world's script with a plan, for so many steps at most, and tells of each if it is to. The error says what
// failed, but for the plan's own crashes.
func (w *World) goOut(p plan, most int, told bool) (*outing, error) {
	ctx := context.Background()
	c := newCourse(w)
	o := &outing{course: c, plan: p, ins: make([]*fault.Injector, len(c.lives))}
	c.max, c.drift = 1, maxDrift
	for s := range c.lives {
		o.wrap(s)
	}
	if told {
		c.note = func(format string, args ...any) {
			o.tell("%4d "+format, append([]any{len(o.steps)}, args...)...)
		}
	}
	if err := c.startAll(ctx); err != nil {
		return o, err
	}
	c.script = w.script
	for {
		a, ok, err := o.pick()
		if err != nil || !ok {
			return o, err
		}
		if err := o.step(ctx, a); err != nil {
			return o, err
		}
		if len(o.steps) > most {
			return o, errRestless
		}
	}
}

func (o *outing) tell(format string, args ...any) {
	if o.note != nil {
		o.lines = append(o.lines, fmt.Sprintf(format, args...))
	}
}

// story returns what was told; of a very long one the beginning and the end.
func (o *outing) story() string {
	const head, tail = 150, 20
	lines := o.lines
	if more := len(lines) - head - tail; more > 0 {
		lines = slices.Concat(lines[:head], []string{fmt.Sprintf("     … %d lines more …", more)}, lines[head+more:])
	}
	return strings.Join(lines, "\n")
}

// wrap puts an injector before what a service that is not alive will use.
func (o *outing) wrap(s int) {
	in := fault.New(func(_ int, st fault.Step) fault.Mode {
		o.calls = append(o.calls, st)
		if o.armed.kind == crash && o.armed.call > 0 {
			if o.armed.call--; o.armed.call == 0 {
				return o.armed.mode
			}
		}
		return fault.Pass
	})
	o.ins[s] = in
	o.front[s], o.back[s] = in.Log(o.disk.log), in.Store(o.disk.stores[s])
}

// pick returns who goes next, once those have stepped back that the plan makes wait.
func (o *outing) pick() (actor, bool, error) {
	for _, l := range o.lives { // a wheel may look at any time
		for p := range int32(partitions) {
			if err := l.watch(p); err != nil {
				return actor{}, false, err
			}
		}
	}
	for len(o.plan) > 0 && o.plan[0].step < len(o.steps) {
		o.plan = o.plan[1:] // it was the second one of its step
	}
	for {
		a, ok, err := o.first()
		if err != nil || !ok || len(o.plan) == 0 || o.plan[0].step != len(o.steps) || o.plan[0].kind != wait {
			return a, ok, err
		}
		usually := slices.Clone(o.order)
		o.order = append(slices.DeleteFunc(o.order, func(b actor) bool { return a == b }), a)
		b, _, err := o.first()
		if err != nil {
			return b, false, err
		}
		if a == b {
			o.order = usually
		} else {
			o.tell("     %s has to wait", o.name(a))
			o.kept = append(o.kept, o.plan[0])
		}
		o.plan = o.plan[1:]
	}
}

// step takes an actor's next step, in the way in which the plan has it.
func (o *outing) step(ctx context.Context, a actor) error {
	t := taken{actor: a}
	for _, b := range o.order[slices.Index(o.order, a)+1:] {
		ok, err := o.can(b)
		if err != nil {
			return err
		}
		if ok {
			t.rivals = true
			break
		}
	}
	var d departure
	if len(o.plan) > 0 && o.plan[0].step == len(o.steps) {
		d, o.plan = o.plan[0], o.plan[1:]
	}
	delivered, made := o.disk.delivered, true
	o.calls = o.calls[:0]
	switch d.kind {
	case twice:
		o.disk.twice = true
	case lost:
		if made = a.kind == carrying; made {
			o.tell("     the cursor of %s is lost", o.name(a))
			if err := o.lives[a.service].lose(ctx, o.lives[a.service].carriers[a.n]); err != nil {
				return err
			}
		}
	case crash:
		o.armed = d
	default:
	}
	err := o.take(ctx, a)
	t.delivers = o.disk.delivered > delivered
	switch d.kind {
	case twice:
		o.disk.twice = false
		if made = t.delivers; made {
			o.tell("     it is delivered twice")
		}
	case crash:
		made = o.armed.call == 0
		o.armed = departure{}
	default:
	}
	if made && d.kind != "" {
		o.kept = append(o.kept, d)
	}
	for i, c := range o.calls {
		if !c.Read && c.Call != "tx.Write" && c.Call != "tx.Advance" { // these two are as nothing until the commit
			t.writes = append(t.writes, i+1)
		}
	}
	for s := range o.ins {
		if err != nil && errors.Is(err, fault.ErrCrashed) && o.ins[s].Crashed() {
			o.tell("%4d %s: %s crashes at %s, %s it took effect, and starts again", len(o.steps), o.name(a), o.w.members[s].name(), o.calls[len(o.calls)-1], moments[d.mode])
			o.die(s)
			o.wrap(s)
			err = o.start(ctx, s)
		}
	}
	o.steps = append(o.steps, t)
	return err
}

// history returns what tells histories apart: what every partition of every service has decided, in order.
func (o *outing) history() [32]byte {
	h := sha256.New()
	for s, l := range o.lives {
		for p := range int32(partitions) {
			at, err := o.disk.stores[s].Progress(context.Background(), p)
			if err != nil {
				panic(err) // the store in memory is open
			}
			h.Write(at.Chain[:])
			h.Write(binary.AppendUvarint([]byte(l.name()), uint64(p)))
		}
	}
	return [32]byte(h.Sum(nil))
}

// unrest is what is not as it should be when nothing can happen any more.
type unrest struct {
	parked []string // instances with messages that failed
	idle   []string // sagas that have not ended, are not stuck, and wait for nothing
	ended  []string // sagas that have ended more than once
}

func (c *course) unrest() (u unrest, err error) {
	ctx := context.Background()
	for _, l := range c.lives {
		rows, err := l.states(ctx)
		if err != nil {
			return u, err
		}
		for i := range rows {
			r := &rows[i]
			if r.Parked > 0 {
				u.parked = append(u.parked, r.Stream.String())
			}
			open, err := wire.DecodeOpen(l.name(), r.Stream, r.Open)
			if err != nil {
				return u, err
			}
			if !open.Began.IsZero() && open.Stuck == "" && len(open.Timers)+len(open.Effects)+len(open.Sent) == 0 {
				u.idle = append(u.idle, r.Stream.String())
			}
		}
		ends := map[deja.Stream][]string{}
		err = l.decisions(ctx, func(r *wire.Record) {
			for i := range r.Decided.Events {
				if e := &r.Decided.Events[i]; l.m.Saga(e.Stream.Aggregate).Ended(e.Type) {
					ends[e.Stream] = append(ends[e.Stream], e.Type)
				}
			}
		})
		if err != nil {
			return u, err
		}
		for _, r := range rows {
			if of := ends[r.Stream]; len(of) > 1 {
				u.ended = append(u.ended, fmt.Sprintf("%s (%s)", r.Stream, strings.Join(of, ", ")))
			}
		}
	}
	return u, nil
}
