package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/history"
)

// minAsked is what the command line says to min.
type minAsked struct {
	limits limits
	out    string
	most   time.Duration
}

func (e *Env) minCommand() *cobra.Command {
	var asked minAsked
	cmd := &cobra.Command{
		Use:   "min SCOPE PREDICATE",
		Short: "Find the smallest history in which a condition comes to hold",
		Long: `Find the smallest history in which a condition comes to hold: the first message after which it does, and as few as can be of
those before it.

` + scopeHelp + ` Of several keys it is the first one of which
the predicate ever holds.

` + predicateHelp + `

Messages are left out as long as the same message makes the predicate true in the same way: settled as it was, writing the
fields that the predicate reads as it did, numbers by as much. Each time the handlers of this build decide what is left, in
memory. In the end no message can be left out, with those that it has caused, without the failure going away ("minimal":true);
and with each message there is the one that caused it. It takes some hundred lives of the key, and more the more messages
matter; cut off by --for or an interrupt, the answer is the smallest history so far, and says "complete":false.

--out writes the history to a FILE of its own: JSON with the messages as the inbox has them, in the order in which they are handled.

With --json: {"key","first_bad":{"id","position","version","type","payload"},"messages":[…],"of":N,"reproduced":true,
"minimal":true,"tests":N,"lived":N,"complete":true,"notes":[]}. Exit code 1: it never holds, or not in this build.`,
		Example: e.examples(
			"min "+e.exampleKey("576")+" 'state.balance < 0'",
			"min '"+e.exampleKey("*")+"' 'state.balance != state.recorded' --out fault.json --for 30s --json",
		),
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := asked.limits.parse(e); err != nil {
				return err
			}
			if asked.most < 0 {
				return Usagef("--for %s: want a time above 0, or 0 for no limit", asked.most)
			}
			scope, p, err := e.predicate(args[0], args[1])
			if err != nil {
				return err
			}
			return e.min(cmd.Context(), scope, p, &asked)
		},
	}
	asked.limits.addFlags(cmd)
	cmd.Flags().StringVar(&asked.out, "out", "", "write the history to this `FILE`, which must not be there yet")
	cmd.Flags().DurationVar(&asked.most, "for", 0, "look no longer than this `TIME`, such as 30s; 0: until it is minimal")
	e.addIndexFlags(cmd)
	return cmd
}

func (e *Env) min(ctx context.Context, s history.Scope, p history.Predicate, asked *minAsked) (err error) {
	db, h, lim, err := e.openPart(ctx, &asked.limits)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	first, complete, err := firstBad(ctx, h, s, p, lim)
	if err != nil {
		return err
	}
	if first == nil {
		return Nof("%s never holds for %s, %s", p, s, &asked.limits)
	}
	within, stop := ctx, context.CancelFunc(func() {})
	if asked.most > 0 {
		within, stop = context.WithTimeout(ctx, asked.most)
	}
	defer stop()
	m, err := h.Minimal(within, first, p)
	if err != nil {
		return cutOff(ctx, err)
	}
	if !complete {
		m.Complete = false
		m.Notes = append(m.Notes, "the history has no longer all of the key's messages")
	}
	if asked.out != "" && m.Reproduced {
		if err := writeCapsule(context.WithoutCancel(ctx), h, m, asked.out); err != nil {
			return err
		}
	}
	if e.json {
		err = e.Answer(m)
	} else {
		err = e.printMin(m)
	}
	if err == nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil && !m.Reproduced {
		return Nof("%s does not come to hold in this build", p)
	}
	return err
}

// cutOff explains an error that comes of a limit, and not of an interrupt.
func cutOff(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return Nof("--for is too short to decide the messages again even once: %w", err)
	}
	return err
}

// firstBad returns the first message after which a predicate holds, of the first key of which it does; nil if it never does.
func firstBad(ctx context.Context, h *history.History, s history.Scope, p history.Predicate, lim history.Limits) (*history.Step, bool, error) {
	for found, err := range h.WhenBrief(ctx, s, p, lim) {
		if err != nil {
			return nil, false, err
		}
		if len(found.Intervals) > 0 {
			return found.Intervals[0].From.Step, found.Complete, nil
		}
	}
	return nil, true, nil
}

func writeCapsule(ctx context.Context, h *history.History, m *history.Minimal, path string) error {
	c, err := m.Capsule(ctx, h)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // the messages may be nobody else's business
	if err != nil {
		return Usagef("--out: %w", err)
	}
	_, err = c.WriteTo(f)
	return errors.Join(err, f.Close())
}

// causes tells of messages of other keys; nothing if there are none.
func causes(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", with %d of other keys that caused them", n)
}

func (e *Env) printMin(m *history.Minimal) error {
	t := e.table()
	for i := range m.Messages {
		o := &m.Messages[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", o.ID, o.Type, o.Step.Stream, o.Version, o.Position, o.Payload)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if !m.Reproduced {
		e.Notef("message %s", m.FirstBad.ID)
	} else {
		e.Notef("%s of %d%s, after %s", plural(int64(len(m.Messages)-m.Causes), "message"), m.Of, causes(m.Causes), plural(int64(m.Tests), "test"))
	}
	if m.Reproduced && !m.Minimal {
		e.Notef("cut off: it could perhaps be smaller")
	}
	e.tell(m.Notes)
	return nil
}
