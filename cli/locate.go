package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
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
	m.clock, err = clockOf(m.by)
	return err
}

// clockOf reads --by.
func clockOf(by string) (replay.Clock, error) {
	switch by {
	case "decided":
		return replay.Decided, nil
	case "business":
		return replay.Business, nil
	}
	return 0, Usagef("--by %s: want business or decided", by)
}

// resolve implements part: all up to the moment.
func (m *moment) resolve(ctx context.Context, h *history.History) (history.Limits, []string, error) {
	lim, cut, err := h.Resolve(ctx, m.at, m.clock)
	return lim, cut.Notes, err
}

// scope reads a scope.
func (e *Env) scope(text string) (history.Scope, error) {
	s, err := history.ParseScope(e.machine, text)
	if err != nil {
		return s, Usagef("%w", err)
	}
	return s, nil
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
	if p, ok := inboxPosition(at.String()); ok && (p.Topic == "inbox" || p.Topic == wire.Inbox(e.app.Service.Name)) {
		return e.message(ctx, db, e.inbox(p.Partition, p.Offset))
	}
	d, err := e.decision(ctx, db, at)
	if err != nil {
		return step.Message{}, err
	}
	return e.message(ctx, db, d.Cause.Position)
}

// inboxPosition reads the locator of one position in an inbox.
func inboxPosition(text string) (p deja.Position, ok bool) {
	f := strings.Split(text, ":")
	if len(f) != 3 || f[0] != "inbox" && !strings.HasSuffix(f[0], ".inbox") {
		return p, false
	}
	partition, err1 := strconv.ParseInt(f[1], 10, 32)
	offset, err2 := strconv.ParseInt(f[2], 10, 64)
	return deja.Position{Topic: f[0], Partition: int32(partition), Offset: offset}, err1 == nil && err2 == nil
}

// decision returns the decision of the message that a locator names.
func (e *Env) decision(ctx context.Context, db *Database, at replay.Locator) (journal.Entry, error) {
	f, _, err := db.Source.Message(ctx, at, replay.Decided)
	if err != nil {
		return journal.Entry{}, err
	}
	return db.Source.Decision(ctx, f.Partition, f.N)
}

// aboutMessage returns what a command does that answers about the message of its one argument.
func aboutMessage[A any](e *Env, find func(context.Context, *Database, step.Message) (A, error), show func(A) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		at, err := e.locator("argument", args[0])
		if err != nil {
			return err
		}
		db, err := e.Open(cmd.Context())
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
