package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

func (e *Env) repairCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Plan what corrects the keys that a fault led astray, and apply the plan",
		Long: `Plan what corrects the keys that a fault led astray, and apply the plan.

History is never rewritten: what was decided stays. Keys are brought to what they should be by further commands, which the
service offers for that. A plan is made, looked at and kept first; nothing is sent before it is applied.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(e.repairPlanCommand(), e.repairApplyCommand())
	return cmd
}

func (e *Env) repairPlanCommand() *cobra.Command {
	var build, out, facts string
	var most int
	var ed edits
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "plan [SCOPE]",
		Short: "Propose the commands that make up for what was decided wrongly",
		Long: `Propose the commands that bring each key from the state that it has to the one that it would have, had a good build decided
all of its messages: this one, or that of --build. Keys that are as they should be in the end are left alone, whatever
they were on the way. With --drop or --set it is the state that whatif tells: the fault was in a message. What
other messages recorded stays then; with --facts decided they are decided again, commands of earlier repairs among them.

Which commands correct a state is the service's to say. Each is tried in memory, on the state as it is, and what it
would leave uncorrected is shown. A key that no command corrects is listed, and nothing is planned for it.

Nothing is sent. --out keeps the plan, for "repair apply".

Exit codes: 0 a plan, perhaps an empty one · 1 some keys are not as they should be, and no command corrects them ·
2 there is no such build, or this service offers no corrections.

JSON, and the file: format, id, service, by, history (partition, n, chain), keys: key, version, cause, root, fields (path,
old, new), commands (id, type, content_type, payload, outcome), leaves; left: key, why, cause, fields.`,
		Example: e.examples("repair plan --out plan.json", "repair plan "+e.exampleKey("576")+" --build ./bank-fixed", "repair plan --drop 0190163d --out plan.json"),
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := ed.overlay(e, nil)
			if err != nil {
				return err
			}
			if len(o) > 0 && len(args) > 0 {
				return Usagef("with --drop and --set the keys are those that they change: leave %s away", args[0])
			}
			opt := history.WhatIfOptions{Program: build, Patience: patience}
			if opt.Facts, err = factsOf(facts); err != nil {
				return err
			}
			if opt.Facts == history.Fixed && len(o) > 0 && build != "" {
				return Usagef("with facts fixed there is nothing for --build to decide: add --facts decided")
			}
			return e.planRepair(cmd.Context(), strings.Join(args, ""), o, opt, out, most)
		},
	}
	cmd.Flags().StringVar(&build, "build", "", "the good `BUILD`, a program (else this one)")
	cmd.Flags().StringArrayVar(&ed.drop, "drop", nil, "should be: the message with this `ID` never came")
	cmd.Flags().StringArrayVar(&ed.set, "set", nil, "should be: a message said something else, 'ID FIELD=VALUE'")
	cmd.Flags().StringVar(&facts, "facts", "fixed", "with --drop and --set, what becomes of the other messages: decided again, or fixed")
	complete(cmd, "facts", "decided", "fixed")
	cmd.Flags().StringVar(&out, "out", "", "keep the plan in a new `FILE`")
	cmd.Flags().DurationVar(&patience, "patience", time.Minute, "how long the build may take for a message")
	cmd.Flags().IntVar(&most, "show", 20, "how many keys to show, 0 for all; JSON and the file have all")
	e.addIndexFlags(cmd)
	return cmd
}

func (e *Env) planRepair(ctx context.Context, scope string, o history.Overlay, opt history.WhatIfOptions, out string, most int) (err error) {
	if e.app.Repair == nil {
		return Usagef("the service offers no corrections: its program sets no Repair")
	}
	q := history.RepairOf{Build: opt.Program, Corrective: e.app.Repair, Patience: opt.Patience}
	if q.Build, err = programOr(q.Build); err != nil {
		return err
	}
	if q.Scope, err = e.scope(cmp.Or(scope, "*")); err != nil {
		return err
	}
	db, h, err := e.openHistory(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	var end func()
	q.Progress, end = e.Progress("comparing")
	var p *history.RepairPlan
	if len(o) > 0 {
		p, err = h.PlanRepairOf(ctx, o, opt, e.app.Repair)
	} else {
		p, err = h.PlanRepair(ctx, q)
	}
	end()
	if errors.Is(err, history.ErrProgram) || errors.Is(err, history.ErrOverlay) {
		return Usagef("%w", err)
	}
	if err != nil {
		return err
	}
	if err := e.keepPlan(p, out); err != nil {
		return err
	}
	if e.json {
		err = e.Answer(p)
	} else {
		err = e.printPlan(p, most)
	}
	switch {
	case err != nil:
		return err
	case len(p.Left) > 0:
		return Nof("%s not as they should be, and no command corrects them", plural(int64(len(p.Left)), "key"))
	case len(p.Keys) > 0 && out == "":
		e.Notef("nothing was sent; `%s` keeps the plan, for `repair apply`", e.hint("repair plan --out plan.json"))
	case len(p.Keys) > 0:
		e.Notef("nothing was sent; `%s` applies the plan", e.hint("repair apply "+quote(out)))
	}
	return nil
}

// keepPlan writes a plan to a new file.
func (e *Env) keepPlan(p *history.RepairPlan, path string) error {
	if path == "" {
		return nil
	}
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Usagef("--out: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

func (e *Env) printPlan(p *history.RepairPlan, most int) error {
	if len(p.Keys)+len(p.Left) == 0 {
		_, err := fmt.Fprintf(e.Stdout, "all keys are as they should be\n")
		return err
	}
	err := e.fields("plan", p.ID, "should be, by", p.By, "keys", len(p.Keys), "cannot be corrected", len(p.Left))
	if err != nil {
		return err
	}
	if len(p.Keys) > 0 {
		fmt.Fprintln(e.Stdout)
		t := e.table()
		fmt.Fprintf(t, "KEY\tVERSION\tIS → SHOULD BE\tCOMMAND\tLEAVES\tWENT WRONG AT\n")
		for i, k := range p.Keys {
			if i == most && most > 0 {
				fmt.Fprintf(t, "and %d more\n", len(p.Keys)-most)
				break
			}
			var commands []string
			for _, c := range k.Commands {
				commands = append(commands, c.Type+" "+string(c.Payload))
			}
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n", k.Key, k.Version, diffsText(k.Fields), strings.Join(commands, ", "),
				cmp.Or(diffsText(k.Leaves), "-"), k.Cause.Position)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	for _, l := range p.Left {
		fmt.Fprintf(e.Stdout, "\n%s cannot be corrected: %s\n  %s, since %s at %s\n", l.Key, l.Why, diffsText(l.Fields), l.Cause.ID, l.Cause.Position)
	}
	return nil
}

func diffsText(ds []history.FieldDiff) string {
	var texts []string
	for _, d := range ds {
		texts = append(texts, fmt.Sprintf("%s %s → %s", d.Path, d.Old, d.New))
	}
	return strings.Join(texts, ", ")
}

func (e *Env) repairApplyCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "apply PLAN.json",
		Short: "Send the commands of a plan",
		Long: `Send the commands of a plan that "repair plan --out" kept, one by one, each with the message that it corrects as its cause,
and tell what became of each. Applying a plan again sends nothing twice: the commands have the same IDs.

A plan is refused if it was changed, or made from another history. A key that has moved on since the plan was made is left
alone: what the commands were for may no longer be so; make a new plan. --force sends them all the same. While other
processes run the service, a key may still move between the look at it and the command.

On a file this needs it for itself, so stop the service first. On servers the processes that run the service decide the
commands; where there are none, this one does.

Exit codes: 0 all are applied, now or before · 1 some are not · 2 the plan cannot be applied.

JSON: an object a command: key, id, type, outcome (applied, duplicate: applied before, moved: not sent, rejected, conflict,
parked, dead), reason, version.`,
		Example: e.examples("repair apply plan.json"),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.applyRepair(cmd.Context(), args[0], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "send the commands of keys too that have moved on since")
	return cmd
}

// repairAnswer is what became of a command.
type repairAnswer struct {
	Key     string  `json:"key"`
	ID      deja.ID `json:"id"`
	Type    string  `json:"type"`
	Outcome string  `json:"outcome"`
	Reason  string  `json:"reason,omitempty"`
	Version int64   `json:"version,omitempty"` // of the key, after it
}

func (e *Env) applyRepair(ctx context.Context, path string, force bool) (err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Usagef("%w", err)
	}
	plan, err := history.ReadRepairPlan(data)
	if err != nil {
		return Usagef("%s: %w", path, err)
	}
	db, err := e.OpenWriter(ctx, false)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	if err := plan.Check(ctx, db.Log, e.app.Service.Name); err != nil {
		if errors.Is(err, history.ErrPlan) {
			return Usagef("%s: %w", path, err)
		}
		return err
	}
	var sent, not int
	err = e.meanwhile(ctx, db, func(ctx context.Context, eng *engine.Engine) error {
		for _, k := range plan.Keys {
			r := repairer{e: e, db: db, eng: eng, plan: plan, key: k, force: force}
			s, n, err := r.apply(ctx)
			sent, not = sent+s, not+n
			if err != nil {
				return fmt.Errorf("%s: %w; apply the plan again to go on", k.Key, err)
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case not > 0:
		return Nof("%d of %d commands are not applied", not, sent+not)
	case sent == 0:
		e.Notef("the plan has no commands")
	}
	return nil
}

// repairer applies what a plan has for a key.
type repairer struct {
	e     *Env
	db    *Database
	eng   *engine.Engine
	plan  *history.RepairPlan
	key   *history.RepairKey
	force bool
}

// apply sends the key's commands, in order. After one that is not applied the others are not sent.
func (r *repairer) apply(ctx context.Context) (applied, not int, err error) {
	of, err := deja.ParseStream(r.key.Key)
	if err != nil {
		return 0, 0, err
	}
	expected := r.key.Version
	for i := range r.key.Commands {
		c := &r.key.Commands[i]
		a, err := r.send(ctx, of, c, expected)
		if err != nil {
			return applied, not, err
		}
		if err := r.e.printRepaired(a); err != nil {
			return applied, not, err
		}
		if a.Outcome != "applied" && a.Outcome != "duplicate" {
			return applied, len(r.key.Commands) - i, nil
		}
		applied++
		expected = a.Version
	}
	return applied, 0, nil
}

// send sends a command, if it was not sent before and the key has the version that it is for.
func (r *repairer) send(ctx context.Context, of deja.Stream, c *history.RepairCommand, expected int64) (repairAnswer, error) {
	a := repairAnswer{Key: r.key.Key, ID: c.ID, Type: c.Type}
	if known, err := r.known(ctx, of, &a); known || err != nil {
		return a, err
	}
	var state json.RawMessage
	version, err := r.eng.Client().State(ctx, of, &state) // waits until the store is up to the journal
	if err != nil {
		return a, err
	}
	if !r.force && version != expected {
		a.Outcome, a.Version = "moved", version
		a.Reason = fmt.Sprintf("it was at version %d, and is at %d", expected, version)
		return a, nil
	}
	payload, err := c.Bytes()
	if err != nil {
		return a, err
	}
	out, err := r.eng.Correct(ctx, engine.Correction{
		ID: c.ID, Stream: of, Type: c.Type, Payload: payload, Cause: r.key.Cause.ID, Root: r.key.Root, Actor: r.e.actor(),
		Headers: map[string]string{history.RepairHeader: r.plan.ID.String()},
	})
	a.Version = out.Version
	return outcomeOf(a, out, err)
}

// known reports whether the command was settled before, and tells how. It is not sent again then.
func (r *repairer) known(ctx context.Context, of deja.Stream, a *repairAnswer) (bool, error) {
	key := wire.LedgerKey(r.e.app.Service.Name, &deja.Envelope{ID: a.ID, Stream: of, Source: r.e.app.Service.Name})
	found, _, err := r.db.Reader.Lookup(ctx, []deja.ID{key})
	if err != nil || len(found) == 0 {
		return false, err
	}
	d, err := r.db.Source.Decision(ctx, found[0].Partition, found[0].N)
	if errors.Is(err, journal.ErrGap) { // it is on its way to the journal: sending it again finds it there
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if a.Outcome, a.Version = d.Decided.Status.String(), d.Version; d.Decided.Status == deja.Applied {
		a.Outcome = "duplicate"
	} else {
		a.Reason = d.Decided.Reason.Error()
	}
	return true, nil
}

// outcomeOf words what became of a command. An error is one that says nothing of that.
func outcomeOf(a repairAnswer, out deja.Outcome, err error) (repairAnswer, error) {
	var rejection *deja.Rejection
	var conflict *deja.Conflict
	var dead *deja.Dead
	switch {
	case err == nil && out.Duplicate:
		a.Outcome = "duplicate"
		return a, nil
	case err == nil:
		a.Outcome = "applied"
		return a, nil
	case errors.Is(err, deja.ErrParked):
		a.Outcome = "parked"
	case errors.As(err, &conflict):
		a.Outcome = "conflict"
	case errors.As(err, &dead):
		a.Outcome = "dead"
	case errors.As(err, &rejection):
		a.Outcome = "rejected"
	default:
		return a, err
	}
	a.Reason = err.Error()
	return a, nil
}

func (e *Env) printRepaired(a repairAnswer) error {
	if e.json {
		return e.Answer(a)
	}
	colour := red
	if a.Outcome == "applied" || a.Outcome == "duplicate" {
		colour = green
	}
	text := a.Reason
	if text == "" {
		text = "version " + fmt.Sprint(a.Version)
	}
	_, err := fmt.Fprintf(e.Stdout, "%s  %s  %s  %s  %s\n", a.Key, a.ID, a.Type, e.paint(colour, a.Outcome), text)
	return err
}
