package main

import (
	"context"
	"fmt"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/wire"
)

func signalContext() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
}

const (
	endToEnd = "one worker, end to end"
	naive    = "one transaction per message, 4 connections"
)

func throughput(ctx context.Context, b *bench) error {
	for i := range b.set.runs {
		profile := ""
		if i == b.set.runs-1 {
			profile = b.set.profile
		}
		if err := b.endToEnd(ctx, endToEnd, b.set.messages, 7, false, profile); err != nil {
			return err
		}
		if err := b.naive(ctx, min(b.set.messages, 20_000)); err != nil {
			return err
		}
	}
	b.ratio("one worker over one transaction per message", endToEnd, naive)
	return nil
}

func projections(ctx context.Context, b *bench) error {
	const with = "one worker, end to end, with a projection"
	n := min(b.set.messages, 300_000)
	const without = "one worker, end to end, without it"
	for range b.set.runs {
		if err := b.endToEnd(ctx, without, n, 7, false, ""); err != nil {
			return err
		}
		if err := b.endToEnd(ctx, with, n, 7, true, ""); err != nil {
			return err
		}
	}
	b.ratio("with a projection over without", with, without)
	return nil
}

// endToEnd measures a worker on a full inbox, until the last decision is acknowledged in the journal.
func (b *bench) endToEnd(ctx context.Context, name string, messages, version int, projection bool, profile string) error {
	s, err := b.stage(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.endToEnd(ctx, name, messages, version, projection, profile)
}

func (s *stage) endToEnd(ctx context.Context, name string, messages, version int, projection bool, profile string) error {
	b := s.b
	sent, err := s.fill(ctx, messages, newID(version))
	if err != nil {
		return err
	}
	began := time.Now()
	w, err := s.start(ctx, projection, profile)
	if err != nil {
		return err
	}
	defer w.kill()
	if err := s.logged(ctx, messages, w); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	u, err := w.stop()
	if err != nil {
		return err
	}
	if err := s.check(ctx, messages); err != nil {
		return err
	}
	b.add(name, "messages/s", float64(sent)/took)
	b.add(name+": CPU of the worker", "µs/message", u.CPU/float64(sent)*1e6)
	b.add(name+": memory of the worker, at most", "MB", u.MaxMB)
	return nil
}

// naive measures what most services do: for each message a transaction that asks for the id, changes the balance and
// inserts the id. It sends nothing on.
func (b *bench) naive(ctx context.Context, messages int) error {
	s, err := b.stage(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	sent, err := s.fill(ctx, messages, deja.NewID)
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, b.set.postgres)
	if err != nil {
		return err
	}
	defer pool.Close()
	schema := pgx.Identifier{s.schema}.Sanitize()
	for _, sql := range []string{
		"CREATE SCHEMA " + schema,
		"CREATE TABLE " + schema + ".seen (id uuid PRIMARY KEY)",
		"CREATE TABLE " + schema + ".balances (account text PRIMARY KEY, balance bigint NOT NULL)",
	} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	var all sync.WaitGroup
	errs := make(chan error, partitions)
	began := time.Now()
	for p := range int32(partitions) {
		all.Go(func() { errs <- s.oneByOne(ctx, pool, schema, p) })
	}
	all.Wait()
	took := time.Since(began).Seconds()
	for range partitions {
		if err := <-errs; err != nil {
			return err
		}
	}
	var sum, want int64
	if err := pool.QueryRow(ctx, "SELECT sum(balance) FROM "+schema+".balances").Scan(&sum); err != nil {
		return err
	}
	for i := range messages {
		_, amount := order(i)
		want += amount
	}
	if sum != want {
		return fmt.Errorf("the naive pattern has %d, the oracle %d", sum, want)
	}
	b.add(naive, "messages/s", float64(sent)/took)
	return nil
}

// oneByOne handles a partition of the inbox, a transaction per message.
func (s *stage) oneByOne(ctx context.Context, pool *pgxpool.Pool, schema string, partition int32) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	at := deja.Position{Topic: wire.Inbox(name), Partition: partition}
	_, end, err := s.log.Bounds(ctx, at.Topic, partition)
	if err != nil {
		return err
	}
	dec := wire.NewDecoder(name)
	for at.Offset < end {
		recs, err := s.log.Fetch(ctx, at, 1000)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			at.Offset = rec.Offset + 1
			env, err := dec.Message(rec.Value)
			if err != nil {
				return err
			}
			if err := handleOne(ctx, conn.Conn(), schema, env); err != nil {
				return err
			}
		}
	}
	return nil
}
