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
	kafka, postgres  string
	only             string
	at               string
	inFlight         int
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
	{"service", "a service of deja dies, and others go on", serviceDies},
	{"throughput", "transfers when nothing dies, by both", rates},
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
	if len(args) > 0 && args[0] == serviceCommand {
		return fail(serve(stdin))
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
	flags.StringVar(&s.kafka, "kafka", os.Getenv("DEJA_TEST_KAFKA"), "bootstrap `ADDRESSES` (else $DEJA_TEST_KAFKA); for what deja does")
	flags.StringVar(&s.postgres, "postgres", os.Getenv("DEJA_TEST_POSTGRES"), "`DSN` of a server (else $DEJA_TEST_POSTGRES); databases of its own are made there, and dropped")
	flags.StringVar(&s.only, "only", partNames(), "a comma-separated list of `parts`")
	flags.StringVar(&s.at, "at", string(prepared), fmt.Sprintf("the `point` at which the coordinator dies: %s", points))
	flags.IntVar(&s.inFlight, "in-flight", 10, "transfers in flight when it dies")
	flags.DurationVar(&s.length, "for", 5*time.Second, "how long it is dead, and the service")
	flags.DurationVar(&s.patience, "patience", 500*time.Millisecond, "how long others wait for a lock, and transfers of deja that touch one in flight for the dead service")
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
	case s.inFlight < waiters || s.inFlight > inFlightShare-waiters:
		return fmt.Errorf("-in-flight is from %d to %d", waiters, inFlightShare-waiters)
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
func (e *experiment) with(ctx context.Context, tables [2]string, do func(databases) error) (err error) {
	d, err := makeDatabases(ctx, e.set.postgres, tables)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.drop(context.WithoutCancel(ctx))) }()
	return do(d)
}

const clients = 4 // of each kind, while something is dead

func coordinatorDies(ctx context.Context, e *experiment) error {
	if err := allows(ctx, e.set.postgres, 2*(e.set.inFlight+waiters+4*clients)); err != nil {
		return err
	}
	return e.with(ctx, tables, func(d databases) error {
		b := blocking{d, e.dir, point(e.set.at), e.set.inFlight, e.set.length, crowd{clients, e.set.patience}}
		s, err := b.run(ctx)
		e.Scenes = append(e.Scenes, s)
		return err
	})
}

func serviceDies(ctx context.Context, e *experiment) error {
	return e.withServices(ctx, func(p *pair) error {
		o := outage{p, e.set.inFlight, e.set.length, e.set.patience, crowd{clients, e.set.patience}}
		scenes, err := o.run(ctx)
		e.Scenes = append(e.Scenes, scenes...)
		return err
	})
}

// withServices makes what two services need, for a part.
func (e *experiment) withServices(ctx context.Context, do func(*pair) error) error {
	if e.set.kafka == "" {
		return errors.New("no Kafka: start one with `export $(scripts/services up)`, or give -kafka")
	}
	return e.with(ctx, [2]string{}, func(d databases) (err error) {
		dir, err := os.MkdirTemp(e.dir, "services-")
		if err != nil {
			return err
		}
		p, err := openPair(ctx, services{e.set.kafka, d, dir})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, p.close()) }()
		return do(p)
	})
}

func rates(ctx context.Context, e *experiment) error {
	if err := allows(ctx, e.set.postgres, 2*most); err != nil {
		return err
	}
	m := throughput{e.dir, e.set.transfers, e.set.runs}
	return errors.Join(
		e.with(ctx, tables, func(d databases) error {
			rs, err := m.twoPhase(ctx, d)
			e.Rates = append(e.Rates, rs...)
			return err
		}),
		e.withServices(ctx, func(p *pair) error {
			rs, err := m.services(ctx, p)
			e.Rates = append(e.Rates, rs...)
			return err
		}))
}
