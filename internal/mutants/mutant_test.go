package main

import (
	"slices"
	"strings"
	"testing"
)

func TestNamesOfTestsInRunExpressions(t *testing.T) {
	tests := []struct {
		run  string
		want []string // nil: an error
	}{
		{"TestA", []string{"TestA"}},
		{"^TestA$", []string{"TestA"}},
		{"^(TestA|FuzzB|ExampleC_d)$", []string{"TestA", "FuzzB", "ExampleC_d"}},
		{"^(?:TestA|TestB)$", []string{"TestA", "TestB"}},
		{"^TestA$/^TestSub$|^TestB$", []string{"TestA", "TestB"}},
		{"TestMany.*", []string{"TestMany"}},
		{"", nil},
		{".", nil},
		{"Test", nil},
		{"Test(A|B)", nil},
		{"TestA|", nil},
		{"(TestA", nil},
	}
	for _, test := range tests {
		got, err := Mutant{Run: test.run}.tests()
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("tests of %q: %q, %v, want %q", test.run, got, err, test.want)
		}
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	good := half("good", "a", "b", "^TestA$")
	if err := good.validate(); err != nil {
		t.Fatalf("a good mutant: %v", err)
	}
	edit := func(file, before, after string) func(*Mutant) {
		return func(m *Mutant) { m.Edits = []Edit{{file, before, after}} }
	}
	tests := map[string]struct {
		change func(*Mutant)
		want   string
	}{
		"no name":       {func(m *Mutant) { m.Name = "" }, "must be a word"},
		"name of words": {func(m *Mutant) { m.Name = "two words" }, "must be a word"},
		"no rule":       {func(m *Mutant) { m.Rule = "" }, "must be a sentence"},
		"no package":    {func(m *Mutant) { m.Package = "" }, "must be one package"},
		"all packages":  {func(m *Mutant) { m.Package = "./..." }, "must be one package"},
		"no run":        {func(m *Mutant) { m.Run = "" }, "does not spell out the name of a test"},
		"no edits":      {func(m *Mutant) { m.Edits = nil }, "no edits"},
		"outside":       {edit("../other.go", "a", "b"), "inside the module"},
		"absolute":      {edit("/other.go", "a", "b"), "inside the module"},
		"unclean":       {edit("./half.go", "a", "b"), "inside the module"},
		"a test":        {edit("half_test.go", "a", "b"), "is a test"},
		"no change":     {edit("half.go", "a", "a"), "changes nothing"},
		"no old text":   {edit("half.go", "", "a"), "changes nothing"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := good
			test.change(&m)
			if err := m.validate(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	err := Mutant{}.validate()
	for _, want := range []string{"name", "rule", "package", "run expression", "edits"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the empty mutant: %v does not mention %q", err, want)
		}
	}
}
