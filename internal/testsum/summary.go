package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// An event is one line of go test -json; see go doc test2json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output, which belongs to no test
	Test        string
	Output      string
	FailedBuild string
}

// A summary adds up events and prints each package when it is done. Tests are
// counted as go test -list counts them: a subtest is a part of its test.
type summary struct {
	out      io.Writer
	builds   map[string][]string // compiler output by import path
	packages map[string]*pkg     // those that have not ended

	passed, failed, skipped int
	skips                   []string
}

// A pkg is a package whose tests have not ended.
type pkg struct {
	tests   map[string][]string // output of tests that have not ended, and of failed subtests
	failed  bool                // one of its tests did
	output  []string            // its own, between tests
	verdict string              // go test's line about it
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, builds: make(map[string][]string), packages: make(map[string]*pkg)}
}

// counts returns the line that everything ends with.
func (s *summary) counts() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", s.passed, s.failed, s.skipped)
}

// good reports whether tests ran and none failed.
func (s *summary) good() bool { return s.failed == 0 && s.passed > 0 }

// add takes one line of input. A line that is no event is printed as it is:
// test binaries are able to write past the go command.
func (s *summary) add(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		fmt.Fprint(s.out, string(line))
		return
	}
	switch {
	case e.Action == "build-output":
		s.builds[e.ImportPath] = append(s.builds[e.ImportPath], e.Output)
	case e.Action == "build-fail":
		s.print(s.builds[e.ImportPath])
		delete(s.builds, e.ImportPath)
	case e.Package == "":
	case e.Test == "":
		s.addPackageEvent(e)
	default:
		s.addTestEvent(e)
	}
}

func (s *summary) pkg(name string) *pkg {
	p, ok := s.packages[name]
	if !ok {
		p = &pkg{tests: make(map[string][]string)}
		s.packages[name] = p
	}
	return p
}

func (s *summary) addPackageEvent(e event) {
	p := s.pkg(e.Package)
	switch e.Action {
	case "output":
		if isVerdict(e.Output) {
			p.verdict = e.Output
		} else if e.Output != "PASS\n" && e.Output != "FAIL\n" {
			p.output = append(p.output, e.Output)
		}
	case "pass", "skip", "fail":
		delete(s.packages, e.Package)
		if e.Action == "fail" {
			s.packageFailed(p)
		}
		fmt.Fprint(s.out, p.verdict)
	}
}

// packageFailed prints and counts what a failed package has left: tests that
// were running when its binary died, and the package itself if no test is to
// blame (it does not build, TestMain said no).
func (s *summary) packageFailed(p *pkg) {
	for _, name := range slices.Sorted(maps.Keys(p.tests)) {
		if !strings.Contains(name, "/") {
			fmt.Fprintf(s.out, "--- FAIL: %s (it did not end)\n", name)
			s.testFailed(p, name)
		}
	}
	s.print(p.output)
	if !p.failed {
		s.failed++
	}
}

func (s *summary) addTestEvent(e event) {
	p := s.pkg(e.Package)
	sub := strings.Contains(e.Test, "/")
	switch e.Action {
	case "run":
		p.tests[e.Test] = nil
	case "output":
		if !isProgress(e.Output) {
			p.tests[e.Test] = append(p.tests[e.Test], e.Output)
		}
	case "pass":
		if !sub {
			s.passed++
		}
		p.forget(e.Test)
	case "skip":
		reason := "(a part of its test)"
		if !sub {
			s.skipped++
			reason = ""
		}
		s.skips = append(s.skips, strings.Join(strings.Fields(
			e.Package+" "+e.Test+" "+reason+" "+strings.Join(p.tests[e.Test], " ")), " "))
		p.forget(e.Test)
	case "fail":
		if !sub { // a failed subtest is printed below its test, which fails too
			s.testFailed(p, e.Test)
		}
	}
}

// testFailed counts a top-level test and prints it and its subtests that did
// not pass.
func (s *summary) testFailed(p *pkg, name string) {
	s.failed++
	p.failed = true
	s.print(p.tests[name])
	for _, sub := range slices.Sorted(maps.Keys(p.tests)) {
		if strings.HasPrefix(sub, name+"/") {
			s.print(p.tests[sub])
		}
	}
	p.forget(name)
}

// forget drops the output of a test and of its subtests.
func (p *pkg) forget(test string) {
	delete(p.tests, test)
	for name := range p.tests {
		if strings.HasPrefix(name, test+"/") {
			delete(p.tests, name)
		}
	}
}

// finish prints what only the end of the input can tell.
func (s *summary) finish() {
	for _, name := range slices.Sorted(maps.Keys(s.packages)) {
		fmt.Fprintf(s.out, "FAIL\t%s [the output of go test ended before it did]\n", name)
		s.packageFailed(s.packages[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.builds)) {
		s.print(s.builds[name]) // warnings of builds that went well
	}
	if len(s.skips) > 0 {
		fmt.Fprintln(s.out, "SKIPPED:")
		for _, skip := range s.skips {
			fmt.Fprintf(s.out, "    %s\n", skip)
		}
	}
	if s.passed+s.failed == 0 {
		fmt.Fprintln(s.out, "NO TEST RAN")
	}
}

func (s *summary) print(outputs []string) {
	fmt.Fprint(s.out, strings.Join(outputs, ""))
}

// isVerdict reports whether a line is the one that go test prints about a
// package.
func isVerdict(line string) bool {
	return strings.HasPrefix(line, "ok  \t") || strings.HasPrefix(line, "?   \t") ||
		strings.HasPrefix(line, "FAIL\t")
}

// isProgress reports whether a line tells of a test's progress, not of its
// findings.
func isProgress(line string) bool {
	for _, prefix := range []string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME ", "--- SKIP: "} {
		if strings.HasPrefix(strings.TrimLeft(line, " "), prefix) {
			return true
		}
	}
	return false
}
