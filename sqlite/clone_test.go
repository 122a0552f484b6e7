package sqlite_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/dejalog/deja/sqlite"
)

// A clone goes on where its source is, as a database of its own, and the source does not notice.
func TestClone(t *testing.T) {
	ctx := t.Context()
	from := made(t)
	src := open(t, from)
	to := filepath.Join(t.TempDir(), "clone.db")
	must(t, sqlite.Clone(ctx, from, to)) // while it is in use
	if err := sqlite.Clone(ctx, from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("cloning over a file: %v", err)
	}
	clone := open(t, to)
	if a, b := firstRecord(t, src), firstRecord(t, clone); a != b {
		t.Errorf("the clone begins with %q, its source with %q", b, a)
	}
	lease := acquire(t, clone)
	if lease.Copied {
		t.Error("the clone takes itself for a copy")
	}
}

// Whoever reads a database at rest leaves nothing beside it.
func TestReadingCreatesNoFile(t *testing.T) {
	path := made(t)
	files := func() (names []string) {
		entries, err := os.ReadDir(filepath.Dir(path))
		must(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	before := files()
	db, err := sqlite.OpenReadOnly(t.Context(), path)
	must(t, err)
	firstRecord(t, db)
	must(t, db.Close())
	if after := files(); len(after) != len(before) || len(before) != 2 {
		t.Errorf("beside the database and its lock file there is %v; before reading %v", after, before)
	}
}
