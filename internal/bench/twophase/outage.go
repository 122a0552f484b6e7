package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/transfer"
)

// outage is the experiment with deja: processes of its services die, and others go on.
type outage struct {
	*pair
	inFlight int           // transfers that wait for the ledger
	length   time.Duration // until the ledger is started again, or longer on a machine that is slow to come to it
	timeOut  time.Duration // of transfers that touch one in flight: they wait no longer for the ledger
	crowd    crowd
}

// run plays both scenes.
func (o *outage) run(ctx context.Context) (scenes []scene, err error) {
	living, err := o.start(ctx, accounts.Name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, living.kill()) }()
	s, err := o.ledgerDies(ctx)
	scenes = append(scenes, s)
	if err != nil {
		return scenes, err
	}
	s, err = o.workerDies(ctx, living)
	return append(scenes, s), err
}

// ledgerDies lets the only process of the ledger die, and starts it again.
func (o *outage) ledgerDies(ctx context.Context) (s scene, err error) {
	s = scene{Dead: "a service of deja, the ledger, its process killed", InFlight: o.inFlight}
	dead, err := o.start(ctx, ledger.Name)
	if err != nil {
		return s, err
	}
	err = o.prepare(ctx)
	if err := errors.Join(err, dead.kill()); err != nil {
		return s, err
	}
	killed := time.Now()
	waits := make(chan wait, waiters)
	if err := o.whileDead(ctx, &s, killed, waits); err != nil {
		return s, err
	}

	started := time.Now()
	s.Seconds = started.Sub(killed).Seconds()
	again, err := o.start(ctx, ledger.Name)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, again.kill()) }()
	for range waiters {
		w := <-waits
		if w.err != nil {
			return s, w.err
		}
		s.Waited = append(s.Waited, w.Seconds())
	}
	if err := o.until(ctx, func(b *books) bool { return b.inFlight() == 0 }); err != nil {
		return s, err
	}
	s.Ended = time.Since(started).Seconds()
	b, err := o.read(ctx)
	if err != nil {
		return s, err
	}
	for _, g := range s.Meanwhile {
		b.settle(&g, prefix(meanwhile, g.Who))
		s.InTheEnd = append(s.InTheEnd, g)
	}
	if s.After, err = o.crowd.run(ctx, o.kinds(afterwards, 0, deja.AtEnd()), o.length/5); err != nil {
		return s, err
	}
	return s, o.check(ctx)
}

// workerDies lets one of two processes die that share the accounts, and with them the transfers, while clients wait for
// their ends. Nobody does anything about it.
func (o *outage) workerDies(ctx context.Context, one *child) (s scene, err error) {
	s = scene{Dead: "one of two processes of a service of deja, the accounts, killed for good"}
	other, err := o.start(ctx, accounts.Name)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, other.kill()) }()
	theirs, err := o.start(ctx, ledger.Name)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, theirs.kill()) }()
	if err := o.shared(ctx, 2); err != nil {
		return s, err
	}
	type death struct {
		time.Time
		inFlight int
		err      error
	}
	died := make(chan death, 1)
	time.AfterFunc(o.length/5, func() {
		d := death{Time: time.Now()}
		b, err := o.read(ctx)
		if err == nil {
			d.inFlight = b.inFlight()
		}
		d.err = errors.Join(err, one.kill())
		died <- d
	})
	const phase = "while one of two dies"
	s.Meanwhile, err = o.crowd.run(ctx, []kind{
		o.payIns("pay-ins", func(rng *rand.Rand) int { return rng.IntN(perSide) }),
		o.transfers(phase, "transfers", random, 0, deja.AtEnd()),
	}, o.length)
	d := <-died
	if err := errors.Join(err, d.err); err != nil {
		return s, err
	}
	if err := o.until(ctx, func(b *books) bool { return b.inFlight() == 0 }); err != nil {
		return s, err
	}
	s.Seconds, s.InFlight = time.Since(d.Time).Seconds(), d.inFlight
	return s, o.check(ctx)
}

// whileDead is what happens while the ledger is dead.
func (o *outage) whileDead(ctx context.Context, s *scene, killed time.Time, waits chan<- wait) error {
	for n := range o.inFlight {
		if _, err := o.do(ctx, doubtful(n), 0, deja.Point{}); err != nil {
			return err
		}
	}
	if err := o.until(ctx, func(b *books) bool { return b.in(transfer.Posting) == o.inFlight }); err != nil {
		return err
	}
	for n := range waiters {
		t := doubtful(n)
		t.id = "waiter-" + strconv.Itoa(n)
		waitFor(waits, func() error {
			_, err := o.do(ctx, t, 0, deja.AtEnd())
			return err
		})
	}
	groups, err := o.crowd.run(ctx, o.kinds(meanwhile, o.timeOut, deja.Point{}), max(o.length-time.Since(killed), o.length/2))
	if err != nil {
		return err
	}
	if o.timeOut > 0 { // that of one of them is over, then
		if err := o.until(ctx, func(b *books) bool { return b.in(transfer.Barring) > 0 }); err != nil {
			return err
		}
	}
	b, err := o.read(ctx)
	if err != nil {
		return err
	}
	for i := range groups {
		b.settle(&groups[i], prefix(meanwhile, groups[i].Who))
	}
	s.Meanwhile, s.MoneySeen, s.Money = groups, b.balances+b.posted, money+o.paidIn.Load()
	return nil
}

// prefix begins the keys of the transfers of one kind of clients.
func prefix(phase, who string) string { return phase + ", " + who + ", " }

// kinds are clients that ask while transfers are in flight, and wait for what they have asked for until a point.
func (o *outage) kinds(phase string, timeOut time.Duration, until deja.Point) []kind {
	return []kind{
		o.payIns(payIns, func(rng *rand.Rand) int { return doubtful(rng.IntN(o.inFlight)).from }),
		o.transfers(phase, touchers, func(rng *rand.Rand) move { return touching(rng, o.inFlight, doubtful) }, timeOut, until),
		o.transfers(phase, others, apart, 0, until),
	}
}

func (o *outage) payIns(who string, to func(*rand.Rand) int) kind {
	return kind{who, func(ctx context.Context, number int) (func(int) (outcome, error), func() error, error) {
		rng := rand.New(rand.NewPCG(uint64(number), 0))
		return func(int) (outcome, error) { return o.payIn(ctx, to(rng), 1) }, func() error { return nil }, nil
	}}
}

func (o *outage) transfers(phase, who string, next func(*rand.Rand) move, timeOut time.Duration, until deja.Point) kind {
	return kind{who, func(ctx context.Context, number int) (func(int) (outcome, error), func() error, error) {
		rng := rand.New(rand.NewPCG(uint64(number), 0))
		ask := func(n int) (outcome, error) {
			t := next(rng)
			t.id = fmt.Sprintf("%s%d-%d", prefix(phase, who), number, n)
			return o.do(ctx, t, timeOut, until)
		}
		return ask, func() error { return nil }, nil
	}}
}
