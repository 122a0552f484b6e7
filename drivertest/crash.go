package drivertest

import (
	"context"
	"errors"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/fault"
)

var crashCases = []testCase{
	{
		"commit whose answer was lost", "after a commit that answered with an error, whether it happened is told by Acquire",
		needs{store: true},
		commitUnknown,
	},
	{
		"crash between any two steps", "a process that dies, or a call that fails, anywhere in a transaction leaves it whole or not there, with what was acknowledged before it",
		needs{store: true},
		crashAnywhere,
	},
	{
		"append whose answer was lost", "after a failed Append any prefix may be in the log, and appending again gives the rest and no loss",
		needs{log: true},
		appendUnknown,
	},
}

func commitUnknown(b *bench) {
	m := newModel()
	inner := b.store
	for i := range 6 {
		mode := []fault.Mode{fault.FailAfter, fault.FailBefore}[i%2]
		b.store = fault.New(func(_ int, s fault.Step) fault.Mode {
			if s.Call == "tx.Commit" {
				return mode
			}
			return fault.Pass
		}).Store(inner)
		w := b.worker("a", 0)
		batch, to := w.story.next(0, w.at)
		b.want(attempt(b.ctx, b.store, w.lease, w.at, batch, to), fault.ErrInjected)
		b.store = inner
		if mode == fault.FailAfter {
			m.commit(0, batch, to)
		}
		again := b.worker("a", 0)
		again.at.Time = b.utc(again.at.Time)
		equal(b, "progress told by Acquire", again.at, m.progress[0])
		b.holds(m)
		again.decide(m, 1)
		b.holds(m)
	}
}

// crashAnywhere runs the same script once for each step and each fault, all on one store: what one run leaves is
// where the next begins.
func crashAnywhere(b *bench) {
	m := newModel()
	in := fault.New(nil)
	b.script(in, m)
	b.holds(m)
	for name, plan := range fault.Plans(in.Steps()) {
		committed := false // though nobody was told
		in := fault.New(func(n int, s fault.Step) fault.Mode {
			mode := plan(n, s)
			committed = committed || s.Call == "tx.Commit" && (mode == fault.FailAfter || mode == fault.CrashAfter)
			return mode
		})
		if !b.script(in, m) {
			b.Fatalf("%s: the script met no fault", name)
		}
		if in.Crashed() {
			b.reopen()
		}
		if committed {
			batch, to := story("a").next(0, m.progress[0])
			m.commit(0, batch, to)
		}
		now := b.worker("a", 0)
		now.at.Time = b.utc(now.at.Time)
		if m.logged[0].N < now.lease.Logged.N {
			m.logged[0] = now.lease.Logged
		}
		if now.at != m.progress[0] {
			b.Fatalf("%s: progress told by Acquire:\n got %+v\nwant %+v", name, now.at, m.progress[0])
		}
		b.holds(m)
	}
	b.worker("a", 0).decide(m, 2)
	b.holds(m)
}

// script is a worker's life: it commits decisions until a fault stops it, noting in the model those that it knows to
// be committed. It reports whether it was stopped.
func (b *bench) script(in *fault.Injector, m *model) (stopped bool) {
	b.Helper()
	err := func() error {
		s := in.Store(b.store)
		l, err := s.Acquire(b.ctx, b.assignment(0))
		if err != nil {
			return err
		}
		equal(b, "progress told by Acquire", l.Progress.N, m.progress[0].N)
		at := m.progress[0]
		for range 2 {
			batch, to := story("a").next(0, at)
			if err := attempt(b.ctx, s, l, at, batch, to); err != nil {
				return err
			}
			m.commit(0, batch, to)
			at = to
		}
		if b.joint() {
			return nil
		}
		to := loggedTo(at.N-1, at.N-1)
		if err := s.Logged(b.ctx, l, to); err != nil {
			return err
		}
		m.logged[0] = to
		return nil
	}()
	if err != nil && !errors.Is(err, fault.ErrInjected) && !errors.Is(err, fault.ErrCrashed) {
		b.Fatal(err)
	}
	return err != nil
}

func appendUnknown(b *bench) {
	var want []string
	for _, mode := range []fault.Mode{fault.FailBefore, fault.FailAfter, fault.CrashBefore, fault.CrashAfter} {
		in := fault.New(fault.At(1, mode))
		if _, err := in.Log(b.log).Append(b.ctx, b.inbox.Name, numbered(0, 3)); err == nil {
			b.Fatal("the fault was not injected")
		}
		if mode == fault.FailAfter || mode == fault.CrashAfter {
			want = append(want, values(numbered(0, 3))...)
		}
		if in.Crashed() {
			b.reopen()
		}
		b.append(numbered(0, 4))
		want = append(want, values(numbered(0, 4))...)
		equal(b, "values", values(b.fetchAll(0, len(want))), want)
	}
	all := b.fetchAll(0, len(want))
	ctx, cancel := context.WithTimeout(b.ctx, aMoment)
	defer cancel()
	rs, err := b.log.Fetch(ctx, deja.Position{Topic: b.inbox.Name, Offset: all[len(all)-1].Offset + 1}, 10)
	if len(rs) > 0 || err == nil {
		b.Errorf("%d records more than were appended, error %v", len(rs), err)
	}
}
