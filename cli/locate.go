package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/replay"
)

// moment is a locator on the command line, and what a time in it means.
type moment struct {
	flag, text, by string

	given func() bool // the flag is on the command line

	at    replay.Locator
	clock replay.Clock
}

// addFlags adds --by, and a flag for the locator.
func (m *moment) addFlags(cmd *cobra.Command, flag, usage string) {
	m.flag, m.given = flag, func() bool { return cmd.Flags().Changed(flag) }
	cmd.Flags().StringVar(&m.text, flag, "", usage)
	cmd.Flags().StringVar(&m.by, "by", "decided", "what a time means: business or decided")
	complete(cmd, "by", "business", "decided")
}

// complete lets the shell complete a flag's values.
func complete(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil { // the command has no such flag
		panic(err)
	}
}

// parse reads the flags.
func (m *moment) parse(e *Env) (err error) {
	if m.text == "" && m.given() {
		return Usagef("--%s is empty: want a locator; HEAD is the present", m.flag)
	}
	if m.at, err = e.locator("--"+m.flag, m.text); err != nil {
		return err
	}
	switch m.by {
	case "decided":
	case "business":
		m.clock = replay.Business
	default:
		return Usagef("--by %s: want business or decided", m.by)
	}
	return nil
}

// locator reads a locator of this service.
func (e *Env) locator(flag, text string) (replay.Locator, error) {
	at, err := replay.ParseLocator(text)
	if err != nil {
		return at, Usagef("%s: %w", flag, err)
	}
	if s := at.Stream(); s != (deja.Stream{}) {
		return at, e.checkAggregate(s)
	}
	return at, nil
}

// stream reads a key.
func (e *Env) stream(text string) (deja.Stream, error) {
	s, err := deja.ParseStream(text)
	if err != nil {
		return s, Usagef("%w; the aggregates are %s", err, strings.Join(e.machine.Aggregates(), ", "))
	}
	return s, e.checkAggregate(s)
}

func (e *Env) checkAggregate(s deja.Stream) error {
	if _, err := e.machine.NewState(s); err != nil {
		return Usagef("there is no aggregate %q; the aggregates of %s are %s", s.Aggregate, e.app.Service.Name, strings.Join(e.machine.Aggregates(), ", "))
	}
	return nil
}

// delivery returns the message that a locator names: at a position of the inbox the one there, else the one that was
// decided last.
func (e *Env) delivery(ctx context.Context, db *Database, at replay.Locator) (step.Message, error) {
	if offset, ok := inboxOffset(at.String()); ok {
		return e.message(ctx, db, offset)
	}
	d, err := e.decision(ctx, db, at)
	if err != nil {
		return step.Message{}, err
	}
	return e.message(ctx, db, d.Cause.Position.Offset)
}

// inboxOffset reads the locator of one position in the inbox.
func inboxOffset(text string) (int64, bool) {
	topic, rest, ok := strings.Cut(text, ":")
	if !ok || topic != "inbox" && !strings.HasSuffix(topic, ".inbox") {
		return 0, false
	}
	offset, err := strconv.ParseInt(strings.TrimPrefix(rest, "0:"), 10, 64)
	return offset, err == nil
}

// decision returns the last decision up to a locator: of an ID, the one that settled the message.
func (e *Env) decision(ctx context.Context, db *Database, at replay.Locator) (journal.Entry, error) {
	if entry, ok, err := db.Source.Entry(ctx, at); ok {
		if err != nil {
			return journal.Entry{}, err
		}
		return e.numbered(ctx, db, entry.N)
	}
	cut, err := db.Source.Cut(ctx, at, replay.Decided)
	if err != nil {
		return journal.Entry{}, err
	}
	n := cut.Points[partition].N
	if n == 0 {
		return journal.Entry{}, fmt.Errorf("%w: nothing was decided up to %s; `%s` lists what was", replay.ErrNotFound, at, e.hint("log"))
	}
	return e.numbered(ctx, db, n)
}

// numbered returns decision n.
func (e *Env) numbered(ctx context.Context, db *Database, n int64) (journal.Entry, error) {
	return journal.Find(ctx, db.Log, e.app.Service.Name, partition, n, 0)
}

// aboutMessage returns what a command does that answers about the message of its one argument.
func aboutMessage[A any](e *Env, find func(context.Context, *Database, step.Message) (A, error), show func(A) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		at, err := e.locator("argument", args[0])
		if err != nil {
			return err
		}
		db, err := e.OpenReader(cmd.Context(), e.DB())
		if err != nil {
			return err
		}
		defer db.CloseInto(&err)
		m, err := e.delivery(cmd.Context(), db, at)
		if err != nil {
			return err
		}
		a, err := find(cmd.Context(), db, m)
		if err != nil {
			return err
		}
		if e.json {
			return e.Answer(a)
		}
		return show(a)
	}
}
