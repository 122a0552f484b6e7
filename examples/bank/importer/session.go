package importer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/bank/service"
	"github.com/dejalog/deja/internal/journal"
)

const (
	inboxTopic   = service.Name + ".inbox"
	journalTopic = service.Name + ".journal"
)

const (
	chunkSize = 1000                 // messages sent at once
	pollEvery = 5 * time.Millisecond // while messages are handled
)

// session is an open database with an engine at work on it.
type session struct {
	db     Database
	client deja.Client
	stop   context.CancelFunc
	done   chan struct{} // closed when the engine has stopped
	failed error         // why it did; for whoever saw done closed
	faults *faults
}

// patience is how long an import waits for an engine that reports faults and handles nothing.
const patience = 15 * time.Second

type opener = func(context.Context) (Database, error)

// start opens the database and starts the engine, which runs until the session is closed, whatever becomes of ctx.
func start(ctx context.Context, open opener) (*session, error) {
	db, err := open(ctx)
	if err != nil {
		return nil, err
	}
	seen := &faults{Handler: slog.Default().Handler()}
	eng, err := engine.New(engine.Config{Service: service.Service(), Log: db.Log(), Store: db.Store(), Logger: slog.New(seen)})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &session{db: db, client: eng.Client(), stop: stop, done: make(chan struct{}), faults: seen}
	go func() {
		defer close(s.done)
		s.failed = eng.Run(running)
	}()
	return s, nil
}

// close stops the engine cleanly and closes the database. It may be called twice.
func (s *session) close() error {
	s.stop()
	<-s.done
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return db.Close()
}

// restart closes the session and opens another one. Where it fails, the session that it returns is the closed one.
func (s *session) restart(ctx context.Context, open opener) (*session, error) {
	if err := s.close(); err != nil {
		return s, err
	}
	next, err := start(ctx, open)
	if err != nil {
		return s, fmt.Errorf("restart: %w", err)
	}
	return next, nil
}

// place is a place in the service's history: all messages before it are decided.
type place struct {
	inbox   int64 // offset
	journal driver.Logged
}

// place returns where the service is, which must have settled.
func (s *session) place(ctx context.Context) (place, error) {
	at, err := s.db.Store().Progress(ctx, 0)
	if err != nil {
		return place{}, err
	}
	_, end, err := s.db.Log().Bounds(ctx, journalTopic, 0)
	if err != nil {
		return place{}, err
	}
	return place{at.Position, driver.Logged{Offset: end, N: at.N, Chain: at.Chain, Incarnation: at.Incarnation}}, nil
}

// settle waits until the engine has handled all that is in the inbox now.
func (s *session) settle(ctx context.Context, progress func(position int64)) error {
	_, end, err := s.db.Log().Bounds(ctx, inboxTopic, 0)
	if err != nil {
		return err
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	handled, moved := int64(-1), time.Now()
	for {
		at, err := s.db.Store().Progress(ctx, 0)
		if err != nil {
			return err
		}
		progress(at.Position)
		if at.Position >= end {
			return nil
		}
		if at.Position > handled {
			handled, moved = at.Position, time.Now()
		} else if err := s.faults.since(moved); err != nil && time.Since(moved) > patience {
			return fmt.Errorf("nothing was handled for %s: %w", patience, err)
		}
		select {
		case <-poll.C:
		case <-s.done:
			return fmt.Errorf("the engine stopped: %w", s.failed)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// count counts the decisions between two places by what was decided. Of a duplicate there is no decision.
func (s *session) count(ctx context.Context, from, to place) (Report, error) {
	var r Report
	journal := journal.NewReader(s.db.Log(), service.Name, 0, from.journal)
	for {
		decisions, err := journal.Next(ctx, to.journal.Offset, chunkSize)
		if err != nil {
			return r, err
		}
		if len(decisions) == 0 {
			break
		}
		for _, d := range decisions {
			r.add(d.Decided.Status)
		}
	}
	r.Duplicates = (to.inbox - from.inbox) - (to.journal.N - from.journal.N)
	return r, nil
}
