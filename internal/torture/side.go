//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/replay"
)

// A side is one of the two services: its database, its workers, and this process as its client.
type side struct {
	name   string
	log    *kafka.Log
	direct where   // past the proxies, for those who check
	hands  []*hand // workers
	caller *hand   // no process, but the proxies of the clients
	client deja.Client
	talks  route.Topology

	standstill [partitions]stand
	tally      tally
	hash       replay.Hash // of the states in the end
}

// stand is how a partition moves.
type stand struct {
	position int64
	since    time.Time // nothing has moved though there was something to do; zero: it moves
	outage   bool      // a server was down in the meantime
	worst    time.Duration
	harmed   time.Duration // the worst with a server down in the meantime
}

// newSide makes a service's topics, database and store, and its workers, which are not started yet.
func (r *run) newSide(ctx context.Context, name, program string, workers int) (*side, error) {
	dsn, err := r.s.database(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &side{name: name, log: r.log, direct: where{
		service: name, kafka: r.s.brokers, dsn: dsn, schema: "torture", prefix: prefix, provider: filepath.Join(r.opt.dir, "receipts.json"),
	}}
	if err := r.log.CreateTopics(ctx,
		kafka.TopicConfig{Name: wire.Inbox(name), Partitions: partitions},
		kafka.TopicConfig{Name: wire.Journal(name), Partitions: partitions},
		kafka.TopicConfig{Name: publicTopic(name), Partitions: partitions},
	); err != nil {
		return nil, err
	}
	if s.caller, err = newHand(ctx, r.opt.dir, name+"-client", program, "", s.direct, r.violate); err != nil {
		return nil, err
	}
	for i := range workers {
		h, err := newHand(ctx, r.opt.dir, fmt.Sprintf("%s-%d", name, i+1), program, "worker", s.direct, r.violate)
		if err != nil {
			return nil, err
		}
		s.hands = append(s.hands, h)
	}
	log, db, err := s.caller.place.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(installFence(ctx, dsn), watchLeases(ctx, dsn, s.direct.schema)); err != nil {
		return nil, err
	}
	cfg := config(name, log, db.Store(), nil)
	e, err := engine.New(cfg)
	if err != nil {
		return nil, err
	}
	s.client = e.Client()
	m, err := deja.Compile(cfg.Service)
	if err == nil {
		s.talks = route.NewTopology(m, cfg.Peers)
	}
	return s, err
}

// leases returns how far the partitions are, past all proxies.
func (s *side) leases(ctx context.Context) (ls []driver.Lease, err error) {
	db, err := postgres.OpenReadOnly(ctx, s.direct.dsn, postgres.Schema(s.direct.schema))
	if err != nil {
		return nil, err
	}
	ls, err = db.Store().Leases(ctx)
	return ls, errors.Join(err, db.Close())
}

func (s *side) progress(ctx context.Context) (ls []driver.Lease, ends [partitions]int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if ls, err = s.leases(ctx); err != nil {
		return nil, ends, err
	}
	for n := range int32(partitions) {
		if _, ends[n], err = s.log.Bounds(ctx, wire.Inbox(s.name), n); err != nil {
			return nil, ends, err
		}
	}
	return ls, ends, nil
}

// standing tells how far the partitions are.
func (s *side) standing(ctx context.Context) string {
	ls, ends, err := s.progress(ctx)
	if err != nil {
		return s.name + ": " + err.Error()
	}
	var parts []string
	for _, l := range ls {
		parts = append(parts, fmt.Sprintf("%s/%d: %d of %d, n %d, logged %d, epoch %d, held %t",
			s.name, l.Partition, l.Progress.Position, ends[l.Partition], l.Progress.N, l.Logged.N, l.Epoch, l.Held))
	}
	if open, err := s.open(ctx); err != nil || len(open) > 0 {
		parts = append(parts, fmt.Sprintf("open: %s (%v)", strings.Join(open, ", "), err))
	}
	return strings.Join(parts, "; ")
}

// handled returns how many decisions each partition has, if all that is in the inbox is handled and known to be logged.
func (s *side) handled(ctx context.Context) (ns [partitions]int64, ok bool, err error) {
	ls, ends, err := s.progress(ctx)
	ok = err == nil && len(ls) == partitions
	for _, l := range ls {
		ns[l.Partition] = l.Progress.N
		ok = ok && l.Progress.Position == ends[l.Partition] && l.Logged.N == l.Progress.N
	}
	return ns, ok, err
}

// open returns some of the streams that wait for something, and for what.
func (s *side) open(ctx context.Context) (streams []string, err error) {
	db, err := postgres.OpenReadOnly(ctx, s.direct.dsn, postgres.Schema(s.direct.schema))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for n := range int32(partitions) {
		rows, err := db.Store().Open(ctx, n, deja.Stream{}, 3)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			o, err := wire.DecodeOpen(s.name, row.Stream, row.Open)
			if err != nil {
				return nil, err
			}
			streams = append(streams, fmt.Sprintf("%s (%d timers, %d effects, sent %v, began %s)", row.Stream, len(o.Timers), len(o.Effects), o.Sent, o.Began))
		}
	}
	return streams, nil
}

// carried reports whether all that follows from the decisions of the services' journals, of which each partition has so many, is
// in the inboxes, as far as this service carries it.
func (s *side) carried(ctx context.Context, decided map[string][partitions]int64) (bool, error) {
	at := func(from, to string, n int32) (int64, error) {
		return s.log.Cursor(ctx, route.Reader(s.name, to), wire.Journal(from), n)
	}
	for n := range int32(partitions) {
		for _, to := range s.talks.Targets {
			if n0, err := at(s.name, to, n); err != nil || n0 != decided[s.name][n] {
				return false, err
			}
		}
		for _, from := range s.talks.Sources {
			offset, err := at(from, s.name, n)
			if err != nil {
				return false, err
			}
			if left, err := s.decidedSince(ctx, from, n, offset); left || err != nil {
				return false, err
			}
		}
	}
	return true, nil
}

// decidedSince reports whether there is a decision in a partition of a journal at or after an offset.
func (s *side) decidedSince(ctx context.Context, service string, n int32, offset int64) (bool, error) {
	mark, err := journal.MarkAt(ctx, s.log, service, n, offset)
	if err != nil {
		return false, err
	}
	_, end, err := s.log.Bounds(ctx, wire.Journal(service), n)
	if err != nil {
		return false, err
	}
	entries, err := journal.NewReader(s.log, service, n, mark).Next(ctx, end, 1)
	return len(entries) > 0, err
}

// watch takes a look at the partitions, and returns how much is decided and how much is to be handled.
func (s *side) watch(ctx context.Context, down bool, say func(string, ...any)) (decided, behind int64, err error) {
	ls, ends, err := s.progress(ctx)
	if err != nil {
		for i := range s.standstill {
			s.standstill[i].outage = true
		}
		return 0, 0, err
	}
	for _, l := range ls {
		decided += l.Progress.N
		behind += ends[l.Partition] - l.Progress.Position
		if stood := s.standstill[l.Partition].note(time.Now(), l.Progress.Position, ends[l.Partition], down); stood > 0 {
			say("%s/%d stood still for %s before position %d, with no server down", s.name, l.Partition, stood.Round(time.Millisecond), l.Progress.Position)
		}
	}
	return decided, behind, nil
}

func (s *side) takeovers() (n int64) {
	for _, h := range s.hands {
		n += h.takeovers.Load()
	}
	return n
}

// settled waits until all is at rest: what is in the inboxes is handled and known to be logged, what follows from it is
// carried, and nobody waits for anything.
func (r *run) settled(ctx context.Context) bool {
	for ; ctx.Err() == nil; sleep(ctx, 100*time.Millisecond) {
		if ok, err := r.atRest(ctx); ok && err == nil {
			return true
		}
	}
	return false
}

func (r *run) atRest(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	before, ok, err := r.allHandled(ctx)
	if err != nil || !ok {
		return false, err
	}
	for _, s := range r.sides {
		if open, err := s.open(ctx); err != nil || len(open) > 0 {
			return false, err
		}
		if ok, err := s.carried(ctx, before); err != nil || !ok {
			return false, err
		}
	}
	after, ok, err := r.allHandled(ctx)
	return ok && maps.Equal(before, after), err
}

// allHandled returns what handled does, by service, if all services have.
func (r *run) allHandled(ctx context.Context) (map[string][partitions]int64, bool, error) {
	all := map[string][partitions]int64{}
	for _, s := range r.sides {
		ns, ok, err := s.handled(ctx)
		if err != nil || !ok {
			return nil, false, err
		}
		all[s.name] = ns
	}
	return all, true, nil
}

// standing tells how far all are.
func (r *run) standing(ctx context.Context) string {
	var parts []string
	for _, s := range r.sides {
		parts = append(parts, s.standing(ctx))
	}
	return strings.Join(parts, "; ")
}

// note takes a look at a partition, and returns how long it has stood still if that was worth a word and is over. A
// stand-still counts as one of an outage if there was one at any time of it.
func (s *stand) note(now time.Time, position, end int64, outage bool) (stood time.Duration) {
	switch {
	case position != s.position || position >= end:
		if stood = now.Sub(s.since); s.since.IsZero() || s.outage || stood < worthSaying {
			stood = 0
		}
		s.since, s.outage = time.Time{}, outage
	case s.since.IsZero():
		s.since, s.outage = now, s.outage || outage
	default:
		if s.outage = s.outage || outage; s.outage {
			s.harmed = max(s.harmed, now.Sub(s.since))
		} else {
			s.worst = max(s.worst, now.Sub(s.since))
		}
	}
	s.position = position
	return stood
}

// worthSaying is how long a stand-still is that is told: the leases of a dead process are taken over before.
const worthSaying = 5 * time.Second
