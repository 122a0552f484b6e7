package docs_test

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is where the module's files are, seen from here.
const root = "../.."

var update = flag.Bool("update", false, "write the table of mutants in docs/guarantees.md anew")

// pages returns the documentation, by its path in the module.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(paths) < 5 {
		t.Fatalf("pages %v, %v", paths, err)
	}
	texts := map[string]string{}
	for _, path := range append(paths, root+"/README.md", root+"/CHANGELOG.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		texts[strings.TrimPrefix(filepath.ToSlash(path), root+"/")] = string(text)
	}
	return texts
}

// sources returns the text of all Go files below a directory that keep admits.
func sources(t *testing.T, dir string, keep func(path string) bool) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || !keep(path) {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		all.WriteByte('\n')
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// blocks finds the fenced blocks of a language.
func blocks(page, language string) []string {
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		found = append(found, m[1])
	}
	return found
}

// Code that a page shows is part of a file of this directory, so it compiles and is run by the tests beside it.
func TestGoCodeInTheDocsIsCompiled(t *testing.T) {
	compiled := sources(t, ".", func(path string) bool { return filepath.Base(path) != "docs_test.go" })
	shown := 0
	for name, page := range pages(t) {
		for _, code := range blocks(page, "go") {
			if shown++; !strings.Contains(compiled, code) {
				t.Errorf("%s shows code that is not in internal/docs word for word:\n%s", name, code)
			}
		}
	}
	if shown < 4 {
		t.Errorf("the docs show %d blocks of Go", shown)
	}
}

// A test that a page names must exist: a guarantee whose test is gone is none. What a program printed may name others.
func TestTestsThatTheDocsNameExist(t *testing.T) {
	all := sources(t, root, func(path string) bool { return strings.HasSuffix(path, "_test.go") })
	printed := regexp.MustCompile("(?ms)^```\n[$] .*?^```$") //nolint:gocritic // ^ is of a line
	names := regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	for name, page := range pages(t) {
		for _, test := range names.FindAllString(printed.ReplaceAllString(page, ""), -1) {
			if !strings.Contains(all, "func "+test+"(") {
				t.Errorf("%s names %s, which does not exist", name, test)
			}
		}
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)`)
	code := regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	for name, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(page, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
			}
		}
	}
}

// The table of mutants stands between two marks, and is what the command prints.
func TestTableOfMutantsIsTheListOfMutants(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "run", "./internal/mutants", "-list")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the mutants: %v", err)
	}
	const begin, end = "<!-- mutants -->\n", "<!-- /mutants -->"
	path := root + "/docs/guarantees.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	table, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatal("docs/guarantees.md has lost the marks around the table of mutants")
	}
	want := "\n" + string(out) + "\n"
	if table == want {
		return
	}
	if !*update {
		t.Fatal("the table of mutants in docs/guarantees.md is out of date: go test ./internal/docs -run Mutants -update")
	}
	if err := os.WriteFile(path, []byte(head+begin+want+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}
