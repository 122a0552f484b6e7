package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// An outcome is what became of one mutant.
type outcome int

const (
	broken   outcome = iota // the entry proves nothing: it must be mended
	survived                // the tests passed, so nothing guards the rule
	caught
)

// A report is the outcome of one mutant and its reasons.
type report struct {
	mutant  Mutant
	outcome outcome
	by      string // the tests that caught it
	why     string // why it was not caught
	took    time.Duration
	output  string // of go test
}

// A checker checks mutants of one module. Its methods may be called
// concurrently.
type checker struct {
	root    string        // the module's directory, as the go command spells it
	temp    string        // an empty directory of its own
	timeout time.Duration // of a test binary with a mutant in it

	mu        sync.Mutex
	baselines map[suite]func() (result, error)
}

// check runs the tests of one mutant. The error of a cancelled ctx comes back as
// a broken mutant.
func (c *checker) check(ctx context.Context, m Mutant) (r report) {
	r.mutant = m
	start := time.Now()
	defer func() { r.took = time.Since(start) }()

	overlay, err := c.writeOverlay(m)
	if err != nil {
		r.why = err.Error()
		return r
	}
	if err := c.unmutated(ctx, m); err != nil {
		r.why = err.Error()
		return r
	}
	got, err := goTest(ctx, c.root, suite{m.Package, m.Run}, overlay, c.timeout)
	if err != nil {
		r.why = err.Error()
		return r
	}
	r.output = got.output
	r.judge(got)
	return r
}

// judge decides what the tests of the mutated code have shown. What counts is
// that a named test failed: a mutant that does not build, runs no test, or
// merely makes the tests slow has shown nothing about them.
func (r *report) judge(got result) {
	switch {
	case got.notBuilt:
		r.why = "the mutated code does not build:\n" + got.output
	case len(got.failed) > 0:
		r.outcome, r.by = caught, strings.Join(got.failed, ", ")
	case got.hung && r.mutant.MayHang:
		r.outcome, r.by = caught, strings.Join(got.unfinished, ", ")+" (hung)"
	case got.hung:
		r.outcome, r.why = survived, "its tests hung, which counts only for a mutant that MayHang"
	case got.died():
		r.outcome, r.by = caught, strings.Join(got.unfinished, ", ")+" (crashed)"
	case got.packageBad:
		r.outcome, r.why = survived, "its package failed, but none of the named tests did"
	case len(got.passed) == 0:
		r.why = "no test ran on the mutated code"
	default:
		r.outcome, r.why = survived, "the tests passed: "+strings.Join(got.passed, ", ")
	}
}

// unmutated returns nil if the tests of m pass without it: each test that m
// names has to run and pass. Mutants with the same suite share one run.
func (c *checker) unmutated(ctx context.Context, m Mutant) error {
	s := suite{m.Package, m.Run}
	c.mu.Lock()
	if c.baselines == nil {
		c.baselines = make(map[suite]func() (result, error))
	}
	once, ok := c.baselines[s]
	if !ok {
		once = sync.OnceValues(func() (result, error) { return goTest(ctx, c.root, s, "", testTimeout) })
		c.baselines[s] = once
	}
	c.mu.Unlock()

	got, err := once()
	switch {
	case err != nil:
		return err
	case got.notBuilt:
		return errors.New("the unmutated code does not build:\n" + got.output)
	case got.packageBad:
		return errors.New("the unmutated code fails these tests:\n" + got.output)
	}
	names, err := m.tests()
	if err != nil {
		return err
	}
	for _, name := range names {
		// A prefix, because -run is not anchored unless it says so.
		if !slices.ContainsFunc(got.passed, func(passed string) bool { return strings.HasPrefix(passed, name) }) {
			return fmt.Errorf("no test %s ran and passed in %s on the unmutated code (renamed, or skipped here?)", name, m.Package)
		}
	}
	return nil
}

// writeOverlay writes the files that m changes, and the file for go's -overlay
// that names them, into the temporary directory. The module is not touched.
func (c *checker) writeOverlay(m Mutant) (string, error) {
	texts, err := m.apply(c.root)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(c.temp, "mutant-")
	if err != nil {
		return "", err
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for file, text := range texts {
		to := filepath.Join(dir, filepath.FromSlash(file))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(c.root, filepath.FromSlash(file))] = to
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	to := filepath.Join(dir, "overlay.json")
	return to, os.WriteFile(to, data, 0o644)
}

// checkAll checks the mutants, at most limit at once, and hands each report to
// show in the order of the list. It returns when all are shown.
func (c *checker) checkAll(ctx context.Context, mutants []Mutant, limit int, show func(report)) {
	slots := make(chan struct{}, limit)
	reports := make([]chan report, len(mutants))
	for i := range reports {
		reports[i] = make(chan report, 1)
	}
	// Slots are taken here and not by the goroutines, so that the mutants start
	// in the order in which they are shown.
	go func() {
		for i, m := range mutants {
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				reports[i] <- c.check(ctx, m)
			}()
		}
	}()
	for _, done := range reports {
		show(<-done)
	}
}
