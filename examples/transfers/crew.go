package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// worker is a worker process.
type worker struct {
	cmd   *exec.Cmd
	input io.Closer
	said  chan said // closed when it has ended
	err   error     // how it ended; for whoever saw said closed
}

// start starts a worker process. It ends with this one, whatever becomes of it.
func (p *program) start(t *task) (*worker, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{cmd: exec.Command(exe, t.args()...), said: make(chan said)} //nolint:noctx // it is ended in good order, or killed on purpose
	w.cmd.Env = append(os.Environ(), t.environment()...)
	w.cmd.Stderr = p.stderr
	if w.input, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	go w.listen(out)
	return w, nil
}

// listen passes on what the process says, until it has ended.
func (w *worker) listen(out io.Reader) {
	defer close(w.said)
	dec := json.NewDecoder(out)
	var err error
	for {
		var s said
		if err = dec.Decode(&s); err != nil {
			break
		}
		w.said <- s
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) { // it may have been killed in the middle of a word
		err = nil
	} else {
		_, _ = io.Copy(io.Discard, out) // so that it can end
	}
	w.err = errors.Join(err, w.cmd.Wait())
}

// kill kills the process, and returns when it is gone.
func (w *worker) kill() error {
	err := w.cmd.Process.Kill()
	w.drain()
	return err
}

// end ends the process in good order.
func (w *worker) end() error {
	_ = w.input.Close() // it may have ended before
	kill := time.AfterFunc(patience, func() { _ = w.cmd.Process.Kill() })
	defer kill.Stop()
	w.drain()
	return w.err
}

// patience is how long a process may take to end in good order.
const patience = 30 * time.Second

func (w *worker) drain() {
	for range w.said {
	}
	_ = w.input.Close() // it may be closed
}

// finish has a process do a task that it ends by itself, and returns its last word.
func (p *program) finish(ctx context.Context, t *task) (last said, err error) {
	w, err := p.start(t)
	if err != nil {
		return last, err
	}
	stop := context.AfterFunc(ctx, func() { _ = w.cmd.Process.Kill() })
	defer stop()
	for s := range w.said {
		last = s
	}
	_ = w.input.Close()
	switch {
	case ctx.Err() != nil:
		return last, ctx.Err()
	case w.err != nil:
		return last, fmt.Errorf("worker: %w", w.err)
	case last.What != finished:
		return last, errors.New("the worker ended before its task was done")
	}
	return last, nil
}
