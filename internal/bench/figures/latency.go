package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/wire"
)

const (
	rate     = 1000 // messages a second
	warmUp   = 5 * time.Second
	measured = 20 * time.Second
)

// watch reads a service's journal at its end, and notes when each message's decision was read there.
type watch struct {
	service string
	log     driver.Log

	mu   sync.Mutex
	seen map[deja.ID]time.Time
	last [partitions]time.Time // when the partition's newest record was read
	gaps [partitions]time.Duration
}

func newWatch(service string, log driver.Log) *watch {
	w := &watch{service: service, log: log, seen: map[deja.ID]time.Time{}}
	w.reset()
	return w
}

// follow reads all partitions until ctx ends.
func (w *watch) follow(ctx context.Context) error {
	var all sync.WaitGroup
	errs := make(chan error, partitions)
	for p := range int32(partitions) {
		all.Go(func() { errs <- w.partition(ctx, p) })
	}
	all.Wait()
	var err error
	for range partitions {
		if e := <-errs; !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (w *watch) partition(ctx context.Context, p int32) error {
	at := deja.Position{Topic: wire.Journal(w.service), Partition: p}
	dec := wire.NewDecoder(w.service)
	for {
		recs, err := w.log.Fetch(ctx, at, 1000)
		if err != nil {
			return err
		}
		now := time.Now()
		w.mu.Lock()
		for _, rec := range recs {
			at.Offset = rec.Offset + 1
			r, err := dec.Record(p, rec.Value)
			if err != nil {
				w.mu.Unlock()
				return err
			}
			if _, again := w.seen[r.Cause.ID]; !again && !r.Marker() {
				w.seen[r.Cause.ID] = now
			}
		}
		w.gaps[p] = max(w.gaps[p], now.Sub(w.last[p]))
		w.last[p] = now
		w.mu.Unlock()
	}
}

// reset forgets how long partitions stood still.
func (w *watch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.gaps {
		w.gaps[p], w.last[p] = 0, time.Now()
	}
}

// stood returns the longest time that a partition's journal stood still since the last reset.
func (w *watch) stood() (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range w.gaps {
		longest = max(longest, w.gaps[p], time.Since(w.last[p]))
	}
	return longest
}

// sender sends deposits at a steady rate until ctx ends, and notes when.
type sender struct {
	sent map[deja.ID]time.Time // when it was to be sent: what a stall holds up counts as late
	n    int
}

func (sd *sender) run(ctx context.Context, s *stage) error {
	eng, err := engine.New(engine.Config{Service: service(false), Log: s.log, Store: noStore{}})
	if err != nil {
		return err
	}
	const every = 5 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	due := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		var rs []deja.Request
		for ; due.Before(time.Now()); due = due.Add(time.Second / rate) {
			r := request(sd.n, deja.NewID())
			sd.sent[r.ID] = due
			sd.n++
			rs = append(rs, r)
		}
		if len(rs) == 0 {
			continue
		}
		if _, err := eng.Client().Send(context.WithoutCancel(ctx), rs...); err != nil {
			return err
		}
	}
}

// load runs a steady load on workers while fn runs, and checks in the end that nothing was lost or doubled.
func (s *stage) load(ctx context.Context, fn func(w *watch) error) (*sender, *watch, error) {
	w := newWatch(name, s.log)
	sd := &sender{sent: map[deja.ID]time.Time{}}
	watching, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	sending, stopSend := context.WithCancel(ctx)
	defer stopSend()
	watched, sent := make(chan error, 1), make(chan error, 1)
	go func() { watched <- w.follow(watching) }()
	go func() { sent <- sd.run(sending, s) }()
	err := fn(w)
	stopSend()
	err = errors.Join(err, <-sent)
	for limit := time.Now().Add(time.Minute); err == nil && w.count() < sd.n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			err = fmt.Errorf("%d of %d messages were decided", w.count(), sd.n)
		}
	}
	stopWatch()
	err = errors.Join(err, <-watched)
	if err == nil {
		err = s.check(ctx, sd.n)
	}
	return sd, w, err
}

func (w *watch) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.seen)
}

func latency(ctx context.Context, b *bench) error {
	for range b.set.runs {
		if err := b.latency(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) latency(ctx context.Context) error {
	s, err := b.stage(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	p, err := s.start(ctx, false, "")
	if err != nil {
		return err
	}
	defer p.kill()
	var from, to time.Time
	sd, w, err := s.load(ctx, func(*watch) error {
		time.Sleep(warmUp)
		from = time.Now()
		time.Sleep(measured)
		to = time.Now()
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	var took []time.Duration
	for id, at := range sd.sent {
		if at.After(from) && at.Before(to) {
			took = append(took, w.seen[id].Sub(at))
		}
	}
	slices.Sort(took)
	for _, q := range []struct {
		name string
		part float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}} {
		b.add("latency at 1,000 messages/s, sent → logged, "+q.name, "ms", float64(took[int(q.part*float64(len(took)-1))].Microseconds())/1000)
	}
	u, err := p.stop()
	b.add("latency: CPU of the worker", "cores", u.CPU/(warmUp+measured).Seconds())
	return err
}

// takeovers measures how long partitions stand still.
func takeovers(ctx context.Context, b *bench) error {
	for range b.set.runs {
		if err := b.takeover(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) takeover(ctx context.Context) error {
	s, err := b.stage(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	var ps [2]*process
	defer func() {
		for _, p := range ps {
			if p != nil {
				p.kill()
			}
		}
	}()
	for i := range ps {
		if ps[i], err = s.start(ctx, false, ""); err != nil {
			return err
		}
	}
	_, _, err = s.load(ctx, func(w *watch) error {
		time.Sleep(warmUp)
		w.reset()
		ps[0].kill()
		time.Sleep(8 * time.Second)
		b.add("stand-still of a partition after kill -9", "s", w.stood().Seconds())
		if ps[0], err = s.start(ctx, false, ""); err != nil {
			return err
		}
		time.Sleep(warmUp)
		w.reset()
		if _, err := ps[1].stop(); err != nil {
			return err
		}
		time.Sleep(4 * time.Second)
		b.add("stand-still of a partition when its process stops cleanly", "s", w.stood().Seconds())
		return ctx.Err()
	})
	return err
}
