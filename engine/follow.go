package engine

import (
	"context"
	"errors"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// follower reads a partition's own decisions in order, once they are released: from the worker's memory while it keeps up,
// else from the journal. It is not safe for concurrent use.
type follower struct {
	p  *partition
	w  *step.Worker
	at int64           // the number of the last decision that was read
	r  *journal.Reader // while what comes next is not in memory
}

// next returns the next decisions, at least one, and waits for them.
func (f *follower) next(ctx context.Context) ([]*wire.Record, error) {
	for {
		news := f.p.news()
		recs, kept := f.w.Decisions(f.at, batchSize)
		if !kept {
			var err error
			if recs, err = f.reread(ctx); err != nil {
				return nil, err
			}
		}
		if n := len(recs); n > 0 {
			f.at = recs[n-1].N
			return recs, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// reread returns the next decisions from the journal.
func (f *follower) reread(ctx context.Context) ([]*wire.Record, error) {
	e := f.p.e
	name := e.machine.Name()
	if f.r == nil || f.r.Mark().N != f.at {
		mark, err := f.mark(ctx)
		if err != nil {
			return nil, err
		}
		f.r = journal.NewReader(e.log, name, f.p.number, mark)
	}
	_, end, err := e.log.Bounds(ctx, wire.Journal(name), f.p.number)
	if err != nil {
		return nil, err
	}
	entries, err := f.r.Next(ctx, end, batchSize)
	return recordsOf(entries), err
}

func recordsOf(entries []journal.Entry) []*wire.Record {
	recs := make([]*wire.Record, len(entries))
	for i := range entries {
		recs[i] = entries[i].Record
	}
	return recs
}

// mark returns the mark right behind the last decision that was read.
func (f *follower) mark(ctx context.Context) (driver.Logged, error) {
	e := f.p.e
	if f.at == 0 {
		return journal.Begin(ctx, e.log, e.machine.Name(), f.p.number)
	}
	latest := f.w.Progress().Incarnation.Number
	if f.w.Joint() {
		latest = 0
	}
	last, err := journal.Find(ctx, e.log, e.machine.Name(), f.p.number, f.at, latest)
	switch {
	case err == nil:
		return last.After(), nil
	case errors.Is(err, journal.ErrGap): // perhaps retention has taken it, and not what comes next
		if first, err := journal.Begin(ctx, e.log, e.machine.Name(), f.p.number); err == nil && first.N == f.at {
			return first, nil
		}
	}
	return driver.Logged{}, err
}

// news returns a channel that is closed when the worker has committed or released something.
func (p *partition) news() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fresh == nil {
		p.fresh = make(chan struct{})
	}
	return p.fresh
}

// wait waits until something holds that a commit or release can bring about.
func (p *partition) wait(ctx context.Context, holds func() bool) error {
	for {
		news := p.news()
		if holds() {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tellNews closes the channel of those that wait for news. The lock is held.
func (p *partition) tellNews() {
	if p.fresh != nil {
		close(p.fresh)
		p.fresh = nil
	}
}
