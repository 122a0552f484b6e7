package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
)

const (
	batchSize    = 1500 // messages a transaction
	firstPause   = 10 * time.Millisecond
	longestPause = 5 * time.Second
	maxAhead     = 10 * time.Minute // how far an append time may be ahead of our clock
	barrierPause = 50 * time.Millisecond

	// After a partition was taken over twice without any progress, a message may be killing its process. Then so many
	// messages are handled one by one, each noted before; one that was noted by maxAttempts processes that died is
	// parked.
	carefulFor  = 2000
	maxAttempts = 3
)

// ErrClock is returned by Run when a message was appended in the future: decisions would take its time on, and
// everything after them too. Set the clock of the log or of this machine right, and run again.
var ErrClock = errors.New("a message's append time is more than ten minutes ahead of this machine's clock")

var (
	// errStopped ends the waits of those whose message was not settled when the engine stopped.
	errStopped = errors.New("the engine was stopped")

	// errLost says that another process took a partition over, which is its own then.
	errLost = errors.New("another process has taken the partition over")
)

// partition runs the steps of one partition, and holds those who wait for them.
type partition struct {
	e      *Engine
	number int32
	logger *slog.Logger
	tail   tail

	mu     sync.Mutex
	status status
	lease  holding                 // that it is being handled under
	fence  context.CancelCauseFunc // ends that

	fresh       chan struct{}             // closed at the next commit or release; nil while nobody waits
	unknown     map[deja.ID]UnknownEffect // open effects that must not be tried any more, and of which nobody can tell what became of them
	sagas       *SagaHealth               // what is known of those that wait; nil: nothing
	haltedEpoch int64                     // of the lease under which it halted; 0 if there was none
	taken       chan struct{}             // closed once the partition was taken over in this run, or is another's, or the run has ended
}

func newPartition(e *Engine, number int32) *partition {
	p := &partition{e: e, number: number, logger: e.logger.With("partition", number), taken: make(chan struct{})}
	p.tail.p = p
	return p
}

// run takes the partition over and handles its messages until ctx ends, and gives it back then; or until it halts, and
// returns why; or until another process has it, and returns errLost: to take it back would go on for ever, as the other
// one would do the same. A partition that has halted is kept: nobody else would fare better.
func (p *partition) run(ctx context.Context, member deja.ID) error {
	p.begin()
	pause := firstPause
	var w *step.Worker
	for {
		var err error
		if w == nil {
			w, err = p.e.worker(ctx, p.number, member)
		}
		if err == nil {
			began, position := time.Now(), w.Progress().Position
			if err = p.work(ctx, w); w.Progress().Position > position || time.Since(began) > longestPause {
				pause = firstPause
			}
		}
		if ctx.Err() != nil {
			p.giveBack(w)
			p.note(elsewhere, nil)
			return nil //nolint:nilerr // it was stopped, which is no fault
		}
		if w != nil && w.Lease().Epoch > 0 && p.lost(ctx, member) { // which may be why it failed, whatever the error says
			p.logger.InfoContext(ctx, "another process has taken the partition over", "error", err)
			p.note(elsewhere, nil)
			return errLost
		}
		if err = step.Halt(err); errors.Is(err, deja.ErrHalted) {
			p.logger.ErrorContext(ctx, "partition halted", "error", err)
			p.haltUnder(w)
			p.note(halted, err)
			return fmt.Errorf("partition %d: %w", p.number, err)
		}
		p.logger.WarnContext(ctx, "a fault stopped the partition; trying again", "error", err)
		p.note(fenced, err)
		sleep(ctx, pause/2+rand.N(pause/2+1)) // jitter, so that workers that failed together do not come back together
		pause = min(2*pause, longestPause)
	}
}

// haltUnder notes the lease under which the partition halted.
func (p *partition) haltUnder(w *step.Worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.haltedEpoch = 0; w != nil {
		p.haltedEpoch = w.Lease().Epoch
	}
}

// haltedUnder reports whether a lease is still the one under which the partition halted.
func (p *partition) haltedUnder(l driver.Lease) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.haltedEpoch == 0 || p.haltedEpoch == l.Epoch
}

// lost reports whether another process holds the partition, and is alive.
func (p *partition) lost(ctx context.Context, member deja.ID) bool {
	if _, ok := p.e.store.(driver.Shared); !ok {
		return false
	}
	leases, err := p.e.store.Leases(ctx)
	return err == nil && slices.ContainsFunc(leases, func(l driver.Lease) bool {
		return l.Partition == p.number && l.Held && l.Owner != member
	})
}

// giveBack releases the lease, if there is one.
func (p *partition) giveBack(w *step.Worker) {
	if w == nil || w.Lease().Epoch == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	switch err := w.GiveBack(ctx); {
	case err == nil:
		p.logger.DebugContext(ctx, "partition given back", "position", w.Progress().Position)
	case !errors.Is(err, driver.ErrFenced): // else it is another's already
		p.logger.WarnContext(ctx, "the partition was not given back: it is taken for held until its time runs out", "error", err)
	}
}

// work takes the partition over and handles it until the first error, or until stop ends: then what is under way is
// finished first, if it can be within the grace period.
func (p *partition) work(stop context.Context, w *step.Worker) error {
	began := time.Now()
	p.turn(taking)
	if err := w.Takeover(stop); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	at := w.Progress()
	p.logger.DebugContext(stop, "partition taken over", "position", at.Position, "n", at.N, "epoch", w.Lease().Epoch, "took", time.Since(began))
	if err := p.barrier(stop, w); err != nil {
		return err
	}
	p.takenOver(w)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(stop))
	defer cancel(nil)
	p.under(w.Lease(), cancel)
	defer p.under(driver.Lease{}, nil)
	unhook := context.AfterFunc(stop, func() { time.AfterFunc(grace, func() { cancel(context.Canceled) }) })
	defer unhook()
	var others sync.WaitGroup
	defer others.Wait()
	beside, end := context.WithCancel(stop)
	defer end()
	others.Go(func() { p.beside(beside, w) })
	return newPipeline(stop, ctx, p, w, cancel).run()
}

// holding is what a partition is handled under, and how far it came: what the store must show, or it is another than it was.
type holding struct {
	epoch    int64 // 0: it is not being handled
	nonce    [16]byte
	position int64 // committed
}

// under notes the lease that the partition is handled under, and what ends that.
func (p *partition) under(l driver.Lease, fence context.CancelCauseFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lease, p.fence = holding{epoch: l.Epoch, nonce: l.Nonce}, fence
}

// holds returns what the partition is handled under now.
func (p *partition) holds() holding {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.lease
	h.position = p.status.position
	return h
}

// check ends the work under a lease if the store, asked after the lease was held, shows another one, or less than was
// committed: it was taken over, or made anew, or went back. One that has nothing to write would not notice. While a store
// is made anew, all others wait for it at the barrier.
func (p *partition) check(was holding, leases []driver.Lease) {
	if was.epoch == 0 || slices.ContainsFunc(leases, func(l driver.Lease) bool {
		return l.Partition == p.number && l.Epoch == was.epoch && l.Nonce == was.nonce && l.Progress.Position >= was.position
	}) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lease.epoch == was.epoch && p.lease.nonce == was.nonce {
		p.fence(fmt.Errorf("the store does not show the lease of epoch %d at position %d: %w", was.epoch, was.position, driver.ErrFenced))
	}
}

// barrier waits until all partitions hold what their journals had: the ledger is one, and until then it has gaps.
func (p *partition) barrier(ctx context.Context, w *step.Worker) error {
	told := time.Now()
	for pause := barrierPause; ; pause = min(2*pause, 10*barrierPause) {
		missing, err := w.Ready(ctx)
		if err != nil || len(missing) == 0 {
			return err
		}
		p.turn(waiting)
		if time.Since(told) > 5*time.Second {
			p.logger.InfoContext(ctx, "waiting: the store was made anew, and these partitions have not read their journals yet", "partitions", missing)
			told = time.Now()
		}
		if sleep(ctx, pause); ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// warnOfParked tells an operator of messages whose handler failed; those behind them say nothing new.
func (p *partition) warnOfParked(ctx context.Context, done []step.Settlement) {
	for i := range done {
		if r := done[i].Record; r != nil && r.Decided.Status == deja.Parked && r.Decided.Reason.Code != deja.CodeBlocked {
			p.logger.WarnContext(ctx, "message parked: its key waits for an operator", "message", r.Cause.ID, "key", r.Cause.Stream.String(),
				"type", r.Cause.Type, "reason", r.Decided.Reason.Detail)
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

// ready waits until the partition was taken over in this run, or is another process's.
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

// begin forgets an earlier run's end. Who waits for this run already waits on the channel that is there.
func (p *partition) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.taken:
		p.taken = make(chan struct{})
	default:
	}
	p.status = status{state: taking, moved: time.Now()}
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
	p.open()
	if p.status.state != halted {
		p.status.state = elsewhere
	}
	p.mu.Unlock()
	p.tail.stop(errStopped)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
