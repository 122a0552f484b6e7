// Package fault disturbs a log and a store at a chosen step: each call that reads or writes is one, and a [Plan] says
// which of them fail, or kill the process, before or after they took effect. It has no clock and no chance in it: the
// same calls in the same order meet the same faults.
//
// A test runs once undisturbed to learn the steps, and then once for each step and each way to fail, see [Plans].
package fault

import (
	"errors"
	"fmt"
	"iter"
	"strconv"
)

var (
	// ErrInjected is returned by the call of a step that the plan lets fail.
	ErrInjected = errors.New("injected fault")

	// ErrCrashed is returned by the call that crashes, and by every call after it.
	ErrCrashed = errors.New("crashed")
)

// A Mode says what happens at a step.
type Mode uint8

// What can happen at a step. An error without more tells the caller the same in either mode that fails: *maybe*.
const (
	Pass        Mode = iota
	FailBefore       // an error, and the call had no effect
	FailAfter        // an error, and the call had its effect
	CrashBefore      // the process dies before the call has an effect
	CrashAfter       // the process dies after it
)

var modeNames = [...]string{"pass", "fail-before", "fail-after", "crash-before", "crash-after"}

// String returns the mode's word, such as "crash-after".
func (m Mode) String() string {
	if int(m) >= len(modeNames) {
		return "mode(" + strconv.Itoa(int(m)) + ")"
	}
	return modeNames[m]
}

// crashes reports whether the mode kills the process.
func (m Mode) crashes() bool { return m == CrashBefore || m == CrashAfter }

// before reports whether the mode keeps the call from having an effect.
func (m Mode) before() bool { return m == FailBefore || m == CrashBefore }

// A Step is a call that reads or writes.
type Step struct {
	Call string // such as "log.Append" or "tx.Commit"
	On   string // what it is about, such as "bank.inbox" or "bank.inbox:0"; may be empty
	Read bool   // it changes nothing, so that before and after are the same
}

// String returns call and what it is about: "log.Append bank.inbox".
func (s Step) String() string {
	if s.On == "" {
		return s.Call
	}
	return s.Call + " " + s.On
}

// A Plan says what happens at the n-th step, counted from 1. It is not called by two goroutines at a time. A nil Plan
// lets everything pass.
type Plan func(n int, s Step) Mode

// At returns the plan that disturbs one step.
func At(n int, m Mode) Plan {
	return func(at int, _ Step) Mode {
		if at == n {
			return m
		}
		return Pass
	}
}

// Plans yields, for each step of an undisturbed run and each mode that makes a difference there, the plan that
// disturbs it and a name for that run, such as "12 tx.Commit bank.inbox:0 crash-after".
func Plans(steps []Step) iter.Seq2[string, Plan] {
	return func(yield func(string, Plan) bool) {
		for i, s := range steps {
			for m := FailBefore; m <= CrashAfter; m++ {
				if s.Read && !m.before() {
					continue
				}
				if !yield(fmt.Sprintf("%d %s %s", i+1, s, m), At(i+1, m)) {
					return
				}
			}
		}
	}
}
