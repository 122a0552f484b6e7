package history

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/trail"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/sqlite"
)

// childEnv has the directory in which the test binary is to build an index, instead of testing.
const childEnv = "DEJA_TEST_INDEX_CHILD"

// killed is where a child process builds: a database, and an index beside it.
func killed(dir string) (database, index string) {
	return filepath.Join(dir, "past.db"), filepath.Join(dir, "index")
}

// buildKilled builds an index over and over, of small segments, and says when it begins.
func buildKilled(ctx context.Context, dir string, from func(*Config) *builder) error {
	database, path := killed(dir)
	db, err := sqlite.OpenReadOnly(ctx, database)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if i > 0 {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
		b := from(&Config{Log: db.Log(), Index: path})
		b.limits = trail.Limits{Rows: 40, Data: 1 << 20, Block: 1000}
		fmt.Println("begins")
		x, err := b.index(ctx, "build")
		if err != nil {
			return err
		}
		if err := x.close(); err != nil {
			return err
		}
	}
}

// A process that builds an index may be killed at any moment: what it leaves is right, as far as it goes.
func TestAnIndexWhoseBuilderIsKilledGoesOn(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		database, _ := killed(dir)
		db, err := sqlite.OpenReadOnly(t.Context(), database)
		if err != nil {
			t.Fatal(err)
		}
		t.Fatal(buildKilled(t.Context(), dir, func(cfg *Config) *builder { return newBuilder(cfg, sourceOf(t, db.Log(), nil)) }))
	}
	if testing.Short() {
		t.Skip("only a large index is long enough in the making, and one goroutine of another process makes it")
	}
	seed := seedOf(t)
	w := newIndexed(t, rand.New(rand.NewPCG(seed, 5)))
	for range 4 {
		w.lives(300)
	}
	dir := t.TempDir()
	database, path := killed(dir)
	store(t, w, database)
	db, err := sqlite.OpenReadOnly(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	naive := foldOf(t, sourceOf(t, db.Log(), nil))
	const kills = 12
	partial := 0
	for range kills {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAnIndexWhoseBuilderIsKilledGoesOn$")
		child.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := child.StdoutPipe()
		if err == nil {
			err = child.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() == "begins" {
				break
			}
		}
		time.Sleep(time.Duration(w.rng.IntN(60)) * time.Millisecond) // any moment will do
		_ = child.Process.Kill()
		_ = child.Wait()
		before, err := trail.Open(path, false)
		switch {
		case errors.Is(err, trail.ErrNone): // it was killed before it made the file
		case err != nil:
			t.Fatalf("what a killed process leaves cannot be opened: %v", err)
		default:
			n := int64(0)
			for p := range before.Partitions() {
				n += before.Mark(p).N
			}
			if n > 0 && n < total(naive) {
				partial++
			}
			if err := before.Close(); err != nil {
				t.Fatal(err)
			}
		}
		x, err := newBuilder(&Config{Log: db.Log(), Index: path}, sourceOf(t, db.Log(), nil)).index(t.Context(), "build")
		if err != nil {
			t.Fatal(err)
		}
		if len(x.notes) > 0 {
			t.Fatalf("it was made anew: %v", x.notes)
		}
		mustAgree(t, w.rng, x, naive)
		mustClose(t, x)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d were killed in the middle", partial, kills)
}

func total(f *folded) (n int64) {
	for _, last := range f.upTo() {
		n += last
	}
	return n
}

// store copies a past's log into a database, for another process to read.
func store(t *testing.T, w *indexed, path string) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{wire.Inbox("store"), wire.Journal("store")} {
		err := db.Log().(driver.Importer).CreateTopic(t.Context(), topic, w.partitions)
		for p := range w.partitions {
			err = errors.Join(err, db.Log().(driver.Importer).Import(t.Context(), topic, records(t, w.Log, topic, p)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
