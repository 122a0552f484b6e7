// Twophase shows what becomes of transfers between two databases while something is dead: beside deja, two-phase commit as
// PostgreSQL has it, and how fast that is.
//
//	export $(scripts/services up)
//	go run ./internal/bench/twophase
//
// Every run is checked: money is whole, and each transfer has one end. Machines are shared and noisy: compare figures of one
// run only.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// settings are the command line.
type settings struct {
	postgres, only   string
	at               string
	doubts           int
	length, patience time.Duration
	transfers, runs  int
	json             bool
}

// A part is an experiment that can be asked for by name.
type part struct {
	name, what string
	run        func(context.Context, *experiment) error
}

var parts = []part{
	{"coordinator", "a coordinator of two-phase commit dies, and others go on", coordinatorDies},
	{"throughput", "transfers by two-phase commit, nobody dies", rates},
}

func partNames() string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return strings.Join(names, ",")
}

// experiment is what the parts share, and what they found.
type experiment struct {
	set    settings
	dir    string
	stderr io.Writer

	Go     string  `json:"go"`
	CPUs   int     `json:"cpus"`
	Scenes []scene `json:"scenes,omitempty"`
	Rates  []rate  `json:"rates,omitempty"`
}

// command is the program without the process around it, and returns the exit code: 0 if all went well, 1 if something did
// not, 2 for a wrong command line.
func command(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		if err != nil {
			fmt.Fprintln(stderr, "twophase:", err)
			return 1
		}
		return 0
	}
	if len(args) > 0 && args[0] == coordinatorCommand {
		return fail(coordinate(stdin, stdout))
	}
	e := &experiment{stderr: stderr, Go: runtime.Version(), CPUs: runtime.NumCPU()}
	if err := e.set.parse(args, stderr); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		fmt.Fprintln(stderr, "twophase:", err)
		return 2
	}
	if err := e.run(ctx); err != nil {
		return fail(err)
	}
	if e.set.json {
		return fail(json.NewEncoder(stdout).Encode(e))
	}
	e.print(stdout)
	return 0
}

func (s *settings) parse(args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("twophase", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.postgres, "postgres", os.Getenv("DEJA_TEST_POSTGRES"), "`DSN` of a server (else $DEJA_TEST_POSTGRES); databases of its own are made there, and dropped")
	flags.StringVar(&s.only, "only", partNames(), "a comma-separated list of `parts`")
	flags.StringVar(&s.at, "at", string(prepared), fmt.Sprintf("the `point` at which the coordinator dies: %s", points))
	flags.IntVar(&s.doubts, "in-flight", 10, "transfers of the coordinator that dies")
	flags.DurationVar(&s.length, "for", 5*time.Second, "how long it stays dead")
	flags.DurationVar(&s.patience, "patience", 500*time.Millisecond, "how long others wait for a lock")
	flags.IntVar(&s.transfers, "transfers", 4_000, "to measure the throughput with")
	flags.IntVar(&s.runs, "runs", 3, "of each measurement of the throughput; the median counts")
	flags.BoolVar(&s.json, "json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unknown argument %q", flags.Arg(0))
	case s.postgres == "":
		return errors.New("no server: start one with `export $(scripts/services up)`, or give -postgres")
	case !slices.Contains(points, point(s.at)):
		return fmt.Errorf("-at: there is no point %q; there are %s", s.at, points)
	case s.doubts < waiters || s.doubts > doubtfulAccounts-waiters:
		return fmt.Errorf("-in-flight is from %d to %d", waiters, doubtfulAccounts-waiters)
	case s.length <= 0 || s.patience < time.Millisecond || s.transfers < 1 || s.runs < 1:
		return errors.New("-for, -patience, -transfers and -runs are above 0")
	}
	for name := range strings.SplitSeq(s.only, ",") {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("-only: there is no part %q; there are %s", name, partNames())
		}
	}
	return nil
}

func (e *experiment) run(ctx context.Context) (err error) {
	if e.dir, err = os.MkdirTemp("", "deja-twophase-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(e.dir)) }()
	for _, p := range parts {
		if !slices.Contains(strings.Split(e.set.only, ","), p.name) {
			continue
		}
		fmt.Fprintf(e.stderr, "%s: %s\n", p.name, p.what)
		if err := p.run(ctx, e); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// with makes two databases for a part.
func (e *experiment) with(ctx context.Context, prepared int, do func(databases) error) (err error) {
	d, err := makeDatabases(ctx, e.set.postgres, prepared)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.drop(context.WithoutCancel(ctx))) }()
	return do(d)
}

const clients = 4 // of each group of transfers, while something is dead

func coordinatorDies(ctx context.Context, e *experiment) error {
	return e.with(ctx, 2*(e.set.doubts+waiters+3*clients), func(d databases) error {
		b := blocking{d, e.dir, point(e.set.at), e.set.doubts, e.set.length, e.set.patience, clients}
		s, err := b.run(ctx)
		e.Scenes = append(e.Scenes, s)
		return err
	})
}

func rates(ctx context.Context, e *experiment) error {
	m := throughput{e.dir, e.set.transfers, e.set.runs}
	return e.with(ctx, 2*32, func(d databases) error {
		for _, inFlight := range []int{1, 8, 32} {
			r, err := m.measure(ctx, d, rate{How: "each", InFlight: inFlight, Transfers: m.transfers}, m.each)
			if err != nil {
				return err
			}
			e.Rates = append(e.Rates, r)
		}
		r, err := m.measure(ctx, d, rate{How: "batch", InFlight: batchSize, Transfers: 25 * m.transfers}, m.batches)
		e.Rates = append(e.Rates, r)
		return err
	})
}
