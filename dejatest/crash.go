package dejatest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dejalog/deja/internal/fault"
)

// minCalls is how many calls of log and stores a scenario must make after the start to be worth crashing.
const minCalls = 20

// CrashAtEveryWrite runs the world's scenario, all that came from outside so far, again from the beginning: first
// undisturbed, counting the services' calls of log and stores, and then with a crash at each of those N calls in turn, once
// before the call and once after it, when it happened but was not answered. Where there are several services, each of
// these crashes is made twice: of the service that calls, alone, and of all. After the crash the service starts again on the
// log and the store that are left; the client asks again with the same ID what it has no answer to; and in the end it asks
// everything once more. N is logged, and all runs are made: ten requests take a tenth of a second, and the time grows
// with the square of the calls.
//
// It ends the test if a run does not end like the undisturbed one, with the hash that [World.Hash] has and each request
// told what it was told first; if the undisturbed run does not end as the world did, since a handler depends on more than
// state, message and Decision, or a performer on more than the effect and its key; or if the scenario makes fewer than 20
// calls, which prove nothing.
func (w *World) CrashAtEveryWrite() {
	w.t.Helper()
	calm := w.undisturbed()
	crashes := 2 * len(calm.calls)
	if len(w.members) > 1 {
		crashes *= 2
	}
	w.t.Logf("CrashAtEveryWrite: %d requests make N = %d calls of log and store; %d runs with a crash", len(calm.told), len(calm.calls), crashes)
	runs := 0
	for k, at := range calm.calls {
		for _, mode := range []fault.Mode{fault.CrashBefore, fault.CrashAfter} {
			for _, all := range []bool{false, true} {
				if all && len(w.members) == 1 {
					continue
				}
				if err := w.crash(calm, at, mode, all); err != nil {
					w.t.Fatalf("crash at call %d of %d, %s, %s it, of %s: %v", k+1, len(calm.calls), at.step, moments[mode], w.whoDies(at.service, all), err)
				}
				runs++
			}
		}
	}
	if runs != crashes {
		w.t.Fatalf("CrashAtEveryWrite made %d runs, want %d", runs, crashes)
	}
}

var moments = map[fault.Mode]string{fault.CrashBefore: "before", fault.CrashAfter: "after"}

func (w *World) whoDies(service int, all bool) string {
	if all {
		return "all services"
	}
	return w.members[service].name()
}

// call is one that a service makes: its n-th, from 1.
type call struct {
	service, n int
	step       fault.Step
}

// rerun is the scenario run once more.
type rerun struct {
	calls []call // of all services
	steps [][]fault.Step
	told  []string
	view  view
}

// undisturbed runs the scenario, and ends the test if it does not end as the world did.
func (w *World) undisturbed() rerun {
	w.t.Helper()
	ctx := context.Background()
	c := newCourse(w)
	ins := c.watched(func(int) fault.Plan { return nil })
	if err := c.startAll(ctx); err != nil {
		w.t.Fatalf("%v", err)
	}
	begun := 0
	for _, in := range ins {
		begun += len(in.Steps())
	}
	c.script = w.script
	if err := c.run(ctx); err != nil {
		w.t.Fatalf("request %d of the undisturbed run: %v", len(c.told)+1, err)
	}
	r := rerun{told: c.told}
	for s, in := range ins {
		r.steps = append(r.steps, in.Steps())
		for n, st := range r.steps[s] {
			r.calls = append(r.calls, call{s, n + 1, st})
		}
	}
	if n := len(r.calls) - begun; n < minCalls {
		w.t.Fatalf("CrashAtEveryWrite: the scenario makes %d calls after the start; with fewer than %d it is too small to mean anything", n, minCalls)
	}
	var err error
	if r.view, err = c.view(ctx); err != nil {
		w.t.Fatalf("%v", err)
	}
	if d := diff(w.view(), r.view); d != "" {
		w.t.Fatalf("the scenario ended in another way when it was run again, with no crash: a handler, an Apply function or a projection depends on more than it is given (- first, + again):%s", d)
	}
	return r
}

// watched puts an injector before the log and the store of each service.
func (c *course) watched(plan func(s int) fault.Plan) []*fault.Injector {
	ins := make([]*fault.Injector, len(c.lives))
	for s := range ins {
		ins[s] = fault.New(plan(s))
		c.front[s], c.back[s] = ins[s].Log(c.disk.log), ins[s].Store(c.disk.stores[s])
	}
	return ins
}

// die ends the process of a service, and takes away what stood before its log and store.
func (c *course) die(s int) { c.lives[s], c.front[s], c.back[s] = nil, c.disk.log, c.disk.stores[s] }

// crash runs the scenario with a crash at a call, and returns an error if it does not end as without.
func (w *World) crash(calm rerun, at call, mode fault.Mode, all bool) error {
	ctx := context.Background()
	c := newCourse(w)
	ins := c.watched(func(s int) fault.Plan {
		if s == at.service {
			return fault.At(at.n, mode)
		}
		return nil
	})
	c.script = w.script
	err := c.startAll(ctx)
	if err == nil {
		err = c.run(ctx)
	}
	if !ins[at.service].Crashed() {
		return fmt.Errorf("the call was never made (%w)", cmp.Or(err, errUnharmed))
	}
	if steps, then := ins[at.service].Steps(), calm.steps[at.service][:at.n]; !slices.Equal(steps, then) {
		return fmt.Errorf("the calls before it were others than in the undisturbed run (- then, + now):%s", diff(stepLines(then), stepLines(steps)))
	}
	for s, in := range ins {
		if all || s == at.service {
			in.Crash()
			c.die(s)
		}
	}
	if err := c.startAll(ctx); err != nil {
		return fmt.Errorf("after the restart: %w", err)
	}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("after the restart, request %d: %w", len(c.told)+1, err)
	}
	if err := c.askAgain(ctx); err != nil {
		return err
	}
	v, err := c.view(ctx)
	if err != nil {
		return err
	}
	if d := diff(calm.view, v); d != "" {
		return fmt.Errorf("it ends in another way (- undisturbed, + with the crash):%s", d)
	}
	return nil
}

var errUnharmed = errors.New("the run ended without a crash")

// askAgain asks everything once more, and returns an error if an answer is not the first one.
func (c *course) askAgain(ctx context.Context) error {
	told := c.told
	for i := range c.script {
		e := &c.script[i]
		if e.request == nil {
			continue
		}
		a, err := c.ask(ctx, e)
		if err != nil {
			return fmt.Errorf("%s, once more: %w", e.text, err)
		}
		if got := a.String(); got != told[0] {
			return fmt.Errorf("%s: it was told two outcomes (- first, + then):%s", e.text, diff(told[:1], []string{got}))
		}
		told = told[1:]
	}
	return nil
}

func stepLines(steps []fault.Step) []string {
	lines := make([]string, len(steps))
	for i, s := range steps {
		lines[i] = s.String()
	}
	return lines
}
