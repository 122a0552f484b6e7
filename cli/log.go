package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/replay"
)

// logQuery says which decisions are listed.
type logQuery struct {
	from, key string
	to        moment
	span      replay.Range
	statuses  []string
	limit     int64
}

func (e *Env) logCommand() *cobra.Command {
	var q logQuery
	cmd := &cobra.Command{
		Use:   "log",
		Short: "List the decisions, in order",
		Long: `List the decisions, in the order in which they were made: those of several partitions by their times.

--from and --to are locators. The answer begins with the decision that --from names; if it is a time, with the first
one after it. It ends with the last decision up to --to.`,
		Example: e.examples(
			"log --limit 20",
			"log --key "+e.exampleKey("576")+" --from 1993-06-30 --by business",
			"log --status conflict,rejected --json",
		),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return e.log(cmd.Context(), &q) },
	}
	cmd.Flags().StringVar(&q.from, "from", "", "begin with this `LOCATOR`")
	q.to.addFlags(cmd, "to", "end with this `LOCATOR`")
	cmd.Flags().StringVar(&q.key, "key", "", "of this `KEY` only")
	cmd.Flags().StringSliceVar(&q.statuses, "status", nil, "with these outcomes only: "+strings.Join(statuses(), ", "))
	cmd.Flags().Int64Var(&q.limit, "limit", 0, "stop after `N`; 0 is all")
	complete(cmd, "status", statuses()...)
	return cmd
}

// statuses returns the outcomes' words.
func statuses() (words []string) {
	for s := deja.Applied; s <= deja.DeadLetter; s++ {
		words = append(words, s.String())
	}
	return words
}

func (e *Env) log(ctx context.Context, q *logQuery) (err error) {
	match, err := e.matching(q)
	if err != nil {
		return err
	}
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	of, err := e.span(ctx, db, q)
	if err != nil {
		return err
	}
	var found int64
	show := e.logPrinter()
	for d, err := range db.decisions(ctx, of) {
		if err != nil {
			return err
		}
		if !match(d) {
			continue
		}
		if q.limit > 0 && found == q.limit {
			e.Notef("there are more, from decision %d on at %s: raise --limit, or add --from %s", d.N, d.Cause.Position, d.Cause.Position)
			break
		}
		found++
		if err := show(d); err != nil {
			return err
		}
	}
	e.Notef("%s", plural(found, "decision"))
	return nil
}

// matching returns the query's filter, and checks all that needs no database.
func (e *Env) matching(q *logQuery) (func(*journal.Entry) bool, error) {
	for _, s := range q.statuses {
		if !slices.Contains(statuses(), s) {
			return nil, Usagef("--status %s: there are %s", s, strings.Join(statuses(), ", "))
		}
	}
	var stream deja.Stream
	var err error
	if q.key != "" {
		if stream, err = e.stream(q.key); err != nil {
			return nil, err
		}
	}
	if q.limit < 0 {
		return nil, Usagef("--limit %d: want 0 or more", q.limit)
	}
	return func(d *journal.Entry) bool {
		return (q.key == "" || d.Cause.Stream == stream) &&
			(len(q.statuses) == 0 || slices.Contains(q.statuses, d.Decided.Status.String()))
	}, e.rangeOf(q)
}

// rangeOf reads which range is asked for.
func (e *Env) rangeOf(q *logQuery) error {
	if err := q.to.parse(e); err != nil {
		return err
	}
	q.span.To = q.to.at
	if q.from == "" {
		return nil
	}
	from, err := e.locator("--from", q.from)
	q.span.From = &from
	return err
}

// span returns what is listed of each partition.
func (e *Env) span(ctx context.Context, db *Database, q *logQuery) ([]extent, error) {
	sp, err := db.Source.Span(ctx, q.span, q.to.clock)
	if err != nil {
		return nil, err
	}
	e.tell(sp.Notes)
	of := make([]extent, len(sp.After))
	for p := range of {
		of[p] = extent{sp.After[p] + 1, sp.Last[p]}
	}
	return of, nil
}

// notes tells what the reader of an answer has to know about its moment.
func (e *Env) notes(cut replay.Cut) { e.tell(cut.Notes) }

func (e *Env) tell(notes []string) {
	for _, n := range notes {
		e.Notef("note: %s", n)
	}
}

// line is a decision in the log.
type line struct {
	N            int64         `json:"n"`
	Position     deja.Position `json:"position"`
	Time         time.Time     `json:"time"`
	BusinessTime time.Time     `json:"business_time,omitzero"`
	Key          string        `json:"key"`
	Type         string        `json:"type"`
	Status       string        `json:"status"`
	Code         string        `json:"code,omitempty"`
	Version      int64         `json:"version"`
	ID           deja.ID       `json:"id"`
}

func lineOf(d *journal.Entry) line {
	return line{
		N: d.N, Position: d.Cause.Position, Time: d.Time, BusinessTime: d.Cause.BusinessTime, Key: keyText(d.Cause.Stream),
		Type: d.Cause.Type, Status: d.Decided.Status.String(), Code: d.Decided.Reason.Code, Version: d.Version, ID: d.Cause.ID,
	}
}

// keyText writes a stream; "" for the zero one, that a message which could not be read is for.
func keyText(s deja.Stream) string {
	if s == (deja.Stream{}) {
		return ""
	}
	return s.String()
}

// logPrinter returns a function that prints a decision.
func (e *Env) logPrinter() func(*journal.Entry) error {
	if e.json {
		return func(d *journal.Entry) error { return e.Answer(lineOf(d)) }
	}
	const head, row = "%8s  %-20s  %-24s  %-24s  %-16s  %-20s  %-8s  %7s  %s", "%8d  %-20s  %-24s  %-24s  %-16s  %-20s  %s  %7d  %s\n"
	begun := false
	return func(d *journal.Entry) error {
		if !begun {
			begun = true
			line := fmt.Sprintf(head, "n", "position", "time", "business time", "key", "type", "status", "version", "id")
			fmt.Fprintln(e.Stdout, e.paint(bold, line))
		}
		word := e.status(d.Decided.Status) + strings.Repeat(" ", 8-len(d.Decided.Status.String()))
		_, err := fmt.Fprintf(e.Stdout, row, d.N, d.Cause.Position, stamp(d.Time), day(d.Cause.BusinessTime),
			keyText(d.Cause.Stream), d.Cause.Type, word, d.Version, d.Cause.ID)
		return err
	}
}
