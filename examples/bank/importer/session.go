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

// session is an open database with an engine at work on it, here or in other processes.
type session struct {
	db     Database
	client deja.Client
	stop   context.CancelFunc
	done   chan struct{} // closed when the engine has stopped; nil if it is not here
	failed error         // why it did; for whoever saw done closed
	faults *faults
}

// patience is how long an import waits for an engine that reports faults and handles nothing.
const patience = 15 * time.Second

type opener = func(context.Context) (Database, error)

// start opens the database and starts the engine, which runs until the session is closed, whatever becomes of ctx; or
// none, where others run the service.
func start(ctx context.Context, open opener, elsewhere bool) (*session, error) {
	db, err := open(ctx)
	if err != nil {
		return nil, err
	}
	seen := &faults{Handler: slog.Default().Handler()}
	eng, err := engine.New(engine.Config{Service: service.Service(), Log: db.Log(), Store: db.Store(), Logger: slog.New(seen)})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if elsewhere {
		return &session{db: db, client: eng.Client(), stop: func() {}, faults: seen}, nil
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
	if s.done != nil {
		<-s.done
	}
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return db.Close()
}

// restart closes the session and opens another one. Where it fails, the session that it returns is the closed one.
func (s *session) restart(ctx context.Context, open opener) (*session, error) {
	elsewhere := s.done == nil
	if err := s.close(); err != nil {
		return s, err
	}
	next, err := start(ctx, open, elsewhere)
	if err != nil {
		return s, fmt.Errorf("restart: %w", err)
	}
	return next, nil
}

// place is a place in the service's history, partition by partition: all messages before it are decided.
type place []struct {
	inbox   int64 // offset
	journal driver.Logged
}

// handled returns how many inbox offsets are before it.
func (p place) handled() (sum int64) {
	for _, at := range p {
		sum += at.inbox
	}
	return sum
}

// partitions returns how many partitions the service has.
func (s *session) partitions(ctx context.Context) (int32, error) {
	t, err := s.db.Log().Topic(ctx, inboxTopic)
	return t.Partitions, err
}

// place returns where the service is, which must have settled.
func (s *session) place(ctx context.Context) (place, error) {
	n, err := s.partitions(ctx)
	if err != nil {
		return nil, err
	}
	here := make(place, n)
	for p := range here {
		at, err := s.db.Store().Progress(ctx, int32(p))
		if err != nil {
			return nil, err
		}
		_, end, err := s.db.Log().Bounds(ctx, journalTopic, int32(p))
		if err != nil {
			return nil, err
		}
		here[p].inbox = at.Position
		here[p].journal = driver.Logged{Offset: end, N: at.N, Chain: at.Chain, Incarnation: at.Incarnation}
	}
	return here, nil
}

// position returns how many inbox offsets are handled, in all partitions.
func (s *session) position(ctx context.Context) (sum int64, err error) {
	n, err := s.partitions(ctx)
	for p := range n {
		at, err := s.db.Store().Progress(ctx, p)
		if err != nil {
			return sum, err
		}
		sum += at.Position
	}
	return sum, err
}

// end returns how many inbox offsets there are, in all partitions.
func (s *session) end(ctx context.Context) (sum int64, err error) {
	n, err := s.partitions(ctx)
	for p := range n {
		_, end, err := s.db.Log().Bounds(ctx, inboxTopic, p)
		if err != nil {
			return sum, err
		}
		sum += end
	}
	return sum, err
}

// settle waits until all that is in the inbox now is handled.
func (s *session) settle(ctx context.Context, progress func(position int64)) error {
	end, err := s.end(ctx)
	if err != nil {
		return err
	}
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	handled, moved := int64(-1), time.Now()
	for {
		at, err := s.position(ctx)
		if err != nil {
			return err
		}
		progress(at)
		if at >= end {
			return nil
		}
		if at > handled {
			handled, moved = at, time.Now()
		} else if err := s.faults.since(moved); err != nil && time.Since(moved) > patience {
			return fmt.Errorf("nothing was handled for %s: %w", patience, err)
		}
		if s.done == nil && time.Since(moved) > 2*patience {
			return fmt.Errorf("nothing was handled for %s: is no process running the service?", 2*patience)
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
	r := Report{Duplicates: to.handled() - from.handled()}
	for p := range to {
		if err := s.countPartition(ctx, int32(p), from[p].journal, to[p].journal.N, &r); err != nil {
			return r, err
		}
		r.Duplicates -= to[p].journal.N - from[p].journal.N
	}
	return r, nil
}

// countPartition reads the decisions after a mark, up to the last one: where log and store are two, it may be on its way.
func (s *session) countPartition(ctx context.Context, partition int32, from driver.Logged, last int64, r *Report) error {
	journal := journal.NewReader(s.db.Log(), service.Name, partition, from)
	for journal.Mark().N < last {
		decisions, err := journal.Wait(ctx, chunkSize)
		if err != nil {
			return err
		}
		for _, d := range decisions {
			if d.N <= last {
				r.add(d.Decided.Status)
			}
		}
	}
	return nil
}
