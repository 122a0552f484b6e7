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
)

// A rate is how fast transfers went.
type rate struct {
	How       string  `json:"how"`
	InFlight  int     `json:"in_flight"`
	Transfers int     `json:"transfers"`
	Refused   int     `json:"refused"`
	PerSecond float64 `json:"per_second"` // the median of the runs
	P50       float64 `json:"p50_ms"`     // of a transfer, or of a batch
}

// throughput measures transfers between accounts taken at random, in databases of its own that it checks at the end.
type throughput struct {
	dir       string // of the coordinators' logs
	transfers int
	runs      int
}

// random makes transfers between any two accounts.
func random(rng *rand.Rand, _ int) transfer {
	return transfer{from: rng.IntN(accounts), to: rng.IntN(accounts), amount: 1 + rng.Int64N(100)}
}

// measure takes the median of some runs.
func (m *throughput) measure(ctx context.Context, d databases, r rate, run func(ctx context.Context, d databases, log *decisions, name string, r *rate) ([]time.Duration, error)) (rate, error) {
	var rates, p50s []float64
	for n := range m.runs {
		before, err := d.sums(ctx)
		if err != nil {
			return r, err
		}
		name := r.How + "-" + strconv.Itoa(r.InFlight) + "-" + strconv.Itoa(n)
		log, err := openDecisions(filepath.Join(m.dir, name+".log"))
		if err != nil {
			return r, err
		}
		r.Refused = 0
		began := time.Now()
		took, err := run(ctx, d, log, name, &r)
		elapsed := time.Since(began)
		if err := errors.Join(err, log.close()); err != nil {
			return r, err
		}
		after, err := d.check(ctx)
		if err != nil {
			return r, err
		}
		if ends := after.Applied + after.Refused - before.Applied - before.Refused; ends != r.Transfers {
			return r, fmt.Errorf("%d transfers have %d ends", r.Transfers, ends)
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

// each carries out transfers one by one, so many at the same time.
func (m *throughput) each(ctx context.Context, d databases, log *decisions, name string, r *rate) ([]time.Duration, error) {
	var (
		all  sync.WaitGroup
		next atomic.Int64
		no   atomic.Int64
		errs = make(chan error, r.InFlight)
		took = make([]time.Duration, r.Transfers)
	)
	for worker := range r.InFlight {
		all.Go(func() {
			c, err := newCoordinator(ctx, d, name, log, 0)
			if err != nil {
				errs <- err
				return
			}
			rng := rand.New(rand.NewPCG(uint64(worker), 0))
			for n := next.Add(1) - 1; n < int64(r.Transfers) && err == nil; n = next.Add(1) - 1 {
				t := random(rng, 0)
				t.id = name + "-" + strconv.FormatInt(n, 10)
				began := time.Now()
				var what outcome
				what, err = c.do(ctx, t)
				took[n] = time.Since(began)
				if what == refused {
					no.Add(1)
				}
			}
			errs <- errors.Join(err, c.close(ctx))
		})
	}
	all.Wait()
	var err error
	for range r.InFlight {
		err = errors.Join(err, <-errs)
	}
	r.Refused = int(no.Load())
	return took, err
}

// batchSize is how many transfers a transaction of [throughput.batches] has.
const batchSize = 1_000

// batches carries out many transfers in one transaction of each database: the cost of two-phase commit is that of the
// transaction, and is shared.
func (m *throughput) batches(ctx context.Context, d databases, log *decisions, name string, r *rate) (took []time.Duration, err error) {
	c, err := newCoordinator(ctx, d, name, log, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close(ctx)) }()
	rng := rand.New(rand.NewPCG(0, 0))
	for done := 0; done < r.Transfers; {
		batch := make([]transfer, min(batchSize, r.Transfers-done))
		for i := range batch {
			batch[i] = random(rng, 0)
			batch[i].id = name + "-" + strconv.Itoa(done+i)
		}
		began := time.Now()
		no, err := c.together(ctx, "batch-"+strconv.Itoa(done), batch)
		if err != nil {
			return took, err
		}
		took = append(took, time.Since(began))
		r.Refused += no
		done += len(batch)
	}
	return took, nil
}
