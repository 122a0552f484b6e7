package cli

import (
	"context"
	"sync"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
)

// follow lists what is decided from now on, until ctx ends, which is no fault, or as many were listed as are wanted.
func (e *Env) follow(ctx context.Context, db *Database, l *listing, of []extent) error {
	if err := e.readTo(ctx, db, l.read, of); err != nil {
		return err
	}
	outer := ctx
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	type batch struct {
		entries []journal.Entry
		err     error
	}
	come := make(chan batch)
	for p, from := range l.read {
		wg.Go(func() {
			for {
				entries, next, err := e.wait(ctx, db, int32(p), from)
				select {
				case come <- batch{entries, err}:
				case <-ctx.Done():
				}
				if from = next; err != nil || ctx.Err() != nil {
					return
				}
			}
		})
	}
	for {
		if err := e.flush(); err != nil {
			return err
		}
		select {
		case <-outer.Done():
			return nil
		case b := <-come:
			if b.err != nil && outer.Err() == nil {
				return b.err
			}
			for i := range b.entries {
				if more, err := l.take(ctx, &b.entries[i]); err != nil || !more || l.full() {
					return err
				}
			}
		}
	}
}

// readTo returns how far partitions were read: those of which nothing was listed, up to where the list begins.
func (e *Env) readTo(ctx context.Context, db *Database, read []driver.Logged, of []extent) error {
	for p := range read {
		var err error
		switch {
		case read[p].N > 0:
		case of[p].first > 1:
			var d journal.Entry
			if d, err = db.Source.Decision(ctx, int32(p), of[p].first-1); err == nil {
				read[p] = d.After()
			}
		default:
			read[p], err = journal.Begin(ctx, db.Log, e.app.Service.Name, int32(p))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wait waits for the next decisions of a partition.
func (e *Env) wait(ctx context.Context, db *Database, p int32, from driver.Logged) ([]journal.Entry, driver.Logged, error) {
	service := e.app.Service.Name
	r := journal.NewReader(db.Log, service, p, from)
	entries, err := r.Wait(ctx, chunk)
	return entries, r.Mark(), err
}

// flush lets out what was printed.
func (e *Env) flush() error {
	if w, ok := e.Stdout.(interface{ Flush() error }); ok {
		return w.Flush()
	}
	return nil
}
