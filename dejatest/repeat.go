package dejatest

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

var seedFlag = flag.Uint64("dejatest.seed", 0, "the seed of RedeliverAll's order; 0 for a new one each time")

// RedeliverAll delivers every message of the inbox again, all in another order, each as a record of its own, and
// handles them in batches of any size. It ends the test if that changed a state, a projection, the number of
// decisions or an outcome. The order follows from a seed, which is logged; -dejatest.seed repeats it.
func (w *World) RedeliverAll() {
	w.t.Helper()
	seed := cmp.Or(*seedFlag, rand.Uint64())
	w.t.Logf("RedeliverAll: to repeat this order: go test -run '^%s$' -dejatest.seed=%d", w.t.Name(), seed)
	before, n := w.view(), w.decisions()
	if err := w.redeliver(context.Background(), rand.New(rand.NewPCG(seed, 0))); err != nil {
		w.t.Fatalf("RedeliverAll: %v", err)
	}
	if d := diff(before, w.view()); d != "" {
		w.t.Fatalf("RedeliverAll changed the world (- before, + after):%s", d)
	}
	if now := w.decisions(); now != n {
		w.t.Fatalf("RedeliverAll: the journal had %d decisions, conflicts apart, and now has %d", n, now)
	}
}

func (w *World) decisions() int {
	w.t.Helper()
	n, err := w.live.decisions(context.Background())
	if err != nil {
		w.t.Fatalf("read the journal of %s: %v", w.m.Name(), err)
	}
	return n
}

// redeliver appends all again and handles it, and returns an error if a message had another outcome than the first
// time.
func (w *World) redeliver(ctx context.Context, rng *rand.Rand) error {
	l := w.live
	recs, err := l.inbox(ctx)
	if err != nil || len(recs) == 0 {
		return err
	}
	rng.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
	at, err := l.log.Append(ctx, wire.Inbox(w.m.Name()), recs)
	if err != nil {
		return err
	}
	again, end := map[deja.Position]step.Message{}, make([]int64, partitions)
	for i, m := range l.prepare.Prepare(recs) {
		again[at[i]] = m
		end[at[i].Partition] = at[i].Offset + 1
	}
	for _, p := range rng.Perm(partitions) {
		done, err := l.handle(ctx, int32(p), end[p], 1+rng.IntN(len(recs)))
		if err != nil {
			return err
		}
		for i := range done {
			at := deja.Position{Topic: wire.Inbox(w.m.Name()), Partition: int32(p), Offset: done[i].Offset}
			m, ok := again[at]
			if !ok {
				return fmt.Errorf("the message at %s was settled twice, or is not one of those delivered again", at)
			}
			delete(again, at)
			if err := w.same(ctx, m, int32(p), &done[i]); err != nil {
				return err
			}
		}
	}
	if len(again) > 0 {
		return fmt.Errorf("%d of %d messages were not settled", len(again), len(recs))
	}
	return nil
}

// same returns an error if a message that was delivered again was decided again, or told another outcome.
func (w *World) same(ctx context.Context, m step.Message, partition int32, s *step.Settlement) error {
	a, err := w.live.answer(ctx, partition, s)
	if err != nil {
		return fmt.Errorf("outcome of %s: %w", line(m.Env), err)
	}
	if !a.Duplicate && a.Conflict == nil {
		return fmt.Errorf("%s was decided again: %s", line(m.Env), a)
	}
	i := slices.IndexFunc(w.script, func(r asked) bool { return r.id == identity{m.Key, m.Hash} })
	if i < 0 {
		return fmt.Errorf("%s was never asked for", line(m.Env))
	}
	if got := a.String(); got != w.told[i] {
		return fmt.Errorf("request %d has another outcome (- first, + again):%s", i+1, diff(w.told[i:i+1], []string{got}))
	}
	return nil
}

// minCalls is how many calls of log and store a scenario must make after the start to be worth crashing.
const minCalls = 20

// CrashAtEveryWrite runs the world's scenario, all that was asked so far, again from the beginning: first undisturbed,
// counting the calls of log and store, and then with the process crashing at each of those N calls in turn, once
// before the call and once after it, when it happened but was not answered. After the crash the service starts again
// on the log and the store that are left; the client asks again with the same ID what it has no answer to; and in the
// end it asks everything once more. N is logged, and all 2N runs are made: ten requests take a tenth of a second, and
// the time grows with their square.
//
// It ends the test if a run does not end like the undisturbed one, with the hash that [World.Hash] has and each
// request told what it was told first; if the undisturbed run does not end as the world did, since a handler depends
// on more than state, message and Decision; or if the scenario makes fewer than 20 calls, which prove nothing.
func (w *World) CrashAtEveryWrite() {
	w.t.Helper()
	calm := w.undisturbed()
	w.t.Logf("CrashAtEveryWrite: %d requests make N = %d calls of log and store; %d runs with a crash", len(w.script), len(calm.steps), 2*len(calm.steps))
	runs := 0
	for k := range calm.steps {
		for _, mode := range []fault.Mode{fault.CrashBefore, fault.CrashAfter} {
			if err := w.crash(calm, k, mode); err != nil {
				w.t.Fatalf("crash at call %d of %d, %s, %s it: %v", k+1, len(calm.steps), calm.steps[k], moments[mode], err)
			}
			runs++
		}
	}
	if runs != 2*len(calm.steps) {
		w.t.Fatalf("CrashAtEveryWrite made %d runs, want %d", runs, 2*len(calm.steps))
	}
}

var moments = map[fault.Mode]string{fault.CrashBefore: "before", fault.CrashAfter: "after"}

// rerun is the scenario run once more.
type rerun struct {
	steps []fault.Step
	view  view
}

// undisturbed runs the scenario, and ends the test if it does not end as the world did.
func (w *World) undisturbed() rerun {
	w.t.Helper()
	ctx := context.Background()
	in, d := fault.New(nil), newDisk()
	l, err := w.start(ctx, d, in.Log(d.log), in.Store(d.store))
	if err != nil {
		w.t.Fatalf("start %s: %v", w.m.Name(), err)
	}
	begun := len(in.Steps())
	told := make([]string, 0, len(w.script))
	for i := range w.script {
		a, err := l.ask(ctx, &w.script[i])
		if err != nil {
			w.t.Fatalf("request %d of the undisturbed run: %v", i+1, err)
		}
		told = append(told, a.String())
	}
	steps := in.Steps()
	if n := len(steps) - begun; n < minCalls {
		w.t.Fatalf("CrashAtEveryWrite: the scenario makes %d calls after the start; with fewer than %d it is too small to mean anything", n, minCalls)
	}
	v, err := l.view(ctx, told)
	if err != nil {
		w.t.Fatalf("look at %s: %v", w.m.Name(), err)
	}
	if d := diff(w.view(), v); d != "" {
		w.t.Fatalf("the scenario ended in another way when it was run again, with no crash: a handler, an Apply function or a projection depends on more than it is given (- first, + again):%s", d)
	}
	return rerun{steps, v}
}

// crash runs the scenario with a crash at call k, and returns an error if it does not end as without.
func (w *World) crash(calm rerun, k int, mode fault.Mode) error {
	ctx := context.Background()
	d, told := newDisk(), make([]string, 0, len(w.script))
	in := fault.New(fault.At(k+1, mode))
	_, err := w.proceed(ctx, d, in.Log(d.log), in.Store(d.store), &told)
	if !in.Crashed() {
		return fmt.Errorf("the call was never made (%w)", cmp.Or(err, errUnharmed))
	}
	if steps := in.Steps(); !slices.Equal(steps, calm.steps[:k+1]) {
		return fmt.Errorf("the calls before it were others than in the undisturbed run (- then, + now):%s",
			diff(stepLines(calm.steps[:k+1]), stepLines(steps)))
	}
	l, err := w.proceed(ctx, d, d.log, d.store, &told)
	if err != nil {
		return fmt.Errorf("after the restart: %w", err)
	}
	if err := w.askAgain(ctx, l, told); err != nil {
		return err
	}
	v, err := l.view(ctx, told)
	if err != nil {
		return err
	}
	if d := diff(calm.view, v); d != "" {
		return fmt.Errorf("it ends in another way (- undisturbed, + with the crash):%s", d)
	}
	return nil
}

var errUnharmed = errors.New("the run ended without a crash")

// proceed starts the service and asks what was not told yet, in order, until an error.
func (w *World) proceed(ctx context.Context, d *disk, log driver.Log, store driver.Store, told *[]string) (*life, error) {
	l, err := w.start(ctx, d, log, store)
	if err != nil {
		return nil, err
	}
	for len(*told) < len(w.script) {
		a, err := l.ask(ctx, &w.script[len(*told)])
		if err != nil {
			return nil, fmt.Errorf("request %d: %w", len(*told)+1, err)
		}
		*told = append(*told, a.String())
	}
	return l, nil
}

// askAgain asks everything once more, and returns an error if an answer is not the first one.
func (w *World) askAgain(ctx context.Context, l *life, told []string) error {
	for i := range w.script {
		a, err := l.ask(ctx, &w.script[i])
		if err != nil {
			return fmt.Errorf("request %d once more: %w", i+1, err)
		}
		if got := a.String(); got != told[i] {
			return fmt.Errorf("request %d was told two outcomes (- first, + then):%s", i+1, diff(told[i:i+1], []string{got}))
		}
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
