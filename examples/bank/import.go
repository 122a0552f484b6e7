package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/examples/bank/berka"
	"github.com/dejalog/deja/examples/bank/importer"
	"github.com/dejalog/deja/replay"
)

func importCommand(e *cli.Env) *cobra.Command {
	var cfg importer.Config
	cmd := &cobra.Command{
		Use:   "import [FILE.csv]",
		Short: "Import transactions: those of a CSV, or the ones that the program ships",
		Long: `Import transactions: those of a CSV file, of the standard input (-), or the ones that the program ships.

A transaction's message ID comes from the bank's number, so importing again applies nothing. An import that was
interrupted goes on if it is run again. --redeliver delivers a part of the messages twice, some only after a restart.

The service runs in this process while it imports; with --send-only other processes must run it, on the same servers.`,
		Example: `  bank import --db bank.db
  bank import transactions.csv --redeliver 0.05 --json
  bank import --log kafka://localhost:9092 --store postgres://localhost/bank --send-only`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !(cfg.Redeliver >= 0 && cfg.Redeliver <= 1) {
				return cli.Usagef("--redeliver %v: want a part, from 0 to 1", cfg.Redeliver)
			}
			source, err := openSource(e, args)
			if err != nil {
				return err
			}
			defer source.Close()
			return runImport(cmd.Context(), e, source, cfg)
		},
	}
	cmd.Flags().Float64Var(&cfg.Redeliver, "redeliver", 0, "the `PART` of the messages to deliver twice, 0 to 1")
	cmd.Flags().BoolVar(&cfg.Elsewhere, "send-only", false, "send, and let the processes that run the service handle it")
	return cmd
}

// openSource opens what the arguments name.
func openSource(e *cli.Env, args []string) (*source, error) {
	switch {
	case len(args) == 0:
		r, err := berka.Data()
		return &source{ReadCloser: r}, err
	case args[0] == "-":
		return &source{ReadCloser: io.NopCloser(e.Stdin)}, nil
	}
	f, err := os.Open(args[0])
	if err != nil {
		return nil, cli.Usagef("%w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &source{ReadCloser: f, size: info.Size()}, nil
}

// source is a CSV, and how much of it was read.
type source struct {
	io.ReadCloser
	read, size int64 // bytes; the size is zero where it is not known
	err        error // why a row could not be read
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.read += int64(n)
	return n, err
}

// rows yields the transactions, and notes what is wrong with the file.
func (s *source) rows() iter.Seq2[berka.Transaction, error] {
	return func(yield func(berka.Transaction, error) bool) {
		for t, err := range berka.Read(s) {
			s.err = err
			if !yield(t, err) {
				return
			}
		}
	}
}

// total estimates how many messages there will be.
func (s *source) total(sent int64) int64 {
	if s.read == 0 {
		return 0
	}
	return int64(float64(sent) * float64(s.size) / float64(s.read))
}

// importAnswer counts the messages of a run, by what became of them.
type importAnswer struct {
	Messages   int64       `json:"messages"`
	Applied    int64       `json:"applied"`
	Duplicates int64       `json:"duplicates"`
	Conflicts  int64       `json:"conflicts"`
	Rejected   int64       `json:"rejected"`
	Dead       int64       `json:"dead"`
	Parked     int64       `json:"parked,omitempty"` // failed, or behind one that did; there should be none
	Seconds    float64     `json:"seconds"`
	PerSecond  float64     `json:"per_second"`
	StateHash  replay.Hash `json:"state_hash"`
}

func runImport(ctx context.Context, e *cli.Env, s *source, cfg importer.Config) error {
	cfg.Open = func(ctx context.Context) (importer.Database, error) {
		db, err := e.OpenWriter(ctx, true)
		if err != nil {
			return nil, err
		}
		return database{db}, nil
	}
	a, err := importAll(ctx, e, e.Open, s, cfg)
	if ctx.Err() != nil {
		e.Notef("nothing is lost: the same import, run again, applies what is missing, and only that")
	}
	if err != nil && s.err == nil {
		return err
	}
	if err := printImport(e, a); err != nil {
		return err
	}
	switch {
	case err != nil:
		return cli.Usagef("%w; what came before it is imported", err)
	case a.Conflicts > 0:
		return cli.Nof("%d messages were refused: their IDs belong to other messages; see `log --status conflict`", a.Conflicts)
	}
	if a.Parked > 0 {
		return cli.Nof("%d messages are parked, and wait for an operator; see `parked`", a.Parked)
	}
	return nil
}

// database is what a command has opened, as an import takes it.
type database struct{ db *cli.Database }

func (d database) Log() driver.Log     { return d.db.Log }
func (d database) Store() driver.Store { return d.db.Store }
func (d database) Close() error        { return d.db.Close() }

// importAll imports a source, and tells what became of it, from the database as read opens it. It is complete if the
// error is the source's own.
func importAll(ctx context.Context, e *cli.Env, read func(context.Context) (*cli.Database, error), s *source, cfg importer.Config) (a importAnswer, err error) {
	tell, end := e.Progress("importing")
	cfg.Transactions = s.rows()
	cfg.Progress = func(handled, sent int64) { tell(handled, max(s.total(sent), sent)) }
	r, err := importer.Run(ctx, cfg)
	end()
	if err != nil && s.err == nil {
		return a, err
	}
	db, openErr := read(ctx)
	if openErr != nil {
		return a, openErr
	}
	defer db.CloseInto(&err)
	a = importAnswer{r.Messages, r.Applied, r.Duplicates, r.Conflicts, r.Rejected, r.Dead, r.Parked, r.Seconds, r.PerSecond, replay.Hash{}}
	hash, hashErr := e.StateHash(ctx, db)
	a.StateHash = hash
	return a, errors.Join(err, hashErr)
}

func printImport(e *cli.Env, a importAnswer) error {
	if e.JSON() {
		return e.Answer(a)
	}
	_, err := fmt.Fprintf(e.Stdout, `%8d messages in %.2f s, %.0f a second
%8d applied
%8d duplicates suppressed
%8d conflicts refused
%8d rejected
%8d dead
state hash %s
`, a.Messages, a.Seconds, a.PerSecond, a.Applied, a.Duplicates, a.Conflicts, a.Rejected, a.Dead, a.StateHash)
	return err
}
