//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// An edit replaces one piece of text, which occurs once, in one file of the module.
type edit struct{ file, old, new string }

// breaks are workers that break one of the rules. With each of them, a run must find something wrong.
var breaks = map[string][]edit{
	// Whoever held the lease once may write.
	"epoch": {
		{
			"postgres/lease.go", `const holding = "partition = $1 AND epoch = $2 AND nonce = $3"`,
			`const holding = "partition = $1 AND $2::int8 IS NOT NULL AND $3::uuid IS NOT NULL"`,
		},
		{"postgres/tx.go", `SELECT l.epoch = $2 AND l.nonce = $3 AND `, `SELECT $2::int8 IS NOT NULL AND $3::uuid IS NOT NULL AND `},
		{"engine/partition.go", `if was.epoch == 0 || slices.ContainsFunc(`, `if was.epoch >= 0 || slices.ContainsFunc(`},
	},
	// A position that went back may be advanced over what was lost; what else notices such a store is off too.
	"position": {
		{
			"postgres/lease.go", "`m.place = ` + whereabouts + ` AND m.started = pg_postmaster_start_time()`",
			"`(true OR m.place = ` + whereabouts + ` AND m.started = pg_postmaster_start_time())`",
		},
		{"engine/partition.go", ` && l.Progress.Position >= was.position`, ``},
		{
			"postgres/tx.go", `WHERE ` + "` + holding + `" + ` AND position = $4 AND n = $5 AND chain = $6 RETURNING 1` + "`)\n\n// advanceJoint",
			`WHERE ` + "` + holding + `" + ` AND position <= $4 AND n <= $5 AND $6::bytea IS NOT NULL RETURNING 1` + "`)\n\n// advanceJoint",
		},
	},
	// The ledger posts what was reversed before it came.
	"no-bar": {{"internal/torture/service.go", `remit.Variant{Desks: true, Counted: true}`, `remit.Variant{Desks: true, Counted: true, NoBar: true}`}},
	// An effect is tried with another key each time.
	"key": {{"engine/effect.go", `call(ctx, p.e.machine.Codec(), e.ID, e.Payload)`, `call(ctx, p.e.machine.Codec(), deja.NewID(), e.Payload)`}},
	// A relay goes on with the next record when one was not taken in time.
	"relay": {
		{
			"internal/step/relay.go", `at, err := w.cfg.Log.Append(ctx, w.journal.Name, recs)
		if err != nil {`,
			`short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		at, err := w.cfg.Log.Append(short, w.journal.Name, recs)
		cancel()
		if len(at) == 0 {
			at = make([]deja.Position, 1)
		}
		if err != nil && short.Err() == nil {`,
		},
		{"internal/step/relay.go", "import (\n\t\"context\"\n", "import (\n\t\"context\"\n\t\"time\"\n"},
	},
}

// breakNames returns the names of what can be broken.
func breakNames() []string { return slices.Sorted(maps.Keys(breaks)) }

// edited returns the text of each file that edits change, by its name.
func edited(root string, edits []edit) (map[string]string, error) {
	texts := map[string]string{}
	for _, e := range edits {
		text, ok := texts[e.file]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.file)))
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("the break no longer applies: its old text occurs %d times in %s, not once: %q", n, e.file, e.old)
		}
		texts[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return texts, nil
}

// build builds this program with edits laid over the module.
func build(ctx context.Context, root, dir string, edits []edit) (program string, err error) {
	texts, err := edited(root, edits)
	if err != nil {
		return "", err
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for file, text := range texts {
		path := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(root, filepath.FromSlash(file))] = path
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return "", err
	}
	program = filepath.Join(dir, "broken")
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-overlay="+path, "-o", program, "./internal/torture")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the broken worker: %w: %s", err, out)
	}
	return program, nil
}

// moduleRoot returns the folder of the module that the current directory is in.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	path := strings.TrimSpace(string(out))
	if filepath.Base(path) != "go.mod" {
		return "", fmt.Errorf("the current directory is in no module; run this in deja's")
	}
	return filepath.Dir(path), nil
}
