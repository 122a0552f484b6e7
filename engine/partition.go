package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
)

const (
	batchSize    = 1000 // messages a transaction
	firstPause   = 10 * time.Millisecond
	longestPause = 5 * time.Second
	maxAhead     = 10 * time.Minute // how far an append time may be ahead of our clock
)

// ErrClock is returned by Run when a message was appended in the future: decisions would take its time on, and
// everything after them too. Set the clock of the log or of this machine right, and run again.
var ErrClock = errors.New("a message's append time is more than ten minutes ahead of this machine's clock")

// errStopped is what Do answers when the engine stops before the message is settled.
var errStopped = fmt.Errorf("%w (the engine was stopped)", deja.ErrPending)

// partition runs the steps of one partition, and holds those who wait for them.
type partition struct {
	e      *Engine
	number int32
	logger *slog.Logger

	mu       sync.Mutex
	released int64 // every decision up to it is logged
	told     int64 // every inbox offset below it is settled, and its outcome released
	waiting  map[int64]chan *step.Settlement
	taken    chan struct{} // closed once the partition was taken over in this run, or the run has ended
	halted   error
}

func newPartition(e *Engine, number int32) *partition {
	return &partition{
		e: e, number: number, logger: e.logger.With("partition", number), waiting: map[int64]chan *step.Settlement{},
		taken: make(chan struct{}),
	}
}

// run takes the partition over and handles its messages until ctx ends or it halts.
func (p *partition) run(ctx context.Context) error {
	p.setHalted(nil)
	pause := firstPause
	var w *step.Worker
	for {
		if w == nil {
			made, err := p.e.worker(ctx, p.number)
			if err != nil && p.stop(ctx, err) {
				return step.Halt(err)
			}
			w = made
		}
		if w != nil {
			began := w.Progress().Position
			err := p.work(ctx, w)
			if p.stop(ctx, err) {
				return step.Halt(err)
			}
			if w.Progress().Position > began {
				pause = firstPause
			}
		}
		sleep(ctx, pause/2+rand.N(pause/2+1)) // jitter, so that workers that failed together do not come back together
		pause = min(2*pause, longestPause)
	}
}

// stop decides whether an error ends the run, and notes why for those who wait.
func (p *partition) stop(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	err = step.Halt(err)
	if errors.Is(err, deja.ErrHalted) {
		p.logger.ErrorContext(ctx, "partition halted", "error", err)
		p.setHalted(err)
		return true
	}
	p.logger.WarnContext(ctx, "a fault stopped the partition; trying again", "error", err)
	return false
}

// work takes the partition over and handles it until the first error.
func (p *partition) work(ctx context.Context, w *step.Worker) error {
	began := time.Now()
	if err := w.Takeover(ctx); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	at := w.Progress()
	p.logger.DebugContext(ctx, "partition taken over", "position", at.Position, "n", at.N, "took", time.Since(began))
	ctx, cancel := context.WithCancel(ctx)
	var fetching sync.WaitGroup
	defer fetching.Wait()
	defer cancel()
	ready := make(chan fetched, 1)
	fetching.Go(func() { p.fetch(ctx, w.Position(), ready) })
	if err := p.settle(ctx, w, nil); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-ready:
			if f.err != nil {
				return f.err
			}
			done, err := w.Handle(ctx, f.ms)
			p.warnOfParked(ctx, done)
			if err != nil {
				return err
			}
			if err := p.settle(ctx, w, done); err != nil {
				return err
			}
		}
	}
}

// warnOfParked tells an operator of messages whose handler failed; those behind them say nothing new.
func (p *partition) warnOfParked(ctx context.Context, done []step.Settlement) {
	for i := range done {
		if r := done[i].Record; r != nil && r.Decided.Status == deja.Parked && r.Decided.Reason.Code == deja.CodeFailed {
			p.logger.WarnContext(ctx, "message parked: its key waits for an operator", "message", r.Cause.ID, "key", r.Cause.Stream.String(),
				"type", r.Cause.Type, "reason", r.Decided.Reason.Detail)
		}
	}
}

// settle logs what was decided, and then tells it.
func (p *partition) settle(ctx context.Context, w *step.Worker, done []step.Settlement) error {
	if err := w.Relay(ctx); err != nil {
		return err
	}
	if err := w.Release(ctx); err != nil {
		return err
	}
	if w.Released() == w.Progress().N {
		p.tell(w.Progress(), done)
	}
	return nil
}

// fetched is a batch made ready, or why there is none.
type fetched struct {
	ms  []step.Message
	err error
}

// fetch reads and prepares batches ahead of the worker, one at a time, until ctx ends or reading fails.
func (p *partition) fetch(ctx context.Context, from deja.Position, ready chan<- fetched) {
	prepare := step.NewPreparer(p.e.machine)
	for ctx.Err() == nil {
		recs, err := p.e.log.Fetch(ctx, from, batchSize)
		f := fetched{err: err}
		if err != nil {
			f.err = fmt.Errorf("fetch %s: %w", from, step.Halt(err))
		} else {
			from.Offset = recs[len(recs)-1].Offset + 1
			f.err = checkClock(recs)
			f.ms = prepare.Prepare(recs)
		}
		select {
		case ready <- f:
		case <-ctx.Done():
		}
		if f.err != nil {
			return
		}
	}
}

// checkClock refuses a batch with a record from the future.
func checkClock(recs []driver.Record) error {
	limit := time.Now().Add(maxAhead)
	for _, r := range recs {
		if r.Time.After(limit) {
			return fmt.Errorf("%w: %w: %s at offset %d", deja.ErrHalted, ErrClock, r.Time, r.Offset)
		}
	}
	return nil
}

// tell releases the outcomes of all messages below the handled position.
func (p *partition) tell(at driver.Progress, done []step.Settlement) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told, p.released = at.Position, at.N
	p.open()
	if len(p.waiting) == 0 {
		return
	}
	for i := range done {
		if ch, ok := p.waiting[done[i].Offset]; ok {
			ch <- &done[i]
			delete(p.waiting, done[i].Offset)
		}
	}
	for offset, ch := range p.waiting { // settled by a transaction whose commit looked failed
		if offset < p.told {
			close(ch)
			delete(p.waiting, offset)
		}
	}
}

// hasReleased reports whether a decision is known to be logged.
func (p *partition) hasReleased(n int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return n <= p.released
}

// wait returns the settlement of the message at an inbox offset once it is released: nil if the ledger must be asked.
func (p *partition) wait(ctx context.Context, offset int64) (*step.Settlement, error) {
	p.mu.Lock()
	if offset < p.told {
		p.mu.Unlock()
		return nil, nil
	}
	if p.halted != nil {
		defer p.mu.Unlock()
		return nil, p.halted
	}
	ch := make(chan *step.Settlement, 1)
	p.waiting[offset] = ch
	p.mu.Unlock()
	select {
	case s := <-ch:
		p.mu.Lock()
		defer p.mu.Unlock()
		if offset < p.told {
			return s, nil
		}
		return nil, cmp.Or(p.halted, errStopped)
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.waiting, offset)
		return nil, fmt.Errorf("%w (%w)", deja.ErrPending, ctx.Err())
	}
}

// ready waits until the partition was taken over in this run.
func (p *partition) ready(ctx context.Context) error {
	p.mu.Lock()
	taken := p.taken
	p.mu.Unlock()
	select {
	case <-taken:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// open lets those in who wait for the take-over. The lock is held.
func (p *partition) open() {
	select {
	case <-p.taken:
	default:
		close(p.taken)
	}
}

// stopped ends the waits of this run: the next one may be long in coming.
func (p *partition) stopped() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open()
	for offset, ch := range p.waiting {
		close(ch)
		delete(p.waiting, offset)
	}
}

// setHalted notes why the partition stopped, and wakes those who wait.
func (p *partition) setHalted(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.halted = err
	if err == nil { // a run begins; who waits for it already waits on the channel that is there
		select {
		case <-p.taken:
			p.taken = make(chan struct{})
		default:
		}
		return
	}
	p.open()
	for offset, ch := range p.waiting {
		close(ch)
		delete(p.waiting, offset)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
