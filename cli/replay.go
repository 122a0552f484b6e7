package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

const (
	partialSuffix = ".partial" // of the file beside a replay that is not finished
	lockSuffix    = ".lock"    // of the lock file of a database
)

func (e *Env) replayCommand() *cobra.Command {
	var to moment
	var into, from string
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Fold the history again, into memory or a clean database",
		Long: `Fold the recorded decisions again, up to a moment, and print the hash of all states: it is that of the live store then.

With --into the past becomes a database of its own, which answers state, log and all the rest as the original did then.
It can be read, and goes on living only once it is adopted. A replay that was interrupted goes on if it is run again.
With --from it begins at a snapshot instead of at the beginning.

The history may be a log alone, as a Kafka cluster's or an archive's. --into may be a schema of a PostgreSQL database that is
empty or not there: then every connection takes a role that can write there and nowhere else, made if need be. Without the
right to make roles the URL's own role must be such a one.`,
		Example: e.examples(
			"replay",
			"replay --to 1995-12-31 --by business --into past.db",
			"replay --from snapshot.db --json",
			"replay --from snapshot.db --into past.db",
			"replay --log kafka://broker:9092 --to inbox:0:1234,inbox:1:870 --into past.db",
			"replay --into 'postgres://db/bank?schema=past'",
		),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := to.parse(e); err != nil {
				return err
			}
			if into != "" {
				return e.replayInto(cmd.Context(), &to, into, from)
			}
			return e.replayInMemory(cmd.Context(), &to, from)
		},
	}
	to.addFlags(cmd, "to", "how far, a `LOCATOR`")
	cmd.Flags().StringVar(&into, "into", "", "make this `FILE`, which must not be there, or fill this postgres://…?schema=NAME")
	cmd.Flags().StringVar(&from, "from", "", "begin at this snapshot, a `FILE`")
	return cmd
}

// Replayed says what a replay came to.
type Replayed struct {
	Messages  int64       `json:"messages"` // decisions that the past has
	Position  string      `json:"position"`
	StateHash replay.Hash `json:"state_hash"`
	Seconds   float64     `json:"seconds"`
}

func (e *Env) printReplay(a Replayed) error {
	if e.json {
		return e.Answer(a)
	}
	return e.fields("messages", a.Messages, "position", a.Position, "state hash", a.StateHash,
		"seconds", fmt.Sprintf("%.3f (%.0f messages a second)", a.Seconds, float64(a.Messages)/max(a.Seconds, 1e-6)))
}

func (e *Env) replayInMemory(ctx context.Context, to *moment, from string) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	opt := replay.Options{To: to.at, By: to.clock}
	if from != "" {
		snapshot, closeIt, err := e.openSnapshot(ctx, from)
		if err != nil {
			return err
		}
		defer closeIt()
		opt.From = snapshot
	}
	a, err := e.Replay(ctx, db, opt)
	if err != nil {
		return err
	}
	return e.printReplay(a)
}

// Replay folds a history into memory.
func (e *Env) Replay(ctx context.Context, db *Database, opt replay.Options) (a Replayed, err error) {
	tell, end := e.Progress("replaying")
	opt.Progress = tell
	began := time.Now()
	past, err := db.Source.Fold(ctx, opt)
	end()
	if err != nil {
		return a, err
	}
	e.notes(past.Cut)
	hash, err := past.Hash()
	return Replayed{past.Messages, past.Cut.String(), hash, time.Since(began).Seconds()}, err
}

func (e *Env) replayInto(ctx context.Context, to *moment, into, from string) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	k, err := kindOf(into)
	if err != nil {
		return err
	}
	fill, shown := e.Into, redact(into)
	switch k {
	case aPostgres:
		fill = e.intoScratch
	case aFile:
	default:
		return Usagef("--into %s: want a file, or a schema of a postgres://", shown)
	}
	a, err := fill(ctx, db, into, from, replay.Options{To: to.at, By: to.clock})
	if err != nil {
		return err
	}
	if err := e.printReplay(a); err != nil {
		return err
	}
	e.Notef("%s is a past: every command reads it with --db %s", shown, quote(shown))
	return nil
}

// Into fills the file at path with a past, from the beginning or, if one is named, from a snapshot on. It ends
// read-only: its lock file goes, so that it counts as a copy until somebody adopts it.
func (e *Env) Into(ctx context.Context, db *Database, path, from string, opt replay.Options) (a Replayed, err error) {
	began := time.Now()
	a.StateHash, err = e.fill(ctx, path, from, func(target replay.Target) error {
		tell, end := e.Progress("replaying into " + path)
		opt.Progress = tell
		cut, n, err := db.Source.Into(ctx, target, opt)
		end()
		if err == nil {
			e.notes(cut)
			a.Messages, a.Position = n, cut.String()
		}
		return err
	})
	a.Seconds = time.Since(began).Seconds()
	return a, err
}

// fill makes the file at path a past: with makes it so, on top of a snapshot if one is named. It returns the hash of its
// states.
func (e *Env) fill(ctx context.Context, path, from string, with func(replay.Target) error) (hash replay.Hash, err error) {
	if err := claim(path); err != nil {
		return hash, err
	}
	if err := e.beginAt(ctx, path, from); err != nil {
		return hash, err
	}
	target, err := sqlite.Open(ctx, path)
	if err != nil {
		return hash, err
	}
	store, err := e.storeIn(ctx, target) // a snapshot may have one of the service's own
	if err == nil {
		err = with(replay.Target{Log: target.Log(), Store: store})
	}
	if err == nil {
		hash, err = replay.HashStore(ctx, e.machine, store)
	}
	if err = errors.Join(err, target.Close()); err != nil {
		e.Notef("%s is not finished: the same command goes on with it", path)
		return hash, err
	}
	return hash, seal(path, hash)
}

// beginAt makes the file at path out of a snapshot, unless there is none or an earlier replay has begun already.
func (e *Env) beginAt(ctx context.Context, path, from string) error {
	begun, err := exists(path)
	if err != nil || begun || from == "" {
		return err
	}
	snapshot, closeIt, err := e.openSnapshot(ctx, from)
	if err != nil {
		return errors.Join(err, os.Remove(path+partialSuffix))
	}
	defer closeIt()
	if err := snapshot.Check(ctx, e.machine); err != nil {
		return errors.Join(err, os.Remove(path+partialSuffix))
	}
	return sqlite.Clone(ctx, from, path)
}

// claim makes sure that a file may be filled: it is not there, or what an earlier replay left unfinished.
func claim(path string) error {
	partial, err := exists(path + partialSuffix)
	if err != nil {
		return err
	}
	lock, err := exists(path + lockSuffix)
	if err != nil {
		return err
	}
	file, err := exists(path)
	switch {
	case err != nil:
		return err
	case partial && (lock || !file):
		return nil
	case partial:
		return unsealed(path)
	}
	if file || lock {
		return Usagef("--into %s: it is there already; name a new file, or remove it and its %s first", path, lockSuffix)
	}
	if err := removeAny(path + hashSuffix); err != nil { // of a past that is gone
		return err
	}
	f, err := os.OpenFile(path+partialSuffix, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// unsealed deals with a file beside which only the mark of an unfinished replay lies. With the hash of its states it
// was finished but for that mark; without, it was hardly begun.
func unsealed(path string) error {
	finished, err := exists(path + hashSuffix)
	if err != nil {
		return err
	}
	if !finished {
		return os.Remove(path)
	}
	if err := os.Remove(path + partialSuffix); err != nil {
		return err
	}
	return Usagef("--into %s: it is there already, and finished; name a new file", path)
}

func removeAny(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// seal ends a replay into a file: it notes the hash of its states, and makes it read-only.
func seal(path string, h replay.Hash) error {
	if err := noteHash(path, h); err != nil {
		return err
	}
	if err := os.Remove(path + lockSuffix); err != nil {
		return err
	}
	return os.Remove(path + partialSuffix)
}
