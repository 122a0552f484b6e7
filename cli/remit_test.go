package cli_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/remit"
)

// bank is the program of internal/remit's bank, and ledgers that of its ledger. MAIL says what becomes of receipts: dead, or
// refused; else they are sent.
func bank() int    { return remittances(remit.Bank) }
func ledgers() int { return remittances(remit.Ledger) }

func remittances(name string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	app := cli.App{Service: banking(), Short: "A bank", Peers: remit.Peers(), DefaultDB: "both.db"}
	if name == remit.Ledger {
		_, app.Service = remit.Services(remit.Variant{})
		app.Peers = nil
		return app.Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr, os.Getenv)
	}
	app.Effects = func(*cli.Env) ([]deja.Performer, error) {
		return []deja.Performer{deja.PerformWith(deja.Performing[remit.Mail]{Do: mail, Window: window()})}, nil
	}
	app.Commands = func(e *cli.Env) []*cobra.Command {
		var alone bool
		play := &cobra.Command{Use: "play", RunE: func(cmd *cobra.Command, _ []string) error { return playAll(cmd.Context(), e, alone) }}
		play.Flags().BoolVar(&alone, "alone", false, "without the ledger")
		return []*cobra.Command{play}
	}
	return app.Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr, os.Getenv)
}

func banking() *deja.Service {
	s, _ := remit.Services(remit.Variant{})
	return s
}

func window() time.Duration {
	d, _ := time.ParseDuration(os.Getenv("MAIL_WINDOW"))
	return d
}

func mail(_ context.Context, key deja.ID, _ remit.Mail) (deja.Command, error) {
	switch os.Getenv("MAIL") {
	case "dead":
		return nil, errors.New("the post is dead")
	case "refused":
		return nil, deja.NewRejection("post.address")
	}
	return remit.Mailed{Receipt: "R-" + key.String()[:8]}, nil
}

// playAll runs both services, or the bank alone, on one log while it does what the lines of the standard input say.
func playAll(ctx context.Context, e *cli.Env, alone bool) error {
	db, err := e.OpenWriter(ctx, true)
	if err != nil {
		return err
	}
	defer db.Close()
	_, ledger := remit.Services(remit.Variant{})
	other, err := engine.New(engine.Config{Service: ledger, Log: db.Log, Store: memory.NewStore()})
	if err != nil {
		return err
	}
	if _, err := db.Log.Topic(ctx, "ledger.inbox"); err != nil { // made at its first use
		return err
	}
	if _, err := db.Log.Topic(ctx, "ledger.journal"); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() {
		if alone {
			ran <- nil
			return
		}
		ran <- other.Run(ctx)
	}()
	err = e.Run(ctx, db, func(ctx context.Context, eng *engine.Engine) error {
		lines := bufio.NewScanner(e.Stdin)
		for lines.Scan() {
			if err := play(ctx, eng.Client(), strings.Fields(lines.Text())); err != nil {
				return fmt.Errorf("%s: %w", lines.Text(), err)
			}
		}
		return lines.Err()
	})
	stop()
	if stopped := <-ran; err == nil && stopped != nil && !errors.Is(stopped, context.Canceled) {
		err = stopped
	}
	return err
}

// play does what a line says: deposit KEY AMOUNT, close KEY, start DIGITS KEY FROM TO AMOUNT PATIENCE, await KEY PHASE or
// receipt KEY.
func play(ctx context.Context, c deja.Client, f []string) error {
	number := func(i int) int64 { n, _ := strconv.ParseInt(f[i], 10, 64); return n }
	send := func(digits, key string, cmd deja.Command) error {
		id, err := deja.ParseID((digits + "00000000")[:8] + "-0000-4000-8000-000000000000")
		if err == nil {
			_, err = c.Do(ctx, deja.Request{ID: id, Key: key, Command: cmd, Actor: "tester", Source: "https://teller/1"})
		}
		return err
	}
	await := func(what string, holds func(remit.Remittance) bool) error {
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			var r remit.Remittance
			if _, err := c.State(ctx, deja.Stream{Aggregate: "remittance", Key: f[1]}, &r); err != nil {
				return err
			}
			if holds(r) {
				return nil
			}
			if time.Now().After(end) {
				return fmt.Errorf("it is never %s, but %+v", what, r)
			}
		}
	}
	switch f[0] {
	case "deposit":
		return send("de", f[1], remit.Deposit{Amount: number(2)})
	case "close":
		return send("c1", f[1], remit.Close{})
	case "start":
		wait, err := time.ParseDuration(f[6])
		return cmp.Or(err, send(f[1], f[2], remit.Start{From: f[3], To: f[4], Amount: number(5), Patience: wait}))
	case "await":
		return await(f[2], func(r remit.Remittance) bool { return strings.ReplaceAll(r.Phase, " ", "-") == f[2] })
	case "receipt":
		return await("mailed", func(r remit.Remittance) bool { return r.Receipt != "" })
	}
	return errors.New("no such word")
}
