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
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/replay"
)

// conclude checks what the run has left. All must be published before the deadline.
func (r *run) conclude(ctx, deadline context.Context, stopped time.Time) error {
	var wrong []string
	pasts := make([]*past, len(r.sides))
	for i, s := range r.sides {
		p, more, err := readPast(ctx, r.log, s.name)
		if err != nil {
			return err
		}
		pasts[i], wrong = p, append(wrong, more...)
		if more, err = r.published(ctx, deadline, p); err != nil {
			return err
		}
		wrong = append(wrong, more...)
	}
	r.quiet = time.Since(stopped)
	for _, h := range r.processes() {
		h.end(syscall.SIGTERM)
	}
	calls, err := receipt.ReadFile(r.sides[0].direct.provider)
	if err != nil {
		return err
	}
	var more []string
	for i, s := range r.sides {
		s.tally, more = pasts[i].judge()
		wrong = append(wrong, more...)
	}
	r.books, more = keepBooks(pasts[0], pasts[1], calls, r.load)
	wrong = append(append(wrong, more...), pasts[0].checkTold(r.load)...)
	wrong = append(wrong, r.shown()...)
	for _, w := range wrong {
		r.violate("%s", w)
	}
	if !r.lookOnce(ctx) {
		r.violate("the last snapshot could not be taken")
	}
	if len(wrong) > 0 {
		return nil
	}
	if err := r.compareMoney(ctx); err != nil {
		return err
	}
	for i, s := range r.sides {
		if err := r.compareRebuilt(ctx, s, pasts[i]); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// shown returns what is wrong with a run that shows less than it is to.
func (r *run) shown() (wrong []string) {
	t := r.sides[0].tally
	if r.load.dos.Load() == 0 || t.Applied == 0 || t.Rejected == 0 || t.Conflicts == 0 || t.Duplicates == 0 {
		wrong = append(wrong, "nothing was shown: no message was told, applied, refused, a conflict or a duplicate")
	}
	if b := &r.books; b.Finished == 0 || b.TimedOut == 0 || b.Undone == b.TimedOut || b.Barred == 0 || b.Calls == b.Receipts {
		wrong = append(wrong, fmt.Sprintf("not all was shown: no remittance finished, was refused, timed out or came late, or no receipt was asked for twice: %+v", *b))
	}
	return wrong
}

// compareMoney compares the money in the databases with what clients have paid in.
func (r *run) compareMoney(ctx context.Context) error {
	var sums [2]int64
	for i, s := range r.sides {
		holder := holders[s.name]
		query := fmt.Sprintf(`SELECT coalesce(sum((convert_from(data, 'UTF8')::json ->> '%s')::bigint), 0)::bigint FROM %s.deja_states
			WHERE aggregate = '%s' AND version > 0`, holder.field, s.direct.schema, holder.aggregate)
		conn, err := pgx.Connect(ctx, s.direct.dsn)
		if err != nil {
			return err
		}
		err = conn.QueryRow(ctx, query).Scan(&sums[i])
		_ = conn.Close(ctx) // it was only read
		if err != nil {
			return err
		}
	}
	if b := &r.books; sums[0] != b.Held || sums[1] != b.Posted {
		r.violate("money: the accounts' database has %d and the ledger's %d; by the journals it is %d and %d", sums[0], sums[1], b.Held, b.Posted)
	}
	return nil
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

// compareRebuilt compares a store with what the log alone gives: folded in memory, decided again, and in a schema that
// a worker fills that has nothing but the log.
func (r *run) compareRebuilt(ctx context.Context, s *side, p *past) error {
	db, err := s.direct.openStore(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // it was only read
	m, err := deja.Compile(service(s.name))
	if err != nil {
		return err
	}
	hash, err := replay.HashStore(ctx, m, db.Store())
	if err != nil {
		return err
	}
	s.hash = hash
	source, err := replay.Open(ctx, replay.Config{Service: service(s.name), Log: r.log})
	if err != nil {
		return err
	}
	folded, err := source.Fold(ctx, replay.Options{})
	if err != nil {
		return err
	}
	if h, err := folded.Hash(); err != nil || h != hash {
		r.violate("%s: the store's hash is %s, that of the log's decisions %s (%v)", s.name, hash, h, err)
	}
	if source, err = replay.Open(ctx, replay.Config{Service: service(s.name), Log: r.log, Store: db.Store()}); err != nil {
		return err
	}
	verdict, err := source.Verify(ctx, engine.Build(), nil)
	switch {
	case err != nil:
		return fmt.Errorf("verify: %w", err)
	case verdict.First != nil:
		r.violate("%s: decided again: %v", s.name, verdict.First)
	case verdict.Hash != hash:
		r.violate("%s: the store's hash is %s, decided again it is %s", s.name, hash, verdict.Hash)
	case verdict.Judged == 0 && r.opt.broken == "":
		r.violate("%s: nothing was decided again", s.name)
	}
	return r.compareFresh(ctx, s, m, p)
}

func (r *run) compareFresh(ctx context.Context, s *side, m *deja.Machine, p *past) error {
	fresh := s.direct
	fresh.schema = "fresh"
	db, err := fresh.openStore(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // it was only read
	e, err := engine.New(config(s.name, r.log, db.Store(), func(_ context.Context, key deja.ID, m remit.Mail) (string, error) {
		r.violate("a store made from the log alone has effect %s performed again: %+v", key, m)
		return "", errors.New("not while the store is made anew")
	}))
	if err != nil {
		return err
	}
	working, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- e.Run(working) }()
	err = s.rebuilt(ctx, db)
	stop()
	if ran := <-ended; !errors.Is(ran, context.Canceled) {
		err = errors.Join(err, ran)
	}
	if err != nil {
		r.violate("%s: a store made from the log alone: %v", s.name, err)
		return nil
	}
	if h, err := replay.HashStore(ctx, m, db.Store()); err != nil || h != s.hash {
		r.violate("%s: the store's hash is %s, that of one made from the log alone %s (%v)", s.name, s.hash, h, err)
	}
	for _, at := range []*where{&s.direct, &fresh} {
		if err := errors.Join(r.compareRepeats(ctx, at, p), r.compareLedger(ctx, at, p)); err != nil {
			return err
		}
	}
	was, err := tables(ctx, &s.direct)
	if err != nil {
		return err
	}
	is, err := tables(ctx, &fresh)
	if err == nil && was != is {
		r.violate("%s: the projection's rows are not those of a store made from the log alone: %s, %s", s.name, was, is)
	}
	return err
}

// compareRepeats compares what a store has counted with the inbox: each delivery is decided, or counted.
func (r *run) compareRepeats(ctx context.Context, at *where, p *past) error {
	conn, err := pgx.Connect(ctx, at.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it was only read
	rows, err := conn.Query(ctx, "SELECT key, conflict, sum(count)::bigint FROM "+at.schema+".deja_repeats GROUP BY key, conflict")
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
			r.violate("%s: of message %s %d further deliveries were counted (conflicts: %t), and there were %d", at, of.key, count, of.conflict, left[of])
		}
		delete(left, of)
		return nil
	})
	for of, count := range left {
		r.violate("%s: of message %s no further deliveries were counted (conflicts: %t), and there were %d", at, of.key, of.conflict, count)
	}
	return err
}

// compareLedger compares a store's ledger with the journal: it has each decided key, and no other.
func (r *run) compareLedger(ctx context.Context, at *where, p *past) error {
	type line struct {
		partition int32
		off, n    int64
		status    deja.Status
	}
	want := map[deja.ID]line{}
	for n := range p.journal {
		for i := range p.journal[n] {
			if e := &p.journal[n][i]; e.Decided.Status != deja.Conflicted {
				want[wire.LedgerKey(p.service, &e.Cause)] = line{int32(n), e.Cause.Position.Offset, e.N, e.Decided.Status}
			}
		}
	}
	conn, err := pgx.Connect(ctx, at.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it was only read
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		query, err := ledgerQuery(ctx, tx, at.schema)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT key, partition, off, n, status FROM ("+query+") ledger")
		if err != nil {
			return err
		}
		var key [16]byte
		var has line
		_, err = pgx.ForEachRow(rows, []any{&key, &has.partition, &has.off, &has.n, &has.status}, func() error {
			if has != want[key] {
				r.violate("%s: the ledger has of message %s %+v, and the journal %+v", at, deja.ID(key), has, want[key])
			}
			delete(want, key)
			return nil
		})
		for key, l := range want {
			r.violate("%s: the ledger does not have message %s, and the journal %+v", at, key, l)
		}
		return err
	})
}

// rebuilt waits until a store has handled all.
func (s *side) rebuilt(ctx context.Context, db *postgres.DB) error {
	ctx, cancel := context.WithTimeout(ctx, quiescence)
	defer cancel()
	for ctx.Err() == nil {
		ls, err := db.Store().Leases(ctx)
		done := err == nil && len(ls) == partitions
		for i := range ls {
			_, end, err := s.log.Bounds(ctx, wire.Inbox(s.name), ls[i].Partition)
			done = done && err == nil && ls[i].Progress.Position == end
		}
		if done {
			return nil
		}
		sleep(ctx, 100*time.Millisecond)
	}
	return fmt.Errorf("it is not there after %s", quiescence)
}

// tables returns a hash of the projection's rows.
func tables(ctx context.Context, at *where) (string, error) {
	conn, err := pgx.Connect(ctx, at.dsn)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it was only read
	var hash []byte
	err = conn.QueryRow(ctx, `SELECT sha256(convert_to(coalesce(string_agg(line, E'\n' ORDER BY line), ''), 'UTF8')) FROM (
		SELECT e::text AS line FROM `+at.schema+`.torture_entry e UNION ALL SELECT b::text FROM `+at.schema+`.torture_balance b) lines`).Scan(&hash)
	return hex.EncodeToString(hash), err
}
