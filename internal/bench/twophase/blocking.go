package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"time"
)

// blocking is the experiment with two-phase commit: a coordinator dies, and others go on.
type blocking struct {
	databases databases
	dir       string // of the coordinators' logs
	at        point
	inFlight  int           // transfers of the coordinator that dies
	length    time.Duration // until somebody comes and resolves them
	crowd     crowd         // of the others, who give up where a lock takes longer than they have patience
}

// doubtful is the nth transfer of the coordinator that dies.
func doubtful(n int) move { return move{"doubtful-" + strconv.Itoa(n), open(n), open(n), 100} }

// waiters is how many transfers wait without a time limit.
const waiters = 2

// waiter is the nth of them: from an account of its own, to one of a transfer in doubt.
func (b *blocking) waiter(n int) move {
	t := move{"waiter-" + strconv.Itoa(n), open(b.inFlight + n), open(n), 100}
	if b.at == first { // nothing is in doubt in the second database
		t.from = open(n)
	}
	return t
}

// run lets the coordinator die and be resolved.
func (b *blocking) run(ctx context.Context) (s scene, err error) {
	s = scene{Dead: fmt.Sprintf("a coordinator of two-phase commit, killed at the point %q", b.at), InFlight: b.inFlight}
	dead := job{b.databases, "dead", filepath.Join(b.dir, "dead.log"), b.at, b.inFlight}
	killed, err := killCoordinator(ctx, dead)
	if err != nil {
		return s, err
	}
	living, err := openDecisions(filepath.Join(b.dir, "living.log"))
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, living.close()) }()
	waits := make(chan wait, waiters)
	for n := range waiters {
		waitFor(waits, func() error { return b.wait(ctx, living, b.waiter(n)) })
	}
	if err := b.databases.waiting(ctx, waiters); err != nil {
		return s, err
	}
	if s.Meanwhile, err = b.crowd.run(ctx, b.kinds(living, meanwhile), max(b.length-time.Since(killed), b.length/2)); err != nil {
		return s, err
	}
	seen, err := b.databases.sums(ctx)
	if err != nil {
		return s, err
	}
	s.MoneySeen, s.Money = seen.money(), money+seen.Paid

	log, err := openDecisions(dead.Log) // its lock went with the process
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, log.close()) }()
	if s.Verdicts, err = resolve(ctx, b.databases, dead.Name, log); err != nil {
		return s, err
	}
	resolved := time.Now()
	s.Seconds = resolved.Sub(killed).Seconds()
	for range waiters {
		w := <-waits
		if w.err != nil {
			return s, w.err
		}
		s.Waited = append(s.Waited, w.Seconds())
	}
	s.Ended = time.Since(resolved).Seconds()
	if s.After, err = b.crowd.run(ctx, b.kinds(living, afterwards), b.length/5); err != nil {
		return s, err
	}
	_, err = b.databases.check(ctx)
	return s, err
}

// wait carries out a transfer without a time limit.
func (b *blocking) wait(ctx context.Context, log *decisions, t move) error {
	c, err := newCoordinator(ctx, b.databases, "living", log, 0)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, t)
	return errors.Join(err, c.close(ctx))
}

// kinds are the clients of a living coordinator, which has its own log.
func (b *blocking) kinds(log *decisions, phase string) []kind {
	asking := func(who string, do func(ctx context.Context, c *coordinator, rng *rand.Rand, id string) (outcome, error)) kind {
		return kind{who, func(ctx context.Context, number int) (func(int) (outcome, error), func() error, error) {
			c, err := newCoordinator(ctx, b.databases, "living", log, b.crowd.patience)
			if err != nil {
				return nil, nil, err
			}
			rng := rand.New(rand.NewPCG(uint64(number), 0))
			ask := func(n int) (outcome, error) {
				return do(ctx, c, rng, fmt.Sprintf("%s, %s, %d-%d", phase, who, number, n))
			}
			return ask, func() error { return c.close(ctx) }, nil
		}}
	}
	transfers := func(who string, next func(*rand.Rand) move) kind {
		return asking(who, func(ctx context.Context, c *coordinator, rng *rand.Rand, id string) (outcome, error) {
			t := next(rng)
			t.id = id
			return c.do(ctx, t)
		})
	}
	return []kind{
		asking(payIns, func(ctx context.Context, c *coordinator, rng *rand.Rand, id string) (outcome, error) {
			return c.payIn(ctx, id, doubtful(rng.IntN(b.inFlight)).from, 1)
		}),
		transfers(touchers, func(rng *rand.Rand) move { return touching(rng, b.inFlight, doubtful) }),
		transfers(waitersTouchers, func(rng *rand.Rand) move {
			return move{from: b.waiter(rng.IntN(waiters)).from, to: someOther(rng), amount: 1}
		}),
		transfers(others, apart),
	}
}

// The kinds of clients.
const (
	payIns          = "pay-ins where a transfer is in flight"
	touchers        = "transfers that touch one in flight"
	waitersTouchers = "transfers that touch one that waits for those"
	others          = "transfers that touch neither"
)
