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
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/kafka"
)

// options are what the command line says.
type options struct {
	length time.Duration
	seed   uint64
	faults int // at least so many, however long it takes
	rate   float64
	remits float64
	pause  time.Duration // from one fault to the next, on the average
	broken string
	only   []string // kinds of faults; none: all
	dir    string
	keep   bool
}

const (
	prefix     = "run."          // of the topics' names
	banks      = 3               // workers of the bank
	ledgers    = 2               // workers of the ledger
	senders    = 4               // that do not wait for outcomes
	doers      = 12              // that do
	remitters  = 30              // of remittances, half of whom wait for the end
	quiescence = 5 * time.Minute // within which all is handled once the faults have stopped, on a machine that is busy
	lookEvery  = 3 * time.Second // at a snapshot
)

// run is one run.
type run struct {
	opt   options
	began time.Time
	out   io.Writer
	s     *servers

	log    *kafka.Log // past the proxies, for those who check
	sides  []*side    // the bank and the ledger
	second *hand      // the second relay, of the bank's journal
	load   *load
	stopIt context.CancelCauseFunc // ends it at once

	snapshots atomic.Int64
	quiet     time.Duration // it took to quiesce
	books     books         // what became of remittances
	light     sync.WaitGroup
	down      atomic.Int64 // servers that are down, or harm that lets nobody work

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
	if r.log, err = (&where{kafka: r.s.brokers, prefix: prefix}).openLog(ctx); err != nil {
		return err
	}
	for _, of := range []struct {
		name    string
		workers int
	}{{remit.Bank, banks}, {remit.Ledger, ledgers}} {
		s, err := r.newSide(ctx, of.name, program, of.workers)
		if err != nil {
			return err
		}
		r.sides = append(r.sides, s)
	}
	bank := r.sides[0]
	rng := rand.New(rand.NewPCG(r.opt.seed, 1))
	if r.load, err = newLoad(bank.client, r.opt, rng, filepath.Join(r.opt.dir, "messages.json")); err != nil {
		return err
	}
	if r.second, err = newHand(ctx, r.opt.dir, "second-relay", program, "relay", bank.direct, r.violate); err != nil {
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

// workers are those of all services.
func (r *run) workers() (all []*hand) {
	for _, s := range r.sides {
		all = append(all, s.hands...)
	}
	return all
}

// processes are the workers and the second relay.
func (r *run) processes() []*hand { return append(r.workers(), r.second) }

// behind are all who work through proxies.
func (r *run) behind() []*hand {
	all := r.processes()
	for _, s := range r.sides {
		all = append(all, s.caller)
	}
	return all
}

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
	r.say("Kafka %s, PostgreSQL, %d workers; seed %d", r.s.brokers, len(r.workers()), r.opt.seed)
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
		r.load.run(stop, end)
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
		r.violate("not all is handled, logged and answered %s after the faults stopped: %s", quiescence, r.standing(ctx))
	}
	stopWatching()
	watchers.Wait()
	if ctx.Err() == nil {
		err = r.conclude(ctx, deadline, stopped)
	}
	return errors.Join(err, r.load.save())
}

// look checks snapshots.
func (r *run) look(ctx context.Context) {
	for ctx.Err() == nil {
		r.lookOnce(ctx)
		sleep(ctx, lookEvery)
	}
}

func (r *run) lookOnce(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, s := range r.sides {
		wrong, err := s.snapshot(ctx)
		if err != nil {
			return false
		}
		for _, w := range wrong {
			r.violate("%s, in one snapshot: %s", s.name, w)
		}
	}
	calls, err := receipt.ReadFile(r.sides[0].direct.provider)
	if err != nil {
		r.violate("%v", err)
	}
	for _, w := range doubled(calls) {
		r.violate("%s", w)
	}
	r.snapshots.Add(1)
	return true
}

// watch measures how long partitions stand still, and prints a line now and then.
func (r *run) watch(ctx context.Context) {
	said := time.Now()
	for ctx.Err() == nil {
		var n, lag int64
		well := true
		for _, s := range r.sides {
			decided, behind, err := s.watch(ctx, r.down.Load() > 0, r.say)
			n, lag, well = n+decided, lag+behind, well && err == nil
		}
		if now := time.Now(); well && now.Sub(said) > 5*time.Second {
			said = now
			r.say("%d decisions, %d messages to handle, %d told, %d remittances ended, %d calls tried again, %d take-overs, %d snapshots",
				n, lag, r.load.dos.Load(), r.load.ends.Load(), r.load.errors.Load(), r.takeovers(), r.snapshots.Load())
		}
		sleep(ctx, 250*time.Millisecond)
	}
}

func (r *run) takeovers() (n int64) {
	for _, s := range r.sides {
		n += s.takeovers()
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
