package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
)

func (e *Env) parkedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "parked",
		Short: "List the messages that wait for an operator, or act on one",
		Long: `List the messages that wait for an operator: their handler failed, or an earlier message of their key did.

A message is acted on only as the oldest parked one of its key. The act is a message like any other: it is recorded with
who did it and why. On a file it needs that for itself, so stop the service first. On servers the processes that run the
service decide it; where there are none, this one does.`,
		Example: e.examples("parked", "parked retry 0190163d --reason 'fixed in the new build'"),
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.parked(cmd.Context()) },
	}
	cmd.AddCommand(
		e.actCommand("retry ID|PREFIX", "Decide a parked message again, and then those behind it", "parked retry 0190163d", e.act, (*engine.Engine).Retry),
		e.actCommand("skip ID|PREFIX", "Give a parked message up, and decide those behind it", "parked skip 0190163d", e.act, (*engine.Engine).Skip),
	)
	return cmd
}

// parkedAnswer is a message that waits.
type parkedAnswer struct {
	ID       deja.ID       `json:"id"`
	Key      string        `json:"key"`
	Type     string        `json:"type"`
	Position deja.Position `json:"position"`
	N        int64         `json:"n"`
	Code     string        `json:"code"`
	Detail   string        `json:"detail,omitempty"`
	Since    time.Time     `json:"since"`
	Age      int64         `json:"age_seconds"`
}

func (e *Env) parked(ctx context.Context) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	var n int64
	err = eachParked(ctx, db, func(p driver.Parked) error {
		d, err := db.Source.Decision(ctx, p.Partition, p.N)
		if err != nil {
			return err
		}
		n++
		a := parkedAnswer{
			ID: d.Cause.ID, Key: p.Stream.String(), Type: d.Cause.Type, Position: d.Cause.Position, N: p.N,
			Code: d.Decided.Reason.Code, Detail: d.Decided.Reason.Detail, Since: d.Time, Age: int64(time.Since(d.Time).Seconds()),
		}
		if e.json {
			return e.Answer(a)
		}
		_, err = fmt.Fprintf(e.Stdout, "%s  %-20s  %-20s  %s  %s  %s: %s\n", a.ID, a.Key, a.Type, a.Position,
			(time.Duration(a.Age) * time.Second).String(), a.Code, a.Detail)
		return err
	})
	if err != nil {
		return err
	}
	e.Notef("%s parked", plural(n, "message"))
	if n > 0 {
		stop := "stop the service, then "
		if db.at.servers() {
			stop = ""
		}
		e.Notef("%s`%s` decides one again; `parked skip` gives it up", stop, e.hint("parked retry ID --reason WHY"))
	}
	return nil
}

// eachParked calls fn with every parked message, partition by partition.
func eachParked(ctx context.Context, db *Database, fn func(driver.Parked) error) error {
	for p := range db.Source.Partitions() {
		for from := int64(0); ; {
			waiting, err := db.Reader.Parked(ctx, p, deja.Stream{}, from, chunk)
			if err != nil {
				return err
			}
			if len(waiting) == 0 {
				break
			}
			for _, p := range waiting {
				if err := fn(p); err != nil {
					return err
				}
				from = p.Offset + 1
			}
		}
	}
	return nil
}

// act is an operator's act on a parked message.
type act func(*engine.Engine, context.Context, engine.Act) error

// byHand says who does something by hand, and why, for the record.
type byHand struct{ actor, reason string }

func (b *byHand) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&b.actor, "actor", "", "`WHO` does it, for the record (else $USER)")
	cmd.Flags().StringVar(&b.reason, "reason", "", "`WHY`, for the record")
}

// check completes the flags.
func (b *byHand) check(e *Env) error {
	if b.reason == "" {
		return Usagef("--reason is missing: why, for the record")
	}
	b.actor = cmp.Or(b.actor, e.actor())
	return nil
}

// actCommand returns a command for an act on a parked message; run finds the message that its argument names.
func (e *Env) actCommand(use, short, example string, run func(context.Context, string, byHand, act) error, act act) *cobra.Command {
	var by byHand
	cmd := &cobra.Command{
		Use:     use,
		Short:   short,
		Example: e.examples(example + " --reason 'fixed in the new build'"),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := by.check(e); err != nil {
				return err
			}
			return run(cmd.Context(), args[0], by, act)
		},
	}
	by.addFlags(cmd)
	return cmd
}

// actAnswer is what an act came to.
type actAnswer struct {
	ID     deja.ID `json:"id"`
	Key    string  `json:"key"`
	Status string  `json:"status"`
	Parked int64   `json:"parked"` // messages of the key that still wait
}

func (e *Env) act(ctx context.Context, id string, by byHand, act act) (err error) {
	at, err := e.locator("argument", id)
	if err != nil {
		return err
	}
	db, err := e.OpenWriter(ctx, false)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	if !at.IsMessage() {
		return Usagef("%s: want the ID of a parked message, or a prefix of it; `%s` lists them", id, e.hint("parked"))
	}
	d, err := e.decision(ctx, db, at)
	if err != nil {
		return err
	}
	return e.actOn(ctx, db, &d.Cause, by, act)
}

// actOn acts on a parked message.
func (e *Env) actOn(ctx context.Context, db *Database, m *deja.Envelope, by byHand, act act) error {
	err := e.meanwhile(ctx, db, func(ctx context.Context, eng *engine.Engine) error {
		return act(eng, ctx, engine.Act{Stream: m.Stream, Message: m.ID, Reason: by.reason, Actor: by.actor})
	})
	rejection, refused := errors.AsType[*deja.Rejection](err)
	if err != nil && !refused {
		return err
	}
	if err := e.printAct(ctx, db, m.ID.String(), m); err != nil {
		return err
	}
	if refused {
		return Nof("%w; `%s` lists what waits", rejection, e.hint("parked"))
	}
	return nil
}

// meanwhile lets fn work with an engine while the service runs: in other processes, or in this one if there are none.
func (e *Env) meanwhile(ctx context.Context, db *Database, fn func(context.Context, *engine.Engine) error) error {
	held, err := db.held(ctx)
	if err != nil {
		return err
	}
	if held == nil {
		return e.Run(ctx, db, fn)
	}
	eng, err := engine.New(e.config(db))
	if err != nil {
		return err
	}
	return fn(ctx, eng)
}

// held returns a lease that a process has which runs the service; nil if there is none. A file is this process's alone.
func (db *Database) held(ctx context.Context) (*driver.Lease, error) {
	if !db.at.servers() {
		return nil, nil //nolint:nilnil // there is none
	}
	leases, err := db.Store.Leases(ctx)
	if i := slices.IndexFunc(leases, func(l driver.Lease) bool { return l.Held && !l.Owner.IsZero() }); i >= 0 {
		return &leases[i], err
	}
	return nil, err
}

func (e *Env) printAct(ctx context.Context, db *Database, id string, cause *deja.Envelope) error {
	at, err := e.locator("argument", id)
	if err != nil {
		return err
	}
	now, err := e.decision(ctx, db, at)
	if err != nil {
		return err
	}
	a := actAnswer{ID: cause.ID, Key: cause.Stream.String(), Status: now.Decided.Status.String()}
	rows, err := db.Reader.Load(ctx, []deja.Stream{cause.Stream})
	if err != nil {
		return err
	}
	for _, row := range rows {
		a.Parked = row.Parked
	}
	if e.json {
		return e.Answer(a)
	}
	_, err = fmt.Fprintf(e.Stdout, "%s  %s  %s; of its key %s parked\n", a.ID, a.Key, a.Status, plural(a.Parked, "message"))
	return err
}

// actor returns who runs the program.
func (e *Env) actor() string { return cmp.Or(e.getenv("USER"), e.getenv("LOGNAME"), "operator") }
