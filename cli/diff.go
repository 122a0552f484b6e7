package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/history"
)

func (e *Env) diffCommand() *cobra.Command {
	var at moment
	var patch, code bool
	cmd := &cobra.Command{
		Use:   "diff POINT POINT",
		Short: "Compare two states: of a key at two moments, or of two keys",
		Long: `Compare two states: of a key at two moments, or of two keys.

A POINT is a key, which stands for its state now or --at a moment; or a LOCATOR: of a key at a moment, or of a message, after
which it is the state of the message's key. Of one key the answer is what its messages wrote between the two points, in all.
--patch prints a JSON Patch (RFC 6902), which makes the second state of the first; in JSON it is a part of the answer:
{"a":{"key","version","position","time"},"b":{…},"changes":[{"path","old","new"}],"patch":[…]}, where null stands for
what is not there.`,
		Example: e.examples(
			"diff "+e.exampleKey("576")+"@3 "+e.exampleKey("576")+"@HEAD",
			"diff "+e.exampleKey("576")+"@business:1993-06-01 "+e.exampleKey("576")+"@business:1993-06-30",
			"diff "+e.exampleKey("576")+" "+e.exampleKey("577")+" --at 1993-06-30 --by business",
			"diff 0190163d~1 0190163d --patch",
		),
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := at.parse(e); err != nil {
				return err
			}
			d, err := e.diff(cmd.Context(), args[0], args[1], &at, patch)
			if err == nil && code && d > 0 {
				return Nof("they differ in %s", plural(d, "field"))
			}
			return err
		},
	}
	at.addFlags(cmd, "at", "the moment of both keys, a `LOCATOR`")
	e.addIndexFlags(cmd)
	cmd.Flags().BoolVar(&patch, "patch", false, "print a JSON Patch alone")
	cmd.Flags().BoolVar(&code, "exit-code", false, "exit with 1 if the two differ")
	return cmd
}

// diffAnswer is what makes one state of another.
type diffAnswer struct {
	A       pointAnswer         `json:"a"`
	B       pointAnswer         `json:"b"`
	Changes []writeAnswer       `json:"changes"`
	Patch   []history.Operation `json:"patch"`
}

// diff prints how two states differ, and returns in how many fields.
func (e *Env) diff(ctx context.Context, a, b string, at *moment, patch bool) (n int64, err error) {
	db, h, err := e.openHistory(ctx)
	if err != nil {
		return 0, err
	}
	defer db.CloseInto(&err)
	from, err := e.point(ctx, h, a, at)
	if err != nil {
		return 0, err
	}
	to, err := e.point(ctx, h, b, at)
	if err != nil {
		return 0, err
	}
	e.tell(from.Notes)
	e.tell(to.Notes)
	d, err := h.DiffOf(ctx, from, to)
	if err != nil {
		return 0, err
	}
	n = int64(len(d.Changes))
	switch answer := (diffAnswer{pointOf(d.A), pointOf(d.B), writesOf(h, from.Stream.Aggregate, d.Changes), d.Patch}); {
	case patch:
		return n, e.Answer(d.Patch)
	case e.json:
		return n, e.Answer(answer)
	default:
		return n, e.printDiff(answer)
	}
}

func (e *Env) printDiff(a diffAnswer) error {
	fmt.Fprintf(e.Stdout, "%s %s\n%s %s\n", e.paint(red, "---"), a.A, e.paint(green, "+++"), a.B)
	t := e.table()
	for _, w := range a.Changes {
		fmt.Fprintf(t, "%s\t%s → %s\n", w.Path, e.paint(red, shown(w.Old)), e.paint(green, shown(w.New)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	e.Notef("%s", plural(int64(len(a.Changes)), "difference"))
	return nil
}
