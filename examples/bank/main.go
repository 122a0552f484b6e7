// Bank is a service on real data: some 39,000 transactions of a Czech bank. Run without arguments it shows all that
// deja does in one go; see the README beside it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/examples/bank/service"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program as ever
	return app().Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr, os.Getenv)
}

func app() cli.App {
	return cli.App{
		Service:   service.Service(),
		New:       service.Service,
		Short:     "A bank whose accounts can be seen at any moment of their past",
		DefaultDB: "./bank.db",
		Bare:      demo,
		Repair:    service.Repair,
		Commands: func(e *cli.Env) []*cobra.Command {
			return []*cobra.Command{importCommand(e), serveCommand(e)}
		},
	}
}
