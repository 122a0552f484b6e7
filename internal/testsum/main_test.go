package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// events spells a stream of go test -json, one event a line, as action, package,
// test, output. A test prints its output line by line.
func events(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		f := strings.SplitN(line, "|", 4)
		for len(f) < 4 {
			f = append(f, "")
		}
		field := "Package"
		if strings.HasPrefix(f[0], "build-") {
			field = "ImportPath"
		}
		b.WriteString(`{"Action":"` + f[0] + `","` + field + `":"` + f[1] + `","Test":"` + f[2] + `","Output":"` + f[3] + `"}` + "\n")
	}
	return b.String()
}

func TestRunPrintsWhatGoTestPrintsAndCounts(t *testing.T) {
	tests := map[string]struct {
		input string
		code  int
		want  string
	}{
		"passes": {events(
			`start|p`, `run|p|TestA`, `output|p|TestA|=== RUN   TestA\n`, `run|p|TestA/x`, `output|p|TestA/x|    noise\n`,
			`output|p|TestA/x|    --- PASS: TestA/x (0.00s)\n`, `pass|p|TestA/x`, `output|p|TestA|--- PASS: TestA (0.00s)\n`, `pass|p|TestA`,
			`output|p||PASS\n`, `output|p||ok  \tp\t0.1s\n`, `pass|p`,
			`start|q`, `output|q||?   \tq\t[no test files]\n`, `skip|q`,
			`start|r`, `run|r|FuzzB`, `pass|r|FuzzB`, `output|r||ok  \tr\t(cached)\n`, `pass|r`,
		), 0, "ok  \tp\t0.1s\n?   \tq\t[no test files]\nok  \tr\t(cached)\n2 passed, 0 failed, 0 skipped\n"},

		"a test fails among parallel ones": {events(
			`start|p`, `run|p|TestA`, `pause|p|TestA`, `output|p|TestA|=== PAUSE TestA\n`, `run|p|TestB`, `output|p|TestB|    b.go:1: fine\n`,
			`run|p|TestA/x`, `output|p|TestA/x|    a.go:1: bad\n`, `output|p|TestB|    b.go:2: fine\n`,
			`output|p|TestA/x|    --- FAIL: TestA/x (0.00s)\n`, `fail|p|TestA/x`, `run|p|TestA/y`, `output|p|TestA/y|    fine\n`, `pass|p|TestA/y`,
			`output|p|TestA|--- FAIL: TestA (0.00s)\n`, `fail|p|TestA`, `pass|p|TestB`,
			`output|p||FAIL\n`, `output|p||FAIL\tp\t0.1s\n`, `fail|p`,
		), 1, "--- FAIL: TestA (0.00s)\n    a.go:1: bad\n    --- FAIL: TestA/x (0.00s)\nFAIL\tp\t0.1s\n1 passed, 1 failed, 0 skipped\n"},

		"skips are listed": {events(
			`run|p|TestA`, `output|p|TestA|    a.go:1: needs a broker\n`, `output|p|TestA|--- SKIP: TestA (0.00s)\n`, `skip|p|TestA`,
			`run|p|TestB`, `run|p|TestB/x`, `output|p|TestB/x|    a.go:2: root\n`, `skip|p|TestB/x`, `pass|p|TestB`,
			`output|p||ok  \tp\t0.1s\n`, `pass|p`,
		), 0, "ok  \tp\t0.1s\nSKIPPED:\n    p TestA a.go:1: needs a broker\n    p TestB/x (a part of its test) a.go:2: root\n1 passed, 0 failed, 1 skipped\n"},

		"a package does not build": {events(
			`build-output|p [p.test]||# p\n`, `build-output|p [p.test]||./a.go:1: undefined: x\n`, `build-fail|p [p.test]`,
			`start|p`, `output|p||FAIL\tp [build failed]\n`, `fail|p`,
		), 1, "# p\n./a.go:1: undefined: x\nFAIL\tp [build failed]\n0 passed, 1 failed, 0 skipped\n"},

		"TestMain fails": {events(
			`run|p|TestA`, `pass|p|TestA`, `output|p||PASS\n`, `output|p||found unexpected goroutines\n`, `output|p||\tp/a.go:1\n`, `output|p||FAIL\tp\t0.1s\n`, `fail|p`,
		), 1, "found unexpected goroutines\n\tp/a.go:1\nFAIL\tp\t0.1s\n1 passed, 1 failed, 0 skipped\n"},

		"the binary dies": {events(
			`run|p|TestA`, `run|p|TestA/x`, `output|p|TestA/x|panic: oh\n`, `output|p||FAIL\tp\t0.1s\n`, `fail|p`,
		), 1, "--- FAIL: TestA (it did not end)\npanic: oh\nFAIL\tp\t0.1s\n0 passed, 1 failed, 0 skipped\n"},

		"the input ends early": {events(
			`run|p|TestA`, `pass|p|TestA`, `run|p|TestB`,
		), 1, "FAIL\tp [the output of go test ended before it did]\n--- FAIL: TestB (it did not end)\n1 passed, 1 failed, 0 skipped\n"},

		"no tests":            {"", 1, "NO TEST RAN\n0 passed, 0 failed, 0 skipped\n"},
		"lines of no event":   {"go: trouble\n", 1, "go: trouble\nNO TEST RAN\n0 passed, 0 failed, 0 skipped\n"},
		"a last line cut off": {events(`run|p|TestA`, `pass|p|TestA`, `output|p||ok  \tp\t0.1s\n`, `pass|p`) + `{"Act`, 0, "ok  \tp\t0.1s\n{\"Act1 passed, 0 failed, 0 skipped\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			code := run(nil, strings.NewReader(test.input), &stdout, &stderr)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if stdout.String() != test.want {
				t.Errorf("output:\n%s\nwant:\n%s", stdout.String(), test.want)
			}
			if stderr.Len() > 0 {
				t.Errorf("stderr: %s", stderr.String())
			}
		})
	}
}

func TestRunWritesCountsToAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "counts")
	var stdout, stderr strings.Builder
	input := events(`run|p|TestA`, `pass|p|TestA`, `output|p||ok  \tp\t0.1s\n`, `pass|p`)
	if code := run([]string{"-counts", file}, strings.NewReader(input), &stdout, &stderr); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	if got := stdout.String(); got != "ok  \tp\t0.1s\n" {
		t.Errorf("output %q", got)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "1 passed, 0 failed, 0 skipped\n" {
		t.Errorf("counts %q, %v", data, err)
	}
	if code := run([]string{"-counts", filepath.Join(file, "no")}, strings.NewReader(input), &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d of a file that cannot be written, want 1", code)
	}
	if code := run([]string{"-nope"}, strings.NewReader(input), &stdout, &stderr); code != 2 {
		t.Errorf("exit code %d of a wrong flag, want 2", code)
	}
}
