package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja/postgres"
)

// rebuild measures how fast a store that was lost is folded again.
func rebuild(ctx context.Context, b *bench) error {
	s, err := b.stage(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.endToEnd(ctx, "before the loss", b.set.messages, 7, false, ""); err != nil {
		return err
	}
	for range b.set.runs {
		if err := s.rebuild(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) rebuild(ctx context.Context, b *bench) error {
	conn, err := pgx.Connect(ctx, b.set.postgres)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "DROP SCHEMA "+pgx.Identifier{s.schema}.Sanitize()+" CASCADE")
	_ = conn.Close(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	w, err := s.start(ctx, false, b.set.profile)
	if err != nil {
		return err
	}
	defer w.kill()
	if err := s.folded(ctx, b.set.messages, w); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	u, err := w.stop()
	if err != nil {
		return err
	}
	if err := s.check(ctx, b.set.messages); err != nil {
		return err
	}
	b.add("a lost store rebuilt from the journal", "decisions/s", float64(b.set.messages)/took)
	b.add("a lost store rebuilt: CPU of the worker", "µs/decision", u.CPU/float64(b.set.messages)*1e6)
	b.add("a lost store rebuilt: memory of the worker, at most", "MB", u.MaxMB)
	return nil
}

// folded waits until the store has n decisions.
func (s *stage) folded(ctx context.Context, n int, w *process) error {
	for {
		if db, err := postgres.OpenReadOnly(ctx, s.dsn()); err == nil { // until the worker has made the schema
			err := s.foldedIn(ctx, db, n, w)
			_ = db.Close()
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-w.done:
			return fmt.Errorf("the worker ended: %w", w.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *stage) foldedIn(ctx context.Context, db *postgres.DB, n int, w *process) error {
	for {
		var sum int64
		for p := range int32(partitions) {
			at, err := db.Store().Progress(ctx, p)
			if err != nil {
				return err
			}
			sum += at.N
		}
		if sum >= int64(n) {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-w.done:
			return fmt.Errorf("the worker ended: %w", w.err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
