package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// A suite names the tests that one run of go test executes.
type suite struct{ pkg, run string }

// A result is what one run of go test said. Names are of top-level tests.
type result struct {
	passed     []string
	failed     []string
	unfinished []string // running when the test binary died
	packageBad bool     // the package failed, whatever its tests did
	notBuilt   bool     // the compiler or the loader refused
	hung       bool     // the binary was ended by its timeout or found itself deadlocked
	output     string   // for people
}

// died reports whether the test binary ended in the middle of a test.
func (r result) died() bool { return r.packageBad && len(r.unfinished) > 0 }

// goTest runs a suite of the module at root, with files replaced as the overlay
// file says if there is one. A failing test is a result, not an error.
//
// Vet is off because a fault that vet reports has not been caught by a test.
// The unmutated code may be answered from the test cache, a mutant never.
func goTest(ctx context.Context, root string, s suite, overlay string, timeout time.Duration) (result, error) {
	args := []string{"test", "-json", "-vet=off", "-timeout=" + timeout.String(), "-run=" + s.run}
	if overlay != "" {
		args = append(args, "-count=1", "-overlay="+overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, s.pkg)...)
	cmd.Dir = root
	// Asked to stop, go ends its test binary; killed outright, it would leave it.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr

	err := cmd.Run()
	if ctx.Err() != nil {
		return result{}, ctx.Err()
	}
	r := parse(stdout.Bytes())
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return result{}, fmt.Errorf("run go test: %w", err)
	}
	if (err != nil) != (r.packageBad || r.notBuilt) {
		return result{}, fmt.Errorf("run go test: %w, which its output does not explain: %s%s",
			cmp.Or(err, errors.New("exit status 0")), r.output, stderr.Bytes())
	}
	r.output += stderr.String()
	return r, nil
}

// parse reads the output of go test -json.
func parse(stream []byte) result {
	var r result
	var output strings.Builder
	running := make(map[string]bool) // top-level tests that have begun and not ended; false while paused
	for line := range bytes.Lines(stream) {
		var e struct{ Action, Test, Output, FailedBuild string }
		if json.Unmarshal(line, &e) != nil {
			output.Write(line)
			continue
		}
		output.WriteString(e.Output)
		if strings.HasPrefix(e.Output, "panic: test timed out after ") ||
			strings.HasPrefix(e.Output, "fatal error: all goroutines are asleep") {
			r.hung = true
		}
		if strings.Contains(e.Test, "/") {
			continue // a subtest fails its parent
		}
		switch {
		case e.Action == "build-fail":
			r.notBuilt = true
		case e.Test == "" && e.Action == "fail":
			r.packageBad = true
			r.notBuilt = r.notBuilt || e.FailedBuild != ""
		case e.Test == "":
		case e.Action == "run" || e.Action == "cont":
			running[e.Test] = true
		case e.Action == "pause":
			running[e.Test] = false
		case e.Action == "pass":
			r.passed = append(r.passed, e.Test)
			delete(running, e.Test)
		case e.Action == "fail":
			r.failed = append(r.failed, e.Test)
			delete(running, e.Test)
		case e.Action == "skip":
			delete(running, e.Test)
		}
	}
	for name, active := range running {
		if active {
			r.unfinished = append(r.unfinished, name)
		}
	}
	slices.Sort(r.unfinished)
	r.output = output.String()
	return r
}
