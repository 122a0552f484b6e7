package cli

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/history"
)

func (e *Env) queryCommand() *cobra.Command {
	var q querying
	cmd := &cobra.Command{
		Use:   "query SCOPE [FIGURE]...",
		Short: "Figures over the history: counts and sums, by type, by month, by any field",
		Long: `Figures over the messages of some keys, such as account/576, account/* or *, in groups.

A FIGURE is count, or sum, min, max, first or last of a field: sum(event.amount), max(state.balance). Without one, it is
count. --group names what is grouped by: type, status, kind, key, aggregate, tenant, event, year, month, day, hour, or a
field. Fields are those of the recorded events, event.PATH, and of the state after the message, state.PATH. Where the
question is about events, each event counts, else each message. Sums are exact and do not overflow.`,
		Example: e.examples("query 'account/*' count --group status", "query 'account/*' 'sum(event.amount)' count --group month --by business --chart",
			"query "+e.exampleKey("576")+" 'min(state.balance)' --group year --csv"),
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.scope, q.of = args[0], args[1:]
			if err := q.at.parse(e); err != nil {
				return err
			}
			return e.query(cmd.Context(), &q)
		},
	}
	cmd.Flags().StringSliceVar(&q.by, "group", nil, "what to group by, a comma-separated list of `NAMES`")
	cmd.Flags().BoolVar(&q.csv, "csv", false, "write CSV")
	cmd.Flags().BoolVar(&q.chart, "chart", false, "draw the first figure as bars")
	cmd.MarkFlagsMutuallyExclusive("csv", "chart")
	e.addIndexFlags(cmd)
	q.at.addFlags(cmd, "at", "how far, a `LOCATOR`")
	return cmd
}

type querying struct {
	scope      string
	of, by     []string
	csv, chart bool
	at         moment
}

// queryAnswer is a group; with --json there is one on each line.
type queryAnswer struct {
	Group   map[string]string `json:"group"`
	Figures map[string]string `json:"figures"` // exact, as texts; "" where the group has no such field
}

func (e *Env) query(ctx context.Context, q *querying) (err error) {
	hq := history.Query{By: q.by, Of: q.of, Clock: q.at.clock}
	if hq.Scope, err = e.scope(q.scope); err != nil {
		return err
	}
	if len(q.of) == 0 {
		hq.Of = []string{"count"}
	}
	db, h, limits, err := e.openPart(ctx, &q.at)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	hq.Limits = limits
	rows, err := h.Query(ctx, hq)
	if errors.Is(err, history.ErrQuery) {
		return Usagef("%w", err)
	}
	if err != nil {
		return err
	}
	switch {
	case e.json:
		return e.answerRows(&hq, rows)
	case q.csv:
		w := csv.NewWriter(e.Stdout)
		_ = w.Write(slices.Concat(hq.By, hq.Of))
		for _, r := range rows {
			_ = w.Write(slices.Concat(r.By, r.Of))
		}
		w.Flush()
		return w.Error()
	case q.chart:
		return e.chart(&hq, rows)
	}
	t := e.table()
	fmt.Fprintln(t, strings.Join(slices.Concat(hq.By, hq.Of), "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(slices.Concat(r.By, r.Of), "\t"))
	}
	return t.Flush()
}

func (e *Env) answerRows(q *history.Query, rows []history.Row) error {
	for _, r := range rows {
		a := queryAnswer{map[string]string{}, map[string]string{}}
		for i, name := range q.By {
			a.Group[name] = r.By[i]
		}
		for i, name := range q.Of {
			a.Figures[name] = r.Of[i]
		}
		if err := e.Answer(a); err != nil {
			return err
		}
	}
	return nil
}

// chart draws the first figure of each group as a bar, from zero.
func (e *Env) chart(q *history.Query, rows []history.Row) error {
	const width = 50
	most, wide := new(big.Int), 0
	values := make([]*big.Int, len(rows))
	for i, r := range rows {
		v, ok := new(big.Int).SetString(r.Of[0], 10)
		if !ok {
			v = new(big.Int)
		}
		values[i] = v
		if v.CmpAbs(most) > 0 {
			most = new(big.Int).Abs(v)
		}
		wide = max(wide, utf8.RuneCountInString(strings.Join(r.By, " ")))
	}
	fmt.Fprintln(e.Stdout, q.Of[0])
	for i, r := range rows {
		label := strings.Join(r.By, " ")
		bar := ""
		if most.Sign() > 0 {
			n := new(big.Int).Mul(new(big.Int).Abs(values[i]), big.NewInt(width))
			bar = strings.Repeat("█", int(n.Div(n, most).Int64()))
		}
		if values[i].Sign() < 0 {
			bar = "-" + bar
		}
		pad := strings.Repeat(" ", wide-utf8.RuneCountInString(label))
		if _, err := fmt.Fprintf(e.Stdout, "%s%s  %s %s\n", label, pad, bar, r.Of[0]); err != nil {
			return err
		}
	}
	return nil
}
