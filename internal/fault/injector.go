package fault

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// An Injector is the process that a plan disturbs: all logs and stores it wraps count the same steps and die
// together. It is safe for concurrent use; only calls that follow each other are numbered the same way every time.
//
// To restart after a crash, wrap what survived with another Injector.
type Injector struct {
	plan Plan
	life context.Context //nolint:containedctx // the process's, no call's: it ends with the crash
	kill context.CancelCauseFunc

	mu    sync.Mutex
	steps []Step
	open  map[*tx]struct{}
}

// New returns an injector that has wrapped nothing yet.
func New(plan Plan) *Injector {
	life, kill := context.WithCancelCause(context.Background())
	return &Injector{plan: plan, life: life, kill: kill, open: map[*tx]struct{}{}}
}

// Steps returns the steps so far, in order.
func (in *Injector) Steps() []Step {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.steps)
}

// Crash kills the process between two steps: open transactions are rolled back, and from now on every call fails with
// [ErrCrashed].
func (in *Injector) Crash() {
	in.kill(ErrCrashed)
	in.settle()
}

// Crashed reports whether the process is dead.
func (in *Injector) Crashed() bool { return in.life.Err() != nil }

// settle rolls the transactions of a dead process back. Each waits for the call that its owner may be in; together,
// since one may wait in the engine for another's lock.
func (in *Injector) settle() {
	if !in.Crashed() {
		return
	}
	in.mu.Lock()
	open := in.open
	in.open = map[*tx]struct{}{}
	in.mu.Unlock()
	var all sync.WaitGroup
	for t := range open {
		all.Go(t.abandon)
	}
	all.Wait()
}

// next counts a step and says what happens at it.
func (in *Injector) next(s Step) (Mode, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.Crashed() {
		return Pass, ErrCrashed
	}
	in.steps = append(in.steps, s)
	if in.plan == nil {
		return Pass, nil
	}
	m := in.plan(len(in.steps), s)
	if m == Pass {
		return m, nil
	}
	if m.crashes() {
		return m, fmt.Errorf("step %d, %s: %w", len(in.steps), s, ErrCrashed)
	}
	return m, fmt.Errorf("step %d, %s (%s): %w", len(in.steps), s, m, ErrInjected)
}

// perform takes one step. What a call returned is given back if and only if the error is nil; the caller settles.
func perform[R any](in *Injector, s Step, call func() (R, error)) (R, error) {
	var none R
	mode, fault := in.next(s)
	if fault != nil && (mode == Pass || mode.before()) {
		if mode.crashes() {
			in.kill(ErrCrashed)
		}
		return none, fault
	}
	r, err := call()
	switch {
	case mode.crashes():
		in.kill(ErrCrashed)
		return none, fault
	case in.Crashed(): // by another goroutine, while this one was in the call
		return none, ErrCrashed
	case err != nil:
		return none, err
	}
	if fault != nil {
		return none, fault
	}
	return r, nil
}

// do takes one step of a log or a store.
func do[R any](in *Injector, s Step, call func() (R, error)) (R, error) {
	r, err := perform(in, s, call)
	in.settle()
	return r, err
}

// nothing makes a call without a result one that perform takes.
func nothing(call func() error) func() (struct{}, error) {
	return func() (struct{}, error) { return struct{}{}, call() }
}

// bounded returns a ctx that also ends with the process.
func (in *Injector) bounded(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(in.life, cancel)
	return ctx, func() { stop(); cancel() }
}
