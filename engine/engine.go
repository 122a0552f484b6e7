// Package engine runs a service: it takes messages from the service's inbox, lets its aggregates decide them, and
// answers the clients that wait. What it decides and writes, and in which order, is the business of the step
// functions below it; here are the goroutines, the clock and the retries around them.
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
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// Config says what an engine runs, and on what. All fields but Logger are required.
type Config struct {
	Service *deja.Service
	Log     driver.Log
	Store   driver.Store
	Logger  *slog.Logger // nil is slog.Default()
}

// ErrRunning is returned by Run while the engine runs already.
var ErrRunning = errors.New("the engine runs already")

// An Engine runs one service. Its methods are safe for concurrent use.
type Engine struct {
	machine *deja.Machine
	log     driver.Log
	store   driver.Store
	logger  *slog.Logger
	running atomic.Bool

	mu   sync.Mutex
	made []*partition // at first use, as the log says how many there are
}

// New checks a service and returns an engine for it, which does nothing before Run. The error joins all that is
// wrong.
func New(cfg Config) (*Engine, error) {
	m, err := deja.Compile(cfg.Service)
	if err == nil {
		err = m.Undeliverable()
	}
	if cfg.Log == nil {
		err = errors.Join(err, errors.New("no Log: sqlite.Open(ctx, path) has one"))
	}
	if cfg.Store == nil {
		err = errors.Join(err, errors.New("no Store: sqlite.Open(ctx, path) has one"))
	}
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Engine{machine: m, log: cfg.Log, store: cfg.Store, logger: cfg.Logger.With("service", m.Name())}, nil
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

// Run runs the service until ctx ends, and returns its error; or until a partition halts, and returns an error that
// wraps [deja.ErrHalted]. Faults of log and store are tried again for ever, and logged. An engine may be run again
// once Run has returned.
func (e *Engine) Run(ctx context.Context) error {
	if !e.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer e.running.Store(false)
	ps, err := e.partitions(ctx)
	for wait := firstPause; err != nil; wait = min(2*wait, longestPause) {
		if err = step.Halt(err); ctx.Err() != nil || errors.Is(err, driver.ErrNotFound) || errors.Is(err, deja.ErrHalted) {
			return err
		}
		e.logger.WarnContext(ctx, "the log cannot be reached; trying again", "error", err)
		sleep(ctx, wait)
		ps, err = e.partitions(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() { cancel(p.run(ctx)) })
	}
	wg.Wait()
	for _, p := range ps {
		p.stopped()
	}
	return context.Cause(ctx)
}

// Client returns the service's client. It works before Run, but nothing is decided then.
func (e *Engine) Client() deja.Client { return &client{e} }

func (e *Engine) worker(ctx context.Context, partition int32) (*step.Worker, error) {
	return step.New(ctx, step.Config{
		Machine: e.machine, Log: e.log, Store: e.store, Partition: partition, Build: Build(), NewNonce: newNonce,
	})
}

func newNonce() (n [16]byte) {
	_, _ = rand.Read(n[:]) // never fails
	return n
}
