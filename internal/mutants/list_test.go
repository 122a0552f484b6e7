package main

import (
	"os"
	"regexp"
	"testing"
)

// root is where this module's files are, seen from the tests of this package.
const root = "../.."

// The command itself finds this out too, minutes later.
func TestListAppliesToTheModule(t *testing.T) {
	if err := validateAll(list); err != nil {
		t.Error(err)
	}
	for _, m := range list {
		if _, err := m.apply(root); err != nil {
			t.Error(err)
		}
	}
}

func TestGuaranteesNameEveryMutantAndItsTests(t *testing.T) {
	page, err := os.ReadFile(root + "/docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	// Whole words: TestAppend is not named by a page about TestAppendTwice.
	named := make(map[string]bool)
	for _, word := range regexp.MustCompile(`[\w-]+`).FindAllString(string(page), -1) {
		named[word] = true
	}
	for _, m := range list {
		names, err := m.tests()
		if err != nil {
			t.Error(err)
		}
		for _, name := range append(names, m.Name) {
			if !named[name] {
				t.Errorf("docs/guarantees.md does not mention %s of mutant %s; go run ./internal/mutants -list prints its table", name, m.Name)
			}
		}
	}
}
