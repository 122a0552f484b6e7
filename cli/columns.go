package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/journal"
)

// plainColumns are those that the decision itself tells.
var plainColumns = map[string]func(*journal.Entry) string{
	"actor":       func(d *journal.Entry) string { return d.Cause.Actor },
	"source":      func(d *journal.Entry) string { return d.Cause.Source },
	"cause":       func(d *journal.Entry) string { return idText(d.Cause.CausationID) },
	"correlation": func(d *journal.Entry) string { return idText(d.Cause.CorrelationID) },
	"code":        func(d *journal.Entry) string { return d.Decided.Reason.Code },
	"detail":      func(d *journal.Entry) string { return d.Decided.Reason.Detail },
	"act":         func(d *journal.Entry) string { return idText(d.Act) },
	"build":       func(d *journal.Entry) string { return d.Build },
}

func columnNames() []string { return slices.Sorted(maps.Keys(plainColumns)) }

// columns are what is shown of a decision besides its line.
type columns struct {
	e      *Env
	db     *Database
	h      *history.History // nil where it is not needed
	wanted []column

	states map[deja.Stream]*deja.State // of the keys that were shown, kept up to date as decisions pass
}

// column is one of them: root and path, such as state and balance.
type column struct{ text, root, path string }

// maxStates bounds how many states are kept.
const maxStates = 10_000

// openColumns reads which columns a query wants, and opens the history if they, or a single key, need it.
func (e *Env) openColumns(ctx context.Context, db *Database, q *logQuery) (*columns, error) {
	c := &columns{e: e, db: db, states: map[deja.Stream]*deja.State{}}
	_, index := q.scope.Single()
	index = index && !e.index.none && !q.follow
	for _, text := range q.columns {
		col := column{text: text}
		if _, plain := plainColumns[text]; !plain {
			i := strings.IndexAny(text+".", ".[")
			col.root, col.path = text[:i], strings.TrimPrefix(text[i:], ".")
			switch col.root {
			case "state", "event", "payload":
			default:
				return nil, Usagef("--columns %s: want state.FIELD, event.FIELD, payload.FIELD, %s", text, strings.Join(columnNames(), ", "))
			}
		}
		index = index || col.root == "state"
		c.wanted = append(c.wanted, col)
	}
	if !index {
		return c, nil
	}
	h, err := e.historyOf(ctx, db)
	if errors.Is(err, driver.ErrTrimmed) && !slices.ContainsFunc(c.wanted, func(col column) bool { return col.root == "state" }) {
		return c, nil // the journal is read instead
	}
	if err != nil {
		return nil, err
	}
	c.h = h
	if err := c.check(q.scope); err != nil {
		return nil, err
	}
	return c, nil
}

// check returns an error for a column of a field that no state in the scope can have.
func (c *columns) check(scope history.Scope) error {
	for _, col := range c.wanted {
		if col.root != "state" {
			continue
		}
		var err error
		for _, aggregate := range c.e.machine.Aggregates() {
			if s, ok := scope.Single(); ok && s.Aggregate != aggregate {
				continue
			}
			if err = c.h.CheckField(aggregate, col.path); err == nil {
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fold brings a state that is kept up to date with a decision.
func (c *columns) fold(d *journal.Entry) error {
	st := c.states[d.Cause.Stream]
	if st == nil {
		return nil
	}
	for i := range d.Decided.Events {
		if err := c.e.machine.Fold(st, &d.Decided.Events[i]); err != nil {
			return err
		}
	}
	return nil
}

// of returns the values of a decision.
func (c *columns) of(ctx context.Context, d *journal.Entry) ([]json.RawMessage, error) {
	var values []json.RawMessage
	for _, col := range c.wanted {
		v, err := c.value(ctx, d, col)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

func (c *columns) value(ctx context.Context, d *journal.Entry, col column) (json.RawMessage, error) {
	switch col.root {
	case "state":
		doc, err := c.state(ctx, d)
		return at(doc, col.path), err
	case "event":
		return eventValue(d, col.path), nil
	case "payload":
		m, err := c.e.message(ctx, c.db, d.Cause.Position)
		if err != nil {
			return nil, err
		}
		return at(payload(m.Env.ContentType, m.Env.Payload), col.path), nil
	}
	text := plainColumns[col.text](d)
	if text == "" {
		return nil, nil
	}
	return json.Marshal(text)
}

// at returns what a document has at a path; nil for nothing.
func at(doc json.RawMessage, path string) json.RawMessage {
	if doc == nil {
		return nil
	}
	v, _ := history.ValueAt(doc, path)
	return v
}

// eventValue returns what a decision's event has at a path; of several events a list of all that have it.
func eventValue(d *journal.Entry, path string) json.RawMessage {
	var all []string
	for i := range d.Decided.Events {
		ev := &d.Decided.Events[i]
		if v := at(payload(ev.ContentType, ev.Payload), path); v != nil {
			all = append(all, string(v))
		}
	}
	switch {
	case len(all) == 0:
		return nil
	case len(d.Decided.Events) == 1:
		return json.RawMessage(all[0])
	}
	return json.RawMessage("[" + strings.Join(all, ",") + "]")
}

// state returns the state after a decision; nil where the message has no key.
func (c *columns) state(ctx context.Context, d *journal.Entry) (json.RawMessage, error) {
	s, p := d.Cause.Stream, d.Cause.Position.Partition
	if _, err := c.e.machine.NewState(s); err != nil {
		return nil, nil //nolint:nilerr // it is dead for that
	}
	if c.states[s] == nil {
		if len(c.states) >= maxStates {
			clear(c.states)
		}
		if c.h.All().Last[p] < d.N { // it was decided after the history was opened
			h, err := c.e.historyOf(ctx, c.db)
			if err != nil {
				return nil, err
			}
			c.h = h
		}
		var err error
		if c.states[s], err = c.h.StateUpTo(ctx, s, d.N); err != nil {
			return nil, err
		}
	}
	return c.states[s].Encode()
}

const columnWidth = 12

func (c *columns) head() string {
	var b strings.Builder
	for _, col := range c.wanted {
		fmt.Fprintf(&b, "  %-*s", columnWidth, col.text)
	}
	return b.String()
}

func (c *columns) row(values []json.RawMessage) string {
	var b strings.Builder
	for i, v := range values {
		text := "-"
		if v != nil {
			text = string(v)
		}
		fmt.Fprintf(&b, "  %-*s", max(columnWidth, len(c.wanted[i].text)), text)
	}
	return b.String()
}

// named returns the values by their columns.
func (c *columns) named(values []json.RawMessage) map[string]json.RawMessage {
	m := map[string]json.RawMessage{}
	for i, v := range values {
		m[c.wanted[i].text] = v
	}
	return m
}
