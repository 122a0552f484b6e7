package emit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dejalog/deja/internal/place"
)

func find(t *testing.T) *Constructor {
	t.Helper()
	c, err := Find(t.Context(), place.Partition)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// module writes a module whose test calls a function of an internal package of this one.
func module(t *testing.T, c *Constructor, body string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	source := fmt.Sprintf("package pinned\n\nimport (\n\t\"testing\"\n\n\t%q\n)\n\nfunc TestIt(t *testing.T) {\n%s\n}\n", c.Import, body)
	return dir, c.Write(t.Context(), dir, map[string][]byte{"pinned_test.go": []byte(source), "testdata/of": []byte("a file")})
}

func TestAFunctionIsFoundInItsModule(t *testing.T) {
	c := find(t)
	if c.Package != "place" || c.Func != "Partition" || c.Module != "github.com/dejalog/deja" || c.Path() != "github.com/dejalog/deja/pinned" {
		t.Errorf("got %+v, path %s", c, c.Path())
	}
	if _, err := os.Stat(filepath.Join(c.Root, "internal", "emit", "emit_test.go")); err != nil {
		t.Error(err)
	}
}

// Only a test that was compiled, ran, and failed of itself is red.
func TestOnlyWhatFailsIsRed(t *testing.T) {
	c := find(t)
	for body, want := range map[string]Result{
		`if place.Partition("42", 1) == 0 { t.Error("as it must") }`:        {Red: true},
		`if place.Partition("42", 1) != 0 { t.Error("not in 1") }`:          {Green: true},
		`_ = place.Partition; panic("before it failed")`:                    {},
		`_ = place.Partition; t.Skip("not today")`:                          {},
		`_ = place.Partition; t.Run("In", func(t *testing.T) { t.Fail() })`: {Red: true},
	} {
		dir, err := module(t, c, body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Run(t.Context(), dir, "TestIt")
		if err != nil || got.Red != want.Red || got.Green != want.Green || got.Output == "" {
			t.Errorf("%s: got %+v, %v", body, got, err)
		}
	}
	dir, err := module(t, c, `place.Nowhere()`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Run(t.Context(), dir, "TestIt"); err == nil || !strings.Contains(err.Error(), "place.Nowhere") || got.Red {
		t.Errorf("what does not compile: got %+v, %v", got, err)
	}
}

func local() {}

func TestWhatNobodyElseCanCallIsNotFound(t *testing.T) {
	for _, fn := range []any{nil, 17, (func())(nil), local, func() {}, find} {
		if c, err := Find(t.Context(), fn); err == nil {
			t.Errorf("found %+v", c)
		}
	}
}

func TestSplitName(t *testing.T) {
	for symbol, want := range map[string][2]string{
		"github.com/a/b.F":             {"github.com/a/b", "F"},
		"gopkg.in/yaml%2ev3.F":         {"gopkg.in/yaml.v3", "F"},
		"main.F":                       {"main", "F"},
		"a.b/c.(*T).M-fm":              {"a.b/c", "(*T).M-fm"},
		"github.com/a/b.glob..func1":   {"github.com/a/b", "glob..func1"},
		"github.com/a/b.F[go.shape.x]": {"github.com/a/b", "F[go.shape.x]"},
	} {
		if path, name := splitName(symbol); path != want[0] || name != want[1] {
			t.Errorf("%s: got %s and %s", symbol, path, name)
		}
	}
}

func TestTheModuleMayImportWhatItTests(t *testing.T) {
	for imports, want := range map[string]string{
		"a.b/c":                     "a.b/c/pinned",
		"a.b/c/service":             "a.b/c/pinned",
		"a.b/c/internal/service":    "a.b/c/pinned",
		"a.b/c/d/internal":          "a.b/c/d/pinned",
		"a.b/c/d/internal/e":        "a.b/c/d/pinned",
		"a.b/c/internal/d/internal": "a.b/c/internal/d/pinned",
		"a.b/c/internals/d":         "a.b/c/pinned",
	} {
		if got := (&Constructor{Module: "a.b/c", Import: imports}).Path(); got != want {
			t.Errorf("%s: got %s, want %s", imports, got, want)
		}
	}
}

func TestReplacementsAreTakenOver(t *testing.T) {
	c := &Constructor{Module: "a.b/c/v2", Import: "a.b/c/v2", Root: "/src/c"}
	m := goMod{Go: "1.26", Exclude: []versioned{{"x", "v1.0.0"}}}
	m.Replace = append(m.Replace, struct{ Old, New versioned }{versioned{"d", "v1.2.3"}, versioned{Path: "../d e"}},
		struct{ Old, New versioned }{versioned{Path: "f"}, versioned{"g", "v0.1.0"}})
	want := `module a.b/c/v2/pinned

go 1.26

require a.b/c/v2 v2.0.0-00010101000000-000000000000

replace a.b/c/v2 => /src/c

replace d v1.2.3 => "/src/d e"

replace f => g v0.1.0

exclude x v1.0.0
`
	if got := c.goMod(&m); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "a", "b")
	if err := write(filepath.Join(from, "in", "file"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := Move(from, to); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(to, "in", "file")); string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := Move(t.TempDir(), to); err == nil {
		t.Error("it was written over a directory that is not empty")
	}
}
