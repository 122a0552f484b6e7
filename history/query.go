package history

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/replay"
)

// A Query asks for figures over the messages of a history, in groups.
type Query struct {
	Scope  Scope
	Limits Limits

	// By names what messages are grouped by: type, status, kind, key, aggregate, tenant, event (its type; a message counts
	// once for each event it recorded), year, month, day, hour, or the path of a field: event.<path> or state.<path>. None:
	// one group of all.
	By []string

	// Of are the figures: count, or sum, min, max, first and last of a field, written sum(event.amount). None: count.
	Of []string

	Clock replay.Clock // of year, month, day and hour; messages without a business time have "" there
}

// A Row is a group's figures.
type Row struct {
	By []string // as Query.By asks
	Of []string // as Query.Of asks: exact decimal numbers, or JSON tokens; "" where no message of the group has the field
}

// maxGroups bounds the memory of a query.
const maxGroups = 100_000

// ErrQuery is returned for a query that asks for what there is not.
var ErrQuery = errors.New("the query cannot be answered")

// Query returns the rows in order of their groups: numbers by value, texts by bytes. Sums do not overflow.
func (h *History) Query(ctx context.Context, q Query) ([]Row, error) {
	a, err := newAggregation(h, &q)
	if err != nil {
		return nil, err
	}
	state := &fieldsNow{}
	for s, err := range h.steps.scan(ctx, q.Scope.Matches, q.Limits.Last) {
		if err != nil {
			return nil, err
		}
		state.take(s)
		if !q.Limits.Has(s) {
			continue
		}
		if err := a.take(s, state); err != nil {
			return nil, err
		}
	}
	return a.rows(), nil
}

// fieldsNow are the fields of the stream that is being scanned, after its present step.
type fieldsNow struct {
	stream deja.Stream
	fields map[string]string
}

func (f *fieldsNow) take(s *Step) {
	if f.fields == nil || f.stream != s.Stream {
		f.stream, f.fields = s.Stream, map[string]string{}
	}
	for _, w := range s.Writes {
		if w.New == "" {
			delete(f.fields, w.Path)
		} else {
			f.fields[w.Path] = w.New
		}
	}
}

// aggregation is a query in the making.
type aggregation struct {
	q      *Query
	of     []measure
	events bool // rows are events, not messages
	groups map[string]*bucket
	zeros  map[string]map[string]string // of fields of states, by aggregate and path
}

// measure is a figure that is asked for.
type measure struct{ fn, field string }

type bucket struct {
	by  []string
	of  []figure
	key string
}

// figure is a figure in the making.
type figure struct {
	n     int64
	sum   *big.Int
	token string
}

func newAggregation(h *History, q *Query) (*aggregation, error) {
	if len(q.Of) == 0 {
		q.Of = []string{"count"}
	}
	a := &aggregation{q: q, groups: map[string]*bucket{}, zeros: map[string]map[string]string{}}
	for _, by := range q.By {
		if !slices.Contains(groupings, by) && !isField(by) {
			return nil, fmt.Errorf("%w: nothing can be grouped by %q; there are %s, and fields such as event.amount or state.owner", ErrQuery, by, strings.Join(groupings, ", "))
		}
		a.events = a.events || by == "event" || strings.HasPrefix(by, "event.")
	}
	for _, of := range q.Of {
		m, err := parseMeasure(of)
		if err != nil {
			return nil, err
		}
		a.of = append(a.of, m)
		a.events = a.events || strings.HasPrefix(m.field, "event.")
	}
	for _, name := range slices.Concat(q.By, fieldsOf(a.of)) {
		if path, ok := strings.CutPrefix(name, "state."); ok {
			if err := a.field(h, path); err != nil {
				return nil, err
			}
		}
	}
	return a, nil
}

func fieldsOf(ms []measure) []string {
	var names []string
	for _, m := range ms {
		names = append(names, m.field)
	}
	return names
}

// field notes what a field of a state is where it was not written, in each aggregate of the scope that has one.
func (a *aggregation) field(h *History, path string) error {
	found := false
	for _, aggregate := range a.q.Scope.aggregates(h.machine) {
		if h.CheckField(aggregate, path) != nil {
			continue
		}
		found = true
		if a.zeros[aggregate] == nil {
			a.zeros[aggregate] = map[string]string{}
		}
		a.zeros[aggregate][path] = h.Zero(aggregate, path)
	}
	if !found {
		return fmt.Errorf("%w: no state of %s has a field %s", ErrQuery, a.q.Scope, path)
	}
	return nil
}

var (
	groupings = []string{"type", "status", "kind", "key", "aggregate", "tenant", "event", "year", "month", "day", "hour"}
	functions = []string{"sum", "min", "max", "first", "last"}
)

func isField(name string) bool {
	rest, ok := strings.CutPrefix(name, "event.")
	if !ok {
		rest, ok = strings.CutPrefix(name, "state.")
	}
	return ok && rest != ""
}

func parseMeasure(text string) (measure, error) {
	if text == "count" {
		return measure{fn: "count"}, nil
	}
	fn, rest, ok := strings.Cut(text, "(")
	field, closed := strings.CutSuffix(rest, ")")
	if !ok || !closed || !slices.Contains(functions, fn) || !isField(field) {
		return measure{}, fmt.Errorf("%w: no figure %q; there are count, and %s of a field, such as sum(event.amount)", ErrQuery, text, strings.Join(functions, ", "))
	}
	return measure{fn, field}, nil
}

// take counts a message, or each of its events.
func (a *aggregation) take(s *Step, state *fieldsNow) error {
	if !a.events {
		return a.count(s, nil, nil, state)
	}
	for i := range s.Events {
		ev := &s.Events[i]
		fields, err := parseTree(ev.Payload)
		if err != nil { // not JSON: it has no fields
			fields = nil
		}
		if err := a.count(s, ev, fields, state); err != nil {
			return err
		}
	}
	return nil
}

func (a *aggregation) count(s *Step, ev *Event, fields any, state *fieldsNow) error {
	by := make([]string, len(a.q.By))
	for i, name := range a.q.By {
		by[i] = a.grouped(name, s, ev, fields, state)
	}
	key := strings.Join(by, "\x00")
	g := a.groups[key]
	if g == nil {
		if len(a.groups) == maxGroups {
			return fmt.Errorf("%w: it has more than %d groups; group by less, or narrow the scope", ErrQuery, maxGroups)
		}
		g = &bucket{by: by, of: make([]figure, len(a.of)), key: key}
		a.groups[key] = g
	}
	for i, m := range a.of {
		token := ""
		if m.fn != "count" {
			token = a.value(m.field, fields, state)
		}
		if err := g.of[i].add(m, token); err != nil {
			return fmt.Errorf("%w, at %s", err, s.Position)
		}
	}
	return nil
}

func (a *aggregation) grouped(name string, s *Step, ev *Event, fields any, state *fieldsNow) string {
	switch name {
	case "type":
		return s.Type
	case "status":
		return s.Status.String()
	case "kind":
		return s.Kind.String()
	case "key":
		return s.Stream.Key
	case "aggregate":
		return s.Stream.Aggregate
	case "tenant":
		return s.Stream.Tenant
	case "event":
		return ev.Type
	case "year", "month", "day", "hour":
		return period(name, s, a.q.Clock)
	}
	token := a.value(name, fields, state)
	var text string
	if json.Unmarshal([]byte(token), &text) == nil {
		return text
	}
	return token
}

func period(name string, s *Step, by replay.Clock) string {
	t := s.Time
	if by == replay.Business {
		t = s.BusinessTime
	}
	if t.IsZero() {
		return ""
	}
	layout := map[string]string{"year": "2006", "month": "2006-01", "day": time.DateOnly, "hour": "2006-01-02T15"}[name]
	return t.UTC().Format(layout)
}

// value returns the token of a field; "" if there is none.
func (a *aggregation) value(name string, event any, state *fieldsNow) string {
	if path, ok := strings.CutPrefix(name, "state."); ok {
		return cmp.Or(state.fields[path], a.zeros[state.stream.Aggregate][path])
	}
	v, ok := descend(event, strings.TrimPrefix(name, "event."))
	if !ok || v == nil {
		return ""
	}
	return tokenOf(v)
}

// add takes a token in; "" is none.
func (f *figure) add(m measure, token string) error {
	if m.fn != "count" && token == "" {
		return nil
	}
	f.n++
	switch m.fn {
	case "sum":
		v, ok := new(big.Int).SetString(token, 10)
		if !ok {
			return fmt.Errorf("%w: %s is %s, and no integer to add", ErrQuery, m.field, token)
		}
		if f.sum == nil {
			f.sum = new(big.Int)
		}
		f.sum.Add(f.sum, v)
	case "first":
		if f.n == 1 {
			f.token = token
		}
	case "last":
		f.token = token
	case "min":
		if f.n == 1 || compareTokens(token, f.token) < 0 {
			f.token = token
		}
	case "max":
		if f.n == 1 || compareTokens(token, f.token) > 0 {
			f.token = token
		}
	}
	return nil
}

func (f *figure) text(m measure) string {
	switch {
	case m.fn == "count":
		return fmt.Sprint(f.n)
	case f.sum != nil:
		return f.sum.String()
	}
	return f.token
}

// compareTokens orders integers by value, and behind them all else by bytes.
func compareTokens(a, b string) int {
	x, xok := new(big.Int).SetString(a, 10)
	y, yok := new(big.Int).SetString(b, 10)
	switch {
	case xok && yok:
		return x.Cmp(y)
	case xok:
		return -1
	case yok:
		return 1
	}
	return strings.Compare(a, b)
}

func (a *aggregation) rows() []Row {
	all := make([]*bucket, 0, len(a.groups))
	for _, g := range a.groups {
		all = append(all, g)
	}
	slices.SortFunc(all, func(x, y *bucket) int {
		for i := range x.by {
			if c := compareTokens(x.by[i], y.by[i]); c != 0 {
				return c
			}
		}
		return cmp.Compare(x.key, y.key)
	})
	rows := make([]Row, len(all))
	for i, g := range all {
		rows[i].By = g.by
		for j := range g.of {
			rows[i].Of = append(rows[i].Of, g.of[j].text(a.of[j]))
		}
	}
	return rows
}
