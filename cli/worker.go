package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/talk"
)

// Worker makes the program of a service a worker of the debugger's, if it was started as one: then it does not return. Else it
// returns at once. It is for a main that does not run an [App], and its first line there: it comes before flags are read
// and anything is opened. The service's handlers run in it, and nothing else of the program.
func Worker(service *deja.Service) {
	if os.Getenv(talk.Variable) == "" || len(os.Args) < 2 || os.Args[1] != talk.Command {
		return
	}
	if err := serveWorker(context.Background(), service, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitHalted) //nolint:revive // it stands in for main
	}
	os.Exit(0) //nolint:revive // it stands in for main
}

// serveWorker answers on out, where nothing else may be written: what handlers print goes to the standard error.
func serveWorker(ctx context.Context, service *deja.Service, in io.Reader, out io.Writer) error {
	if err := os.Unsetenv(talk.Variable); err != nil { // a process that handlers start is none
		return err
	}
	if out == io.Writer(os.Stdout) {
		os.Stdout = os.Stderr
	}
	return talk.Serve(ctx, service, engine.Build(), in, out)
}

func (e *Env) workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    talk.Command,
		Short:  "Decide what another program asks, over standard input and output",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.getenv(talk.Variable) == "" {
				return Usagef("`diverge` and `repair` of another build start this, and speak to it; it is of no use to people")
			}
			return serveWorker(cmd.Context(), e.app.Service, e.Stdin, e.bare)
		},
	}
}
