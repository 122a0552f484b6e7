// Transfers moves money between two services that share nothing but a log, kills their processes on the way, and proves
// that each transfer has one end; see the README beside it.
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
	"syscall"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/receipt"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program as ever
	p := program{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv,
		accounts: accounts.Service, ledger: ledger.Service, performer: receipt.Performer,
	}
	return p.main(ctx, os.Args[1:])
}

// The codes to exit with.
const (
	exitNo     = 1 // something is not as it should be
	exitUsage  = 2
	exitFault  = 3 // the run could not be done
	exitBroken = 4 // interrupted
)

// program is what the process has to do with, and the services that it runs.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string

	accounts, ledger func() *deja.Service
	performer        func(*receipt.Provider) deja.Performer
}

func (p *program) main(ctx context.Context, args []string) int {
	if len(args) > 0 && args[0] == workCommand {
		return p.work(ctx, args[1:])
	}
	if code, ok := p.service(ctx, args); ok {
		return code
	}
	o, err := p.options(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(p.stderr, "transfers:", err)
		return exitUsage
	}
	if o.one > 0 {
		err = p.one(ctx, o)
	} else {
		err = p.many(ctx, o)
	}
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(p.stderr, "transfers: interrupted")
		return exitBroken
	}
	fmt.Fprintln(p.stderr, "transfers:", err)
	if errors.Is(err, errNo) {
		return exitNo
	}
	return exitFault
}

// errNo says that a run was done and is not right.
var errNo = errors.New("the proof has failed")

// options are the command line.
type options struct {
	transfers, kills, one int
	seed                  uint64
	json                  bool
	dir                   string
}

// fewestKills is how many kills a run has at least, unless it is to have none.
const fewestKills = 3

func (p *program) options(args []string) (o options, err error) {
	fs := flag.NewFlagSet("transfers", flag.ContinueOnError)
	fs.SetOutput(p.stderr)
	fs.Usage = func() {
		fmt.Fprint(p.stderr, usage)
		fs.PrintDefaults()
	}
	fs.IntVar(&o.transfers, "transfers", 10_000, "how many transfers there are")
	fs.Uint64Var(&o.seed, "seed", 1, "of the orders and of the kills; 0 takes the time")
	fs.IntVar(&o.kills, "kills", 5, "how often a worker process is killed: 3 times at least, or 0")
	fs.BoolVar(&o.json, "json", false, "print what came of it as JSON")
	fs.StringVar(&o.dir, "dir", "", "a new `DIRECTORY` for the files, which is kept; else a temporary one, which is not")
	fs.IntVar(&o.one, "one", 0, "instead: so many transfers one after the other, and how long each takes")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	switch {
	case fs.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q; --help says what there is", fs.Arg(0))
	case o.transfers < 1 || o.transfers > mostTransfers:
		return o, fmt.Errorf("--transfers %d: want 1 to %d", o.transfers, mostTransfers)
	case o.kills != 0 && o.kills < fewestKills || o.kills > mostKills:
		return o, fmt.Errorf("--kills %d: want %d to %d, or 0", o.kills, fewestKills, mostKills)
	case o.one < 0 || o.one > mostTransfers:
		return o, fmt.Errorf("--one %d: want 0 to %d", o.one, mostTransfers)
	}
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	if left, _ := os.ReadDir(o.dir); o.dir != "" && len(left) > 0 {
		return o, fmt.Errorf("--dir %s: there is something in it; every run has a directory of its own", o.dir)
	}
	return o, nil
}

// Bounds of a run.
const (
	mostTransfers = 9_999_999 // as a key has seven digits
	mostKills     = 100
)

const usage = `Usage: transfers [--transfers N] [--seed S] [--json] [--dir DIRECTORY]

Moves money between two services, kills their worker process on the way, and proves that no money was
lost or made, that each transfer was completed or undone once, and that no receipt was sent twice. The
exit code is 0 if that is so, and 1 if not.

Both services run in one process over one file; or, where DEJA_LOG names a Kafka cluster
(kafka://HOST:PORT) and DEJA_STORE a PostgreSQL (postgres://…), in a process each, on that cluster and on
two databases that are made there.

       transfers accounts|ledger COMMAND

Looks into what a run with --dir has left, or runs one of the services: transfers accounts --help.

`

// answer is what a run came to.
type answer struct {
	Transfers        int     `json:"transfers"`
	Completed        int     `json:"completed"`
	Compensated      int     `json:"compensated"`
	Stuck            int     `json:"stuck"`
	MoneyBefore      int64   `json:"money_before"`
	MoneyAfter       int64   `json:"money_after"`
	Kills            int     `json:"kills"`
	EffectsPerformed int     `json:"effects_performed"`
	EffectsDoubled   int     `json:"effects_doubled"`
	EffectCalls      int     `json:"effect_calls"`
	PerSecond        float64 `json:"per_second"`
}

func (p *program) json(v any) error { return json.NewEncoder(p.stdout).Encode(v) }
