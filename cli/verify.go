package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/replay"
)

func (e *Env) verifyCommand() *cobra.Command {
	var procs []int
	var child bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Decide every message again, and compare with the record",
		Long: `Decide every message again and compare outcome, events, IDs and the chain of hashes with the record; then compare the
states that the decisions give with the store's.

Each process that does so has a number of processors and a seed of maps of its own, so that a handler which depends on
either is found. Decisions that another build made are not judged: what they recorded is folded only.`,
		Example: e.examples("verify", "verify --procs 1,8 --json"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if child {
				return e.verifyHere(cmd.Context())
			}
			if len(procs) == 0 || slices.Min(procs) < 1 {
				return Usagef("--procs: want numbers of processors, 1 or more")
			}
			return e.verify(cmd.Context(), procs)
		},
	}
	cmd.Flags().IntSliceVar(&procs, "procs", []int{1, 2, 4}, "a process for each of these numbers of processors")
	cmd.Flags().BoolVar(&child, "child", false, "verify in this process, for the one that started it")
	if err := cmd.Flags().MarkHidden("child"); err != nil { // there is no such flag
		panic(err)
	}
	return cmd
}

// verdict is what a process found.
type verdict struct {
	Procs      int         `json:"procs"`
	Messages   int64       `json:"messages"`
	Judged     int64       `json:"judged"`
	NotJudged  int64       `json:"not_judged"` // decided by another build
	Difference *difference `json:"difference"`
	StateHash  string      `json:"state_hash,omitempty"` // none where there is a difference
}

// difference is where a decision, made again, is another one.
type difference struct {
	N        int64   `json:"n"`
	Message  deja.ID `json:"message"`
	Position string  `json:"position"`
	Key      string  `json:"key"`
	Path     string  `json:"path"`
	Recorded string  `json:"recorded"`
	Again    string  `json:"again"`
}

// verifyAnswer is what all processes found.
type verifyAnswer struct {
	Equal     bool        `json:"equal"`
	Messages  int64       `json:"messages"`
	Judged    int64       `json:"judged"`
	NotJudged int64       `json:"not_judged"`
	StateHash replay.Hash `json:"state_hash"` // of the store
	Build     string      `json:"build"`
	Seconds   float64     `json:"seconds"`
	Runs      []verdict   `json:"runs"`
}

// verifyHere verifies in this process, and prints a verdict.
func (e *Env) verifyHere(ctx context.Context) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	tell, end := e.Progress("verifying")
	v, err := db.Source.Verify(ctx, engine.Build(), tell)
	end()
	if err != nil {
		return err
	}
	out := verdict{Messages: v.Messages, Judged: v.Judged, NotJudged: v.NotJudged}
	if d := v.First; d == nil {
		out.StateHash = v.Hash.String()
	} else {
		out.Difference = &difference{d.N, d.Message, d.Position.String(), keyText(d.Stream), d.Path, d.Recorded, d.Again}
	}
	return e.Answer(out)
}

func (e *Env) verify(ctx context.Context, procs []int) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	began := time.Now()
	a := verifyAnswer{Equal: true, Build: engine.Build()}
	beyond, err := db.Source.Beyond(ctx)
	if err != nil {
		return err
	}
	if beyond > 0 {
		return Nof("the store is %s behind its journal, as it is when a rebuild was cut short; `%s` makes it whole", plural(beyond, "decision"), e.hint("rebuild"))
	}
	var hash replay.Hash
	var n int64
	if db.Store == nil {
		e.Notef("note: there is no store here: the record is compared with itself only, and its last decision has no witness")
	} else if hash, n, err = e.hashAt(ctx, db); err != nil {
		return err
	}
	a.StateHash = hash
	apart := "" // why the states are not compared
	for _, p := range procs {
		v, err := e.child(ctx, db, p)
		if err != nil {
			return fmt.Errorf("verify under GOMAXPROCS %d: %w", p, err)
		}
		a.Runs = append(a.Runs, v)
		a.Messages, a.Judged, a.NotJudged = v.Messages, v.Judged, v.NotJudged
		if v.Difference != nil {
			a.Equal = false
			break
		}
		switch {
		case db.Store == nil:
			if err := a.StateHash.UnmarshalText([]byte(v.StateHash)); err != nil {
				return err
			}
		case v.Messages != n:
			apart = uncompared(n, v.Messages)
		case v.StateHash != hash.String():
			a.Equal = false
		}
	}
	if apart != "" {
		e.Notef("%s", apart)
	}
	a.Seconds = time.Since(began).Seconds()
	return e.judge(&a)
}

// uncompared says why the states that the record gives are not compared with those of a store at decision n; -1 if it did
// not stand still.
func uncompared(n, recorded int64) string {
	if n > recorded {
		return fmt.Sprintf("note: the store is at decision %d, and its journal at %d: the service runs, or was ended before it had logged the others, as it will when it runs again. The states are not compared",
			n, recorded)
	}
	return "note: the service went on meanwhile, so the states are not compared"
}

// hashAt returns the hash of the store, and the decision it is of: the store must stand still meanwhile.
func (e *Env) hashAt(ctx context.Context, db *Database) (hash replay.Hash, n int64, err error) {
	before, err := db.progress(ctx)
	if err != nil {
		return hash, 0, err
	}
	if e.foldedElsewhere(before) {
		e.Notef("the store was folded by another build, with another fold version: its hash may differ until this build has run on it")
	}
	if hash, err = replay.HashStore(ctx, e.machine, db.Store); err != nil {
		return hash, 0, err
	}
	after, err := db.progress(ctx)
	if err != nil {
		return hash, 0, err
	}
	for p := range before {
		if n += before[p].N; after[p].N != before[p].N {
			return hash, -1, nil
		}
	}
	return hash, n, nil
}

// child verifies in a process of its own.
func (e *Env) child(ctx context.Context, db *Database, procs int) (v verdict, err error) {
	exe, err := os.Executable()
	if err != nil {
		return v, err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, exe, "verify", "--child")
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(append(os.Environ(), db.at.environment()...), "GOMAXPROCS="+strconv.Itoa(procs))
	cmd.Stdout, cmd.Stderr = &out, e.Stderr
	if err := cmd.Run(); err != nil {
		return v, err
	}
	err = json.Unmarshal(out.Bytes(), &v)
	v.Procs = procs
	return v, err
}

// judge prints the verdict, and returns an error if the answer is no.
func (e *Env) judge(a *verifyAnswer) error {
	switch {
	case a.Messages > 0 && a.Judged == 0:
		e.Notef("NOTHING WAS JUDGED: all %s were decided by another build than this one, %s. They were folded only, which says nothing about how this build decides",
			plural(a.Messages, "message"), a.Build)
	case a.NotJudged > 0:
		e.Notef("%s not judged: decided by another build than this one, %s", plural(a.NotJudged, "decision"), a.Build)
	}
	show := e.printVerdict
	if e.json {
		show = func(a *verifyAnswer) error { return e.Answer(a) }
	}
	if err := show(a); err != nil || a.Equal {
		return err
	}
	last := a.Runs[len(a.Runs)-1]
	if d := last.Difference; d != nil && strings.HasPrefix(d.Path, "store.") {
		return Nof("the store is not what the record gives: %s%s: the record gives %s, the store has %s; `%s` makes it anew",
			d.Path, about(d), d.Recorded, d.Again, e.hint("rebuild"))
	} else if d != nil && d.Path == "writes" {
		return Nof("decision %d of message %s at %s (%s) is not what was recorded: what it writes has another hash", d.N, d.Message, d.Position, d.Key)
	} else if d != nil {
		return Nof("under GOMAXPROCS %d, decision %d of message %s at %s (%s) is another one when it is made again: %s was recorded as %s, and is %s",
			last.Procs, d.N, d.Message, d.Position, d.Key, d.Path, d.Recorded, d.Again)
	}
	return Nof("the states in the store are not those that the record gives; `%s` makes the store anew", e.hint("rebuild"))
}

// about names what a difference in the store is about.
func about(d *difference) string {
	switch {
	case d.Key != "":
		return " of " + d.Key
	case !d.Message.IsZero():
		return " of message " + d.Message.String()
	}
	return ""
}

func (e *Env) printVerdict(a *verifyAnswer) error {
	result := e.paint(green, "equal")
	if !a.Equal {
		result = e.paint(red, "different")
	}
	var runs string
	for _, r := range a.Runs {
		runs += fmt.Sprintf("GOMAXPROCS %d: %d judged, %d not, states %s\n", r.Procs, r.Judged, r.NotJudged, cmp.Or(r.StateHash, "different"))
	}
	return e.fields("result", result, "messages", a.Messages, "judged", a.Judged, "not judged", a.NotJudged,
		"state hash", a.StateHash, "runs", runs[:max(len(runs)-1, 0)], "seconds", fmt.Sprintf("%.1f", a.Seconds))
}
