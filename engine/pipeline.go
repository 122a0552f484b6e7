package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
)

const (
	flights       = 1              // batches that are decided and not yet committed
	maxUnreleased = 20 * batchSize // decisions that are committed and not yet logged, before commits wait for the relay
	noteEvery     = time.Second    // how often the store is told how far the journal was read back
	readBackTime  = time.Minute    // for what was appended to be read; then the journal has lost it, and a take-over appends it again
)

// pipeline handles a partition that was taken over: one goroutine fetches and prepares, one decides, one commits, one
// logs and reads back. Each may be a batch or two ahead of the next, so that nobody waits for a disk or a network
// alone, and what is in memory is bounded. The first error ends all of it.
type pipeline struct {
	p    *partition
	w    *step.Worker
	stop context.Context //nolint:containedctx // ends the taking of new work
	ctx  context.Context //nolint:containedctx // ends the work that is under way
	fail context.CancelCauseFunc

	until     int64 // see carefulUntil
	ready     chan fetched
	batches   chan *step.Batch
	flying    chan struct{} // a slot for each batch that is decided and not committed
	committed chan struct{} // wakes the relay; closed after the last commit
	released  chan struct{} // wakes a commit that waits for the relay
}

// fetched is a batch made ready; or one of which each message is to be made ready alone.
type fetched struct {
	ms      []step.Message
	careful []driver.Record
}

func newPipeline(stop, ctx context.Context, p *partition, w *step.Worker, fail context.CancelCauseFunc) *pipeline {
	return &pipeline{
		p: p, w: w, stop: stop, ctx: ctx, fail: fail,
		until: carefulUntil(w.Lease()), ready: make(chan fetched), batches: make(chan *step.Batch), flying: make(chan struct{}, flights),
		committed: make(chan struct{}, 1), released: make(chan struct{}, 1),
	}
}

// run returns the first error; after a stop, nil or what kept the work from being finished.
func (l *pipeline) run() error {
	var all sync.WaitGroup
	from := l.w.Position()
	part := func(name string, fn func() error) {
		all.Go(func() {
			if err := fn(); err != nil {
				l.fail(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("fetch", func() error { return l.fetch(from) })
	var writers sync.WaitGroup
	writers.Add(2)
	part("decide", func() error { defer writers.Done(); return l.decide() })
	part("commit", func() error { defer writers.Done(); return l.commit() })
	if !l.w.Joint() {
		part("log", l.relay)
		all.Go(func() { writers.Wait(); close(l.committed) })
	}
	all.Wait()
	return context.Cause(l.ctx)
}

// fetch reads and prepares batches ahead of the worker until it is to stop.
func (l *pipeline) fetch(from deja.Position) error {
	defer close(l.ready)
	ctx, cancel := context.WithCancel(l.stop)
	defer cancel()
	unhook := context.AfterFunc(l.ctx, cancel)
	defer unhook()
	prepare := step.NewPreparer(l.p.e.machine, l.w.Partitions())
	for ctx.Err() == nil {
		recs, err := l.p.e.log.Fetch(ctx, from, batchSize)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		if err := checkClock(recs); err != nil {
			return err
		}
		l.p.arrived(from.Offset)
		from.Offset = recs[len(recs)-1].Offset + 1
		f := fetched{careful: recs}
		if recs[0].Offset >= l.until {
			f = fetched{ms: prepare.Prepare(recs)}
		}
		select {
		case l.ready <- f:
		case <-ctx.Done():
		}
	}
	return nil
}

// decide makes batches of what was fetched.
func (l *pipeline) decide() error {
	defer close(l.batches)
	prepare := step.NewPreparer(l.p.e.machine, l.w.Partitions())
	for f := range l.ready {
		for i := range f.careful {
			if l.stop.Err() != nil || l.ctx.Err() != nil {
				return nil
			}
			if err := l.alone(func() error { return l.attempt(prepare, &f.careful[i]) }); err != nil {
				return err
			}
		}
		ms := f.ms
		for len(ms) > 0 {
			if l.stop.Err() != nil || l.ctx.Err() != nil {
				return nil
			}
			n, err := l.next(ms)
			if err != nil {
				return err
			}
			ms = ms[n:]
		}
	}
	return nil
}

// next decides the first of the messages, and returns how many that were.
func (l *pipeline) next(ms []step.Message) (int, error) {
	n := step.Run(ms)
	if n == 0 { // an operator's act
		return 1, l.alone(func() error { return l.handle(ms[:1]) })
	}
	select {
	case l.flying <- struct{}{}:
	case <-l.ctx.Done():
		return n, nil
	}
	b, err := l.w.Decide(l.ctx, ms[:n])
	if err != nil {
		return n, err
	}
	select {
	case l.batches <- b:
	case <-l.ctx.Done():
	}
	return n, nil
}

// alone does something while nothing is under way.
func (l *pipeline) alone(do func() error) error {
	for range flights {
		select {
		case l.flying <- struct{}{}:
		case <-l.ctx.Done():
			return nil
		}
	}
	defer func() {
		for range flights {
			<-l.flying
		}
	}()
	return do()
}

// carefulUntil returns the inbox offset below which messages are handled alone, as one of them seems to kill the process.
func carefulUntil(l driver.Lease) int64 {
	if l.Tries > 2 {
		return max(l.Careful, l.Progress.Position+carefulFor)
	}
	return l.Careful
}

// attempt handles a message, or parks it if it has killed too many processes. It is noted before anything of the user's
// sees it, also what decodes it.
func (l *pipeline) attempt(prepare *step.Preparer, rec *driver.Record) error {
	died, err := l.w.Attempt(l.ctx, rec.Offset, l.until)
	if err != nil {
		return fmt.Errorf("note an attempt: %w", err)
	}
	if died >= maxAttempts {
		return l.handle([]step.Message{prepare.Killed(rec, died)})
	}
	return l.handle(prepare.Prepare([]driver.Record{*rec}))
}

// handle decides and commits messages, with nothing else under way.
func (l *pipeline) handle(ms []step.Message) error {
	done, err := l.w.Handle(l.ctx, ms)
	l.settled(done)
	return err
}

// settled tells of what was committed.
func (l *pipeline) settled(done []step.Settlement) {
	l.p.warnOfParked(l.ctx, done)
	l.p.moved(l.w)
	if l.w.Joint() {
		return
	}
	select {
	case l.committed <- struct{}{}:
	default:
	}
}

// commit writes batches in their order.
func (l *pipeline) commit() error {
	for b := range l.batches {
		for l.w.Progress().N-l.w.Released() > maxUnreleased && !l.w.Joint() {
			select {
			case <-l.released:
			case <-l.ctx.Done():
				return nil
			}
		}
		done, err := l.w.Commit(l.ctx, b)
		if err != nil {
			return err
		}
		l.settled(done)
		<-l.flying
	}
	return nil
}

// relay logs what was committed, and reads it back.
func (l *pipeline) relay() error {
	note := time.NewTicker(noteEvery)
	defer note.Stop()
	for more := true; more; {
		if err := l.log(); err != nil {
			return err
		}
		l.p.moved(l.w)
		select {
		case l.released <- struct{}{}:
		default:
		}
		select {
		case _, more = <-l.committed:
		case <-note.C:
			if err := l.w.Note(l.ctx); err != nil {
				return err
			}
		case <-l.ctx.Done():
			return nil
		}
	}
	if err := l.log(); err != nil { // what came last
		return err
	}
	return l.w.Note(l.ctx)
}

// log relays, and reads back. Behind an error it reads no further: what follows there would be taken for a fork.
func (l *pipeline) log() error {
	if err := l.w.Relay(l.ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(l.ctx, readBackTime)
	defer cancel()
	return l.w.Release(ctx)
}
