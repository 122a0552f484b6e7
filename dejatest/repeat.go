package dejatest

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

var seedFlag = flag.Uint64("dejatest.seed", 0, "the seed of RedeliverAll's order, and of Explore's random runs; 0 for a new one each time")

// RedeliverAll delivers everything again: first all routes are carried again from the beginning, as if their cursors were
// lost; then every message of every inbox comes again, requests, replies, timers and results, all in another order, each
// as a record of its own, handled in batches of any size. It ends the test if that changed a state, what is waited for, a
// projection, the number of decisions or an outcome. The order follows from a seed, which is logged; -dejatest.seed
// repeats it.
func (w *World) RedeliverAll() {
	w.t.Helper()
	seed := cmp.Or(*seedFlag, rand.Uint64())
	w.t.Logf("RedeliverAll: to repeat this order: go test -run '^%s$' -dejatest.seed=%d", w.t.Name(), seed)
	before := w.view()
	first, n := w.outcomes()
	if err := w.redeliver(context.Background(), first, rand.New(rand.NewPCG(seed, 0))); err != nil {
		w.t.Fatalf("RedeliverAll: %v", err)
	}
	if d := diff(before, w.view()); d != "" {
		w.t.Fatalf("RedeliverAll changed the world (- before, + after):%s", d)
	}
	if _, now := w.outcomes(); now != n {
		w.t.Fatalf("RedeliverAll: the journals had %d decisions, conflicts apart, and now have %d", n, now)
	}
}

// outcomes returns the outcome of each message that was decided, and counts the decisions, but for conflicts: each delivery
// of a conflicting message is one of its own.
func (w *World) outcomes() (first map[identity]string, count int) {
	w.t.Helper()
	first = map[identity]string{}
	for s, l := range w.course.lives {
		err := l.decisions(context.Background(), func(r *wire.Record) {
			if r.Decided.Status != deja.Conflicted {
				count++
			}
			id := identity{s, wire.LedgerKey(l.name(), &r.Cause), r.Hash}
			if _, known := first[id]; !known {
				a := &answer{}
				a.Record = r
				first[id] = a.String()
			}
		})
		if err != nil {
			w.t.Fatalf("read the journal of %s: %v", l.name(), err)
		}
	}
	return first, count
}

// redeliver delivers all again and handles it, and returns an error if a message had another outcome than the first time.
func (w *World) redeliver(ctx context.Context, first map[identity]string, rng *rand.Rand) error {
	c := w.course
	c.check = func(s int, p int32, done *step.Settlement) error {
		l := c.lives[s]
		recs, err := c.disk.log.Fetch(ctx, deja.Position{Topic: wire.Inbox(l.name()), Partition: p, Offset: done.Offset}, 1)
		if err != nil {
			return err
		}
		return same(ctx, l, first, identity{service: s}, l.prepare.Prepare(recs[:1])[0], p, done)
	}
	defer func() { c.check = nil }()
	for _, l := range c.lives {
		for _, r := range l.carriers {
			if err := l.lose(ctx, r); err != nil {
				return err
			}
		}
	}
	if err := c.run(ctx); err != nil {
		return err
	}
	delivered := 0
	for _, l := range c.lives {
		recs, err := c.disk.inbox(ctx, l.name())
		if err != nil {
			return err
		}
		rng.Shuffle(len(recs), func(i, j int) { recs[i], recs[j] = recs[j], recs[i] })
		if _, err := c.disk.deliver(ctx, l.log, l.name(), recs); err != nil {
			return err
		}
		delivered += len(recs)
	}
	usual := c.max
	defer func() { c.max = usual }()
	for _, i := range rng.Perm(len(c.lives) * partitions) {
		a := actor{handling, i / partitions, i % partitions}
		c.max = 1 + rng.IntN(max(delivered, 1))
		for c.lives[a.service].waiting(int32(a.n)) {
			if err := c.take(ctx, a); err != nil {
				return err
			}
		}
	}
	c.max = usual
	return c.run(ctx)
}

// same returns an error if a message that was delivered again was decided again, or told another outcome.
func same(ctx context.Context, l *life, first map[identity]string, id identity, m step.Message, partition int32, s *step.Settlement) error {
	a, err := l.answer(ctx, partition, s)
	if err != nil {
		return fmt.Errorf("outcome of %s: %w", line(m.Env), err)
	}
	if !a.Duplicate && a.Conflict == nil {
		return fmt.Errorf("%s was decided again: %s", line(m.Env), a)
	}
	id.key, id.hash = m.Key, m.Hash
	told, ok := first[id]
	if !ok {
		return fmt.Errorf("%s was never decided", line(m.Env))
	}
	if got := a.String(); got != told {
		return fmt.Errorf("%s has another outcome (- first, + again):%s", line(m.Env), diff([]string{told}, []string{got}))
	}
	return nil
}
