package deja_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dejalog/deja"

// listed is a package as go list tells of it.
type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

// packages returns the module's packages and all that they import, at any depth, without tests.
func packages(t *testing.T, patterns ...string) map[string]listed {
	t.Helper()
	args := append([]string{"list", "-deps", "-json=ImportPath,Standard,Imports"}, patterns...)
	out, err := exec.CommandContext(t.Context(), "go", args...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	found := map[string]listed{}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		found[p.ImportPath] = p
	}
}

// The domain API and the drivers' interfaces are what everybody imports: they must not drag anything in.
func TestTheRootAndDriverImportNothingElse(t *testing.T) {
	for pattern, allowed := range map[string][]string{
		".":        {module, module + "/internal/body", module + "/internal/canon"},
		"./driver": {module, module + "/driver", module + "/internal/body", module + "/internal/canon"},
	} {
		for path, p := range packages(t, pattern) {
			if !p.Standard && !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s; it may import the standard library and %v", pattern, path, allowed)
			}
		}
	}
}

// mayImport says which packages of the module one may import directly. What is not in here is not in the product, and
// may import what it likes: tests, examples and commands.
var mayImport = map[string][]string{
	"":            {"internal/body", "internal/canon"},
	"driver":      {""},
	"engine":      {"", "driver", "internal/journal", "internal/place", "internal/request", "internal/route", "internal/step", "internal/wire"},
	"replay":      {"", "driver", "internal/canon", "internal/journal", "internal/step", "internal/wire"},
	"history":     {"", "driver", "replay", "internal/canon", "internal/cond", "internal/emit", "internal/journal", "internal/memory", "internal/place", "internal/relive", "internal/step", "internal/talk", "internal/trail", "internal/wire"},
	"cli":         {"", "archive", "driver", "engine", "history", "kafka", "postgres", "replay", "sqlite", "internal/body", "internal/journal", "internal/step", "internal/talk", "internal/wire"},
	"archive":     {"", "driver", "internal/journal", "internal/wire"},
	"sqlite":      {"", "driver", "internal/filter"}, // backends know the interfaces alone, and never each other
	"postgres":    {"", "driver", "internal/filter"},
	"kafka":       {"", "driver"},
	"idempotency": {""},
	"reservation": {""}, // ready aggregates know what any aggregate knows
	"uniquename":  {""},
	"drivertest":  {"", "driver", "internal/fault"},
	"dejatest": {
		"", "driver", "internal/canon", "internal/fault", "internal/journal", "internal/memory", "internal/place",
		"internal/request", "internal/route", "internal/step", "internal/wire",
	},
	"history/historytest": {"", "history"},

	"internal/body":    {},
	"internal/canon":   {},
	"internal/emit":    {},
	"internal/cond":    {"internal/canon"},
	"internal/place":   {},
	"internal/wire":    {"", "driver", "internal/canon"},
	"internal/journal": {"", "driver", "internal/wire"},
	"internal/request": {"", "internal/step", "internal/wire"},
	"internal/step":    {"", "driver", "internal/body", "internal/canon", "internal/journal", "internal/place", "internal/wire"},
	"internal/memory":  {"", "driver"},
	"internal/relive":  {"", "driver", "internal/canon", "internal/memory", "internal/step", "internal/wire"},
	"internal/talk":    {"", "driver", "internal/canon", "internal/relive", "internal/wire"},
	"internal/fault":   {"", "driver"},
	"internal/filter":  {},
	"internal/trail":   {"", "driver", "internal/filter"},
	"internal/till":    {""},
	"internal/remit":   {""},
	"internal/route":   {"", "driver", "internal/body", "internal/place", "internal/wire"},
}

// Imports point one way: cli, then replay and engine, then the steps, then driver, then the root.
func TestImportsPointOneWay(t *testing.T) {
	found := packages(t, "./...")
	for name, allowed := range mayImport {
		p, ok := found[strings.TrimSuffix(module+"/"+name, "/")]
		if !ok {
			t.Errorf("there is no package %q", name)
		}
		for _, path := range p.Imports {
			if own, ok := strings.CutPrefix(path+"/", module+"/"); ok && !slices.Contains(allowed, strings.TrimSuffix(own, "/")) {
				t.Errorf("%q imports %q", name, strings.TrimSuffix(own, "/"))
			}
		}
	}
	for path := range found {
		own, ok := strings.CutPrefix(path, module+"/")
		if _, listed := mayImport[own]; ok && !listed && !outside(own) {
			t.Errorf("say in mayImport what %q may import", own)
		}
	}
}

// outside reports whether a package is no part of the product: nothing of it may import one of these.
func outside(own string) bool {
	for _, dir := range []string{
		"examples/", "cmd/",
		"internal/bench", "internal/docs", "internal/lived", "internal/mutants", "internal/testenv", "internal/testsum", "internal/torture",
	} {
		if strings.HasPrefix(own, dir) {
			return true
		}
	}
	return false
}
