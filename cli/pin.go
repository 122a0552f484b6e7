package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
)

// pinFlags are the flags of pin.
type pinFlags struct {
	at      moment
	when    string
	current bool
	effort  int64
	test    string
}

func (e *Env) pinCommand() *cobra.Command {
	var f pinFlags
	cmd := &cobra.Command{
		Use:   "pin SCOPE --when 'PREDICATE'",
		Short: "Pin the message that led to something wrong, with evidence",
		Long: `Pin the message that made a predicate true, and gather evidence, level by level. Each level says what it says and no more:

  FIRST-BAD    the predicate is false before this message, and true after it; of several keys, where that was first
  LAST-WRITER  of each field that the predicate reads: the message that wrote it last, up to FIRST-BAD
  CAUSE        the message that caused it, and so on to the root
  TWIN         messages that say the same because of the same under different IDs: suspects of a broken idempotency key
  CONFIRMED    without the message the predicate is false at the target; else the smallest set found without which it is
  MINIMAL      FIRST-BAD, and those before it without which it does not make the same change; none can be left out
  TEST         with --emit-test: a Go test that was compiled outside the source tree, and seen to fail on this build

The predicate is CEL over state, prev, event and events, as in ` + "`when`" + `. The target is the key's last message before the
predicate stopped holding; else the last up to --at. For CONFIRMED and MINIMAL this build decides messages of the key
again, in memory: no more than --effort of them. What is pinned is the first time that the predicate came to hold;
with --current the time in which it holds at --at.

JSON: first_bad {id, position, version, type, payload} or null; last_writers [{path, old, new, id, …}]; cause [{id, …}]; confirmed
true, false or null: not known; minimal {messages, of, minimal} or null; complete; key, when, until, target, times, keys, twins,
smallest_set {messages, minimal, smallest, first, last}, handler {same, first_difference, …, says}, nearest_miss, test {dir, name,
failed}, levels [{level, reached, why}].

The exit code is 1 if the predicate is never true, or if a test was asked for and there is none.`,
		Example: e.examples("pin "+e.exampleKey("576")+" --when 'state.balance < 0'",
			"pin "+e.exampleKey("*")+" --when 'state.balance < 0' --at 1993-06-30 --by business --json",
			"pin "+e.exampleKey("576")+" --when 'state.balance < 0' --emit-test ../pinned-576"),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.at.parse(e); err != nil {
				return err
			}
			return e.pin(cmd.Context(), args[0], &f)
		},
	}
	cmd.Flags().StringVar(&f.when, "when", "", "what is wrong, a `PREDICATE` in CEL, such as 'state.balance < 0'")
	f.at.addFlags(cmd, "at", "how far the history is looked at, a `LOCATOR`")
	cmd.Flags().BoolVar(&f.current, "current", false, "pin the time in which it holds at the end, not the first time that it did")
	cmd.Flags().Int64Var(&f.effort, "effort", history.DefaultEffort, "how many `MESSAGES` are decided again at most; 0: none")
	cmd.Flags().StringVar(&f.test, "emit-test", "", "write a failing Go test, a module of its own, to this `DIR`")
	e.addIndexFlags(cmd)
	return cmd
}

func (e *Env) pin(ctx context.Context, scope string, f *pinFlags) (err error) {
	s := history.Suspect{Current: f.current, Effort: f.effort}
	if s.Effort == 0 {
		s.Effort = -1
	}
	if f.when == "" {
		return Usagef("--when is missing: what is wrong, such as --when 'state.balance < 0'")
	}
	if s.Scope, err = e.scope(scope); err != nil {
		return err
	}
	if s.When, err = e.whenFlag(s.Scope, f.when); err != nil {
		return err
	}
	if f.test != "" {
		if s.Test, err = e.testPlan(scope, f); err != nil {
			return err
		}
	}
	db, h, lim, err := e.openPart(ctx, &f.at)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	s.Limits = lim
	p, err := h.Pin(ctx, s)
	if err != nil {
		return err
	}
	if e.json {
		err = e.Answer(p)
	} else {
		err = e.printPin(p, scope)
	}
	if err != nil {
		return err
	}
	return missed(p)
}

// testPlan returns what --emit-test asks for.
func (e *Env) testPlan(scope string, f *pinFlags) (*history.TestPlan, error) {
	if e.app.New == nil {
		return nil, Usagef("--emit-test: the program does not say which function makes its service; set New of its cli.App")
	}
	dir, err := filepath.Abs(f.test)
	if err != nil {
		return nil, err
	}
	switch entries, err := os.ReadDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, Usagef("--emit-test %s: %w", f.test, err)
	case len(entries) > 0:
		return nil, Usagef("--emit-test %s: it is not empty; name a directory that is not there yet", f.test)
	}
	command := fmt.Sprintf("%s pin %s --when %s", e.name, quote(scope), quote(f.when))
	return &history.TestPlan{Dir: dir, New: e.app.New, Command: command}, nil
}

// missed returns the error of a pin that did not find what was asked for.
func missed(p *history.Pin) error {
	if p.FirstBad == nil {
		return Nof("never true: %s", p.When)
	}
	if l, ok := p.Level(history.TestFails); ok && !l.Reached {
		return Nof("no test was written: %s", l.Why)
	}
	return nil
}

func (e *Env) printPin(p *history.Pin, scope string) error {
	if p.FirstBad == nil {
		return e.printNever(p)
	}
	w := &pinText{e: e, p: p, Builder: &strings.Builder{}}
	w.firstBad(scope)
	w.writers()
	w.causes()
	w.twins()
	w.confirmed()
	w.minimal()
	w.handler()
	w.test()
	w.next()
	_, err := fmt.Fprint(e.Stdout, w)
	return err
}

func (e *Env) printNever(p *history.Pin) error {
	if !p.Complete {
		e.Notef("the answer is not complete: a part of the history was not looked at")
	}
	if p.NearestMiss == nil {
		return nil
	}
	m := p.NearestMiss
	_, err := fmt.Fprintf(e.Stdout, "never true; closest for %s after %s %s at %s: %s = %s\n  %s\n", m.Key, m.Type, m.ID, m.Position, m.Subject, m.Value, m.Payload)
	return err
}

// pinText writes a pin for people, one block a level.
type pinText struct {
	*strings.Builder
	e *Env
	p *history.Pin
}

// level begins the block of a level. It reports whether the level was reached; else it has said why not.
func (w *pinText) level(name string) bool {
	l, ok := w.p.Level(name)
	if !ok {
		return false
	}
	title := w.e.paint(bold, fmt.Sprintf("%-12s", name))
	if l.Reached {
		fmt.Fprint(w, title)
	} else {
		fmt.Fprintf(w, "%s not reached: %s\n", title, l.Why)
	}
	return l.Reached
}

func (w *pinText) message(m *history.Message) {
	kind := ""
	if m.Step.Kind != deja.KindCommand { // a reply bears the name of the command that it answers
		kind = m.Step.Kind.String() + " "
	}
	fmt.Fprintf(w, " %s%s %s at %s, version %d\n", kind, m.Type, m.ID, m.Position, m.Version)
}

func (w *pinText) more(format string, args ...any) {
	fmt.Fprintf(w, strings.Repeat(" ", 13)+format+"\n", args...)
}

func (w *pinText) firstBad(scope string) {
	if !w.level(history.FirstBad) {
		return
	}
	w.message(w.p.FirstBad)
	w.more("%s", w.p.FirstBad.Payload)
	until := "it holds since"
	if w.p.Until != nil {
		until = fmt.Sprintf("it held until %s %s at %s", w.p.Until.Type, w.p.Until.ID, w.p.Until.Position)
	}
	if w.p.Times > 1 {
		until += fmt.Sprintf("; %s came to be so %d times", w.p.Key, w.p.Times)
	}
	w.more("%s: not before this message, and after it; %s", w.p.When, until)
	if w.p.Keys > 1 {
		w.more("of %s of %s the first", plural(w.p.Keys, "key"), scope)
	}
	if !w.p.Complete {
		w.more("a part of the history was not looked at: there may be an earlier one")
	}
}

func (w *pinText) writers() {
	if !w.level(history.LastWriter) {
		return
	}
	for i, f := range w.p.LastWriters {
		if i > 0 {
			fmt.Fprint(w, strings.Repeat(" ", 12))
		}
		fmt.Fprintf(w, " %s: %s → %s, by %s %s at %s\n", f.Path, token(f.Old), token(f.New), f.Type, f.ID, f.Position)
	}
}

// token writes a field's value, which may not be there.
func token(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func (w *pinText) causes() {
	reached := w.level(history.CauseChain)
	if reached && len(w.p.Cause) == 0 {
		fmt.Fprintf(w, " it has none: it is the root\n")
	}
	for i := range w.p.Cause {
		if i > 0 || !reached {
			fmt.Fprint(w, strings.Repeat(" ", 12))
		}
		w.message(&w.p.Cause[i])
	}
}

func (w *pinText) twins() {
	if !w.level(history.TwinFound) {
		return
	}
	for i, t := range w.p.Twins {
		if i > 0 {
			fmt.Fprint(w, strings.Repeat(" ", 12))
		}
		same := "that say the same"
		if !t.Whole {
			same = "of the same type, payload and cause"
		}
		fmt.Fprintf(w, " %s %s under different IDs\n", plural(int64(len(t.Messages)), "message"), same)
		for _, m := range t.Messages {
			own := ""
			if m.ID == w.p.FirstBad.ID {
				own = ", which is FIRST-BAD"
			}
			w.more("%s %s at %s, %s%s", m.Type, m.ID, m.Position, m.Status, own)
		}
	}
	w.more("suspected: whoever sends a message again must send its ID again")
}

func (w *pinText) confirmed() {
	if w.level(history.Confirmed) {
		fmt.Fprintf(w, " without it the predicate is false at the target, %s at %s\n", w.p.Target.ID, w.p.Target.Position)
	}
	s := w.p.SmallestSet
	if s == nil {
		return
	}
	found := "the smallest set"
	switch {
	case !s.Minimal:
		found = "a set, found with the effort that there was"
	case !s.Smallest:
		found = "a set of which none can be kept"
	}
	w.more("%s: %s, from %s to %s, the target being %s at %s", found, plural(int64(s.Messages), "message"), s.First.Position, s.Last.Position,
		w.p.Target.ID, w.p.Target.Position)
}

func (w *pinText) minimal() {
	if m := w.p.Minimal; w.level(history.MinimalSet) {
		fmt.Fprintf(w, " of %s up to it %d do%s: it makes the same change after them\n", plural(int64(m.Of), "message"), m.Messages, causes(m.Causes))
	} else if m != nil {
		w.more("of %s up to it %d do%s", plural(int64(m.Of), "message"), m.Messages, causes(m.Causes))
	}
}

func (w *pinText) handler() {
	h := w.p.Handler
	if h == nil {
		return
	}
	fmt.Fprintf(w, "%s %s\n", w.e.paint(bold, "handler     "), h.Says)
	if h.Differs != nil {
		w.more("first at %s %s at %s, by build %s", h.Differs.Type, h.Differs.ID, h.Differs.Position, h.Build)
		w.more("recorded: %s", h.Recorded)
		w.more("now:      %s", h.Now)
	}
}

func (w *pinText) test() {
	if w.level(history.TestFails) {
		fmt.Fprintf(w, " %s: go test fails there\n", w.p.Test.Dir)
		w.more("%s", w.p.Test.Failed)
		w.more("to keep it, copy pinned_test.go and testdata into a package of yours")
	}
}

// next says how to go on.
func (w *pinText) next() {
	id := w.p.FirstBad.ID.String()
	fmt.Fprintf(w, "\n")
	hints := []string{"show " + id, "step " + quote(w.p.Key), "whatif --drop " + id}
	if w.p.Handler != nil && !w.p.Handler.Same {
		hints = append(hints, "diverge --a OLD --b "+quote(w.e.called))
	}
	for _, h := range hints {
		fmt.Fprintf(w, "%s\n", w.e.hint(h))
	}
}
