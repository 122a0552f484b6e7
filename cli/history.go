package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/wire"
)

// indexSuffix is of the index of a history, beside the file or the archive that has it.
const indexSuffix = ".index"

// indexPlace says where a history's index is.
type indexPlace struct {
	path string
	none bool
}

// addIndexFlags adds --index and --no-index to a command that asks a history.
func (e *Env) addIndexFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&e.index.path, "index", "", "keep the index in this `FILE` (else beside the database; of servers, in the user's cache)")
	cmd.Flags().BoolVar(&e.index.none, "no-index", false, "keep no index: read the whole history for this answer alone")
	cmd.MarkFlagsMutuallyExclusive("index", "no-index")
}

// openHistory opens for reading what flags and environment name, with its history. Closing the database closes both.
func (e *Env) openHistory(ctx context.Context) (*Database, *history.History, error) {
	db, err := e.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	h, err := e.historyOf(ctx, db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, h, nil
}

// A part says what part of a history is asked about. The notes are for the reader of an answer.
type part interface {
	resolve(ctx context.Context, h *history.History) (lim history.Limits, notes []string, err error)
}

// openPart opens a history, and finds the part of it that is asked about. What the reader of an answer has to know is told.
func (e *Env) openPart(ctx context.Context, p part) (*Database, *history.History, history.Limits, error) {
	db, h, err := e.openHistory(ctx)
	if err != nil {
		return nil, nil, history.Limits{}, err
	}
	lim, notes, err := p.resolve(ctx, h)
	if err != nil {
		return nil, nil, lim, errors.Join(err, db.Close())
	}
	e.tell(notes)
	return db, h, lim, nil
}

// historyOf returns the history of a database, and closes it with it.
func (e *Env) historyOf(ctx context.Context, db *Database) (*history.History, error) {
	index, err := e.indexOf(ctx, db)
	if err != nil {
		return nil, err
	}
	tell, end := e.Progress("indexing")
	cfg := history.Config{Service: e.app.Service, Log: db.Log, Index: index, Build: engine.Build(), Progress: tell}
	if db.Store != nil {
		cfg.Ledger = db.Store
	}
	h, err := history.Open(ctx, cfg)
	end()
	if err != nil {
		return nil, err
	}
	e.tell(h.Index().Notes)
	db.closes = append(db.closes, h.Close)
	db.Source = h.Source() // which finds decisions by the index
	return h, nil
}

// indexOf returns the path of a database's index: "" for one that is not kept.
func (e *Env) indexOf(ctx context.Context, db *Database) (string, error) {
	if e.index.path != "" || e.index.none {
		return e.index.path, nil
	}
	path := filepath.Clean(db.at.file()) + indexSuffix
	if db.shared {
		path = filepath.Clean(db.at.file()) + "." + e.app.Service.Name + indexSuffix
	}
	if db.at.servers() {
		var err error
		if path, err = e.cachedIndex(ctx, db); err != nil || path == "" {
			return "", err
		}
	}
	if err := writable(filepath.Dir(path)); err != nil {
		e.Notef("note: no index is kept, as its place cannot be written (%v); --index FILE names another", err)
		return "", nil
	}
	return path, nil
}

// cachedIndex returns the path in the user's cache for the index of a log on servers, which is named by the log's identity.
func (e *Env) cachedIndex(ctx context.Context, db *Database) (string, error) {
	t, err := db.Log.Topic(ctx, wire.Journal(e.app.Service.Name))
	if errors.Is(err, driver.ErrNotFound) || t.ID == "" {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	dir := filepath.Join(cache, "deja")
	if err == nil {
		err = os.MkdirAll(dir, 0o700) // an index has what states have
	}
	if err != nil {
		e.Notef("note: no index is kept (%v); --index FILE names a place for it", err)
		return "", nil
	}
	id := sha256.Sum256([]byte(t.Cluster + "\x00" + t.ID))
	return filepath.Join(dir, fmt.Sprintf("%s-%x%s", e.app.Service.Name, id[:8], indexSuffix)), nil
}

// writable returns an error if no file can be made in a directory.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".deja-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
