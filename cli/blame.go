package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
)

// blameQuery says of which fields the writers are asked for.
type blameQuery struct {
	at      moment
	history bool
	limit   int64
}

func (e *Env) blameCommand() *cobra.Command {
	var q blameQuery
	cmd := &cobra.Command{
		Use:   "blame POINT [FIELD…]",
		Short: "Tell of each field who wrote it last, when, and what it was before",
		Long: `Tell of each field of a key's state who wrote it last, when, and what it was before. Fields that were removed since are
there, too, and so are those that were never written.

A POINT is a key, now or --at a moment, or a LOCATOR of a key at a moment or of a message. A FIELD is a path of JSON names,
such as owner.name, limits["a.b"], items.0.sku, or items.# for how many there are; it stands for what is below it, too.
--history lists all writes, the last first.

In JSON each field is an object: {"key","at","path","value","old","new","by":{"id","type","n","position","version","time",
"business_time","actor","source"}}; at is the position of the key's last message by then; by is null where nobody wrote it, a
value null where nothing is there.`,
		Example: e.examples(
			"blame "+e.exampleKey("576"),
			"blame "+e.exampleKey("576")+"@17 balance",
			"blame "+e.exampleKey("576")+" balance --at 1993-06-30 --by business",
			"blame "+e.exampleKey("576")+" balance --history --limit 10 --json",
		),
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := q.at.parse(e); err != nil {
				return err
			}
			if q.limit < 0 {
				return Usagef("--limit %d: want 0 or more", q.limit)
			}
			return e.blame(cmd.Context(), args[0], args[1:], &q)
		},
	}
	q.at.addFlags(cmd, "at", "the moment, a `LOCATOR`")
	e.addIndexFlags(cmd)
	cmd.Flags().BoolVar(&q.history, "history", false, "list all writes, the last first")
	cmd.Flags().Int64Var(&q.limit, "limit", 0, "with --history: stop after `N`; 0 is all")
	return cmd
}

// blameAnswer is a field, and who wrote it.
type blameAnswer struct {
	Key   string          `json:"key"`
	At    deja.Position   `json:"at"` // the last message of the key that is looked at
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
	Old   json.RawMessage `json:"old"`
	New   json.RawMessage `json:"new"`
	By    *writerAnswer   `json:"by"` // null: never written
}

func (e *Env) blame(ctx context.Context, text string, paths []string, q *blameQuery) (err error) {
	db, h, err := e.openHistory(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	p, err := e.point(ctx, h, text, &q.at)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := h.CheckField(p.Stream.Aggregate, path); err != nil {
			return err
		}
	}
	e.tell(p.Notes)
	show := e.blamePrinter(h, p)
	if q.history {
		return e.writes(ctx, h, p, paths, q.limit, show)
	}
	all, err := h.BlameOf(ctx, p, paths...)
	if err != nil {
		return err
	}
	for _, b := range all {
		if err := show(b); err != nil {
			return err
		}
	}
	e.Notef("%s", plural(int64(len(all)), "field"))
	return nil
}

// writes lists all writes of some fields, or of all.
func (e *Env) writes(ctx context.Context, h *history.History, p history.Point, paths []string, limit int64, show func(history.Blame) error) error {
	var n int64
	for b, err := range h.Writes(ctx, p, paths...) {
		if err != nil {
			return err
		}
		if limit > 0 && n == limit {
			e.Notef("there are more, before version %d: raise --limit", b.By.Version)
			break
		}
		n++
		if err := show(b); err != nil {
			return err
		}
	}
	e.Notef("%s", plural(n, "write"))
	return nil
}

// blamePrinter returns a function that prints who wrote a field.
func (e *Env) blamePrinter(h *history.History, p history.Point) func(history.Blame) error {
	const head, row = "%-20s  %-16s  %-30s  %7s  %-24s  %-24s  %-12s  %-20s  %s", "%-20s  %-16s  %-30s  %7d  %-24s  %-24s  %-12s  %-20s  %s\n"
	begun, aggregate := false, p.Stream.Aggregate
	var last deja.Position
	if p.Step != nil {
		last = p.Step.Position
	}
	return func(b history.Blame) error {
		a := blameAnswer{Key: p.Stream.String(), At: last, Path: b.Path, Value: valueOf(h, aggregate, b.Path, b.Value), By: writerOf(b.By)}
		if b.By != nil {
			a.Old, a.New = valueOf(h, aggregate, b.Path, b.Old), valueOf(h, aggregate, b.Path, b.New)
		}
		if e.json {
			return e.Answer(a)
		}
		if !begun {
			begun = true
			if p.Step != nil {
				e.Notef("%s after the message at %s", a.Key, a.At)
			}
			line := fmt.Sprintf(head, "field", "value", "old → new", "version", "decided", "business time", "by", "type", "id")
			fmt.Fprintln(e.Stdout, e.paint(bold, line))
		}
		if a.By == nil {
			_, err := fmt.Fprintf(e.Stdout, "%-20s  %-16s  never written\n", a.Path, shown(a.Value))
			return err
		}
		_, err := fmt.Fprintf(e.Stdout, row, a.Path, shown(a.Value), shown(a.Old)+" → "+shown(a.New), a.By.Version, stamp(a.By.Time),
			day(a.By.BusinessTime), a.By.Actor, a.By.Type, a.By.ID)
		return err
	}
}
