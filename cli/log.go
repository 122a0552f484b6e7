package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/replay"
)

// logQuery says which decisions are listed, and what of them.
type logQuery struct {
	from, key   string
	to          moment
	span        replay.Range
	scope       history.Scope
	statuses    []string
	types       []string
	actor       string
	correlation string
	columns     []string
	limit       int64
	follow      bool
}

func (e *Env) logCommand() *cobra.Command {
	var q logQuery
	cmd := &cobra.Command{
		Use:   "log [RANGE]",
		Short: "List the decisions, in order",
		Long: `List the decisions, in the order in which they were made: those of several partitions by their times.

A RANGE is a..b, or --from a --to b, two locators. The answer begins with the decision that a names; if it is a time, with the
first one after it; if it is a day, with its beginning. It ends with the last decision up to b. With --follow it does not end:
what is decided from now on comes as it is decided.

--columns adds what else is wanted of each decision: state.FIELD, what the key's state has there after it, such as
state.balance; event.FIELD and payload.FIELD, what the events and the message have there; state, event and payload alone are
all of it; and ` + strings.Join(columnNames(), ", ") + `. In JSON these are the members of "columns"; null is what is not there.`,
		Example: e.examples(
			"log --limit 20",
			"log --key "+e.exampleKey("576")+" 1993-06-01..1993-06-30 --by business --columns state.balance,payload.amount",
			"log --status conflict,rejected --json",
			"log --key '"+e.exampleKey("*")+"' --from HEAD --follow",
		),
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return e.log(cmd.Context(), &q, args) },
	}
	cmd.Flags().StringVar(&q.from, "from", "", "begin with this `LOCATOR`")
	q.to.addFlags(cmd, "to", "end with this `LOCATOR`")
	cmd.Flags().StringVar(&q.key, "key", "", "of this `KEY` only, or of all that account/* stands for")
	cmd.Flags().StringSliceVar(&q.statuses, "status", nil, "with these outcomes only: "+strings.Join(statuses(), ", "))
	cmd.Flags().StringSliceVar(&q.types, "type", nil, "messages of these `TYPES` only")
	cmd.Flags().StringVar(&q.actor, "actor", "", "asked for by this `ACTOR` only")
	cmd.Flags().StringVar(&q.correlation, "correlation", "", "of the chain that the message with this `ID` began")
	cmd.Flags().StringSliceVar(&q.columns, "columns", nil, "show these `COLUMNS`, too, such as state.balance")
	cmd.Flags().Int64Var(&q.limit, "limit", 0, "stop after `N`; 0 is all")
	cmd.Flags().BoolVarP(&q.follow, "follow", "f", false, "go on with what is decided from now on, until it is interrupted")
	e.addIndexFlags(cmd)
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

func (e *Env) log(ctx context.Context, q *logQuery, args []string) (err error) {
	match, err := e.matching(q, args)
	if err != nil {
		return err
	}
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	cols, err := e.openColumns(ctx, db, q)
	if err != nil {
		return err
	}
	of, err := e.span(ctx, db, q)
	if err != nil {
		return err
	}
	l := &listing{query: q, match: match, cols: cols, show: e.logPrinter(cols), read: make([]driver.Logged, len(of))}
	for d, err := range e.listed(ctx, db, cols, q, of) {
		if err != nil {
			return err
		}
		more, err := l.take(ctx, d)
		if err != nil {
			return err
		}
		if !more {
			e.Notef("there are more, from decision %d on at %s: raise --limit, or add --from %s", d.N, d.Cause.Position, d.Cause.Position)
			break
		}
	}
	if q.follow && !l.full() {
		if err := e.follow(ctx, db, l, of); err != nil {
			return err
		}
	}
	e.Notef("%s", plural(l.found, "decision"))
	return nil
}

// listed yields the decisions among which the query's are: of one key by the index, if there is one, else all.
func (e *Env) listed(ctx context.Context, db *Database, cols *columns, q *logQuery, of []extent) iter.Seq2[*journal.Entry, error] {
	s, single := q.scope.Single()
	if cols.h == nil || !single || q.follow {
		return db.decisions(ctx, of)
	}
	return func(yield func(*journal.Entry, error) bool) {
		p, err := cols.h.Of(ctx, s, replay.Locator{}, replay.Decided)
		if err != nil {
			yield(nil, err)
			return
		}
		for st, err := range cols.h.Steps(ctx, p, false) {
			if err == nil && (st.N < of[st.Position.Partition].first || st.N > of[st.Position.Partition].last) {
				continue
			}
			var d journal.Entry
			if err == nil {
				d, err = cols.h.Entry(ctx, st)
			}
			if !yield(&d, err) || err != nil {
				return
			}
		}
	}
}

// listing is a list in the making.
type listing struct {
	query *logQuery
	match func(*journal.Entry) bool
	cols  *columns
	show  func(context.Context, *journal.Entry) error
	found int64
	read  []driver.Logged // of each partition, how far it was read
}

// take lists a decision, if it is wanted. It returns false for one that is too much.
func (l *listing) take(ctx context.Context, d *journal.Entry) (bool, error) {
	if err := l.cols.fold(d); err != nil {
		return false, err
	}
	if l.match(d) {
		if l.full() {
			return false, nil
		}
		l.found++
		if err := l.show(ctx, d); err != nil {
			return false, err
		}
	}
	l.read[d.Cause.Position.Partition] = d.After()
	return true, nil
}

// full reports whether as many were listed as are wanted.
func (l *listing) full() bool { return l.query.limit > 0 && l.found == l.query.limit }

// matching returns the query's filter, and checks all that needs no database.
func (e *Env) matching(q *logQuery, args []string) (func(*journal.Entry) bool, error) {
	for _, s := range q.statuses {
		if !slices.Contains(statuses(), s) {
			return nil, Usagef("--status %s: there are %s", s, strings.Join(statuses(), ", "))
		}
	}
	if q.limit < 0 {
		return nil, Usagef("--limit %d: want 0 or more", q.limit)
	}
	var correlation deja.ID
	var err error
	if q.correlation != "" {
		if correlation, err = deja.ParseID(q.correlation); err != nil {
			return nil, Usagef("--correlation: %w", err)
		}
	}
	if q.key != "" {
		if q.scope, err = history.ParseScope(e.machine, q.key); err != nil {
			return nil, Usagef("--key: %w", err)
		}
	}
	return func(d *journal.Entry) bool {
		return (q.key == "" || q.scope.Matches(d.Cause.Stream)) &&
			(len(q.statuses) == 0 || slices.Contains(q.statuses, d.Decided.Status.String())) &&
			(len(q.types) == 0 || slices.Contains(q.types, d.Cause.Type)) &&
			(q.actor == "" || q.actor == d.Cause.Actor) && (correlation.IsZero() || correlation == d.Cause.CorrelationID)
	}, e.rangeOf(q, args)
}

// rangeOf reads which range is asked for.
func (e *Env) rangeOf(q *logQuery, args []string) error {
	if err := q.to.parse(e); err != nil {
		return err
	}
	if len(args) > 0 && (q.from != "" || q.to.text != "") {
		return Usagef("a range and --from or --to: want one of them")
	}
	q.span.To = q.to.at
	if len(args) > 0 {
		var err error
		if q.span, err = replay.ParseRange(args[0]); err != nil {
			return Usagef("argument: %w", err)
		}
	}
	if q.from != "" {
		from, err := e.locator("--from", q.from)
		if err != nil {
			return err
		}
		q.span.From = &from
	}
	if q.follow && q.span.To.String() != "HEAD" {
		return Usagef("--follow does not end: leave the end of the range out")
	}
	return nil
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

// columnsLine is a line with what else was asked for.
type columnsLine struct {
	line
	Columns map[string]json.RawMessage `json:"columns"`
}

// logPrinter returns a function that prints a decision.
func (e *Env) logPrinter(cols *columns) func(context.Context, *journal.Entry) error {
	const head, row = "%8s  %-20s  %-24s  %-24s  %-16s  %-20s  %-8s  %7s  %-36s", "%8d  %-20s  %-24s  %-24s  %-16s  %-20s  %s  %7d  %s"
	begun := false
	return func(ctx context.Context, d *journal.Entry) error {
		values, err := cols.of(ctx, d)
		if err != nil {
			return err
		}
		if e.json && len(values) > 0 {
			return e.Answer(columnsLine{lineOf(d), cols.named(values)})
		}
		if e.json {
			return e.Answer(lineOf(d))
		}
		if !begun {
			begun = true
			line := fmt.Sprintf(head, "n", "position", "time", "business time", "key", "type", "status", "version", "id")
			fmt.Fprintln(e.Stdout, e.paint(bold, strings.TrimRight(line+cols.head(), " ")))
		}
		word := e.status(d.Decided.Status) + strings.Repeat(" ", 8-len(d.Decided.Status.String()))
		line := fmt.Sprintf(row, d.N, d.Cause.Position, stamp(d.Time), day(d.Cause.BusinessTime),
			keyText(d.Cause.Stream), d.Cause.Type, word, d.Version, d.Cause.ID)
		_, err = fmt.Fprintln(e.Stdout, strings.TrimRight(line+cols.row(values), " "))
		return err
	}
}
