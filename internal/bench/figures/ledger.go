package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/sqlite"
)

// ledgers measures the same work on an empty ledger and on a full one, in turn.
func ledgers(ctx context.Context, b *bench) error {
	n := min(b.set.messages, 300_000)
	for range b.set.runs {
		for _, version := range []int{7, 4} {
			for _, rows := range []int{0, b.set.ledger} {
				if err := b.onLedger(ctx, version, rows, n); err != nil {
					return err
				}
				if err := b.embedded(ctx, version, rows, n/2); err != nil {
					return err
				}
			}
		}
	}
	for _, on := range []string{"Kafka + Postgres", "embedded"} {
		for _, version := range []int{7, 4} {
			b.ratio(fmt.Sprintf("%s, v%d ids: full ledger over empty", on, version),
				ledgerName(on, version, b.set.ledger), ledgerName(on, version, 0))
		}
	}
	return nil
}

func ledgerName(on string, version, rows int) string {
	return fmt.Sprintf("%s, v%d ids, ledger of %d M rows", on, version, rows/1_000_000)
}

func (b *bench) onLedger(ctx context.Context, version, rows, messages int) error {
	s, err := b.stage(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	db, err := postgres.Open(ctx, s.dsn())
	if err != nil {
		return err
	}
	filled := fillLedger(ctx, s.log, db.Store(), rows, newID(version))
	if err := errors.Join(filled, db.Close()); err != nil {
		return err
	}
	return s.endToEnd(ctx, ledgerName("Kafka + Postgres", version, rows), messages, version, false, "")
}

// fillLedger makes a ledger old: of messages that nobody sent, in the transactions that a worker makes.
func fillLedger(ctx context.Context, log driver.Log, store driver.Store, rows int, id func() deja.ID) error {
	if rows == 0 {
		return nil
	}
	inbox, err := log.Topic(ctx, wire.Inbox(name))
	if err != nil {
		return err
	}
	journal, err := log.Topic(ctx, wire.Journal(name))
	if err != nil {
		return err
	}
	lease, err := store.Acquire(ctx, driver.Assignment{Inbox: inbox, Journal: journal})
	if err != nil {
		return err
	}
	const chunk = 20_000
	es := make([]driver.Entry, 0, chunk)
	for done := 0; done < rows; done += len(es) {
		es = es[:0]
		for range min(chunk, rows-done) {
			es = append(es, driver.Entry{Key: id(), Hash: [32]byte{1}, Status: deja.Applied})
		}
		if err := insert(ctx, store, lease, es); err != nil {
			return err
		}
	}
	return nil
}

func insert(ctx context.Context, store driver.Store, lease driver.Lease, es []driver.Entry) error {
	keys := make([]deja.ID, len(es))
	for i := range es {
		keys[i] = es[i].Key
	}
	_, asked, err := store.Lookup(ctx, keys[:1])
	if err != nil {
		return err
	}
	tx, err := store.Begin(ctx, lease)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := tx.Write(ctx, &driver.Batch{Ledger: es, Asked: asked}); err != nil {
		return err
	}
	if err := tx.Advance(ctx, lease.Progress, lease.Progress); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// embedded measures the embedded engine on a ledger, from a full inbox to the last commit.
func (b *bench) embedded(ctx context.Context, version, rows, messages int) error {
	dir, err := os.MkdirTemp("", "deja-figures-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	db, err := sqlite.Open(ctx, filepath.Join(dir, "bench.db"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	if err := fillLedger(ctx, db.Log(), db.Store(), rows, newID(version)); err != nil {
		return err
	}
	eng, err := engine.New(engine.Config{Service: service(false), Log: db.Log(), Store: db.Store(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	sent, err := (&stage{b: b}).sendTo(ctx, eng.Client(), messages, newID(version))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	began := time.Now()
	go func() { ran <- eng.Run(ctx) }()
	for {
		at, err := db.Store().Progress(ctx, 0)
		if err != nil {
			return err
		}
		if at.Position >= int64(sent) {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	took := time.Since(began).Seconds()
	stop()
	if err := <-ran; !errors.Is(err, context.Canceled) {
		return err
	}
	if err := checkStore(context.WithoutCancel(ctx), db.Store(), messages); err != nil {
		return err
	}
	b.add(ledgerName("embedded", version, rows), "messages/s", float64(sent)/took)
	return nil
}
