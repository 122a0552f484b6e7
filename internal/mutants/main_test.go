package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tiny is a module with one function, and tests that catch some of its faults.
var tiny = map[string]string{
	"go.mod": "module example.com/tiny\n\ngo 1.26\n",
	"half.go": `package tiny

// Half halves n and rounds up.
func Half(n int) int {
	up := n%2 == 1
	if up {
		return n/2 + 1
	}
	return n / 2
}
`,
	"half_test.go": `package tiny

import (
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if Half(100) != 50 {
		code = 1
	}
	os.Exit(code)
}

func TestEven(t *testing.T) {
	if got := Half(8); got != 4 {
		t.Errorf("Half(8) = %d, want 4", got)
	}
}

func TestOdd(t *testing.T) {
	t.Run("seven", func(t *testing.T) {
		if got := Half(7); got != 4 {
			t.Errorf("Half(7) = %d, want 4", got)
		}
	})
}

func TestParallel(t *testing.T) {
	t.Parallel()
	if got := Half(2); got != 1 {
		t.Errorf("Half(2) = %d, want 1", got)
	}
}

func TestElsewhere(t *testing.T) {
	done := make(chan int)
	go func() { done <- Half(6) }()
	if got := <-done; got != 3 {
		t.Errorf("Half(6) = %d, want 3", got)
	}
}

func TestPatient(t *testing.T) {
	for Half(3) == 0 {
		time.Sleep(time.Millisecond)
	}
}

func TestSkipped(t *testing.T) { t.Skip("not here") }

func TestWrong(t *testing.T) { t.Error("always") }
`,
}

// setup writes the tiny module into a directory of the test's own and makes it
// the current one.
func setup(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it runs the go command")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range tiny {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "")
	return dir
}

// half is a mutant of the tiny module with one edit.
func half(name, before, after, run string) Mutant {
	return Mutant{
		Name: name, Rule: "A half is half.", Package: ".", Run: run,
		Edits: []Edit{{File: "half.go", Old: before, New: after}},
	}
}

func TestRunTellsCaughtFromSurvived(t *testing.T) {
	dir := setup(t)
	mutants := []Mutant{
		half("no-rounding", "n/2 + 1", "n / 2", "^(TestEven|TestOdd)$"),
		half("rounds-even", "n%2 == 1", "n%2 == 0", "^(TestEven|TestOdd)$"),
		half("untested", "n/2 + 1", "n / 2", "^TestEven$"),
		half("panics", "return n / 2", `panic("no")`, "^TestEven$"),
		half("panics-elsewhere", "return n / 2", `panic("no")`, "^TestElsewhere$"),
		half("only-main-notices", "return n / 2", "if n == 100 {\n\t\treturn 1\n\t}\n\treturn n / 2", "^TestEven$"),
		{
			Name: "two-edits", Rule: "Edits see the text that earlier ones left.", Package: ".", Run: "^TestParallel$",
			Edits: []Edit{{"half.go", "return n / 2", "return n / 3"}, {"half.go", "n / 3", "n * 2"}},
		},
	}
	var stdout, stderr strings.Builder
	code := run(t.Context(), mutants, []string{"-v"}, &stdout, &stderr)
	if code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if stderr.Len() > 0 {
		t.Errorf("stderr: %s", stderr.String())
	}
	rest := stdout.String()
	for _, want := range []string{ // in this order, that of the list
		"caught    no-rounding  by TestOdd  ",
		"Half(7) = 3, want 4", // -v
		"caught    rounds-even  by TestEven, TestOdd  ",
		"SURVIVED  untested  ",
		"rule: A half is half.",
		"the tests passed: TestEven",
		"caught    panics  by TestEven  ",
		"caught    panics-elsewhere  by TestElsewhere (crashed)  ",
		"SURVIVED  only-main-notices  ",
		"its package failed, but none of the named tests did",
		"caught    two-edits  by TestParallel  ",
		"\nmutants: 5 caught, 2 survived\n",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("%q is missing, or out of order, in:\n%s", want, stdout.String())
		}
		rest = after
	}
	if rest != "" {
		t.Errorf("output after the final line: %q", rest)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "half.go")); err != nil || string(data) != tiny["half.go"] {
		t.Errorf("the module was changed: %v\n%s", err, data)
	}
}

// A mutant that shows nothing must never look like one that was caught.
func TestRunRefusesEntriesThatProveNothing(t *testing.T) {
	setup(t)
	tests := map[string]struct {
		mutant Mutant
		want   string
	}{
		"text gone":        {half("m", "no such text", "x", "^TestOdd$"), "mutant m no longer applies: its old text occurs 0 times in half.go"},
		"text twice":       {half("m", "n/2", "n/3", "^TestOdd$"), ""},
		"text ambiguous":   {half("m", "return", "panic", "^TestOdd$"), "mutant m no longer applies: its old text occurs 2 times in half.go"},
		"file gone":        {Mutant{Name: "m", Rule: "R.", Package: ".", Run: "^TestOdd$", Edits: []Edit{{"gone.go", "a", "b"}}}, "mutant m no longer applies: open"},
		"does not compile": {half("m", "n/2 + 1", "nonsense", "^TestOdd$"), "the mutated code does not build"},
		"no such test":     {half("m", "n/2 + 1", "n / 2", "^(TestOdd|TestRenamed)$"), "no test TestRenamed ran and passed"},
		"skipped test":     {half("m", "n/2 + 1", "n / 2", "^TestSkipped$"), "no test TestSkipped ran and passed"},
		"fails anyway":     {half("m", "n/2 + 1", "n / 2", "^TestWrong$"), "the unmutated code fails these tests"},
		"no such package":  {Mutant{Name: "m", Rule: "R.", Package: "./gone", Run: "^TestOdd$", Edits: []Edit{{"half.go", "n/2 + 1", "n / 2"}}}, "the unmutated code does not build"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			code := run(t.Context(), []Mutant{test.mutant}, nil, &stdout, &stderr)
			if test.want == "" { // the control: once, and caught
				if code != 0 || !strings.HasSuffix(stdout.String(), "mutants: 1 caught, 0 survived\n") {
					t.Fatalf("exit code %d, output:\n%s%s", code, stdout.String(), stderr.String())
				}
				return
			}
			if code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			for _, want := range []string{"ERROR     m  ", test.want, "mutants: 1 could not be checked", "mutants: 0 caught, 0 survived\n"} {
				if !strings.Contains(stdout.String(), want) {
					t.Errorf("%q is missing in:\n%s%s", want, stdout.String(), stderr.String())
				}
			}
		})
	}
}

func TestTimeoutCountsOnlyIfTheMutantMayHang(t *testing.T) {
	dir := setup(t)
	m := half("hangs", "n/2 + 1", "0", "^TestPatient$")
	c := &checker{root: dir, temp: t.TempDir(), timeout: time.Second}
	r := c.check(t.Context(), m)
	if r.outcome != survived || !strings.Contains(r.why, "hung") {
		t.Errorf("without MayHang: outcome %d, %q", r.outcome, r.why)
	}
	if r.took < c.timeout {
		t.Errorf("a test that waited for its timeout of %v is said to have taken %v", c.timeout, r.took)
	}
	m.MayHang = true
	if r := c.check(t.Context(), m); r.outcome != caught || r.by != "TestPatient (hung)" {
		t.Errorf("with MayHang: outcome %d, by %q, %q", r.outcome, r.by, r.why)
	}
}

func TestCancelledCheckProvesNothing(t *testing.T) {
	setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	mutants := []Mutant{half("a", "n/2 + 1", "n / 2", "^TestOdd$"), half("b", "n/2 + 1", "n / 2", "^TestOdd$")}
	if code := run(ctx, mutants, nil, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d, want 1; output:\n%s%s", code, stdout.String(), stderr.String())
	}
}

func TestRunChoosesAndLists(t *testing.T) {
	mutants := []Mutant{
		half("first", "a", "b", "^TestOdd$/^seven$"),
		half("second", "a", "b", "^(TestEven|TestOdd)$"),
	}
	mutants[1].Rule = "Either | or."
	tests := map[string]struct {
		mutants        []Mutant
		args           []string
		code           int
		stdout, stderr string
	}{
		"list": {mutants, []string{"-list"}, 0, `| mutant | rule | caught by |
|---|---|---|
| ` + "`first` | A half is half. | `TestOdd`" + ` |
| ` + "`second` | Either \\| or. | `TestEven`, `TestOdd`" + ` |
`, ""},
		"list some":    {mutants, []string{"-list", "-run", "^first$"}, 0, "| mutant | rule | caught by |\n|---|---|---|\n| `first` | A half is half. | `TestOdd` |\n", ""},
		"empty list":   {nil, nil, 1, "", "nothing to check: 0 in the list"},
		"none matches": {mutants, []string{"-run", "third"}, 1, "", `nothing to check: 2 in the list, none matches "third"`},
		"bad regexp":   {mutants, []string{"-run", "("}, 2, "", "-run: error parsing regexp"},
		"bad flag":     {mutants, []string{"-nope"}, 2, "", "flag provided but not defined"},
		"argument":     {mutants, []string{"first"}, 2, "", `unexpected argument "first"`},
		"help":         {mutants, []string{"-h"}, 0, "", "-list"},
		"same name":    {append(mutants[:1:1], mutants[0]), nil, 1, "", "mutant first: the name is taken twice"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			code := run(t.Context(), test.mutants, test.args, &stdout, &stderr)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if stdout.String() != test.stdout {
				t.Errorf("stdout:\n%s\nwant:\n%s", stdout.String(), test.stdout)
			}
			if !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("stderr: %q does not contain %q", stderr.String(), test.stderr)
			}
		})
	}
}
