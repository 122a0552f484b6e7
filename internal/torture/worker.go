//go:build unix

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
)

// where says what a process works for, and where its log and store are, as it sees them.
type where struct {
	service            string
	kafka, dsn, schema string
	prefix             string // of the topics' names
	provider           string // the file of the receipts' provider
}

// String names the store.
func (p *where) String() string { return p.service + "'s schema " + p.schema }

func (p *where) flags(fs *flag.FlagSet) {
	fs.StringVar(&p.service, "service", "", "the service's `name`")
	fs.StringVar(&p.kafka, "kafka", "", "the broker's `address`, whatever it says of itself")
	fs.StringVar(&p.dsn, "dsn", "", "of the database")
	fs.StringVar(&p.schema, "schema", "", "of the store")
	fs.StringVar(&p.prefix, "prefix", "", "of the topics' names")
	fs.StringVar(&p.provider, "provider", "", "the `file` of the receipts' provider")
}

func (p *where) args() []string {
	return []string{
		"-service=" + p.service, "-kafka=" + p.kafka, "-dsn=" + p.dsn, "-schema=" + p.schema, "-prefix=" + p.prefix, "-provider=" + p.provider,
	}
}

// openLog connects to the broker through p's address and no other.
func (p *where) openLog(ctx context.Context) (*kafka.Log, error) {
	return kafka.Open(ctx, kafka.Config{
		Brokers: []string{p.kafka},
		Topic:   func(name string) string { return p.prefix + name },
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, p.kafka)
		},
	})
}

// segmentRows and keep are small, so that a short run gets to see what long ones do.
const (
	segmentRows = 3000
	keepRecords = 5000
)

func (p *where) openStore(ctx context.Context) (*postgres.DB, error) {
	return postgres.Open(ctx, p.dsn, postgres.Schema(p.schema), postgres.SegmentRows(segmentRows), postgres.Keep(keepRecords, 0))
}

// open tries until ctx ends: servers may be down just now.
func (p *where) open(ctx context.Context) (log *kafka.Log, db *postgres.DB, err error) {
	for {
		try, cancel := context.WithTimeout(ctx, 20*time.Second)
		if log == nil {
			log, err = p.openLog(try)
		}
		if err == nil {
			db, err = p.openStore(try)
		}
		cancel()
		if err == nil {
			return log, db, nil
		}
		slog.WarnContext(ctx, "cannot begin yet", "error", err)
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			if log != nil {
				err = errors.Join(err, log.Close())
			}
			return nil, nil, err
		}
	}
}

// process is what the hidden commands have in common: they end on SIGTERM, and when the process that started them has.
func process(name string, args []string, do func(context.Context, *where, *kafka.Log, *postgres.DB) error) int {
	var p where
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	p.flags(fs)
	if err := fs.Parse(args); err != nil {
		return 2
	}
	slog.SetDefault(slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	log, db, err := p.open(ctx)
	if err == nil {
		err = do(ctx, &p, log, db)
		err = errors.Join(err, db.Close(), log.Close())
	}
	if err != nil && ctx.Err() == nil {
		slog.Error("the process ends", "error", err)
		return 1
	}
	return 0
}

// work runs the service's engine.
func work(ctx context.Context, p *where, log *kafka.Log, db *postgres.DB) error {
	provider, err := receipt.Open(p.provider, providerFaults) // until the process ends: calls that nobody waits for may go on
	if err != nil {
		return err
	}
	cfg := config(p.service, log, db.Store(), mailing(provider))
	cfg.Publish = publicTopic(p.service)
	e, err := engine.New(cfg)
	if err != nil {
		return err
	}
	if err := e.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}

// relay is a second relay of every partition: it publishes again, in order, what the store keeps, holding no lease and
// asking nobody. It begins at what is known to be logged or before, goes on without a gap, and stops at a failure.
func relay(ctx context.Context, p *where, log *kafka.Log, db *postgres.DB) error {
	store := db.Store()
	for n := int32(0); ctx.Err() == nil; n = (n + 1) % partitions {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		sent, err := relayOnce(try, p.service, log, store, n)
		cancel()
		if err != nil {
			slog.WarnContext(ctx, "the second relay stopped", "partition", n, "error", err)
		} else if sent > 0 {
			slog.DebugContext(ctx, "relayed again", "partition", n, "records", sent)
		}
		select {
		case <-time.After(150 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

const relayedAgain = 200 // records at a time, and how far before the logged ones it begins

func relayOnce(ctx context.Context, service string, log driver.Log, store driver.Store, n int32) (int, error) {
	leases, err := store.Leases(ctx)
	if err != nil {
		return 0, err
	}
	for _, l := range leases {
		if l.Partition != n {
			continue
		}
		after := max(0, l.Logged.N-relayedAgain/2)
		kept, err := store.Unlogged(ctx, n, after, relayedAgain)
		if err != nil || len(kept) == 0 || kept[0].N > l.Logged.N+1 {
			return 0, err
		}
		recs := make([]driver.Record, len(kept))
		for i, k := range kept {
			if k.N != kept[0].N+int64(i) {
				return 0, fmt.Errorf("the store keeps decision %d after %d", k.N, kept[0].N+int64(i)-1)
			}
			recs[i] = driver.Record{Partition: n, Value: k.Value, Headers: wire.RecordHeaders(service, n, k.Value)}
		}
		_, err = log.Append(ctx, wire.Journal(service), recs)
		return len(recs), err
	}
	return 0, nil
}
