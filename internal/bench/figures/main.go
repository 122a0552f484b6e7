// Figures measures deja on a real Apache Kafka and a real PostgreSQL, beside the usual pattern of one transaction per
// message, and prints a table. Every run is checked against an oracle: the sums of what was sent.
//
//	export $(scripts/services up)
//	go run ./internal/bench/figures
//
// Machines are shared and noisy: compare figures of one run only, and their ratios rather than the figures.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/dejalog/deja"
)

// settings are the command line.
type settings struct {
	kafka, postgres string
	messages        int // of a run
	transfers       int
	runs            int
	ledger          int // rows of a full ledger
	profile         string
	json            bool
}

// A figure is a line of the table.
type figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Runs   []float64 `json:"runs"`
	Median float64   `json:"median"`
	Note   string    `json:"note,omitempty"`
}

// A part is a group of measurements that can be asked for by name.
type part struct {
	name, what string
	run        func(context.Context, *bench) error
}

var parts = []part{
	{"throughput", "inbox on Kafka → committed in Postgres → acknowledged in the journal on Kafka, one worker; beside one transaction per message", throughput},
	{"projections", "the same with a projection's row for each event", projections},
	{"ledger", "the same with a ledger that is full, for ids of versions 7 and 4; and embedded", ledgers},
	{"latency", "from sent to read in the journal, at 1,000 messages/s", latency},
	{"takeover", "how long partitions stand still when their process is killed, or stops", takeovers},
	{"transfers", "money moved between two services on Kafka, each with its Postgres database, by sagas, and one receipt each", transfers},
	{"bereft", "how long partitions of these services stand still when a process of theirs is killed, and whether a transfer is stuck", bereavements},
	{"rebuild", "a lost store folded again from the journal", rebuild},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == workerCommand {
		os.Exit(worker(os.Args[2:]))
	}
	b := &bench{}
	only := b.flags()
	if err := b.run(only); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

// flags reads the command line, and returns which parts are asked for.
func (b *bench) flags() (only string) {
	flag.StringVar(&b.set.kafka, "kafka", os.Getenv("DEJA_TEST_KAFKA"), "bootstrap `ADDRESSES` (else $DEJA_TEST_KAFKA)")
	flag.StringVar(&b.set.postgres, "postgres", os.Getenv("DEJA_TEST_POSTGRES"), "`DSN` (else $DEJA_TEST_POSTGRES)")
	flag.IntVar(&b.set.messages, "messages", 1_000_000, "messages of a run")
	flag.IntVar(&b.set.transfers, "transfers", 50_000, "transfers of a run")
	flag.IntVar(&b.set.runs, "runs", 3, "runs of each measurement; the median counts")
	flag.IntVar(&b.set.ledger, "ledger", 10_000_000, "rows of the full ledgers")
	flag.StringVar(&only, "only", "", "a comma-separated list of parts: "+names())
	flag.StringVar(&b.set.profile, "profile", "", "write a CPU profile of the worker in the throughput runs to `FILE`")
	flag.BoolVar(&b.set.json, "json", false, "print the figures as JSON")
	flag.Parse() //nolint:revive // it is main's
	return only
}

func (b *bench) run(only string) error {
	ctx, stop := signalContext()
	defer stop()
	if b.set.kafka == "" || b.set.postgres == "" {
		return errors.New("no servers: start them with `export $(scripts/services up)`, or give -kafka and -postgres")
	}
	for name := range strings.SplitSeq(only, ",") {
		if name != "" && !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			return fmt.Errorf("no part %q; there are %s", name, names())
		}
	}
	defer b.cleanUp()
	for _, p := range parts {
		if only != "" && !slices.Contains(strings.Split(only, ","), p.name) {
			continue
		}
		b.notef("%s: %s", p.name, p.what)
		if err := p.run(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return b.print()
}

func names() string {
	var ns []string
	for _, p := range parts {
		ns = append(ns, p.name)
	}
	return strings.Join(ns, ", ")
}

// bench is what the parts share.
type bench struct {
	set       settings
	figures   []*figure
	schemas   []string
	databases []string
}

func (b *bench) notef(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

// add notes the result of a run.
func (b *bench) add(name, unit string, v float64) {
	i := slices.IndexFunc(b.figures, func(f *figure) bool { return f.Name == name })
	if i < 0 {
		i = len(b.figures)
		b.figures = append(b.figures, &figure{Name: name, Unit: unit})
	}
	f := b.figures[i]
	f.Runs = append(f.Runs, v)
	f.Median = median(f.Runs)
	b.notef("%-60s %12.1f %s", name, v, unit)
}

// median returns the median of what was measured under a name, or zero.
func (b *bench) median(name string) float64 {
	for _, f := range b.figures {
		if f.Name == name {
			return f.Median
		}
	}
	return 0
}

// ratio adds a figure that is one median over another.
func (b *bench) ratio(name, over, under string) {
	if v := b.median(under); v > 0 {
		b.figures = append(b.figures, &figure{Name: name, Unit: "×", Median: b.median(over) / v})
	}
}

func median(vs []float64) float64 {
	vs = slices.Sorted(slices.Values(vs))
	if n := len(vs); n%2 == 0 {
		return (vs[n/2-1] + vs[n/2]) / 2
	}
	return vs[len(vs)/2]
}

func (b *bench) print() error {
	if b.set.json {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{
			"go": runtime.Version(), "cpus": runtime.NumCPU(), "messages": b.set.messages, "figures": b.figures,
		})
	}
	fmt.Printf("%s, %d CPUs shared by broker, database and worker; %d messages a run; medians of %d runs\n\n", runtime.Version(), runtime.NumCPU(),
		b.set.messages, b.set.runs)
	for _, f := range b.figures {
		fmt.Printf("%-66s %12.2f %-12s", f.Name, f.Median, f.Unit)
		if len(f.Runs) > 1 {
			fmt.Printf(" %.4g", f.Runs)
		}
		fmt.Println()
	}
	return nil
}

// newID returns a source of message ids of a UUID version.
func newID(version int) func() deja.ID {
	if version == 7 {
		return deja.NewID
	}
	return randomID
}
