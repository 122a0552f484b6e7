//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
)

// options are what the command line says.
type options struct {
	length time.Duration
	seed   uint64
	faults int // at least so many, however long it takes
	rate   float64
	pause  time.Duration // from one fault to the next, on the average
	broken string
	only   []string // kinds of faults; none: all
	dir    string
	keep   bool
}

const (
	workers    = 3
	senders    = 4                // that do not wait for outcomes
	doers      = 12               // that do
	quiescence = 60 * time.Second // within which all is handled once the faults have stopped
	lookEvery  = 3 * time.Second  // at a snapshot
)

// run is one run.
type run struct {
	opt   options
	began time.Time
	out   io.Writer
	s     *servers

	direct where // past the proxies, for those who check
	log    *kafka.Log
	hands  []*hand // workers
	second *hand   // the second relay
	caller *hand   // no process, but the proxies of the clients
	load   *load
	stopIt context.CancelCauseFunc // ends it at once

	snapshots  atomic.Int64
	quiet      time.Duration // it took to quiesce
	tally      tally
	hash       string // of the states in the end
	light      sync.WaitGroup
	standstill [partitions]stand
	down       atomic.Int64 // servers that are down, or harm that lets nobody work

	mu     sync.Mutex
	faults []happened
	wrong  []string
}

// happened is a fault.
type happened struct {
	at   time.Duration
	kind string
	what string
}

// stand is how a partition moves.
type stand struct {
	position int64
	since    time.Time // nothing has moved though there was something to do; zero: it moves
	outage   bool      // a server was down in the meantime
	worst    time.Duration
	harmed   time.Duration // the worst with a server down in the meantime
}

var errViolated = errors.New("a violation was found")

// violate says that something happened that must not.
func (r *run) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) >= 50 {
		return
	}
	r.wrong = append(r.wrong, text)
	fmt.Fprintf(r.out, "%7.1fs VIOLATION: %s\n", time.Since(r.began).Seconds(), text)
	r.stopIt(errViolated)
}

// fault notes a fault.
func (r *run) fault(kind, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := happened{time.Since(r.began), kind, fmt.Sprintf(format, args...)}
	r.faults = append(r.faults, f)
	fmt.Fprintf(r.out, "%7.1fs fault %3d: %s: %s\n", f.at.Seconds(), len(r.faults), f.kind, f.what)
}

func (r *run) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, "%7.1fs %s\n", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// prepare starts servers, topics, store and processes.
func (r *run) prepare(ctx context.Context, root string) (err error) {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if r.opt.broken != "" {
		if program, err = build(ctx, root, r.opt.dir, breaks[r.opt.broken]); err != nil {
			return err
		}
	}
	if r.s, err = startServers(ctx, root, r.opt.dir); err != nil {
		return err
	}
	r.direct = where{kafka: r.s.brokers, dsn: r.s.dsn, schema: "torture", prefix: "run."}
	if r.log, err = r.direct.openLog(ctx); err != nil {
		return err
	}
	if err := r.log.CreateTopics(ctx,
		kafka.TopicConfig{Name: wire.Inbox(serviceName), Partitions: partitions},
		kafka.TopicConfig{Name: wire.Journal(serviceName), Partitions: partitions},
		kafka.TopicConfig{Name: publicTopic, Partitions: partitions},
	); err != nil {
		return err
	}
	if r.caller, err = r.hand(ctx, "client", program, ""); err != nil {
		return err
	}
	log, db, err := r.caller.place.open(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(installFence(ctx, r.direct.dsn), watchLeases(ctx, r.direct.dsn, r.direct.schema)); err != nil {
		return err
	}
	e, err := engine.New(engine.Config{Service: service(), Log: log, Store: db.Store()})
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(r.opt.seed, 1))
	if r.load, err = newLoad(e.Client(), r.opt, rng, filepath.Join(r.opt.dir, "messages.json")); err != nil {
		return err
	}
	for i := range workers {
		h, err := r.hand(ctx, fmt.Sprintf("worker-%d", i+1), program, "worker")
		if err != nil {
			return err
		}
		r.hands = append(r.hands, h)
	}
	if r.second, err = r.hand(ctx, "second-relay", program, "relay"); err != nil {
		return err
	}
	return r.startAll()
}

// startAll starts the processes that do not run. A second relay that keeps the rules would mend what one that breaks
// them does.
func (r *run) startAll() error {
	for _, h := range r.processes() {
		if h == r.second && r.opt.broken == "relay" {
			continue
		}
		if err := h.start(); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) hand(ctx context.Context, name, program, command string) (*hand, error) {
	return newHand(ctx, r.opt.dir, name, program, command, r.s, r.direct, r.violate)
}

// processes are the workers and the second relay.
func (r *run) processes() []*hand { return append(slices.Clone(r.hands), r.second) }

// behind are all who work through proxies.
func (r *run) behind() []*hand { return append(r.processes(), r.caller) }

// torture runs load and faults until the time is over, and then checks everything.
func (r *run) torture(ctx context.Context) error {
	ctx, r.stopIt = context.WithCancelCause(ctx)
	defer r.stopIt(nil)
	defer func() {
		for _, h := range r.behind() {
			if h != nil {
				h.close()
			}
		}
	}()
	root, err := moduleRoot(ctx)
	if err == nil {
		err = r.prepare(ctx, root)
	}
	if err != nil {
		return err
	}
	r.say("Kafka %s, PostgreSQL, %d workers; seed %d", r.s.brokers, workers, r.opt.seed)
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stopWatching()
	watchers.Go(func() { r.look(watching) })
	watchers.Go(func() { r.watch(watching) })

	stop, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	end, endLoad := context.WithCancel(ctx)
	defer endLoad()
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		r.load.run(stop, end, senders, doers)
	}()
	r.harm(ctx)
	if ctx.Err() == nil {
		r.calm(ctx)
		if err := r.startAll(); err != nil {
			return err
		}
	}
	r.say("the faults have stopped")
	stopLoad()
	stopped := time.Now()
	deadline, cancel := context.WithTimeout(ctx, quiescence)
	defer cancel()
	select {
	case <-loaded:
	case <-deadline.Done():
		if ctx.Err() == nil {
			r.violate("clients still wait for outcomes %s after the faults stopped", quiescence)
		}
	}
	endLoad()
	<-loaded
	if ctx.Err() == nil && !r.settled(deadline) && ctx.Err() == nil {
		r.violate("not all is handled and logged %s after the faults stopped: %s", quiescence, r.standing(ctx))
	}
	stopWatching()
	watchers.Wait()
	if ctx.Err() == nil {
		err = r.conclude(ctx, deadline, stopped)
	}
	return errors.Join(err, r.load.save())
}

// leases returns how far the partitions are, past all proxies.
func (r *run) leases(ctx context.Context) (ls []driver.Lease, err error) {
	db, err := postgres.OpenReadOnly(ctx, r.direct.dsn, postgres.Schema(r.direct.schema))
	if err != nil {
		return nil, err
	}
	ls, err = db.Store().Leases(ctx)
	return ls, errors.Join(err, db.Close())
}

// settled waits until all that is in the inbox is handled and known to be logged.
func (r *run) settled(ctx context.Context) bool {
	for ctx.Err() == nil {
		if ls, ends, err := r.progress(ctx); err == nil {
			done := len(ls) == partitions
			for _, l := range ls {
				done = done && l.Progress.Position == ends[l.Partition] && l.Logged.N == l.Progress.N
			}
			if done {
				return true
			}
		}
		sleep(ctx, 100*time.Millisecond)
	}
	return false
}

func (r *run) progress(ctx context.Context) (ls []driver.Lease, ends [partitions]int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if ls, err = r.leases(ctx); err != nil {
		return nil, ends, err
	}
	for n := range int32(partitions) {
		if _, ends[n], err = r.log.Bounds(ctx, wire.Inbox(serviceName), n); err != nil {
			return nil, ends, err
		}
	}
	return ls, ends, nil
}

// standing tells how far the partitions are.
func (r *run) standing(ctx context.Context) string {
	ls, ends, err := r.progress(ctx)
	if err != nil {
		return err.Error()
	}
	var parts []string
	for _, l := range ls {
		parts = append(parts, fmt.Sprintf("%d: %d of %d, n %d, logged %d, epoch %d, held %t",
			l.Partition, l.Progress.Position, ends[l.Partition], l.Progress.N, l.Logged.N, l.Epoch, l.Held))
	}
	return strings.Join(parts, "; ")
}

// look checks snapshots.
func (r *run) look(ctx context.Context) {
	for ctx.Err() == nil {
		r.lookOnce(ctx)
		sleep(ctx, lookEvery)
	}
}

func (r *run) lookOnce(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, r.direct.dsn)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it was only read
	wrong, err := checkSnapshot(ctx, conn, r.direct.schema)
	if err != nil {
		return false
	}
	for _, w := range wrong {
		r.violate("in one snapshot: %s", w)
	}
	r.snapshots.Add(1)
	return true
}

// watch measures how long partitions stand still, and prints a line now and then.
func (r *run) watch(ctx context.Context) {
	said := time.Now()
	for ctx.Err() == nil {
		ls, ends, err := r.progress(ctx)
		if err != nil {
			for i := range r.standstill {
				r.standstill[i].outage = true
			}
		}
		if now := time.Now(); err == nil {
			var n, lag int64
			for _, l := range ls {
				n += l.Progress.N
				lag += ends[l.Partition] - l.Progress.Position
				r.standstill[l.Partition].note(now, l.Progress.Position, ends[l.Partition], r.down.Load() > 0)
			}
			if now.Sub(said) > 5*time.Second {
				said = now
				r.say("%d decisions, %d messages to handle, %d told, %d calls tried again, %d take-overs, %d snapshots",
					n, lag, r.load.dos.Load(), r.load.errors.Load(), r.takeovers(), r.snapshots.Load())
			}
		}
		sleep(ctx, 250*time.Millisecond)
	}
}

// note takes a look at a partition. A stand-still counts as one of an outage if there was one at any time of it.
func (s *stand) note(now time.Time, position, end int64, outage bool) {
	switch {
	case position != s.position || position >= end:
		s.since, s.outage = time.Time{}, outage
	case s.since.IsZero():
		s.since, s.outage = now, s.outage || outage
	default:
		if s.outage = s.outage || outage; s.outage {
			s.harmed = max(s.harmed, now.Sub(s.since))
		} else {
			s.worst = max(s.worst, now.Sub(s.since))
		}
	}
	s.position = position
}

func (r *run) takeovers() (n int64) {
	for _, h := range r.hands {
		n += h.takeovers.Load()
	}
	return n
}

// calm ends all harm that is being done.
func (r *run) calm(ctx context.Context) {
	for _, h := range r.behind() {
		h.calm()
		h.signal(syscall.SIGCONT)
	}
	done := make(chan struct{})
	go func() {
		r.light.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	for _, h := range r.behind() {
		h.calm()
	}
}
