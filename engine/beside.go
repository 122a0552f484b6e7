package engine

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
)

// faults are what keeps the work beside the partitions from going on, by the name of the work.
type faults struct {
	mu   sync.Mutex
	what map[string]error
}

func (f *faults) set(name string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.what == nil {
		f.what = map[string]error{}
	}
	if f.what[name] = err; err == nil {
		delete(f.what, name)
	}
}

func (f *faults) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(f.what)) {
		texts = append(texts, name+": "+f.what[name].Error())
	}
	return texts
}

// keep does something that never ends, again and again until ctx ends: after an error with growing pauses. What it does
// says when it is well: it got something done, or there is nothing to do.
func (e *Engine) keep(ctx context.Context, name string, do func(ctx context.Context, well func()) error) {
	pause := firstPause
	for ctx.Err() == nil {
		var well atomic.Bool
		err := do(ctx, func() {
			well.Store(true)
			e.faults.set(name, nil)
		})
		if ctx.Err() != nil {
			break
		}
		if well.Load() {
			pause = firstPause
		}
		e.faults.set(name, err)
		e.logger.WarnContext(ctx, "a fault stopped the work beside the partitions; trying again", "work", name, "error", err)
		sleep(ctx, pause/2+rand.N(pause/2+1))
		pause = min(2*pause, longestPause)
	}
	e.faults.set(name, nil)
}

// beside starts what goes on beside a partition while this process handles it, and returns when ctx has ended and all
// of it too. Two processes that do it at once, while a partition changes hands, do no harm: each sends in order from a
// cursor that is never ahead of what was acknowledged, and what comes twice has the same id.
func (p *partition) beside(ctx context.Context, w *step.Worker) {
	var all sync.WaitGroup
	for _, to := range p.e.talks.Targets {
		all.Go(func() { p.carryOwn(ctx, follower{p: p, w: w}, to) })
	}
	for _, from := range p.e.talks.Sources {
		all.Go(func() { p.carryFrom(ctx, from) })
	}
	all.Go(func() { p.wheel(ctx, w) })
	if p.e.hasSagas() {
		all.Go(func() { p.lookOut(ctx) })
	}
	if len(p.e.performers) > 0 {
		all.Go(func() { p.perform(ctx, w) })
	}
	if p.e.cfg.Publish != "" {
		all.Go(func() { p.publish(ctx) })
	}
	for _, c := range p.e.cfg.Consume {
		all.Go(func() { p.consume(ctx, c) })
	}
	if box, ok := p.e.store.(driver.Outbox); ok && p.number == 0 {
		all.Go(func() { p.forward(ctx, box) })
	}
	all.Wait()
}

// forward brings what others put into the store's outbox into the inbox, in order, and removes it once it is there.
func (p *partition) forward(ctx context.Context, box driver.Outbox) {
	p.e.keep(ctx, "outbox", func(ctx context.Context, well func()) error {
		for {
			waits := time.AfterFunc(longestPause, well) // for something to do
			out, err := box.Outgoing(ctx, batchSize)
			if waits.Stop(); err != nil {
				return err
			}
			if err := p.e.send(ctx, out); err != nil {
				return err
			}
			ids := make([]int64, len(out))
			for i := range out {
				ids[i] = out[i].ID
			}
			if err := box.Sent(ctx, ids); err != nil {
				return err
			}
			well()
		}
	})
}

// send appends what was in an outbox, topic by topic. A record that its topic will never take holds up the rest: it is
// named in the error, and an operator removes it.
func (e *Engine) send(ctx context.Context, out []driver.Outgoing) error {
	byTopic := map[string][]driver.Record{}
	for _, o := range out {
		byTopic[o.Topic] = append(byTopic[o.Topic], o.Record)
	}
	var errs []error
	for _, topic := range slices.Sorted(maps.Keys(byTopic)) {
		if err := e.appendPlaced(ctx, topic, byTopic[topic]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
