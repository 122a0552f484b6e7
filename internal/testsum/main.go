// Command testsum reads the output of go test -json and prints it as go test
// prints it, with what that leaves out: each skipped test with its reason, and
// the counts of tests that passed, failed and were skipped.
//
// Usage:
//
//	go test -json ./... | testsum [-counts file]
//
// It exits with 1 if a test or a package failed, if the input ended early, or if
// no test passed at all.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the command without the process around it.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("testsum", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("counts", "", "write the line of counts to this `file` instead of printing it")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}

	s := newSummary(stdout)
	lines := bufio.NewReader(stdin) // not a Scanner: a test may print a line of any length
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			s.add(line)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fmt.Fprintf(stderr, "testsum: read the output of go test: %v\n", err)
			return 1
		}
	}
	s.finish()

	if *file == "" {
		fmt.Fprintln(stdout, s.counts())
	} else if err := os.WriteFile(*file, []byte(s.counts()+"\n"), 0o644); err != nil {
		fmt.Fprintf(stderr, "testsum: %v\n", err)
		return 1
	}
	if !s.good() {
		return 1
	}
	return 0
}
