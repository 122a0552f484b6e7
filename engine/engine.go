// Package engine runs a service: it takes messages from the service's inbox, lets its aggregates decide them, and
// answers the clients that wait. What it decides and writes, and in which order, is the business of the step
// functions below it; here are the goroutines, the clock and the retries around them.
//
// Any number of processes may run one service on one store that they share: each handles some of the partitions.
package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// Config says what an engine runs, and on what. Service, Log and Store are required.
type Config struct {
	Service *deja.Service
	Log     driver.Log
	Store   driver.Store
	Logger  *slog.Logger // nil is slog.Default()

	// Group names a consumer group of the log, which then says which partitions this process handles; the log must be a
	// [driver.Grouper]. Without one the processes share them by the store's leases, which need no group and notice a
	// dead process within seconds. Either way the store alone keeps two processes from writing one partition.
	Group string

	// Publish names a topic into which every recorded event goes as a plain CloudEvent, for everyone who is not deja:
	// the payload is the record's value, the attributes are its headers. At least once, and in order per stream; the
	// log must keep [driver.Cursors], and have the topic.
	Publish string

	// Effects are those who perform the effects that the service's aggregates ask for: one for each type.
	Effects []deja.Performer

	// Peers says which services own the aggregates of other services that this one sends commands to or hears events of, by
	// aggregate. They run on the same log. An aggregate stays with its service: one that it is given to later would be sent
	// all commands that were ever sent to it.
	Peers map[string]string

	// Consume says which foreign topics are read into the inbox.
	Consume []Consume
}

// ErrRunning is returned by Run while the engine runs already.
var ErrRunning = errors.New("the engine runs already")

// An Engine runs one service. Its methods are safe for concurrent use.
type Engine struct {
	cfg     Config
	machine *deja.Machine
	log     driver.Log
	store   driver.Store
	logger  *slog.Logger
	running atomic.Bool
	faults  faults

	talks      route.Topology
	performers map[string]*performer // by the effect's wire name

	mu     sync.Mutex
	made   []*partition   // at first use, as the log says how many there are
	member deja.ID        // of the present or last Run
	limits map[string]int // of the inboxes that messages are sent to, by service
	stands map[routeID]standing
}

// New checks a service and returns an engine for it, which does nothing before Run. The error joins all that is
// wrong.
func New(cfg Config) (*Engine, error) {
	m, err := deja.Compile(cfg.Service)
	if err == nil {
		err = errors.Join(m.CheckPeers(cfg.Peers), checkEffects(m, cfg.Effects))
	}
	if err = errors.Join(err, cfg.check()); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	e := &Engine{cfg: cfg, machine: m, log: cfg.Log, store: cfg.Store, logger: cfg.Logger.With("service", m.Name())}
	e.talks, e.performers = route.NewTopology(m, cfg.Peers), newPerformers(cfg.Effects)
	if _, ok := e.log.(driver.Cursors); !ok && len(e.talks.Targets)+len(e.talks.Sources) > 0 {
		return nil, fmt.Errorf("engine: service %s sends commands or hears events, and this log keeps no cursors, which routing needs", m.Name())
	}
	return e, nil
}

// check returns all that is wrong with a configuration but for its service.
func (cfg *Config) check() error {
	var errs []error
	if cfg.Log == nil {
		errs = append(errs, errors.New("no Log: sqlite.Open(ctx, path) has one"))
	}
	if cfg.Store == nil {
		errs = append(errs, errors.New("no Store: sqlite.Open(ctx, path) has one"))
	}
	if _, ok := cfg.Log.(driver.Grouper); cfg.Group != "" && !ok && cfg.Log != nil {
		errs = append(errs, fmt.Errorf("group %q: this log has no consumer groups; leave Group empty, and the store's leases share the partitions", cfg.Group))
	}
	if _, ok := cfg.Log.(driver.Cursors); (cfg.Publish != "" || len(cfg.Consume) > 0) && !ok && cfg.Log != nil {
		errs = append(errs, errors.New("this log keeps no cursors, which Publish and Consume need"))
	}
	seen := map[string]bool{}
	for _, c := range cfg.Consume {
		errs = append(errs, c.check())
		if seen[c.Topic] {
			errs = append(errs, fmt.Errorf("consume %q: it is there twice, and has one cursor; let one Map make the requests of both", c.Topic))
		}
		seen[c.Topic] = true
	}
	return errors.Join(errs...)
}

// partitions returns the service's partitions, made when the log first tells how many there are.
func (e *Engine) partitions(ctx context.Context) ([]*partition, error) {
	e.mu.Lock()
	made := e.made
	e.mu.Unlock()
	if made != nil {
		return made, nil
	}
	topic, err := e.log.Topic(ctx, wire.Inbox(e.machine.Name()))
	if err != nil {
		return nil, fmt.Errorf("inbox of %s: %w", e.machine.Name(), err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := len(e.made); i < int(topic.Partitions); i++ { // nothing to do if another caller was faster
		e.made = append(e.made, newPartition(e, int32(i)))
	}
	return e.made, nil
}

// Run runs the service until ctx ends, and returns its error; or until no partition is left that it could handle
// because all have halted, and returns an error that wraps [deja.ErrHalted]. Faults of log and store are tried again
// for ever, and logged. When ctx ends, what is under way is finished within seconds, and the partitions are given back,
// so that another process can go on at once. An engine may be run again once Run has returned.
func (e *Engine) Run(ctx context.Context) error {
	if !e.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer e.running.Store(false)
	for _, name := range e.machine.Effects() {
		if e.performers[name] == nil {
			return fmt.Errorf("engine: effect %s has no performer in Effects", name)
		}
	}
	ps, err := e.partitions(ctx)
	for wait := firstPause; err != nil; wait = min(2*wait, longestPause) {
		if err = step.Halt(err); ctx.Err() != nil || errors.Is(err, driver.ErrNotFound) || errors.Is(err, deja.ErrHalted) {
			return err
		}
		e.logger.WarnContext(ctx, "the log cannot be reached; trying again", "error", err)
		sleep(ctx, wait)
		ps, err = e.partitions(ctx)
	}
	e.learnLimits(ctx)
	id := deja.NewID()
	e.mu.Lock()
	e.member = id
	e.mu.Unlock()
	r := &run{
		e: e, ps: ps, member: driver.Member{ID: id, Fold: e.machine.FoldVersion()},
		logger: e.logger.With("member", id), ended: make(chan *job, len(ps)), jobs: map[*partition]*job{},
		halted: map[*partition]error{}, lost: map[*partition]bool{},
	}
	err = r.run(ctx)
	for _, p := range ps {
		p.stopped()
	}
	return err
}

// Client returns the service's client. It works before Run and without it; then another process must decide.
func (e *Engine) Client() deja.Client { return &client{e} }

// Encode makes inbox records of requests, for a store that takes them into an outbox of its own, and returns the topic
// that they are for and the messages' IDs.
func (e *Engine) Encode(rs ...deja.Request) (topic string, recs []driver.Record, ids []deja.ID, err error) {
	ms, ids, err := (&client{e}).outgoings(rs)
	if err != nil {
		return "", nil, nil, err
	}
	for _, m := range ms {
		recs = append(recs, m.record())
	}
	return wire.Inbox(e.machine.Name()), recs, ids, nil
}

func (e *Engine) worker(ctx context.Context, partition int32, member deja.ID) (*step.Worker, error) {
	return step.New(ctx, step.Config{
		Machine: e.machine, Log: e.log, Store: e.store, Partition: partition, Build: Build(), NewNonce: newNonce,
		Owner: member, TTL: ttl, Limit: e.limit, Recent: len(e.talks.Targets)+len(e.performers) > 0,
	})
}

func newNonce() (n [16]byte) {
	_, _ = rand.Read(n[:]) // never fails
	return n
}
