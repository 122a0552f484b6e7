package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/history"
)

// edits are the flags of an overlay.
type edits struct {
	drop, set, insertAfter, move, after, duplicate []string
}

func (e *Env) whatIfCommand() *cobra.Command {
	var at moment
	var ed edits
	var facts, build string
	cmd := &cobra.Command{
		Use:   "whatif [FILE.json | FIELD=VALUE]...",
		Short: "What would have been, had messages been otherwise",
		Long: `What would have been, had messages not come, come at another time, or said something else.

The handlers of this build decide again what comes after, in memory, for the keys that it may change and only as long as they
differ. With --facts fixed they do not: what was recorded stays, and is folded onto the states that there are then. Nothing is
written, and no effect is called: one that the history has no answer to is shown as a hole. With --build another build of this
service decides; without any edit, diverge compares builds.

A message's ID may be any LOCATOR of it. --set changes fields of a JSON payload, each given as PATH=VALUE: behind the ID in the
same word, or, of one --set, as arguments of their own. A VALUE that is no JSON is a text. --insert-after takes one FILE each,
with a message as in what min --out writes: type, key and payload will do. --move takes an --after each. What is inserted or
moved comes right behind the last message that was decided up to that locator, in the partition of its key.

The answer: the first message that is settled otherwise and all others, states, events gained and lost, and what would have no
ground any more (paradoxes): refused, parked, or orphaned, as the message that it was caused by is not there.

Exit code 1: nothing would have been otherwise.`,
		Example: e.examples(
			"whatif --drop 0190163d",
			"whatif --set 0190163d amount=1200 --at "+e.exampleKey("576")+"@17",
			"whatif --insert-after inbox:0:1234 message.json --json",
			"whatif --move 0190163d --after 1993-06-30 --facts fixed",
		),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := at.parse(e); err != nil {
				return err
			}
			o, err := ed.overlay(e, args)
			if err != nil {
				return err
			}
			if len(o) == 0 {
				return Usagef("what if what? give --drop, --set, --insert-after, --move or --duplicate")
			}
			opt := history.WhatIfOptions{Program: build}
			if opt.Facts, err = factsOf(facts); err != nil {
				return err
			}
			if opt.Facts == history.Fixed && build != "" {
				return Usagef("--facts fixed leaves nothing for --build to decide")
			}
			return e.whatIf(cmd.Context(), o, opt, &at)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&ed.drop, "drop", nil, "the message with this `ID` never came")
	f.StringArrayVar(&ed.set, "set", nil, "the message with this `ID` said something else: FIELD=VALUE")
	f.StringArrayVar(&ed.insertAfter, "insert-after", nil, "another message, of a FILE, came behind this `LOCATOR`")
	f.StringArrayVar(&ed.move, "move", nil, "the message with this `ID` came --after another moment")
	f.StringArrayVar(&ed.after, "after", nil, "where --move puts its message: behind this `LOCATOR`")
	f.StringArrayVar(&ed.duplicate, "duplicate", nil, "the message with this `ID` was delivered twice")
	f.StringVar(&facts, "facts", "decided", "what becomes of the other messages: decided again, or fixed")
	complete(cmd, "facts", "decided", "fixed")
	f.StringVar(&build, "build", "", "another build of the service, a `PROGRAM`, decides instead of this one")
	at.addFlags(cmd, "at", "how far, a `LOCATOR`")
	e.addIndexFlags(cmd)
	return cmd
}

// factsOf reads --facts.
func factsOf(text string) (history.Facts, error) {
	switch text {
	case "decided":
		return history.Decided, nil
	case "fixed":
		return history.Fixed, nil
	}
	return 0, Usagef("--facts %s: want fixed or decided", text)
}

// overlay reads the flags, and the arguments that belong to them: nothing, if there are none.
func (ed *edits) overlay(e *Env, args []string) (o history.Overlay, err error) {
	var fields, files []string
	for _, a := range args {
		if strings.Contains(a, "=") {
			fields = append(fields, a)
		} else {
			files = append(files, a)
		}
	}
	switch {
	case len(files) != len(ed.insertAfter):
		return nil, Usagef("%s after --insert-after, and %s: each inserted message has a file", plural(int64(len(ed.insertAfter)), "locator"), plural(int64(len(files)), "file"))
	case len(ed.move) != len(ed.after):
		return nil, Usagef("%s to --move, and %s to move them --after: each has one", plural(int64(len(ed.move)), "message"), plural(int64(len(ed.after)), "locator"))
	case len(fields) > 0 && len(ed.set) != 1:
		return nil, Usagef("whose is %s? of several messages to --set, the fields stand in one word with the ID: --set 'ID FIELD=VALUE'", fields[0])
	}
	add := func(do history.Deed, flag, message, after string) *history.Edit {
		edit := history.Edit{Do: do}
		if message != "" && err == nil {
			edit.Message, err = e.locator(flag, message)
		}
		if after != "" && err == nil {
			edit.After, err = e.locator(flag, after)
		}
		o = append(o, edit)
		return &o[len(o)-1]
	}
	for _, id := range ed.drop {
		add(history.Drop, "--drop", id, "")
	}
	for _, text := range ed.set {
		words := append(strings.Fields(text), fields...)
		if len(words) < 2 {
			return nil, Usagef("--set %s: to what? add FIELD=VALUE", text)
		}
		edit := add(history.Set, "--set", words[0], "")
		if edit.Fields, err = fieldsOf(words[1:], err); err != nil {
			return nil, err
		}
	}
	for i, after := range ed.insertAfter {
		edit := add(history.Insert, "--insert-after", "", after)
		if edit.New, err = readDelivery(files[i], err); err != nil {
			return nil, err
		}
	}
	for i, id := range ed.move {
		add(history.Move, "--move", id, ed.after[i])
	}
	for _, id := range ed.duplicate {
		add(history.Duplicate, "--duplicate", id, "")
	}
	return o, err
}

// fieldsOf reads FIELD=VALUE words, unless something is wrong already.
func fieldsOf(words []string, err error) (map[string]json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	for _, w := range words {
		path, value, ok := strings.Cut(w, "=")
		if !ok || path == "" {
			return nil, Usagef("%q: want FIELD=VALUE", w)
		}
		raw := json.RawMessage(value)
		if !json.Valid(raw) {
			text, merr := json.Marshal(value)
			if merr != nil {
				return nil, merr
			}
			raw = text
		}
		fields[path] = raw
	}
	return fields, err
}

func readDelivery(path string, err error) (*history.Delivery, error) {
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, Usagef("the message to insert: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var d history.Delivery
	if err := dec.Decode(&d); err != nil {
		return nil, Usagef("the message to insert, in %s: %w", path, err)
	}
	return &d, nil
}

// whatIfAnswer is a what-if in JSON.
type whatIfAnswer struct {
	*history.WhatIf
	At string `json:"at"` // as positions
}

func (e *Env) whatIf(ctx context.Context, o history.Overlay, opt history.WhatIfOptions, at *moment) (err error) {
	db, h, err := e.openHistory(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	lim, cut, err := h.Resolve(ctx, at.at, at.clock)
	if err != nil {
		return err
	}
	e.notes(cut)
	opt.To = lim
	w, err := h.WhatIf(ctx, o, opt)
	if errors.Is(err, history.ErrOverlay) || errors.Is(err, history.ErrProgram) {
		return Usagef("%w", err)
	}
	if err != nil {
		return err
	}
	if e.json {
		err = e.Answer(whatIfAnswer{w, cut.String()})
	} else {
		err = e.printWhatIf(w)
	}
	if err == nil && !w.Differs() {
		return Nof("nothing would have been otherwise")
	}
	return err
}

// mostShown is how many lines of each kind people are shown: all are in --json.
const mostShown = 20

func (e *Env) printWhatIf(w *history.WhatIf) error {
	t := e.table()
	for i, d := range w.Differing {
		if i == mostShown {
			fmt.Fprintf(t, "…\t%s more\n", plural(int64(len(w.Differing)-mostShown), "message"))
			break
		}
		how := fmt.Sprintf("%s → %s", orNone(d.Was), orNone(d.Now))
		if d.Was == d.Now && d.Was != "" {
			how = d.Was
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", d.ID, d.Type, d.Key, strings.TrimSpace(d.Edit+" "+how), d.Reason)
	}
	for _, k := range w.States {
		fmt.Fprintf(t, "%s\tversion\t%d → %d\n", k.Key, k.Version[0], k.Version[1])
		if k.Parked[0] != k.Parked[1] {
			fmt.Fprintf(t, "%s\tparked\t%d → %d\n", k.Key, k.Parked[0], k.Parked[1])
		}
		for _, f := range k.Fields {
			fmt.Fprintf(t, "%s\t%s\t%s → %s\n", k.Key, f.Path, f.Old, f.New)
		}
	}
	emitted(t, "lost", w.Lost)
	emitted(t, "gained", w.Gained)
	emitted(t, "hole", w.Holes)
	for i, p := range w.Paradoxes {
		if i == mostShown {
			fmt.Fprintf(t, "…\t%s more\n", plural(int64(len(w.Paradoxes)-mostShown), "paradox"))
			break
		}
		fmt.Fprintf(t, "paradox\t%s\t%s of %s, %s\t%s\n", p.Kind, p.Type, p.Key, p.Message, p.Detail)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	how := "facts fixed"
	if w.Facts == history.Decided.String() {
		how = "decided again"
	}
	if w.Build != nil {
		how += " by " + w.Build.Program
	}
	e.Notef("%s, %s", plural(w.Lived, "message"), how)
	if w.Converged && len(w.Differing) > 0 {
		e.Notef("every key came to be as it was")
	}
	e.tell(w.Notes)
	return nil
}

func orNone(word string) string {
	if word == "" {
		return "none"
	}
	return word
}

func emitted(t io.Writer, word string, all []history.Emission) {
	for i, m := range all {
		if i == mostShown {
			fmt.Fprintf(t, "…\t%s more %s\n", plural(int64(len(all)-mostShown), "emission"), word)
			break
		}
		what, of := m.Type, "of "+m.Message.String()
		if m.Kind != deja.KindEvent.String() {
			what = m.Kind + " " + m.Type
		}
		switch {
		case !m.Due.IsZero():
			of = m.To + " at " + m.Due.Format(time.RFC3339Nano) + ", " + of
		case m.To != "":
			of = "to " + m.To + ", " + of
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", word, what, m.Payload, of)
	}
}
