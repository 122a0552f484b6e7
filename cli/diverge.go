package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/replay"
)

// divergeFlags are the flags of diverge.
type divergeFlags struct {
	a, b     string
	within   string
	by       string
	patience time.Duration
	most     int
}

func (e *Env) divergeCommand() *cobra.Command {
	var f divergeFlags
	cmd := &cobra.Command{
		Use:   "diverge [SCOPE]",
		Short: "Let two builds decide the same history, and tell where they part",
		Long: `Let two builds of the service decide the same messages, side by side, and tell of each key at which message they first
decide otherwise, or have it write otherwise. Without --a it is what was recorded; without --b it is this program: so
"diverge" alone tells what this build would have decided otherwise. SCOPE is a key, account/* or *, all keys.

What is compared are the chains of all decisions of a key, with their outcomes, events and written fields, and not its
states: these can be equal again later. The keys of which that is so are named apart from those that still differ. IDs,
times and the details of refusals are not compared.

A build is run as a process of its own (BIN deja-worker). It is given messages and has no database. If it crashes, hangs
or prints nonsense, that is the answer, with the message that was under way. Commands that a repair sent are not lived.

With --range each key begins with the state that was recorded before it.

Exit codes: 0 they decide the same · 1 they do not, or one of them did not get to the end · 2 one of them is no build of this
service that can be asked.

JSON: equal, complete, a, b (program, build, fold, go), messages, keys, repairs_left_out, up_to (a
locator, or "before" the message at which a build failed), differ: of each key that
differs key, message, field, a, b (message, outcome, reason, emits, writes), later, states (differ, reconverged,
never_differed), equal_from, reconverged_times, fields, chain_a, chain_b; clusters: type, field, a, b, keys, first,
first_key; still_differ, reconverged, never_differed: keys; faults: side, kind, detail, key, message, stderr.`,
		Example: e.examples("diverge", "diverge --a ./bank-old --b ./bank-new --json", "diverge "+e.exampleKey("576")+" --b ./bank-new --range 1993-06-30..HEAD"),
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.diverge(cmd.Context(), strings.Join(args, ""), f)
		},
	}
	cmd.Flags().StringVar(&f.a, "a", history.Recorded, "one `BUILD`: a program, or recorded")
	cmd.Flags().StringVar(&f.b, "b", "", "the other `BUILD` (else this program)")
	cmd.Flags().StringVar(&f.within, "range", "", "only the messages of a range of two `LOCATORs`, from..to")
	cmd.Flags().StringVar(&f.by, "by", "decided", "what a time in --range means: business or decided")
	complete(cmd, "by", "business", "decided")
	cmd.Flags().DurationVar(&f.patience, "patience", time.Minute, "how long a build may take for a message")
	cmd.Flags().IntVar(&f.most, "show", 20, "how many keys to show one by one, 0 for all; JSON has all")
	e.addIndexFlags(cmd)
	return cmd
}

// divergeAnswer is where two builds part.
type divergeAnswer struct {
	*history.Divergence
	UpTo string `json:"up_to"`
}

// programOr returns the path of a build: this program's, if none is named.
func programOr(build string) (string, error) {
	if build != "" {
		return build, nil
	}
	return os.Executable()
}

func (e *Env) diverge(ctx context.Context, scope string, f divergeFlags) (err error) {
	q := history.Diverge{A: f.a, B: f.b, Patience: f.patience}
	if q.B, err = programOr(q.B); err != nil {
		return err
	}
	if q.Scope, err = e.scope(cmp.Or(scope, "*")); err != nil {
		return err
	}
	r, err := replay.ParseRange(f.within)
	if err != nil {
		return Usagef("--range: %w", err)
	}
	clock, err := clockOf(f.by)
	if err != nil {
		return err
	}
	if f.patience <= 0 {
		return Usagef("--patience %s: want more than nothing", f.patience)
	}
	db, h, err := e.openHistory(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	lim, notes, err := h.Range(ctx, r, clock)
	if err != nil {
		return err
	}
	e.tell(notes)
	q.Limits = lim
	cut, err := db.Source.Cut(ctx, r.To, clock)
	if err != nil {
		return err
	}
	var end func()
	q.Progress, end = e.Progress("comparing")
	d, err := h.Diverge(ctx, q)
	end()
	if errors.Is(err, history.ErrProgram) {
		return Usagef("%w", err)
	}
	if err != nil {
		return err
	}
	upTo := cut.String()
	if !d.Complete {
		upTo = ""
		if m := d.Faults[0].Message; m != nil {
			upTo = "before " + m.Position.String()
		}
	}
	if e.json {
		err = e.Answer(divergeAnswer{d, upTo})
	} else {
		err = e.printDivergence(d, upTo, f.most)
	}
	if err != nil {
		return err
	}
	return e.judgeDivergence(d)
}

// judgeDivergence returns an error if the builds are not the same.
func (e *Env) judgeDivergence(d *history.Divergence) error {
	for _, f := range d.Faults {
		if f.Stderr != "" {
			e.Notef("side %s wrote to its standard error:\n%s", f.Side, strings.TrimRight(f.Stderr, "\n"))
		}
	}
	switch {
	case len(d.Faults) > 0:
		f := d.Faults[0]
		return Nof("side %s %s after %s: %s%s; nothing was compared from there on", f.Side, f.Kind, plural(d.Messages, "message"), f.Detail, faultAt(&f))
	case !d.Equal:
		return Nof("they decide otherwise in %s of %d", plural(int64(len(d.Differ)), "key"), d.Keys)
	case d.Messages == 0:
		e.Notef("note: there was no message to compare")
	}
	return nil
}

func faultAt(f *history.WorkerFault) string {
	if f.Message == nil {
		return ""
	}
	return fmt.Sprintf("; under way was message %s at %s, %s for %s", f.Message.ID, f.Message.Position, f.Message.Type, f.Key)
}

func (e *Env) printDivergence(d *history.Divergence, upTo string, most int) error {
	result := e.paint(green, "equal")
	if !d.Equal {
		result = e.paint(red, "different")
	}
	switch {
	case !d.Complete && len(d.Differ) == 0:
		result = e.paint(red, "not complete")
	case !d.Complete:
		result += ", not complete"
	}
	err := e.fields("result", result, "a", buildText(d.A), "b", buildText(d.B), "messages", d.Messages, "keys", d.Keys,
		"up to", upTo, "left out", leftOut(d.Repairs))
	if err != nil || len(d.Differ) == 0 {
		return err
	}
	fmt.Fprintf(e.Stdout, "\nhow they part\n")
	t := e.table()
	fmt.Fprintf(t, "KEYS\tTYPE\tFIELD\tA\tB\tFIRST\n")
	for _, c := range d.Clusters {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s of %s\n", c.Keys, c.Type, c.Field, c.A, c.B, c.First.Position, c.Key)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(e.Stdout, "\nstates differ in the end: %d keys · re-converged: %d · never differed: %d\n",
		len(d.StillDiffer), len(d.Reconverged), len(d.NeverDiffered))
	if len(d.Reconverged) > 0 {
		e.printReconverged(d, most)
	}
	for i, p := range d.Differ {
		if i == most && most > 0 {
			fmt.Fprintf(e.Stdout, "\nand %d more; --show 0 shows all, --json too\n", len(d.Differ)-most)
			break
		}
		if err := e.printParting(p); err != nil {
			return err
		}
	}
	return nil
}

func (e *Env) printReconverged(d *history.Divergence, most int) {
	fmt.Fprintf(e.Stdout, "re-converged\n")
	n := 0
	for _, p := range d.Differ {
		if p.States != "reconverged" {
			continue
		}
		if n == most && most > 0 {
			fmt.Fprintf(e.Stdout, "  and %d more\n", len(d.Reconverged)-most)
			return
		}
		n++
		fmt.Fprintf(e.Stdout, "  %s, equal again from %s at %s on\n", p.Key, p.Again.ID, p.Again.Position)
	}
}

func (e *Env) printParting(p *history.Parting) error {
	key := p.Key
	if key == "" {
		key = "(no message)"
	}
	fmt.Fprintf(e.Stdout, "\n%s\n", e.paint(bold, key))
	var fields string
	for _, f := range p.Fields {
		fields += fmt.Sprintf("%s: %s, %s\n", f.Path, f.A, f.B)
	}
	return e.fields("  first at", fmt.Sprintf("%s %s %s", p.Message.ID, p.Message.Position, p.Message.Type), "  payload", string(p.Message.Payload),
		"  field", p.Field, "  a", p.A.String(), "  b", p.B.String(), "  later too", plural(p.Later, "message"),
		"  in the end", strings.TrimRight(fields, "\n"))
}

func leftOut(repairs int64) string {
	if repairs == 0 {
		return ""
	}
	return plural(repairs, "command") + " of repairs"
}

func buildText(b history.Build) string {
	if b.Build == "" {
		return b.Program
	}
	return fmt.Sprintf("%s (%s)", b.Program, b.Build)
}
