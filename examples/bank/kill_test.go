package main

import (
	"bufio"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja/examples/bank/berka"
)

// firstRows writes the first rows of the data that the program ships, and returns the file.
func firstRows(t *testing.T, rows int) string {
	t.Helper()
	r, err := berka.Data()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	lines := bufio.NewScanner(r)
	var text strings.Builder
	for range rows + 1 { // and the header
		lines.Scan()
		text.WriteString(lines.Text() + "\n")
	}
	path := filepath.Join(t.TempDir(), "rows.csv")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKilledImport kills imports at random moments. The states are in the end those of an undisturbed one.
func TestKilledImport(t *testing.T) {
	rows, kills := 6000, 50
	if testing.Short() {
		kills = 5
	}
	csv, dir := firstRows(t, rows), t.TempDir()
	calm := answer[map[string]any](t, "import", csv, "--db", filepath.Join(dir, "calm.db"))
	db := filepath.Join(dir, "killed.db")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	within := time.Second // what an import takes, as far as is known
	for killed, runs := 0, 0; killed < kills; runs++ {
		if runs > 10*kills {
			t.Fatalf("%d of %d imports were killed, the others were done before", killed, runs)
		}
		began := time.Now()
		if killImport(t, csv, db, time.Duration(random.Int64N(int64(within)))) {
			killed++
		} else {
			within = min(within, time.Since(began))
		}
	}
	last := answer[map[string]any](t, "import", csv, "--db", db)
	if last["state_hash"] != calm["state_hash"] || last["conflicts"] != 0.0 {
		t.Errorf("after %d kills: %v, want the states of %v", kills, last, calm)
	}
	stats := answer[struct {
		Decisions map[string]int
		Lag       int
	}](t, "stats", "--db", db)
	if stats.Decisions["applied"] != rows || len(stats.Decisions) != 1 || stats.Lag != 0 {
		t.Errorf("after %d kills: %+v, want %d applied", kills, stats, rows)
	}
	if replay := answer[map[string]any](t, "replay", "--db", db); replay["state_hash"] != calm["state_hash"] {
		t.Errorf("the replay: %v, want the states of %v", replay, calm)
	}
}

// killImport runs an import in a process of its own, and kills it if it is not done by then.
func killImport(t *testing.T, csv, db string, after time.Duration) (killed bool) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "import", csv, "--db", db, "--redeliver", "0.2")
	cmd.Args[0] = "bank" // which makes this test's executable the program: see TestMain
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &stderr
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		t.Fatalf("import: %v\n%s", err, &stderr)
	}
	return ctx.Err() != nil
}
