package cli

import (
	"context"
	"encoding/json"
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

func (e *Env) stateCommand() *cobra.Command {
	var at moment
	cmd := &cobra.Command{
		Use:   "state KEY",
		Short: "Show the state of a key, now or at any moment",
		Long: `Show the state of a key, now or at any moment of its past.

A KEY that ends with * stands for all keys that begin so. Without --at the answer is what the store has; with it, or where
there is no store, it comes from the index of the history, and of several keys, or with --no-index, from folding the decisions
up to that moment.`,
		Example: e.examples(
			"state "+e.exampleKey("576"),
			"state "+e.exampleKey("576")+" --at 1993-06-30 --by business",
			"state '"+e.exampleKey("*")+"' --at "+e.exampleKey("576")+"@17 --json",
		),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: e.completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := at.parse(e); err != nil {
				return err
			}
			return e.state(cmd.Context(), args[0], &at)
		},
	}
	at.addFlags(cmd, "at", "the moment, a `LOCATOR`")
	e.addIndexFlags(cmd)
	return cmd
}

// A State is how the state of a key is answered in JSON.
type State struct {
	Key      string          `json:"key"`
	Version  int64           `json:"version"`
	Position deja.Position   `json:"position"`
	State    json.RawMessage `json:"state"`
	Hash     replay.Hash     `json:"hash"`
	Waits    []engine.Wait   `json:"waits,omitempty"` // what the key waits for
	Note     string          `json:"note,omitempty"`
}

// StateOf returns the answer of a state.
func StateOf(k replay.KeyState) State {
	return State{Key: k.Stream.String(), Version: k.Version, Position: k.Position, State: k.State, Hash: k.Hash}
}

// answerState returns the answer of a state, with what its key waits for.
func (e *Env) answerState(k replay.KeyState) (State, error) {
	a := StateOf(k)
	s, err := engine.SagaOf(e.machine, driver.State{Stream: k.Stream, Version: k.Version, Open: k.Open}, nil, time.Time{})
	a.Waits = s.Waits
	return a, err
}

func (e *Env) state(ctx context.Context, text string, at *moment) (err error) {
	prefix, many := strings.CutSuffix(text, "*")
	if many {
		text = prefix + "x" // any key that the pattern stands for
	}
	stream, err := e.stream(text)
	if err != nil {
		return err
	}
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	stored := at.text == ""
	if stored {
		if stored, err = e.current(ctx, db); err != nil {
			return err
		}
	}
	if many {
		return e.states(ctx, db, prefix, at, stored)
	}
	if stored {
		return e.storedState(ctx, db, stream)
	}
	k, notes, err := e.keyAt(ctx, db, stream, at)
	if err != nil {
		return err
	}
	e.tell(notes)
	if k.Version == 0 {
		e.adviseEmpty(at, stream)
	}
	a, err := e.answerState(k)
	if err != nil {
		return err
	}
	a.Note = strings.Join(notes, "; ")
	return e.printState(a)
}

// keyAt returns the state of a key at a moment, and notes for the reader.
func (e *Env) keyAt(ctx context.Context, db *Database, s deja.Stream, at *moment) (k replay.KeyState, notes []string, err error) {
	if e.index.none {
		past, err := e.fold(ctx, db, at, func(other deja.Stream) bool { return other == s })
		if err != nil {
			return k, nil, err
		}
		k, err = past.State(s)
		return k, past.Cut.Notes, err
	}
	h, err := e.historyOf(ctx, db)
	if err != nil {
		return k, nil, err
	}
	p, err := h.Of(ctx, s, at.at, at.clock)
	if err != nil {
		return k, nil, err
	}
	doc, from, err := h.State(ctx, p)
	if err != nil {
		return k, nil, err
	}
	k = replay.KeyState{Stream: s, Version: from.Version, Position: from.Position, State: doc}
	if k.Open, err = h.Open(ctx, p); err != nil {
		return k, nil, err
	}
	k.Hash, err = replay.HashState(e.machine, s, k.Version, doc)
	return k, from.Notes, err
}

// fold folds the decisions of some keys up to a moment.
func (e *Env) fold(ctx context.Context, db *Database, at *moment, match func(deja.Stream) bool) (*replay.Past, error) {
	tell, end := e.Progress("folding")
	past, err := db.Source.Fold(ctx, replay.Options{To: at.at, By: at.clock, Match: match, Progress: tell})
	end()
	return past, err
}

// current reports whether the store may answer for the present, and says so if not.
func (e *Env) current(ctx context.Context, db *Database) (bool, error) {
	if db.Store == nil {
		e.Notef("note: there is no store here: this is what the journal gives")
		return false, nil
	}
	beyond, err := db.Source.Beyond(ctx)
	if err != nil {
		return false, err
	}
	at, err := db.progress(ctx)
	switch {
	case err != nil:
		return false, err
	case beyond > 0:
		e.Notef("the store is %s behind its journal, as it is when a rebuild was cut short: this comes from the journal; `%s`, or the service when it runs, makes the store whole",
			plural(beyond, "decision"), e.hint("rebuild"))
	case e.foldedElsewhere(at):
		e.Notef("the store was folded by another fold version: this comes from the journal; the service folds the store anew when it runs")
	default:
		return true, nil
	}
	return false, nil
}

// foldedElsewhere reports whether a part of a store was folded by another fold version.
func (e *Env) foldedElsewhere(at []driver.Progress) bool {
	return slices.ContainsFunc(at, func(p driver.Progress) bool { return p.N > 0 && p.Fold != e.machine.FoldVersion() })
}

// storedState answers with what the store has.
func (e *Env) storedState(ctx context.Context, db *Database, s deja.Stream) error {
	k, err := db.Present(ctx, s)
	if err != nil {
		return err
	}
	if k.Version == 0 {
		if err := e.adviseKey(ctx, db, s); err != nil {
			return err
		}
	}
	a, err := e.answerState(k)
	if err != nil {
		return err
	}
	return e.printState(a)
}

// states answers for all keys that begin with a prefix, as the aggregate's name does.
func (e *Env) states(ctx context.Context, db *Database, prefix string, at *moment, stored bool) error {
	match := func(s deja.Stream) bool { return strings.HasPrefix(s.String(), prefix) }
	var found int64
	show := func(k replay.KeyState) error {
		found++
		if e.json {
			a, err := e.answerState(k)
			if err != nil {
				return err
			}
			return e.Answer(a)
		}
		_, err := fmt.Fprintf(e.Stdout, "%-20s  %7d  %-22s  %s\n", k.Stream, k.Version, k.Position, k.State)
		return err
	}
	var err error
	if stored {
		err = replay.EachState(ctx, db.Store, func(row driver.State) error {
			if row.Version == 0 || !match(row.Stream) {
				return nil
			}
			k, err := db.Source.StoredState(row)
			if err != nil {
				return err
			}
			return show(k)
		})
	} else {
		var past *replay.Past
		if past, err = e.fold(ctx, db, at, match); err == nil {
			e.notes(past.Cut)
			err = past.Each(show)
		}
	}
	if err != nil {
		return err
	}
	e.Notef("%s", plural(found, "key"))
	if found == 0 {
		e.adviseEmpty(at, deja.Stream{})
	}
	return nil
}

func (e *Env) printState(a State) error {
	if e.json {
		return e.Answer(a)
	}
	at := "nothing was recorded"
	if a.Version > 0 {
		at = fmt.Sprintf("version %d at %s", a.Version, a.Position)
	}
	fmt.Fprintf(e.Stdout, "%s  %s\n%s\nhash %s\n", e.paint(bold, a.Key), at, indented(a.State), a.Hash)
	for _, w := range a.Waits {
		fmt.Fprintf(e.Stdout, "waits for %s\n", waitText(w))
	}
	return nil
}

// adviseEmpty says why a state of the past may be empty.
func (e *Env) adviseEmpty(at *moment, s deja.Stream) {
	what := "nothing was"
	if s != (deja.Stream{}) {
		what = s.String() + " is empty: nothing was"
	}
	if at.at.IsTime() && at.clock == replay.Decided {
		e.Notef("%s decided up to %s. That is the time of decisions; for what had happened by then in the world, add --by business", what, at.at)
		return
	}
	e.Notef("%s recorded up to %s", what, at.at)
}
