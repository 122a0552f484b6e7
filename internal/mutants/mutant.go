package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// A Mutant is one deliberate fault and the tests that must notice it. It is a
// value: adding one to the list is all there is to do.
type Mutant struct {
	// Name identifies the mutant in the output, in -run and in the docs.
	Name string

	// Rule is the promise that the mutant breaks, in one sentence.
	Rule string

	// Edits make the fault. They are applied in order, each to the text that
	// the ones before it left.
	Edits []Edit

	// Package is the one package whose tests run, as go test takes it:
	// "./engine".
	Package string

	// Run chooses the tests, as go test -run takes it. Each alternative spells
	// out the name of a test, "^(TestA|TestB)$", because the docs quote those
	// names and because a name that no longer exists is then noticed.
	Run string

	// MayHang says that the fault shows itself as a test that never ends. The
	// timeout of the test binary then counts as catching it; without MayHang it
	// does not, since a slow machine would count as a proof.
	MayHang bool
}

// An Edit replaces one piece of text in one file.
type Edit struct {
	File string // relative to the module's root, with slashes
	Old  string // occurs exactly once in the file
	New  string
}

// word is what the name of a mutant looks like.
var word = regexp.MustCompile(`^[\w-]+$`)

// testName finds the names of tests in one alternative of a -run expression.
var testName = regexp.MustCompile(`\b(?:Test|Fuzz|Example)\w+`)

// tests returns the names that Run spells out, in order and without subtests.
func (m Mutant) tests() ([]string, error) {
	if _, err := regexp.Compile(m.Run); err != nil {
		return nil, fmt.Errorf("run expression: %w", err)
	}
	var names []string
	for alternative := range strings.SplitSeq(m.Run, "|") {
		top, _, _ := strings.Cut(alternative, "/")
		name := testName.FindString(top)
		if name == "" {
			return nil, fmt.Errorf("run expression %q: %q does not spell out the name of a test", m.Run, alternative)
		}
		names = append(names, name)
	}
	return names, nil
}

// validate reports everything that is wrong with m by itself, without looking
// at any file.
func (m Mutant) validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if !word.MatchString(m.Name) {
		bad("name %q must be a word: letters, digits, hyphens", m.Name)
	}
	if m.Rule == "" || strings.Contains(m.Rule, "\n") {
		bad("rule %q must be a sentence", m.Rule)
	}
	if m.Package == "" || strings.Contains(m.Package, "...") {
		bad("package %q must be one package", m.Package)
	}
	if _, err := m.tests(); err != nil {
		problems = append(problems, err)
	}
	if len(m.Edits) == 0 {
		bad("it has no edits")
	}
	for _, e := range m.Edits {
		switch {
		case !filepath.IsLocal(filepath.FromSlash(e.File)) || path.Clean(e.File) != e.File:
			bad("file %q must be a clean path inside the module", e.File)
		case strings.HasSuffix(e.File, "_test.go"):
			bad("file %q is a test, and a mutant changes what is tested", e.File)
		case e.Old == "" || e.Old == e.New:
			bad("file %q: the edit changes nothing", e.File)
		}
	}
	return errors.Join(problems...)
}

// apply returns the mutated text of each file that m edits, by its name. It
// reads below root and writes nothing.
func (m Mutant) apply(root string) (map[string]string, error) {
	texts := make(map[string]string)
	for _, e := range m.Edits {
		text, ok := texts[e.File]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.File)))
			if err != nil {
				return nil, fmt.Errorf("mutant %s no longer applies: %w", m.Name, err)
			}
			text = string(data)
		}
		if n := strings.Count(text, e.Old); n != 1 {
			return nil, fmt.Errorf("mutant %s no longer applies: its old text occurs %d times in %s, not once: %q",
				m.Name, n, e.File, e.Old)
		}
		texts[e.File] = strings.Replace(text, e.Old, e.New, 1)
	}
	return texts, nil
}

// validateAll reports everything that is wrong with a list of mutants.
func validateAll(mutants []Mutant) error {
	var problems []error
	seen := make(map[string]bool)
	for _, m := range mutants {
		if err := m.validate(); err != nil {
			problems = append(problems, fmt.Errorf("mutant %s: %w", m.Name, err))
		}
		if seen[m.Name] {
			problems = append(problems, fmt.Errorf("mutant %s: the name is taken twice", m.Name))
		}
		seen[m.Name] = true
	}
	return errors.Join(problems...)
}

// table returns the mutants as the markdown table of the docs.
func table(mutants []Mutant) (string, error) {
	var b strings.Builder
	b.WriteString("| mutant | rule | caught by |\n|---|---|---|\n")
	for _, m := range mutants {
		names, err := m.tests()
		if err != nil {
			return "", fmt.Errorf("mutant %s: %w", m.Name, err)
		}
		fmt.Fprintf(&b, "| `%s` | %s | `%s` |\n",
			m.Name, strings.ReplaceAll(m.Rule, "|", `\|`), strings.Join(names, "`, `"))
	}
	return b.String(), nil
}
