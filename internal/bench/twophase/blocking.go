package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A scene is what happened to transfers while something was dead.
type scene struct {
	What    string  `json:"what"` // died
	Seconds float64 `json:"seconds_dead"`
	Groups  []group `json:"while_dead"`
	After   []group `json:"afterwards"`
	// What a reader of both databases sees meanwhile, of what there is.
	MoneySeen int64 `json:"money_seen"`
	Money     int64 `json:"money"`
	// Of two-phase commit.
	InDoubt  int       `json:"in_doubt,omitempty"`
	Verdicts []verdict `json:"resolved,omitempty"`
	// How long those waited that had no time limit.
	Waited []float64 `json:"waited_seconds,omitempty"`
}

// A group is transfers that have something in common, and what became of them.
type group struct {
	Who       string  `json:"who"`
	Asked     int     `json:"asked"`
	Completed int     `json:"completed"`
	Refused   int     `json:"refused"`
	Blocked   int     `json:"blocked"` // and given up
	P50       float64 `json:"p50_ms"`
	Max       float64 `json:"max_ms"`
}

// Accounts are shared out among the groups, so that none disturbs another; the first so many of those that are open.
const (
	doubtfulAccounts = 100 // of transfers in doubt, and of those that wait for them
	toucherAccounts  = 300 // the other side of those that touch one of these
	restAccounts     = 500 // the last ones, open and closed: of all others
)

// open returns the nth account that is open.
func open(n int) int { return n + n/(closed-1) }

// doubtful is the nth transfer that the dead coordinator leaves.
func doubtful(n int) transfer { return transfer{"doubtful-" + strconv.Itoa(n), open(n), open(n), 100} }

// blocking is the experiment: a coordinator dies, and others go on.
type blocking struct {
	databases databases
	dir       string // of the coordinators' logs
	at        point
	doubts    int           // transfers in flight when the coordinator dies
	length    time.Duration // until somebody comes and resolves them
	patience  time.Duration // of a transfer that waits for a lock
	clients   int           // of each group
}

// waiters is how many transfers wait without a time limit.
const waiters = 2

// waiter is the nth transfer that waits, from an account of its own, for one that is in doubt.
func (b *blocking) waiter(n int) transfer {
	t := transfer{"waiter-" + strconv.Itoa(n), open(b.doubts + n), open(n), 100}
	if b.at == first { // nothing is in doubt in the second database
		t.from = open(n)
	}
	return t
}

// maker makes the nth transfer of a client.
type maker func(rng *rand.Rand, n int) transfer

// groups are the kinds of other transfers.
func (b *blocking) groups() []string {
	return []string{"touch an account of a transfer in doubt", "touch an account of one that waits for those", "touch neither"}
}

// make returns the maker of a group.
func (b *blocking) make(who int) maker {
	free := func(rng *rand.Rand) int { return doubtfulAccounts + rng.IntN(toucherAccounts) }
	rest := func(rng *rand.Rand) int { return accounts - 1 - rng.IntN(restAccounts) }
	return []maker{
		func(rng *rand.Rand, n int) transfer {
			if n%2 == 0 {
				return transfer{from: doubtful(rng.IntN(b.doubts)).from, to: open(free(rng)), amount: 1}
			}
			return transfer{from: open(free(rng)), to: doubtful(rng.IntN(b.doubts)).to, amount: 1}
		},
		func(rng *rand.Rand, _ int) transfer {
			return transfer{from: b.waiter(rng.IntN(waiters)).from, to: rest(rng), amount: 1}
		},
		func(rng *rand.Rand, _ int) transfer { return transfer{from: rest(rng), to: rest(rng), amount: 1} },
	}[who]
}

// run lets the coordinator die and be resolved.
func (b *blocking) run(ctx context.Context) (s scene, err error) {
	s = scene{What: "the coordinator, killed with its transfers at the point \"" + string(b.at) + "\"", Money: money, InDoubt: b.doubts}
	dead := job{b.databases, "dead", filepath.Join(b.dir, "dead.log"), b.at, b.doubts}
	killed, err := killCoordinator(ctx, dead)
	if err != nil {
		return s, err
	}
	living, err := openDecisions(filepath.Join(b.dir, "living.log"))
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, living.close()) }()

	type wait struct {
		time.Duration
		err error
	}
	waits := make(chan wait, waiters)
	for n := range waiters {
		go func() {
			began := time.Now()
			err := b.wait(ctx, living, b.waiter(n))
			waits <- wait{time.Since(began), err}
		}()
	}
	if err := b.databases.waiting(ctx, waiters); err != nil {
		return s, err
	}
	if s.Groups, err = b.others(ctx, living, "while", b.length-time.Since(killed)); err != nil {
		return s, err
	}
	seen, err := b.databases.sums(ctx)
	if err != nil {
		return s, err
	}
	s.MoneySeen = seen.money()

	log, err := openDecisions(dead.Log) // its lock went with the process
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, log.close()) }()
	if s.Verdicts, err = resolve(ctx, b.databases, dead.Name, log); err != nil {
		return s, err
	}
	s.Seconds = time.Since(killed).Seconds()
	for range waiters {
		w := <-waits
		if w.err != nil {
			return s, w.err
		}
		s.Waited = append(s.Waited, w.Seconds())
	}
	if s.After, err = b.others(ctx, living, "after", b.length/5); err != nil {
		return s, err
	}
	_, err = b.databases.check(ctx)
	return s, err
}

// wait carries out a transfer without a time limit.
func (b *blocking) wait(ctx context.Context, log *decisions, t transfer) error {
	c, err := newCoordinator(ctx, b.databases, "living", log, 0)
	if err != nil {
		return err
	}
	_, err = c.do(ctx, t)
	return errors.Join(err, c.close(ctx))
}

// others lets clients of every group work for a while.
func (b *blocking) others(ctx context.Context, log *decisions, phase string, length time.Duration) ([]group, error) {
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		errs  error
		names = b.groups()
		found = make([]group, len(names))
		took  = make([][]time.Duration, len(names))
	)
	until := time.Now().Add(length)
	for who := range names {
		for n := range b.clients {
			all.Go(func() {
				client := strconv.Itoa(who) + "-" + strconv.Itoa(n)
				g, times, err := b.client(ctx, log, phase+"-"+client, b.make(who), rand.New(rand.NewPCG(uint64(who), uint64(n))), until)
				mu.Lock()
				defer mu.Unlock()
				errs = errors.Join(errs, err)
				found[who].add(g)
				took[who] = append(took[who], times...)
			})
		}
	}
	all.Wait()
	for who, name := range names {
		found[who].Who = name
		found[who].P50, found[who].Max = spread(took[who])
	}
	return found, errs
}

// client carries out one transfer after another.
func (b *blocking) client(ctx context.Context, log *decisions, name string, next maker, rng *rand.Rand, until time.Time) (g group, took []time.Duration, err error) {
	c, err := newCoordinator(ctx, b.databases, "living", log, b.patience)
	if err != nil {
		return g, nil, err
	}
	defer func() { err = errors.Join(err, c.close(ctx)) }()
	for n := 0; time.Now().Before(until); n++ {
		t := next(rng, n)
		t.id = name + "-" + strconv.Itoa(n)
		began := time.Now()
		what, err := c.do(ctx, t)
		if err != nil {
			return g, took, err
		}
		took = append(took, time.Since(began))
		g.Asked++
		switch what {
		case completed:
			g.Completed++
		case refused:
			g.Refused++
		case gaveUp:
			g.Blocked++
		}
	}
	return g, took, nil
}

func (g *group) add(o group) {
	g.Asked += o.Asked
	g.Completed += o.Completed
	g.Refused += o.Refused
	g.Blocked += o.Blocked
}

// spread returns the median and the longest of some times, in milliseconds.
func spread(times []time.Duration) (p50, longest float64) {
	if len(times) == 0 {
		return 0, 0
	}
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return ms(times[len(times)/2]), ms(times[len(times)-1])
}
