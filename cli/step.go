package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/journal"
)

func (e *Env) stepCommand() *cobra.Command {
	var at moment
	cmd := &cobra.Command{
		Use:   "step KEY",
		Short: "Walk over the decisions of a key, one by one",
		Long: `Walk over the decisions of a key: what was decided, what it recorded, and the state after it.

On a terminal: n, space or right for the next, p or left for the one before, g and G for the first and the last, q to
leave. Elsewhere all are printed.`,
		Example:           e.examples("step "+e.exampleKey("576"), "step "+e.exampleKey("576")+" --at 1993-06-30 --by business --json"),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := at.parse(e); err != nil {
				return err
			}
			stream, err := e.stream(args[0])
			if err != nil {
				return err
			}
			return e.step(cmd.Context(), stream, &at)
		},
	}
	at.addFlags(cmd, "at", "how far, a `LOCATOR`")
	return cmd
}

// stepAnswer is a decision of a key, and the state after it.
type stepAnswer struct {
	line
	Events []eventAnswer   `json:"events"`
	State  json.RawMessage `json:"state"`
}

func (e *Env) step(ctx context.Context, s deja.Stream, at *moment) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	of, version := db.all(), int64(everything)
	if at.text != "" {
		past, err := e.fold(ctx, db, at, func(other deja.Stream) bool { return other == s })
		if err != nil {
			return err
		}
		k, err := past.State(s)
		if err != nil {
			return err
		}
		of, version = upTo(past.Cut), k.Version
	}
	steps, err := e.steps(ctx, db, s, of, version)
	if err != nil {
		return err
	}
	if len(steps) == 0 && at.text == "" {
		return e.adviseKey(ctx, db, s)
	}
	if len(steps) == 0 {
		e.adviseEmpty(at, s)
		return nil
	}
	if in, ok := e.Stdin.(*os.File); ok && e.interactive && !e.json {
		return e.walk(ctx, in, steps)
	}
	return e.printSteps(steps)
}

// steps folds the decisions of a stream among some, up to a version.
func (e *Env) steps(ctx context.Context, db *Database, s deja.Stream, of []extent, version int64) ([]stepAnswer, error) {
	st, err := e.machine.NewState(s)
	if err != nil {
		return nil, err
	}
	var steps []stepAnswer
	for d, err := range db.decisions(ctx, of) {
		if err != nil {
			return nil, err
		}
		if d.Cause.Stream != s {
			continue
		}
		if d.Version > version {
			break
		}
		a, err := e.stepOf(st, d)
		if err != nil {
			return nil, err
		}
		steps = append(steps, a)
	}
	return steps, nil
}

func (e *Env) stepOf(st *deja.State, d *journal.Entry) (a stepAnswer, err error) {
	for i := range d.Decided.Events {
		if err := e.machine.Fold(st, &d.Decided.Events[i]); err != nil {
			return a, fmt.Errorf("decision %d: %w", d.N, err)
		}
	}
	a = stepAnswer{line: lineOf(d), Events: eventsOf(d)}
	a.State, err = st.Encode()
	return a, err
}

func (e *Env) printSteps(steps []stepAnswer) error {
	for i := range steps {
		if e.json {
			if err := e.Answer(&steps[i]); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Fprintln(e.Stdout, e.stepText(&steps[i])); err != nil {
			return err
		}
	}
	e.Notef("%s", plural(int64(len(steps)), "decision"))
	return nil
}

// stepText writes a step for people, on several lines.
func (e *Env) stepText(a *stepAnswer) string {
	var w strings.Builder
	fmt.Fprintf(&w, "%s  %s of %s  %s\n", e.paint(bold, fmt.Sprintf("decision %d", a.N)), a.Type, a.Key, a.Status)
	fmt.Fprintf(&w, "  decided %s  business time %s  message %s at %s\n", stamp(a.Time), day(a.BusinessTime), a.ID, a.Position)
	if a.Code != "" {
		fmt.Fprintf(&w, "  because %s\n", a.Code)
	}
	for _, ev := range a.Events {
		fmt.Fprintf(&w, "  %s %s\n", ev.Type, ev.Payload)
	}
	fmt.Fprintf(&w, "  version %d  %s\n", a.Version, a.State)
	return w.String()
}
