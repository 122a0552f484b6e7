package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
)

func (e *Env) effectsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "effects",
		Short: "List the effects that are open, or say what became of one",
		Long: `List the effects that are open: asked for, and without a result yet; or say what became of one.

An effect is tried with one key until its result is known, or its provider may have forgotten the key. Then it is unknown: the
provider is asked what became of it or, where it cannot be asked, a person says it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(e.effectsListCommand(), e.effectsResolveCommand())
	return cmd
}

func (e *Env) effectsListCommand() *cobra.Command {
	var unknown bool
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the effects that are open",
		Example: e.examples("effects list", "effects list --unknown --json"),
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.effectsList(cmd.Context(), unknown) },
	}
	cmd.Flags().BoolVar(&unknown, "unknown", false, "only those of which a person must say what became of them")
	return cmd
}

// effectAnswer is an open effect.
type effectAnswer struct {
	ID      deja.ID   `json:"id"` // the key that its provider gets
	Key     string    `json:"key"`
	Type    string    `json:"type"`
	Asked   time.Time `json:"asked"`
	Age     int64     `json:"age_seconds"`
	Unknown bool      `json:"unknown,omitempty"`
}

func (e *Env) effectsList(ctx context.Context, unknown bool) (err error) {
	if unknown && e.app.Effects == nil {
		return Usagef("--unknown: this program has nobody who performs effects, and so does not know how long they may be tried; `%s` lists all",
			e.hint("effects list"))
	}
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	var n int64
	t := e.table()
	err = e.eachSaga(ctx, db, func(s engine.Saga) error {
		for _, w := range s.Waits {
			if w.For != engine.WaitEffect || unknown && !w.Unknown {
				continue
			}
			n++
			a := effectAnswer{ID: w.ID, Key: s.Key, Type: w.Type, Asked: w.Since, Age: int64(time.Since(w.Since).Seconds()), Unknown: w.Unknown}
			if e.json {
				if err := e.Answer(a); err != nil {
					return err
				}
				continue
			}
			state := "open"
			if a.Unknown {
				state = "unknown"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", a.ID, a.Key, a.Type, state, time.Duration(a.Age)*time.Second)
		}
		return nil
	})
	if err := errors.Join(err, t.Flush()); err != nil {
		return err
	}
	word := "open"
	if unknown {
		word = "unknown"
	}
	e.Notef("%s %s", plural(n, "effect"), word)
	if unknown && n > 0 {
		e.Notef("`%s` says what became of one", e.hint("effects resolve KEY ID --done|--refused CODE --reason WHY"))
	}
	return nil
}

// resolving is what a person says of an effect.
type resolving struct {
	byHand
	done            bool
	refused, detail string
	answer, named   string // the command's payload and wire name
}

func (e *Env) effectsResolveCommand() *cobra.Command {
	var r resolving
	cmd := &cobra.Command{
		Use:   "resolve KEY ID",
		Short: "Say what became of an open effect",
		Long: `Say what became of an open effect, having asked its provider by other means: that it was done, or that it was not and why.

With --done the instance that asked hears nothing more, unless --answer and --type give the command that the performer would
have answered with. With --refused its OnFailed row hears the code. What is said is a message like any result: it is recorded
with who said it and why, and the first result counts.

On a file the command needs that for itself, so stop the service first. On servers the processes that run the service decide
it; where there are none, this one does.`,
		Example: e.examples(
			"effects resolve transfer/576 0190163d-8694-739b-aea5-966c26f8ad91 --done --reason 'it is in their list'",
			`effects resolve transfer/576 0190163d-8694-739b-aea5-966c26f8ad91 --done --type transfer.mailed --answer '{"receipt":"R-17"}' --reason 'they said so'`,
			"effects resolve transfer/576 0190163d-8694-739b-aea5-966c26f8ad91 --refused post.address --reason 'it came back'",
		),
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.check(e); err != nil {
				return err
			}
			return e.resolve(cmd.Context(), args[0], args[1], &r)
		},
	}
	r.addFlags(cmd)
	cmd.Flags().BoolVar(&r.done, "done", false, "it was performed")
	cmd.Flags().StringVar(&r.refused, "refused", "", "it was not performed, for the reason of this `CODE`")
	cmd.Flags().StringVar(&r.detail, "detail", "", "more of the reason, a `TEXT`")
	cmd.Flags().StringVar(&r.answer, "answer", "", "the payload of the command that answers, as `JSON`")
	cmd.Flags().StringVar(&r.named, "type", "", "the wire `NAME` of the command that answers")
	cmd.MarkFlagsMutuallyExclusive("done", "refused")
	cmd.MarkFlagsOneRequired("done", "refused")
	cmd.MarkFlagsMutuallyExclusive("refused", "type")
	return cmd
}

// of completes a resolution.
func (r *resolving) of(e *Env, out *engine.Resolution) error {
	out.Actor, out.Reason = r.actor, r.reason
	switch {
	case r.refused != "":
		out.Rejection = deja.NewRejection(r.refused)
		out.Rejection.Detail = r.detail
	case !r.done: // an empty code is no reason, and above all not the opposite of one
		return Usagef("--refused: want a code, such as post.address; --done says that it was performed")
	case r.detail != "":
		return Usagef("--detail goes with --refused")
	case r.answer != "" && r.named == "":
		return Usagef("--answer goes with --type, the command that it is the payload of")
	}
	if r.named == "" {
		return nil
	}
	c, err := e.machine.Command(r.named, []byte(r.answer))
	if err != nil {
		return Usagef("--type, --answer: %w", err)
	}
	out.Answer = c
	return nil
}

func (e *Env) resolve(ctx context.Context, key, id string, r *resolving) (err error) {
	var what engine.Resolution
	if what.Stream, err = e.stream(key); err != nil {
		return err
	}
	if what.Effect, err = deja.ParseID(id); err != nil {
		return Usagef("%w; `%s` lists them", err, e.hint("effects list"))
	}
	if err := r.of(e, &what); err != nil {
		return err
	}
	db, err := e.OpenWriter(ctx, false)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	var result deja.Outcome
	err = e.meanwhile(ctx, db, func(ctx context.Context, eng *engine.Engine) (err error) {
		result, err = eng.Resolve(ctx, what)
		return err
	})
	if errors.Is(err, deja.ErrInvalid) {
		return Usagef("%w; `%s` lists them", err, e.hint("effects list"))
	}
	refusal, refused := errors.AsType[*deja.Rejection](err)
	if err != nil && !refused {
		return err
	}
	if err := e.printByHand(ctx, db, what.Stream, result.ID); err != nil {
		return err
	}
	if refused {
		return Nof("the result is refused: %w", refusal)
	}
	return nil
}
