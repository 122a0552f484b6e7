package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/archive"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/replay"
)

func (e *Env) traceCommand() *cobra.Command {
	var t tracing
	cmd := &cobra.Command{
		Use:   "trace LOCATOR",
		Short: "Follow a message to its causes, and to all that it caused",
		Long: `Follow a message to its causes, up to the first one, and to all messages that it caused: in this service, and in those on
the same log that it exchanges messages with. An effect, an event, a timer or a sent command is followed from the message whose
decision it comes from. Where the journal of another service is not on this log, as beside an archive, --with names an archive of it.

With --why or --impact only the one or the other is answered. Journals are read from an hour before the message on, with --why up to
an hour after it, and from the beginning where causes are not found there. --dot writes a graph for Graphviz: trace … --dot | dot -Tsvg.`,
		Example: e.examples("trace 0190163d", "trace "+e.exampleKey("576")+"@17 --why --json", "trace 0190163d --dot"),
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return e.trace(cmd.Context(), args[0], t) },
	}
	cmd.Flags().BoolVar(&t.why, "why", false, "the causes alone")
	cmd.Flags().BoolVar(&t.impact, "impact", false, "what it caused alone")
	cmd.Flags().BoolVar(&t.dot, "dot", false, "write a graph in the DOT language")
	cmd.Flags().StringArrayVar(&t.with, "with", nil, "an archive of another service, the directory `DIR`; may be repeated")
	cmd.MarkFlagsMutuallyExclusive("why", "impact")
	e.addIndexFlags(cmd)
	return cmd
}

type tracing struct {
	why, impact, dot bool
	with             []string
}

// archives opens the archives of other services, by service.
func (e *Env) archives(dirs []string) (_ map[string]driver.Log, closing func() error, err error) {
	logs := map[string]driver.Log{}
	closing = func() error {
		var errs []error
		for _, l := range logs {
			errs = append(errs, l.Close())
		}
		return errors.Join(errs...)
	}
	for _, dir := range dirs {
		l, err := archive.Open(dir)
		if err != nil {
			return nil, nil, errors.Join(Usagef("--with %s: %w", dir, err), closing())
		}
		name := l.Service()
		if _, twice := logs[name]; twice || name == e.app.Service.Name {
			return nil, nil, errors.Join(Usagef("--with %s: there is a journal of %s already", dir, name), l.Close(), closing())
		}
		logs[name] = l
	}
	return logs, closing, nil
}

// traceAnswer are the causes of a message, and what it caused.
type traceAnswer struct {
	ID       deja.ID      `json:"id"`
	Of       string       `json:"of,omitempty"`      // what was asked for, where that is not the message but something that came of its decision
	Why      []tracedLink `json:"why"`               // from the message to its first cause
	Outside  string       `json:"outside,omitempty"` // the cause of the last of them, which is not on this log
	Impact   []tracedLink `json:"impact"`            // causes before what they caused; depth 0 is the message
	Complete bool         `json:"complete"`          // the first cause is on this log
}

// tracedLink is a message in a chain or tree of causes.
type tracedLink struct {
	Depth    int           `json:"depth"`
	Service  string        `json:"service"` // that decided it
	ID       deja.ID       `json:"id"`
	Cause    deja.ID       `json:"cause,omitzero"`
	Kind     string        `json:"kind"`
	Type     string        `json:"type"`
	Key      string        `json:"key"`
	Position deja.Position `json:"position"`
	Status   string        `json:"status"`
	Version  int64         `json:"version"`
	Time     time.Time     `json:"time"`
	Events   []string      `json:"events"` // their types
}

func tracedOf(l history.Link) tracedLink {
	a := tracedLink{
		Depth: l.Depth, Service: l.Service, ID: l.ID, Cause: l.Cause, Kind: l.Kind.String(), Type: l.Type, Key: keyText(l.Stream), Position: l.Position,
		Status: l.Status.String(), Version: l.Version, Time: l.Time, Events: []string{},
	}
	for _, ev := range l.Events {
		a.Events = append(a.Events, ev.Type)
	}
	return a
}

func (e *Env) trace(ctx context.Context, text string, t tracing) (err error) {
	at, err := e.locator("argument", text)
	if err != nil {
		return err
	}
	others, closing, err := e.archives(t.with)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closing()) }()
	db, h, err := e.openHistory(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	a := traceAnswer{Why: []tracedLink{}, Impact: []tracedLink{}, Complete: true}
	s, err := h.Step(ctx, at)
	if id, perr := deja.ParseID(text); errors.Is(err, replay.ErrNotFound) && perr == nil {
		tell, end := e.Progress("reading the journal")
		s, a.Of, err = h.Emitted(ctx, id, func(_ string, done, total int64) { tell(done, total) })
		if end(); err == nil {
			a.Of += " " + id.String()
		}
	}
	if err != nil {
		return err
	}
	a.ID = s.ID
	why, impact, err := e.linksOf(ctx, h, s, t, others)
	if err != nil {
		return err
	}
	if !t.impact {
		for l, err := range why {
			if errors.Is(err, history.ErrOutside) {
				a.Outside, a.Complete = a.Why[len(a.Why)-1].Cause.String(), false
				break
			}
			if err != nil {
				return err
			}
			a.Why = append(a.Why, tracedOf(l))
		}
	}
	if !t.why {
		for l, err := range impact {
			if err != nil {
				return err
			}
			a.Impact = append(a.Impact, tracedOf(l))
		}
	}
	switch {
	case t.dot:
		return e.printDot(&a)
	case e.json:
		return e.Answer(a)
	}
	return e.printTrace(&a, t)
}

// linksOf returns a message's causes, and what it caused: by the index where no other service can be met.
func (e *Env) linksOf(ctx context.Context, h *history.History, s *history.Step, t tracing, others map[string]driver.Log) (why, impact iter.Seq2[history.Link, error], err error) {
	talks, err := h.Talks(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	if !talks {
		return h.Why(ctx, s), h.Impact(ctx, s), nil
	}
	tell, end := e.Progress("reading journals")
	beyond := history.Beyond{
		Why: !t.impact, Impact: !t.why,
		Services: slices.AppendSeq(slices.Collect(maps.Values(e.app.Peers)), maps.Keys(others)), Logs: others,
		Progress: func(_ string, done, total int64) { tell(done, total) },
	}
	c, err := h.Chain(ctx, s, beyond)
	end()
	if err != nil {
		return nil, nil, err
	}
	for _, name := range c.Missing() {
		e.Notef("note: there is no journal of %s on this log; --with DIR takes an archive of it", name)
	}
	return c.Why(s.ID), c.Impact(s.ID), nil
}

func (e *Env) printTrace(a *traceAnswer, t tracing) error {
	w := e.table()
	if a.Of != "" {
		fmt.Fprintf(w, "%s comes from the decision of message %s\n", a.Of, a.ID)
	}
	if !t.impact {
		fmt.Fprintln(w, e.paint(bold, "why"))
		if a.Outside != "" {
			fmt.Fprintf(w, "  %s\tnot in this history\n", a.Outside)
		}
		for i := len(a.Why) - 1; i >= 0; i-- {
			printLink(w, &a.Why[i], len(a.Why)-1-i)
		}
	}
	if !t.why {
		fmt.Fprintln(w, e.paint(bold, "impact"))
		for i := range a.Impact {
			printLink(w, &a.Impact[i], a.Impact[i].Depth)
		}
	}
	return w.Flush()
}

func printLink(w io.Writer, l *tracedLink, depth int) {
	fmt.Fprintf(w, "  %s%s\t%s %s\t%s\t%s\t%s\n", strings.Repeat("  ", depth), l.ID, l.Kind, l.Type, l.Key, l.Status, l.Position)
}

// printDot writes the graph. Names are quoted as DOT asks: only the quote and the backslash are special.
func (e *Env) printDot(a *traceAnswer) error {
	quoted := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
	fmt.Fprintln(e.Stdout, "digraph trace {\n  rankdir=LR\n  node [shape=box, fontname=monospace]")
	drawn := map[deja.ID]bool{}
	for _, l := range append(a.Why, a.Impact...) {
		if drawn[l.ID] {
			continue
		}
		drawn[l.ID] = true
		label := fmt.Sprintf("%s %s\n%s, %s\n%s", l.Kind, l.Type, l.Key, l.Status, l.Position)
		style := ""
		if l.ID == a.ID {
			style = ", penwidth=3"
		}
		fmt.Fprintf(e.Stdout, "  %s [label=%s%s]\n", quoted(l.ID.String()), strings.ReplaceAll(quoted(label), "\n", `\n`), style)
		if !l.Cause.IsZero() {
			fmt.Fprintf(e.Stdout, "  %s -> %s\n", quoted(l.Cause.String()), quoted(l.ID.String()))
		}
	}
	_, err := fmt.Fprintln(e.Stdout, "}")
	return err
}
