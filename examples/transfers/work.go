package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/orders"
	"github.com/dejalog/deja/examples/transfers/receipt"
)

// workCommand makes the program a worker process; the program starts it.
const workCommand = "work"

// A phase is what a worker process that runs the accounts does beside.
type phase string

const (
	prepare phase = "prepare" // give the senders their money, bar what is to be barred, and end
	load    phase = "load"    // send the orders, and end when all is done
	single  phase = "one"     // send them one after the other, and end
	nothing phase = "nothing" // run the ledger until the input ends
)

// task is what a worker process is to do.
type task struct {
	place
	plan   orders.Plan
	phase  phase
	from   int     // the first order that may not have been sent yet
	points []point // to tell of
}

// point is a point of a run's progress, at which a worker process is to be killed.
type point struct {
	decisions int
	ledger    bool // the ledger's process, where it has one
}

func (t *task) args() []string {
	var points []string
	for _, p := range t.points {
		text := strconv.Itoa(p.decisions)
		if p.ledger {
			text += "l"
		}
		points = append(points, text)
	}
	return []string{
		workCommand, "--dir=" + t.dir, "--phase=" + string(t.phase), "--transfers=" + strconv.Itoa(t.plan.Transfers),
		"--seed=" + strconv.FormatUint(t.plan.Seed, 10), "--began=" + t.plan.Began.Format(time.RFC3339Nano),
		"--from=" + strconv.Itoa(t.from), "--points=" + strings.Join(points, ","),
	}
}

func (p *program) task(args []string) (*task, error) {
	t := &task{place: place{log: p.getenv(logVariable), accounts: p.getenv(accountsVariable), ledger: p.getenv(ledgerVariable)}}
	fs := flag.NewFlagSet(workCommand, flag.ContinueOnError)
	fs.SetOutput(p.stderr)
	fs.StringVar(&t.dir, "dir", "", "")
	fs.StringVar((*string)(&t.phase), "phase", "", "")
	fs.IntVar(&t.plan.Transfers, "transfers", 0, "")
	fs.Uint64Var(&t.plan.Seed, "seed", 0, "")
	fs.IntVar(&t.from, "from", 0, "")
	fs.Func("began", "", func(text string) (err error) {
		t.plan.Began, err = time.Parse(time.RFC3339Nano, text)
		return err
	})
	fs.Func("points", "", func(text string) error {
		for text := range strings.SplitSeq(text, ",") {
			number, ledger := strings.CutSuffix(text, "l")
			n, err := strconv.Atoi(number)
			if err != nil && text != "" {
				return err
			}
			if text != "" {
				t.points = append(t.points, point{n, ledger})
			}
		}
		return nil
	})
	return t, fs.Parse(args)
}

// work does a task, until it is done or the process that gave it is gone.
func (p *program) work(ctx context.Context, args []string) int {
	t, err := p.task(args)
	if err != nil {
		fmt.Fprintln(p.stderr, err)
		return exitUsage
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, p.stdin) // it ends with whoever writes to it
		cancel()
	}()
	err = p.do(ctx, t)
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(p.stderr, "worker, phase %s: %v\n", t.phase, err)
		return exitFault
	}
	return 0
}

// do opens all, runs the services that are this process's, and has the client do its part.
func (p *program) do(ctx context.Context, t *task) (err error) {
	o, err := t.open(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	provider, err := receipt.Open(t.receipts(), receipt.Faults{Seed: t.plan.Seed, Decline: declined, NoAnswer: unanswered})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, provider.Close()) }()
	logger := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	first, err := engine.New(p.accountsConfig(o, provider, logger))
	if err != nil {
		return err
	}
	second, err := engine.New(engine.Config{Service: p.ledger(), Log: o.log, Store: o.ledger, Logger: logger})
	if err != nil {
		return err
	}
	var running []*engine.Engine
	switch {
	case !t.servers():
		running = []*engine.Engine{first, second}
	case t.phase == nothing:
		running = []*engine.Engine{second}
	default:
		running = []*engine.Engine{first}
	}
	return along(ctx, running, func(ctx context.Context) error {
		if t.phase == nothing {
			<-ctx.Done()
			return nil
		}
		c := &client{
			task: t, log: o.log, out: json.NewEncoder(p.stdout),
			accounts: side{accounts.Name, first, o.accounts}, ledger: side{ledger.Name, second, o.ledger},
		}
		return c.run(ctx)
	})
}

// One of so many receipts is declined at first, and of one of so many the answer gets lost.
const (
	declined   = 40
	unanswered = 40
)

func (p *program) accountsConfig(o *opened, provider *receipt.Provider, logger *slog.Logger) engine.Config {
	return engine.Config{
		Service: p.accounts(), Log: o.log, Store: o.accounts, Logger: logger,
		Peers: accounts.Peers(), Effects: []deja.Performer{p.performer(provider)},
	}
}

// along runs engines while fn runs, and stops them only then. The context given to fn ends with ctx, or with an engine.
func along(ctx context.Context, engines []*engine.Engine, fn func(context.Context) error) error {
	fnCtx, stopFn := context.WithCancelCause(ctx)
	defer stopFn(nil)
	engCtx, stopEngines := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngines()
	ran := make(chan error, len(engines))
	for _, e := range engines {
		go func() {
			err := e.Run(engCtx)
			stopFn(err)
			ran <- err
		}()
	}
	err := fn(fnCtx)
	stopEngines()
	for range engines {
		if stopped := <-ran; !errors.Is(stopped, context.Canceled) {
			err = errors.Join(stopped, err)
		}
	}
	return err
}
