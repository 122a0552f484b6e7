// Package importer takes bank transactions into the service, as they come or on purpose in the bad ways that a
// network has: some delivered again later, some only after a restart, some IDs used again for other content.
package importer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/examples/bank/berka"
	"github.com/dejalog/deja/sqlite"
)

// A Database is a log and a store, such as a [sqlite.DB] is in one.
type Database interface {
	// Log returns the log.
	Log() driver.Log
	// Store returns the store.
	Store() driver.Store
	// Close closes both.
	Close() error
}

// File returns how to open the database in a file, which is created if there is none.
func File(path string) func(context.Context) (Database, error) {
	return func(ctx context.Context) (Database, error) { return sqlite.Open(ctx, path) }
}

// Config says what is imported, and how badly it is delivered. Open and Transactions are required.
type Config struct {
	Open         func(context.Context) (Database, error) // called again for a restart
	Transactions iter.Seq2[berka.Transaction, error]     // read once, one by one
	Elsewhere    bool                                    // other processes run the service: this one only sends

	Redeliver float64 // the part of the messages that is delivered twice, 0 to 1
	Conflicts int     // how many IDs are used again with another amount
	Seed      uint64  // of the choice of both; the same seed chooses the same

	// Progress is called now and then with how many messages were handled and sent so far.
	Progress func(handled, sent int64)
}

// maxConflicts bounds what is remembered of a run's messages.
const maxConflicts = 10_000

func (cfg *Config) validate() error {
	var errs []error
	if cfg.Open == nil {
		errs = append(errs, errors.New("no Open: File(path) opens a file"))
	}
	if cfg.Transactions == nil {
		errs = append(errs, errors.New("no Transactions"))
	}
	if !(cfg.Redeliver >= 0 && cfg.Redeliver <= 1) {
		errs = append(errs, fmt.Errorf("redeliver: %v, want 0 to 1", cfg.Redeliver))
	}
	if cfg.Conflicts < 0 || cfg.Conflicts > maxConflicts {
		errs = append(errs, fmt.Errorf("conflicts: %d, want 0 to %d", cfg.Conflicts, maxConflicts))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	return nil
}

// Run imports the transactions, waits until all are handled, and reports. A row that cannot be read ends the import:
// what came before it is imported and reported, and its error returned. When ctx ends, or anything else fails, Run
// stops as soon as it can. Nothing is lost or done twice then: the same import, run again, goes on.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if err := cfg.validate(); err != nil {
		return Report{}, err
	}
	if cfg.Progress == nil {
		cfg.Progress = func(int64, int64) {}
	}
	r := run{cfg: cfg, mess: newMess(cfg)}
	report, err := r.run(ctx)
	if err != nil {
		return report, fmt.Errorf("import: %w", err)
	}
	return report, nil
}

// run is an import at work.
type run struct {
	cfg  Config
	mess *mess
	from place // where the service was before the first message
	sent int64
}

func (r *run) run(ctx context.Context) (report Report, err error) {
	s, err := start(ctx, r.cfg.Open, r.cfg.Elsewhere)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	// What an earlier run left in the inbox is not this run's.
	if err := s.settle(ctx, func(int64) {}); err != nil {
		return report, err
	}
	if r.from, err = s.place(ctx); err != nil {
		return report, err
	}
	began := time.Now()
	unread, err := r.deliver(ctx, s)
	if err != nil {
		return report, err
	}
	if late := r.mess.late(); len(late) > 0 {
		if s, err = s.restart(ctx, r.cfg.Open); err != nil {
			return report, err
		}
		if err := r.send(ctx, s, late); err != nil {
			return report, err
		}
	}
	report, err = r.finish(ctx, s, began)
	return report, errors.Join(unread, err)
}

// deliver sends all transactions, and those deliveries that come again before the restart. The error unread tells why
// the transactions ended early.
func (r *run) deliver(ctx context.Context, s *session) (unread, err error) {
	chunk := make([]deja.Request, 0, chunkSize)
	for t, err := range r.cfg.Transactions {
		if err != nil {
			unread = err
			break
		}
		chunk = append(chunk, t.Request())
		if again, ok := r.mess.next(t); ok {
			chunk = append(chunk, again.Request())
		}
		if len(chunk) < chunkSize-1 {
			continue
		}
		if err := r.send(ctx, s, chunk); err != nil {
			return nil, err
		}
		chunk = chunk[:0]
	}
	for _, t := range r.mess.rest() {
		chunk = append(chunk, t.Request())
	}
	return unread, r.send(ctx, s, chunk)
}

// send puts messages into the inbox, durably. The engine handles them meanwhile; nobody waits for it, as what waits
// is on disk.
func (r *run) send(ctx context.Context, s *session, rs []deja.Request) error {
	for chunk := range slices.Chunk(rs, chunkSize) {
		if _, err := s.client.Send(ctx, chunk...); err != nil {
			return err
		}
		r.sent += int64(len(chunk))
		at, err := s.position(ctx)
		if err != nil {
			return err
		}
		r.progress(at)
	}
	return nil
}

func (r *run) progress(position int64) { r.cfg.Progress(position-r.from.handled(), r.sent) }

// finish waits until all is handled, and counts.
func (r *run) finish(ctx context.Context, s *session, began time.Time) (Report, error) {
	if err := s.settle(ctx, r.progress); err != nil {
		return Report{}, err
	}
	took := time.Since(began).Seconds()
	to, err := s.place(ctx)
	if err != nil {
		return Report{}, err
	}
	report, err := s.count(ctx, r.from, to)
	if err != nil {
		return report, err
	}
	report.Messages, report.Seconds, report.PerSecond = r.sent, took, float64(r.sent)/max(took, 1e-9)
	err = report.check()
	return report, err
}
