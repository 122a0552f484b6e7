package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/replay"
)

func (e *Env) stepCommand() *cobra.Command {
	var at moment
	cmd := &cobra.Command{
		Use:   "step KEY",
		Short: "Walk over the decisions of a key, one by one",
		Long: `Walk over the decisions of a key: what was decided, what it recorded, what that changed, and the state after it.

On a terminal it begins at the first decision, or with --at at the last one up to that moment, and these keys lead on, most of
them with a number before them:
` + walkHelp + `
Elsewhere all decisions are printed, with --at those up to that moment.`,
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
	e.addIndexFlags(cmd)
	return cmd
}

// stepAnswer is a decision of a key, what it changed, and the state after it.
type stepAnswer struct {
	line
	Events []eventAnswer   `json:"events"`
	Writes []writeAnswer   `json:"writes"`
	State  json.RawMessage `json:"state"`
}

func (e *Env) step(ctx context.Context, s deja.Stream, at *moment) (err error) {
	db, h, err := e.openHistory(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	p, err := h.Of(ctx, s, at.at, at.clock)
	if err != nil {
		return err
	}
	e.tell(p.Notes)
	if p.Step == nil && at.text == "" {
		return e.adviseKey(ctx, db, s)
	}
	if p.Step == nil {
		e.adviseEmpty(at, s)
		return nil
	}
	if in, ok := e.Stdin.(*os.File); ok && e.interactive && !e.json {
		return e.walk(ctx, in, h, p, at.text != "")
	}
	return e.printSteps(ctx, h, p)
}

// printSteps prints the decisions of a key up to a point.
func (e *Env) printSteps(ctx context.Context, h *history.History, p history.Point) error {
	st, err := e.machine.NewState(p.Stream)
	if err != nil {
		return err
	}
	var n int64
	for s, err := range h.Steps(ctx, p, false) {
		if err != nil {
			return err
		}
		d, err := h.Entry(ctx, s)
		if err != nil {
			return err
		}
		for i := range d.Decided.Events {
			if err := e.machine.Fold(st, &d.Decided.Events[i]); err != nil {
				return fmt.Errorf("decision %d: %w", d.N, err)
			}
		}
		a := stepOf(h, s, &d)
		if a.State, err = st.Encode(); err != nil {
			return err
		}
		if e.json {
			err = e.Answer(&a)
		} else {
			_, err = fmt.Fprintln(e.Stdout, e.stepText(&a))
		}
		if err != nil {
			return err
		}
		n++
	}
	e.Notef("%s", plural(n, "decision"))
	return nil
}

// stepOf returns the answer of a step, but for the state.
func stepOf(h *history.History, s *history.Step, d *journal.Entry) stepAnswer {
	return stepAnswer{line: lineOf(d), Events: eventsOf(d), Writes: writesOf(h, s.Stream.Aggregate, s.Writes)}
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
	for _, c := range a.Writes {
		fmt.Fprintf(&w, "    %s: %s → %s\n", c.Path, e.paint(red, shown(c.Old)), e.paint(green, shown(c.New)))
	}
	fmt.Fprintf(&w, "  version %d  %s\n", a.Version, a.State)
	return w.String()
}

// notFound returns what an error says was not found; ok is false for other errors.
func notFound(err error) (what string, ok bool) {
	if !errors.Is(err, replay.ErrNotFound) {
		return "", false
	}
	return strings.TrimPrefix(err.Error(), replay.ErrNotFound.Error()+": "), true
}
