// Command mutants checks that the tests notice when a promise is broken.
//
// Each entry of its list is a mutant: a small fault in the code, the promise
// that the fault breaks, and the tests that must fail because of it. The command
// lays the changed files over the module with go test -overlay, so that no file
// of the module is written, and runs those tests. Only a failing test counts; a
// mutant that does not build or whose tests do not run is an error of the list.
// It is not a mutation-testing tool that invents faults by itself.
//
// Usage:
//
//	go run ./internal/mutants [-run regexp] [-list] [-v]
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// testTimeout bounds one test binary; those named by mutants take seconds, or a minute on a machine that is busy.
const testTimeout = 5 * time.Minute

// atOnce bounds the mutants in work: each is a compiler, a linker and a test.
const atOnce = 2

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, list, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the command without the process around it. It works on the module of
// the current directory and returns the exit code: 0 if every chosen mutant was
// caught, 1 if not or if there was none, 2 for a wrong command line.
func run(ctx context.Context, mutants []Mutant, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	flags.SetOutput(stderr)
	choose := flags.String("run", "", "check only the mutants whose name matches this `regexp`")
	asTable := flags.Bool("list", false, "print the mutants as a markdown table, and check nothing")
	verbose := flags.Bool("v", false, "show what go test printed for each mutant")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "mutants: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	name, err := regexp.Compile(*choose)
	if err != nil {
		fmt.Fprintf(stderr, "mutants: -run: %v\n", err)
		return 2
	}
	if err := validateAll(mutants); err != nil {
		fmt.Fprintf(stderr, "mutants: %v\n", err)
		return 1
	}
	var chosen []Mutant
	for _, m := range mutants {
		if name.MatchString(m.Name) {
			chosen = append(chosen, m)
		}
	}
	if *asTable {
		text, err := table(chosen)
		if err != nil {
			fmt.Fprintf(stderr, "mutants: %v\n", err)
			return 1
		}
		fmt.Fprint(stdout, text)
		return 0
	}
	if len(chosen) == 0 {
		fmt.Fprintf(stderr, "mutants: nothing to check: %d in the list, none matches %q\n", len(mutants), *choose)
		return 1
	}
	return checkAndPrint(ctx, chosen, *verbose, stdout, stderr)
}

// checkAndPrint checks the mutants against the module of the current directory.
func checkAndPrint(ctx context.Context, mutants []Mutant, verbose bool, stdout, stderr io.Writer) int {
	root, err := moduleRoot(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "mutants: %v\n", err)
		return 1
	}
	temp, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		fmt.Fprintf(stderr, "mutants: %v\n", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(temp) }() // the system's own cleaning gets what stays

	c := &checker{root: root, temp: temp, timeout: testTimeout}
	count := make(map[outcome]int)
	c.checkAll(ctx, mutants, min(atOnce, runtime.GOMAXPROCS(0)), func(r report) {
		count[r.outcome]++
		r.print(stdout, verbose)
	})
	if n := count[broken]; n > 0 {
		fmt.Fprintf(stdout, "mutants: %d could not be checked: mend the list\n", n)
	}
	fmt.Fprintf(stdout, "mutants: %d caught, %d survived\n", count[caught], count[survived])
	if count[caught] != len(mutants) {
		return 1
	}
	return 0
}

// print writes the report for people: one line if the mutant was caught.
func (r report) print(w io.Writer, verbose bool) {
	seconds := fmt.Sprintf("%.1fs", r.took.Seconds())
	switch r.outcome {
	case caught:
		fmt.Fprintf(w, "caught    %s  by %s  %s\n", r.mutant.Name, r.by, seconds)
	case survived:
		fmt.Fprintf(w, "SURVIVED  %s  %s\n    rule: %s\n    %s\n", r.mutant.Name, seconds, r.mutant.Rule, r.why)
	case broken:
		fmt.Fprintf(w, "ERROR     %s  %s\n    %s\n", r.mutant.Name, seconds, indent(r.why))
	}
	if verbose && r.output != "" {
		fmt.Fprintf(w, "    %s\n", indent(r.output))
	}
}

// indent sets the lines after the first below it.
func indent(text string) string {
	return strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n    ")
}

// moduleRoot returns the directory of the module that the current directory
// belongs to. The go command is asked because the keys of an overlay have to be
// spelled as it spells its files.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	file := cmp.Or(strings.TrimSpace(string(out)), os.DevNull)
	if file == os.DevNull {
		return "", errors.New("find the module: the current directory is in none")
	}
	return filepath.Dir(file), nil
}
