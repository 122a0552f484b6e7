//go:build unix

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/replay"
)

// conclude checks what the run has left. All must be published before the deadline.
func (r *run) conclude(ctx, deadline context.Context, stopped time.Time) error {
	p, wrong, err := readPast(ctx, r.log)
	if err != nil {
		return err
	}
	more, err := r.published(ctx, deadline, p)
	if err != nil {
		return err
	}
	wrong = append(wrong, more...)
	r.quiet = time.Since(stopped)
	for _, h := range r.processes() {
		h.end(syscall.SIGTERM)
	}
	r.tally, more = p.judge()
	wrong = append(append(wrong, more...), p.checkTold(r.load)...)
	if t := &r.tally; r.load.dos.Load() == 0 || t.Applied == 0 || t.Rejected == 0 || t.Conflicts == 0 || t.Duplicates == 0 {
		wrong = append(wrong, "nothing was shown: no message was told, applied, refused, a conflict or a duplicate")
	}
	for _, w := range wrong {
		r.violate("%s", w)
	}
	if !r.lookOnce(ctx) {
		r.violate("the last snapshot could not be taken")
	}
	if len(wrong) > 0 {
		return nil
	}
	return r.compareRebuilt(ctx, p)
}

// published waits until the public topic has all events, and returns what is wrong with it.
func (r *run) published(ctx, deadline context.Context, p *past) ([]string, error) {
	for {
		missing, wrong, err := p.checkPublic(ctx, r.log)
		if err != nil || missing == 0 || len(wrong) > 0 {
			return wrong, err
		}
		select {
		case <-deadline.Done():
			return []string{fmt.Sprintf("%d events are not in the public topic %s after the faults stopped", missing, quiescence)}, nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// compareRebuilt compares the store with what the log alone gives: folded in memory, decided again, and in a schema that
// a worker fills that has nothing but the log.
func (r *run) compareRebuilt(ctx context.Context, p *past) error {
	db, err := r.direct.openStore(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // it was only read
	m, err := deja.Compile(service())
	if err != nil {
		return err
	}
	hash, err := replay.HashStore(ctx, m, db.Store())
	if err != nil {
		return err
	}
	r.hash = hash.String()
	source, err := replay.Open(ctx, replay.Config{Service: service(), Log: r.log})
	if err != nil {
		return err
	}
	folded, err := source.Fold(ctx, replay.Options{})
	if err != nil {
		return err
	}
	if h, err := folded.Hash(); err != nil || h != hash {
		r.violate("the store's hash is %s, that of the log's decisions %s (%v)", hash, h, err)
	}
	if source, err = replay.Open(ctx, replay.Config{Service: service(), Log: r.log, Store: db.Store()}); err != nil {
		return err
	}
	verdict, err := source.Verify(ctx, engine.Build(), nil)
	switch {
	case err != nil:
		return fmt.Errorf("verify: %w", err)
	case verdict.First != nil:
		r.violate("decided again: %v", verdict.First)
	case verdict.Hash != hash:
		r.violate("the store's hash is %s, decided again it is %s", hash, verdict.Hash)
	case verdict.Judged == 0 && r.opt.broken == "":
		r.violate("nothing was decided again")
	}
	return r.compareFresh(ctx, m, p, hash)
}

func (r *run) compareFresh(ctx context.Context, m *deja.Machine, p *past, hash replay.Hash) error {
	fresh := r.direct
	fresh.schema = "fresh"
	db, err := fresh.openStore(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // it was only read
	e, err := engine.New(engine.Config{Service: service(), Log: r.log, Store: db.Store()})
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- e.Run(working) }()
	err = r.rebuilt(ctx, db)
	stop()
	if ran := <-ended; !errors.Is(ran, context.Canceled) {
		err = errors.Join(err, ran)
	}
	if err != nil {
		r.violate("a store made from the log alone: %v", err)
		return nil
	}
	if h, err := replay.HashStore(ctx, m, db.Store()); err != nil || h != hash {
		r.violate("the store's hash is %s, that of one made from the log alone %s (%v)", hash, h, err)
	}
	for _, schema := range []string{r.direct.schema, fresh.schema} {
		if err := r.compareRepeats(ctx, schema, p); err != nil {
			return err
		}
	}
	was, err := r.tables(ctx, r.direct.schema)
	if err != nil {
		return err
	}
	is, err := r.tables(ctx, fresh.schema)
	if err == nil && was != is {
		r.violate("the projection's rows are not those of a store made from the log alone: %s, %s", was, is)
	}
	return err
}

// compareRepeats compares what a store has counted with the inbox: each delivery is decided, or counted.
func (r *run) compareRepeats(ctx context.Context, schema string, p *past) error {
	conn, err := pgx.Connect(ctx, r.direct.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it was only read
	rows, err := conn.Query(ctx, "SELECT key, conflict, sum(count)::bigint FROM "+schema+".deja_repeats GROUP BY key, conflict")
	if err != nil {
		return err
	}
	var (
		key   [16]byte
		of    repeat
		count int64
		left  = maps.Clone(p.repeats)
	)
	_, err = pgx.ForEachRow(rows, []any{&key, &of.conflict, &count}, func() error {
		if of.key = key; left[of] != count {
			r.violate("%s: of message %s %d further deliveries were counted (conflicts: %t), and there were %d", schema, of.key, count, of.conflict, left[of])
		}
		delete(left, of)
		return nil
	})
	for of, count := range left {
		r.violate("%s: of message %s no further deliveries were counted (conflicts: %t), and there were %d", schema, of.key, of.conflict, count)
	}
	return err
}

// rebuilt waits until a store has handled all.
func (r *run) rebuilt(ctx context.Context, db *postgres.DB) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		ls, err := db.Store().Leases(ctx)
		done := err == nil && len(ls) == partitions
		for i := range ls {
			_, end, err := r.log.Bounds(ctx, wire.Inbox(serviceName), ls[i].Partition)
			done = done && err == nil && ls[i].Progress.Position == end
		}
		if done {
			return nil
		}
		sleep(ctx, 100*time.Millisecond)
	}
	return errors.New("it is not there after a minute")
}

// tables returns a hash of the projection's rows.
func (r *run) tables(ctx context.Context, schema string) (string, error) {
	conn, err := pgx.Connect(ctx, r.direct.dsn)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it was only read
	var hash []byte
	err = conn.QueryRow(ctx, `SELECT sha256(convert_to(coalesce(string_agg(line, E'\n' ORDER BY line), ''), 'UTF8')) FROM (
		SELECT e::text AS line FROM `+schema+`.torture_entry e UNION ALL SELECT b::text FROM `+schema+`.torture_balance b) lines`).Scan(&hash)
	return hex.EncodeToString(hash), err
}
