package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/transfer"
)

// A rate is how fast transfers went.
type rate struct {
	By        string  `json:"by"`
	InFlight  int     `json:"in_flight"`
	Transfers int     `json:"transfers"`
	Undone    int     `json:"undone"`
	PerSecond float64 `json:"per_second"`       // the median of the runs
	P50       float64 `json:"p50_ms,omitempty"` // of a transfer, from asking to its end; of a batch's, the batch's
}

// throughput measures transfers between accounts taken at random.
type throughput struct {
	dir       string // of the coordinators' logs
	transfers int
	runs      int
}

// concurrencies are how many transfers are in flight, by turns.
var concurrencies = []int{1, 8, 32}

// most is how many transactions of each database that is.
const most = 32

// twoPhase measures two-phase commit.
func (m *throughput) twoPhase(ctx context.Context, d databases) (rates []rate, err error) {
	count := func() (ends, error) {
		s, err := d.check(ctx)
		return ends{s.Applied, s.Refused}, err
	}
	measure := func(r rate, run func(context.Context, databases, *decisions, string, *rate) ([]time.Duration, error)) {
		if err != nil {
			return
		}
		r, err = m.measure(r, count, func(name string, r *rate) ([]time.Duration, error) {
			log, err := openDecisions(filepath.Join(m.dir, name+".log"))
			if err != nil {
				return nil, err
			}
			took, err := run(ctx, d, log, name, r)
			return took, errors.Join(err, log.close())
		})
		rates = append(rates, r)
	}
	for _, n := range concurrencies {
		measure(rate{By: "two-phase commit, each by itself", InFlight: n, Transfers: m.transfers}, coordinated)
	}
	measure(rate{By: "two-phase commit, a transaction for all in flight", InFlight: batchSize, Transfers: 25 * m.transfers}, batched)
	return rates, err
}

// ends are those that transfers came to.
type ends struct{ completed, undone int }

// measure takes the median of some runs, each of which must give every transfer one end and leave money whole.
func (m *throughput) measure(r rate, count func() (ends, error), run func(name string, r *rate) ([]time.Duration, error)) (rate, error) {
	var rates, p50s []float64
	for n := range m.runs {
		before, err := count()
		if err != nil {
			return r, err
		}
		began := time.Now()
		took, err := run(fmt.Sprintf("%s, %d, %d", r.By, r.InFlight, n), &r)
		elapsed := time.Since(began)
		if err != nil {
			return r, err
		}
		after, err := count()
		if err != nil {
			return r, err
		}
		r.Undone = after.undone - before.undone
		if n := after.completed - before.completed + r.Undone; n != r.Transfers {
			return r, fmt.Errorf("%d transfers have %d ends", r.Transfers, n)
		}
		p50, _ := spread(took)
		rates, p50s = append(rates, float64(r.Transfers)/elapsed.Seconds()), append(p50s, p50)
	}
	r.PerSecond, r.P50 = median(rates), median(p50s)
	return r, nil
}

func median(vs []float64) float64 {
	vs = slices.Sorted(slices.Values(vs))
	return vs[len(vs)/2]
}

// each carries out transfers, so many at the same time, each of which is known when it has ended.
func (r *rate) each(name string, open func() (do func(move) (outcome, error), end func() error, err error)) ([]time.Duration, error) {
	var (
		all  sync.WaitGroup
		next atomic.Int64
		errs = make(chan error, r.InFlight)
		took = make([]time.Duration, r.Transfers)
	)
	for worker := range r.InFlight {
		all.Go(func() {
			do, end, err := open()
			if err != nil {
				errs <- err
				return
			}
			rng := rand.New(rand.NewPCG(uint64(worker), 0))
			for n := next.Add(1) - 1; n < int64(r.Transfers) && err == nil; n = next.Add(1) - 1 {
				t := random(rng)
				t.id = name + "-" + strconv.FormatInt(n, 10)
				began := time.Now()
				_, err = do(t)
				took[n] = time.Since(began)
			}
			errs <- errors.Join(err, end())
		})
	}
	all.Wait()
	var err error
	for range r.InFlight {
		err = errors.Join(err, <-errs)
	}
	return took, err
}

// coordinated carries out transfers by two-phase commit, one by one.
func coordinated(ctx context.Context, d databases, log *decisions, name string, r *rate) ([]time.Duration, error) {
	return r.each(name, func() (func(move) (outcome, error), func() error, error) {
		c, err := newCoordinator(ctx, d, name, log, 0)
		if err != nil {
			return nil, nil, err
		}
		return func(t move) (outcome, error) { return c.do(ctx, t) }, func() error { return c.close(ctx) }, nil
	})
}

const batchSize = 1_000

// batched carries out many transfers in one transaction of each database: the cost of two-phase commit is that of the
// transaction, and is shared.
func batched(ctx context.Context, d databases, log *decisions, name string, r *rate) (took []time.Duration, err error) {
	c, err := newCoordinator(ctx, d, name, log, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close(ctx)) }()
	for ts := range r.batches(name) {
		began := time.Now()
		if err := c.together(ctx, ts[0].id, ts); err != nil {
			return took, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

// batches yields transfers, [rate.InFlight] at a time.
func (r *rate) batches(name string) func(yield func([]move) bool) {
	return func(yield func([]move) bool) {
		rng := rand.New(rand.NewPCG(0, 0))
		for done := 0; done < r.Transfers; {
			ts := make([]move, min(r.InFlight, r.Transfers-done))
			for i := range ts {
				ts[i] = random(rng)
				ts[i].id = name + "-" + strconv.Itoa(done+i)
			}
			done += len(ts)
			if !yield(ts) {
				return
			}
		}
	}
}

// services measures the same transfers between two services of deja.
func (m *throughput) services(ctx context.Context, p *pair) (rates []rate, err error) {
	first, err := p.start(ctx, accounts.Name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, first.kill()) }()
	second, err := p.start(ctx, ledger.Name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, second.kill()) }()
	if err := p.prepare(ctx); err != nil {
		return nil, err
	}
	count := func() (ends, error) {
		b, err := p.read(ctx)
		if err != nil {
			return ends{}, err
		}
		return ends{b.in(transfer.Completed), b.in(transfer.Returned)}, b.check(money + p.paidIn.Load())
	}
	for _, n := range concurrencies {
		r, err := m.measure(rate{By: "deja, each asked for when another has ended", InFlight: n, Transfers: min(m.transfers, 250*n)}, count,
			func(name string, r *rate) ([]time.Duration, error) {
				return r.each(name, func() (func(move) (outcome, error), func() error, error) {
					do := func(t move) (outcome, error) { return p.do(ctx, t, 0, deja.AtEnd()) }
					return do, func() error { return nil }, nil
				})
			})
		if rates = append(rates, r); err != nil {
			return rates, err
		}
	}
	r, err := m.measure(rate{By: "deja, all asked for in the beginning", InFlight: 5 * m.transfers, Transfers: 5 * m.transfers}, count,
		func(name string, r *rate) ([]time.Duration, error) {
			for ts := range r.batches(name) {
				if err := p.send(ctx, ts); err != nil {
					return nil, err
				}
			}
			return nil, p.quiet(ctx)
		})
	return append(rates, r), err
}
