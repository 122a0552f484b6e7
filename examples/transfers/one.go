package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dejalog/deja/examples/transfers/orders"
)

// latency is how long transfers take that are alone.
type latency struct {
	Transfers int     `json:"transfers"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
}

// one makes transfers one after the other, and tells how long each took from the order to its end.
func (p *program) one(ctx context.Context, o options) (err error) {
	at, clean, err := p.place(ctx, o)
	defer clean()
	if err != nil {
		return err
	}
	t := &task{place: at, plan: orders.Plan{Transfers: o.one, Seed: o.seed, Began: time.Now().UTC()}}
	if at.servers() {
		t.phase = nothing
		ledger, startErr := p.start(t)
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, ledger.end()) }()
	}
	var last said
	for _, t.phase = range []phase{prepare, single} {
		if last, err = p.finish(ctx, t); err != nil {
			return err
		}
	}
	slices.Sort(last.Took)
	l := latency{Transfers: len(last.Took), P50: percentile(last.Took, 50), P99: percentile(last.Took, 99)}
	if o.json {
		return p.json(l)
	}
	fmt.Fprintf(p.stdout, "%d transfers one after the other, from the order to the end: p50 %.1f ms, p99 %.1f ms\n", l.Transfers, l.P50, l.P99)
	return nil
}

// percentile returns a percentile of sorted microseconds, in milliseconds.
func percentile(sorted []int64, p int) float64 {
	return float64(sorted[min(len(sorted)*p/100, len(sorted)-1)]) / 1000
}
