package dejatest_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// recorder is a testing.TB that notes what a test would have failed with.
type recorder struct {
	testing.TB
	failed   []string
	logged   []string
	cleanups []func()
}

// run runs fn as a test of its own, and returns how it went.
func run(t *testing.T, fn func(tb *recorder)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	r.do(func() { fn(r) })
	for len(r.cleanups) > 0 {
		last := len(r.cleanups) - 1
		cleanup := r.cleanups[last]
		r.cleanups = r.cleanups[:last]
		r.do(cleanup)
	}
	return r
}

// do calls fn where Fatalf can end it.
func (r *recorder) do(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

func (r *recorder) Helper()           {}
func (r *recorder) Cleanup(fn func()) { r.cleanups = append(r.cleanups, fn) }
func (r *recorder) Failed() bool      { return len(r.failed) > 0 }

func (r *recorder) Logf(format string, args ...any) {
	r.logged = append(r.logged, fmt.Sprintf(format, args...))
}

func (r *recorder) Errorf(format string, args ...any) {
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// wantFailure checks that fn fails once, with all of these texts.
func wantFailure(t *testing.T, fn func(tb *recorder), texts ...string) {
	t.Helper()
	r := run(t, fn)
	if len(r.failed) != 1 {
		t.Fatalf("failed %d times, want once: %q", len(r.failed), r.failed)
	}
	for _, text := range texts {
		if !strings.Contains(r.failed[0], text) {
			t.Errorf("failed with\n%s\nwhich does not say %q", r.failed[0], text)
		}
	}
}
