package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/replay"
)

func (e *Env) sagasCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sagas",
		Short: "List the sagas that are open, draw the course of one, or move it by hand",
		Long: `List the sagas that are open, draw the course of one, or move it by hand.

A saga is stuck when it says so itself, as where a compensation was refused, and late when it takes longer than its service
states. What is done by hand is a message like any other: it is recorded with who did it and why.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		e.sagasListCommand(), e.sagasShowCommand(), e.sagasCompensateCommand(),
		e.actCommand("retry KEY", "Decide a saga's oldest parked message again, and then those behind it", "sagas retry transfer/576", e.actOnOldest, (*engine.Engine).Retry),
		e.actCommand("skip KEY", "Give a saga's oldest parked message up, and decide those behind it", "sagas skip transfer/576", e.actOnOldest, (*engine.Engine).Skip),
	)
	return cmd
}

// sagaFilter says which sagas are listed.
type sagaFilter struct {
	overdue   bool
	aggregate string
}

func (e *Env) sagasListCommand() *cobra.Command {
	var f sagaFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what waits for something: a reply, a timer, an effect",
		Long: `List what waits for something: a reply to a command that was sent, a timer, an effect's result; and sagas that have not
ended. With --stuck only those are listed that a person should look at: stuck ones and late ones.`,
		Example: e.examples("sagas list", "sagas list --stuck --json", "sagas list --aggregate transfer"),
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.sagasList(cmd.Context(), f) },
	}
	cmd.Flags().BoolVar(&f.overdue, "stuck", false, "only those that are stuck or late")
	cmd.Flags().StringVar(&f.aggregate, "aggregate", "", "only those of this `AGGREGATE`")
	return cmd
}

func (e *Env) sagasList(ctx context.Context, f sagaFilter) (err error) {
	if f.aggregate != "" && !slices.Contains(e.machine.Aggregates(), f.aggregate) {
		return Usagef("--aggregate: there is no aggregate %q; the aggregates of %s are %s", f.aggregate, e.app.Service.Name,
			strings.Join(e.machine.Aggregates(), ", "))
	}
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	var n, overdue int64
	t := e.table()
	err = e.eachSaga(ctx, db, func(s engine.Saga) error {
		if f.aggregate != "" && s.Stream.Aggregate != f.aggregate || f.overdue && !s.Overdue() {
			return nil
		}
		if n++; s.Overdue() {
			overdue++
		}
		if e.json {
			return e.Answer(s)
		}
		since := s.Since
		if since.IsZero() {
			since = s.Began
		}
		var waits []string
		for _, w := range s.Waits {
			waits = append(waits, waitText(w))
		}
		_, err := fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Key, s.State, stamp(since), strings.Join(waits, "; "))
		return err
	})
	if err := errors.Join(err, t.Flush()); err != nil {
		return err
	}
	switch {
	case f.overdue:
		e.Notef("%s stuck or late", plural(n, "saga"))
	default:
		e.Notef("%d waiting, of which %d stuck or late", n, overdue)
	}
	if overdue > 0 {
		e.Notef("`%s` draws the course of one", e.hint("sagas show KEY"))
	}
	return nil
}

// eachSaga calls fn with all that waits for something, partition by partition.
func (e *Env) eachSaga(ctx context.Context, db *Database, fn func(engine.Saga) error) error {
	if _, err := e.current(ctx, db); err != nil {
		return err
	}
	performers, err := e.performers()
	if err != nil {
		return err
	}
	now := time.Now()
	for p := range db.Source.Partitions() {
		for after := (deja.Stream{}); ; {
			rows, err := db.Reader.Open(ctx, p, after, chunk)
			if err != nil {
				return err
			}
			for _, row := range rows {
				s, err := engine.SagaOf(e.machine, row, performers, now)
				if err == nil {
					err = fn(s)
				}
				if err != nil {
					return err
				}
			}
			if len(rows) < chunk {
				break
			}
			after = rows[len(rows)-1].Stream
		}
	}
	return nil
}

// waitText writes what is waited for.
func waitText(w engine.Wait) string {
	switch w.For {
	case engine.WaitReply:
		return fmt.Sprintf("reply to %s %s to %s, since %s", w.Type, w.ID, w.To, stamp(w.Since))
	case engine.WaitTimer:
		return fmt.Sprintf("timer %s: %s %s, due %s", w.Name, w.Type, w.ID, stamp(w.Due))
	default:
		text := fmt.Sprintf("effect %s %s, since %s", w.Type, w.ID, stamp(w.Since))
		if w.Unknown {
			text += ", unknown"
		}
		return text
	}
}

// compensation is what undoes a saga by hand.
type compensation struct {
	byHand
	payload string
}

func (e *Env) sagasCompensateCommand() *cobra.Command {
	var c compensation
	cmd := &cobra.Command{
		Use:   "compensate KEY",
		Short: "Have a saga undone by hand",
		Long: `Have a saga undone by hand: the command of its Compensate row is sent to it, which decides what is to be undone, or refuses.

On a file the command needs that for itself, so stop the service first; what the saga then sends goes out when the service
runs next. On servers the processes that run the service decide it; where there are none, this one does.`,
		Example: e.examples("sagas compensate transfer/576 --reason 'the receiver is dead'"),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(e); err != nil {
				return err
			}
			return e.compensate(cmd.Context(), args[0], c)
		},
	}
	c.addFlags(cmd)
	cmd.Flags().StringVar(&c.payload, "payload", "", "the command's payload, as `JSON`, if it has fields")
	return cmd
}

func (e *Env) compensate(ctx context.Context, text string, c compensation) (err error) {
	s, err := e.stream(text)
	if err != nil {
		return err
	}
	name := e.machine.Saga(s.Aggregate).Compensate
	if name == "" {
		return Usagef("%s has no Compensate row: there is no command that has it undone", s.Aggregate)
	}
	undo, err := e.machine.Command(name, []byte(c.payload))
	if err != nil {
		return Usagef("--payload: %w", err)
	}
	db, err := e.OpenWriter(ctx, false)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	if k, err := db.Present(ctx, s); err != nil || k.Version == 0 {
		if err == nil {
			err = e.adviseKey(ctx, db, s)
		}
		return errors.Join(err, fmt.Errorf("%w: nothing was recorded for %s", replay.ErrNotFound, s))
	}
	id := deja.NewID()
	err = e.meanwhile(ctx, db, func(ctx context.Context, eng *engine.Engine) error {
		_, err := eng.Client().Do(ctx, deja.Request{
			ID: id, Tenant: s.Tenant, Key: s.Key, Command: undo, Actor: c.actor, Headers: map[string]string{"reason": c.reason},
		})
		return err
	})
	refusal, refused := errors.AsType[*deja.Rejection](err)
	if err != nil && !refused {
		return err
	}
	if err := e.printByHand(ctx, db, s, id); err != nil {
		return err
	}
	if refused {
		return Nof("the saga refuses it: %w", refusal)
	}
	return nil
}

// byHandAnswer is what a message sent by hand came to.
type byHandAnswer struct {
	ID     deja.ID     `json:"id"` // of the message
	Status string      `json:"status"`
	Saga   engine.Saga `json:"saga"`
}

// printByHand tells how a message was settled, and how the saga stands.
func (e *Env) printByHand(ctx context.Context, db *Database, s deja.Stream, id deja.ID) error {
	at, err := e.locator("argument", id.String())
	if err != nil {
		return err
	}
	d, err := e.decision(ctx, db, at)
	if err != nil {
		return err
	}
	rows, err := db.Reader.Load(ctx, []deja.Stream{s})
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		rows = []driver.State{{Stream: s}}
	}
	performers, err := e.performers()
	if err != nil {
		return err
	}
	a := byHandAnswer{ID: id, Status: d.Decided.Status.String()}
	if a.Saga, err = engine.SagaOf(e.machine, rows[0], performers, time.Now()); err != nil {
		return err
	}
	if e.json {
		return e.Answer(a)
	}
	fmt.Fprintf(e.Stdout, "%s  %s  %s %s; it is %s\n", id, s, d.Cause.Type, a.Status, a.Saga.State)
	for _, w := range a.Saga.Waits {
		fmt.Fprintf(e.Stdout, "  waits for %s\n", waitText(w))
	}
	return nil
}

// actOnOldest acts on the oldest parked message of a key.
func (e *Env) actOnOldest(ctx context.Context, text string, by byHand, act act) (err error) {
	s, err := e.stream(text)
	if err != nil {
		return err
	}
	db, err := e.OpenWriter(ctx, false)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	for p := range db.Source.Partitions() {
		waiting, err := db.Reader.Parked(ctx, p, s, 0, 1)
		if err != nil {
			return err
		}
		for _, m := range waiting {
			d, err := db.Source.Decision(ctx, m.Partition, m.N)
			if err != nil {
				return err
			}
			return e.actOn(ctx, db, &d.Cause, by, act)
		}
	}
	return Nof("no message of %s is parked", s)
}
