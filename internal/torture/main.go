//go:build unix

// Command torture runs two services on a real Kafka and a real PostgreSQL of its own, harms everything that can be harmed,
// and checks that nothing is lost, done twice or told wrongly.
//
// A bank and a ledger, each with a database of its own, move money between them: some remittances are refused, some time
// out, some postings come after their reversals, and a provider outside sends receipts. Five workers, a second relay and
// clients work through proxies. Workers are killed and frozen past their leases, both servers crash, connections are cut,
// held up and slowed down, also between a COMMIT and its answer, and stores are put back to an older state, or lost. All the while, and at the end, the checks of snapshot.go, past.go, books.go and
// conclude.go look at what is there: in the end, money is what clients have paid in, and each remittance has one end with
// all that belongs to it. The first thing that is wrong ends the run, with exit code 1, and what is left is kept.
//
// With -break the workers break one of the rules that all rests on; then the run must find something.
//
// Usage:
//
//	go run ./internal/torture [-for 90s] [-seed n] [-faults n] [-rate n] [-remittances n]
//		[-break epoch|key|no-bar|position|relay] [-json]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command is the program without the process around it, and returns the exit code: 0 if nothing was wrong, 1 if
// something was or the run failed, 2 for a wrong command line.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "worker" {
		return process(args[0], args[1:], work)
	}
	if len(args) > 0 && args[0] == "relay" {
		return process(args[0], args[1:], relay)
	}
	var opt options
	flags := flag.NewFlagSet("torture", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.DurationVar(&opt.length, "for", 90*time.Second, "how long faults go on; each kind that matters is done once in any case")
	flags.Uint64Var(&opt.seed, "seed", 0, "of messages and faults; 0 is a new one")
	flags.IntVar(&opt.faults, "faults", 0, "at least so many faults, however long they take")
	flags.DurationVar(&opt.pause, "pause", 1600*time.Millisecond, "from one fault to the next, on the average")
	flags.Float64Var(&opt.rate, "rate", 200, "messages a second")
	flags.Float64Var(&opt.remits, "remittances", 30, "remittances a second")
	flags.StringVar(&opt.broken, "break", "", "let the workers break a rule: "+strings.Join(breakNames(), ", "))
	only := flags.String("only", "", "do faults of these `kinds` alone: "+strings.Join(kindNames(), ","))
	flags.StringVar(&opt.dir, "dir", "", "the run's `folder`; by default one in the user's cache")
	flags.BoolVar(&opt.keep, "keep", false, "keep the folder also when nothing was wrong")
	asJSON := flags.Bool("json", false, "print the summary as JSON")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	opt.only = strings.FieldsFunc(*only, func(c rune) bool { return c == ',' })
	if _, ok := breaks[opt.broken]; flags.NArg() > 0 || opt.broken != "" && !ok || opt.rate <= 0 || opt.remits <= 0 || opt.pause < time.Millisecond {
		fmt.Fprintf(stderr, "torture: wrong arguments %q; -break is one of %s, -rate, -remittances and -pause are above 0\n", args, strings.Join(breakNames(), ", "))
		return 2
	}
	for _, name := range opt.only {
		if !slices.Contains(kindNames(), name) {
			fmt.Fprintf(stderr, "torture: -only: there is no kind of fault %q; there are %s\n", name, strings.Join(kindNames(), ", "))
			return 2
		}
	}
	for opt.seed == 0 {
		opt.seed = uint64(rand.Uint32())
	}
	s, err := execute(ctx, opt, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "torture: %v\n", err)
		return 1
	}
	s.print(stderr)
	if *asJSON {
		if err := json.NewEncoder(stdout).Encode(s); err != nil {
			fmt.Fprintf(stderr, "torture: %v\n", err)
			return 1
		}
	}
	if len(s.Violations) > 0 {
		return 1
	}
	return 0
}

// execute makes the run's folder, runs, and clears the folder away unless it tells something.
func execute(ctx context.Context, opt options, stderr io.Writer) (s summary, err error) {
	if opt.dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return s, err
		}
		opt.dir = filepath.Join(cache, "deja", fmt.Sprintf("torture-%d", os.Getpid()))
	}
	if opt.dir, err = filepath.Abs(opt.dir); err != nil {
		return s, err
	}
	if err := os.MkdirAll(opt.dir, 0o755); err != nil {
		return s, err
	}
	own, err := os.Create(filepath.Join(opt.dir, "run.log"))
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, own.Close()) }()
	engineLog, err := os.Create(filepath.Join(opt.dir, "client.engine.log"))
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, engineLog.Close()) }()
	slog.SetDefault(slog.New(slog.NewJSONHandler(engineLog, nil)))
	r := &run{opt: opt, began: time.Now(), out: io.MultiWriter(stderr, own)}
	err = r.torture(ctx)
	if errors.Is(context.Cause(ctx), context.Canceled) && err == nil && len(r.wrong) == 0 {
		err = errors.New("it was interrupted")
	}
	keep := opt.keep || err != nil || len(r.wrong) > 0
	if r.log != nil {
		err = errors.Join(err, r.log.Close())
	}
	if r.s != nil {
		err = errors.Join(err, r.s.stop(context.WithoutCancel(ctx), !keep))
	}
	if keep {
		fmt.Fprintf(stderr, "kept in %s; scripts/services up --own --dir %s/servers starts its servers again\n", opt.dir, opt.dir)
	} else {
		err = errors.Join(err, os.RemoveAll(opt.dir))
	}
	return r.summary(), err
}

// summary is what a run tells in the end.
type summary struct {
	Seed       uint64         `json:"seed"`
	Break      string         `json:"break,omitempty"`
	Seconds    float64        `json:"seconds"`
	Faults     int            `json:"faults"`
	Kinds      map[string]int `json:"faults_by_kind"`
	Commits    int64          `json:"cut_commits"`     // connections cut between a COMMIT and its answer
	Appends    int64          `json:"cut_appends"`     // connections cut with a request to append on its way
	Cuts       int64          `json:"cut_connections"` // all
	Sent       int            `json:"sent"`
	Told       int64          `json:"told"`
	TriedAgain int64          `json:"tried_again"`
	tally
	books
	Takeovers  int64    `json:"takeovers"`
	Worst      float64  `json:"worst_standstill_seconds"`           // of a partition with something to do
	Harmed     float64  `json:"worst_standstill_in_outage_seconds"` // with a server down, or all workers frozen or gone, in the meantime
	Snapshots  int64    `json:"snapshots"`
	Quiesced   float64  `json:"quiesced_after_seconds"`
	Hashes     []string `json:"hashes,omitempty"` // of the states, by service
	Violations []string `json:"violations"`
	LastFaults []string `json:"last_faults,omitempty"` // before the violation
}

func (r *run) summary() summary {
	s := summary{
		Seed: r.opt.seed, Break: r.opt.broken, Seconds: time.Since(r.began).Seconds(), Kinds: map[string]int{}, books: r.books,
		Takeovers: r.takeovers(), Snapshots: r.snapshots.Load(), Quiesced: r.quiet.Seconds(), Violations: append([]string{}, r.wrong...),
	}
	for _, h := range r.behind() {
		if h != nil {
			for _, p := range h.proxies() {
				s.Commits += p.lostCommits.Load()
				s.Appends += p.lostAppends.Load()
				s.Cuts += p.cuts.Load()
			}
		}
	}
	for _, f := range r.faults {
		s.Faults++
		s.Kinds[f.kind]++
	}
	for _, side := range r.sides {
		s.tally = s.plus(side.tally)
		s.Hashes = append(s.Hashes, side.hash.String())
		for i := range side.standstill {
			s.Worst = max(s.Worst, side.standstill[i].worst.Seconds())
			s.Harmed = max(s.Harmed, side.standstill[i].harmed.Seconds())
		}
	}
	if r.load != nil {
		s.Sent, s.Told, s.TriedAgain = len(r.load.sent), r.load.dos.Load(), r.load.errors.Load()
	}
	if len(s.Violations) > 0 {
		for _, f := range r.faults[max(0, len(r.faults)-10):] {
			s.LastFaults = append(s.LastFaults, fmt.Sprintf("%.1fs %s: %s", f.at.Seconds(), f.kind, f.what))
		}
	}
	return s
}

// print prints the summary as a table.
func (s *summary) print(w io.Writer) {
	row := func(name string, value any) { fmt.Fprintf(w, "%-28s %v\n", name, value) }
	fmt.Fprintln(w)
	row("seed", s.Seed)
	row("seconds", fmt.Sprintf("%.0f", s.Seconds))
	row("faults", s.Faults)
	var names []string
	for name := range s.Kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		row("  "+name, s.Kinds[name])
	}
	row("connections cut", s.Cuts)
	row("  after a COMMIT", s.Commits)
	row("  before an append", s.Appends)
	row("messages made", s.Sent)
	row("messages in the inboxes", s.Messages)
	row("decisions", s.Decisions)
	row("  about money: applied", s.Applied)
	row("  about money: refused", s.Rejected)
	row("  conflicts", s.Conflicts)
	row("duplicates", s.Duplicates)
	row("remittances", s.Remittances)
	row("  finished", s.Finished)
	row("  undone", s.Undone)
	row("    after a time-out", s.TimedOut)
	row("  posted late and barred", s.Barred)
	row("receipts sent", s.Receipts)
	row("  calls of the provider", s.Calls)
	row("money paid in", s.Paid)
	row("  in accounts", s.Held)
	row("  in the ledger", s.Posted)
	row("outcomes told", s.Told)
	row("calls tried again", s.TriedAgain)
	row("take-overs", s.Takeovers)
	row("worst stand-still", fmt.Sprintf("%.1f s", s.Worst))
	row("  with a server down", fmt.Sprintf("%.1f s", s.Harmed))
	row("snapshots checked", s.Snapshots)
	row("quiesced after", fmt.Sprintf("%.1f s", s.Quiesced))
	row("state hashes", strings.Join(s.Hashes, " "))
	row("violations", len(s.Violations))
	for _, v := range s.Violations {
		fmt.Fprintln(w, "  "+v)
	}
	if len(s.Violations) == 0 {
		return
	}
	fmt.Fprintln(w, "the last faults before")
	for _, f := range s.LastFaults {
		fmt.Fprintln(w, "  "+f)
	}
	again := fmt.Sprintf("go run ./internal/torture -seed %d", s.Seed)
	if s.Break != "" {
		again += " -break " + s.Break
	}
	fmt.Fprintln(w, "again: "+again)
}
