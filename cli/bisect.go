package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
)

// bisectAsked is what the command line says to bisect.
type bisectAsked struct {
	limits  limits
	command string
	exact   bool
}

func (e *Env) bisectCommand() *cobra.Command {
	var asked bisectAsked
	cmd := &cobra.Command{
		Use:   "bisect KEY --exec COMMAND",
		Short: "Find the first bad message of a key, by a command that tells good states from bad",
		Long: `Find the first bad message of a key, by a command that tells good states from bad.

The shell runs COMMAND after one message and another. It has the state as JSON on its standard input, and in its environment
DEJA_KEY, DEJA_VERSION, DEJA_POSITION, DEJA_MESSAGE (the ID), DEJA_TYPE and DEJA_PAYLOAD. Its exit code says what the state is,
as for git bisect run: 0 good, 1 to 127 bad, but 125 not to be told; all above ends the search. What it prints goes to the
standard error.

The search is binary: it assumes that what is bad stays bad, and says so ("assumed":"sticky"). Where the state after the last
message is good, nothing is found, though it may have been bad in between: --exact runs COMMAND after each message up to the
first bad one. For a condition on the state, "when" is exact and much faster.

With --json the answer is {"first_bad":{…}|null,"last_good":{…}|null,"suspects":[…],"tested":N,"assumed":"sticky",
"complete":true,"up_to":"…"}, the messages as "when" has them; suspects are those among which the first bad one is, where
messages next to it could not be told. Exit code 1: nothing is bad.`,
		Example: e.examples(
			"bisect "+e.exampleKey("576")+" --exec 'jq -e \".balance >= 0\"'",
			"bisect "+e.exampleKey("576")+" --exec ./check.sh --exact --at 1995-01-01 --by business",
		),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if asked.command == "" {
				return Usagef("--exec COMMAND says what is good and what is bad; for a condition on the state there is `when`")
			}
			if err := asked.limits.parse(e); err != nil {
				return err
			}
			key, err := e.stream(args[0])
			if err != nil {
				return err
			}
			return e.bisect(cmd.Context(), key, &asked)
		},
	}
	asked.limits.addFlags(cmd)
	cmd.Flags().StringVar(&asked.command, "exec", "", "the `COMMAND` that the shell runs")
	cmd.Flags().BoolVar(&asked.exact, "exact", false, "test each message up to the first bad one, and assume nothing")
	e.addIndexFlags(cmd)
	return cmd
}

func (e *Env) bisect(ctx context.Context, key deja.Stream, asked *bisectAsked) (err error) {
	db, h, lim, err := e.openPart(ctx, &asked.limits)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	found, err := h.Bisect(ctx, key, lim, asked.exact, func(ctx context.Context, p *history.Tried) (history.Verdict, error) {
		v, err := e.test(ctx, asked.command, key, p)
		if err == nil {
			e.Notef("%s@%d: %s%s", key, p.Version, v, left(p.Left))
		}
		return v, err
	})
	if err != nil {
		return err
	}
	if e.json {
		err = e.Answer(found)
	} else {
		err = e.printBisection(found)
	}
	if !found.Complete {
		e.Notef("note: the history no longer has the first messages of %s", key)
	}
	if found.FirstBad == nil && len(found.Suspects) == 0 {
		return errors.Join(err, Nof("nothing of %s is bad %s, after %s", key, &asked.limits, plural(int64(found.Tested), "test")))
	}
	return err
}

// left says how far a search has come.
func left(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; it was one of %d", n)
}

// The exit codes of a test, as git has them.
const (
	testSkip  = 125
	testAbort = 128 // and above
)

// test runs a command on a state.
func (e *Env) test(ctx context.Context, command string, key deja.Stream, p *history.Tried) (history.Verdict, error) {
	state, err := p.State.Encode()
	if err != nil {
		return history.Skip, err
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Stdin = bytes.NewReader(append(state, '\n'))
	cmd.Stdout, cmd.Stderr = e.Stderr, e.Stderr
	cmd.Env = append(cmd.Environ(),
		"DEJA_KEY="+key.String(), "DEJA_VERSION="+strconv.FormatInt(p.Version, 10), "DEJA_POSITION="+p.Position.String(),
		"DEJA_MESSAGE="+p.ID.String(), "DEJA_TYPE="+p.Type, "DEJA_PAYLOAD="+string(p.Payload))
	err = cmd.Run()
	if ctx.Err() != nil {
		return history.Skip, ctx.Err()
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return history.Good, nil
	case !ok:
		return history.Skip, fmt.Errorf("run %s: %w", command, err)
	case exit.ExitCode() == testSkip:
		return history.Skip, nil
	case exit.ExitCode() < 0 || exit.ExitCode() >= testAbort:
		return history.Skip, fmt.Errorf("%s ended the search at %s@%d: %w", command, key, p.Version, err)
	}
	return history.Bad, nil
}

// printBisection shows what a search found.
func (e *Env) printBisection(b *history.Bisection) error {
	show := func(w io.Writer, what string, m *history.Message) {
		if m != nil {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", what, moments(m), m.Position, m.Type, strings.TrimSpace(string(m.Payload)))
		}
	}
	t := e.table()
	show(t, "last good", b.LastGood)
	show(t, "first bad", b.FirstBad)
	for i := range b.Suspects {
		show(t, "perhaps", &b.Suspects[i])
	}
	if b.Assumed != "" && (b.FirstBad != nil || len(b.Suspects) > 0) {
		e.Notef("assumed sticky: found by binary search in %s; if states were bad before and recovered, --exact finds the first", plural(int64(b.Tested), "test"))
	}
	return t.Flush()
}
