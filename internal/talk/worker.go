package talk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// The command and the variable by which a program knows that it is to be a worker. The variable's value is the protocol.
const (
	Command  = "deja-worker"
	Variable = "DEJA_WORKER"
)

// Limits of a worker, where [Options] do not say otherwise.
const (
	patience  = time.Minute      // for an answer
	greeting  = 20 * time.Second // for the hello
	leave     = 2 * time.Second  // to end when it is no longer needed
	ahead     = 64               // answers that are read ahead
	writeSize = 1 << 16
)

// Options say how a worker is run. The zero Options are the usual ones.
type Options struct {
	Patience time.Duration // how long an answer may take; 0: a minute
}

// A Worker is another build of a service, running. Send and Next may run beside each other; else it is not safe for
// concurrent use. After an error it is at its end.
type Worker struct {
	path     string
	service  string // that it must be a build of
	patience time.Duration
	cmd      *exec.Cmd
	stop     context.CancelFunc
	in       io.WriteCloser
	stdout   *os.File
	out      *bufio.Writer
	heard    chan heard
	stderr   *tail
	hello    Hello
	dec      *wire.Decoder
	at       Begin

	mu      sync.Mutex
	pending []Message // without an answer

	ended sync.Once
	exit  error
}

// heard is a frame of the worker's, or why there is none.
type heard struct {
	kind byte
	body []byte
	err  error
}

// Start starts a program as a worker, and greets it. The error is a [*Fault] if it is none, of another protocol, or of
// another service than is asked for. It runs until Close, or the end of ctx.
func Start(ctx context.Context, program, service string, opts Options) (*Worker, error) {
	w := &Worker{
		path: program, service: service, patience: opts.Patience, heard: make(chan heard, ahead), stderr: &tail{},
		dec: wire.NewDecoder(service),
	}
	if w.patience <= 0 {
		w.patience = patience
	}
	ctx, w.stop = context.WithCancel(ctx)
	if err := w.run(ctx); err != nil {
		w.stop()
		return nil, &Fault{Program: program, Kind: NoWorker, Detail: err.Error(), Offset: -1}
	}
	go w.listen(ctx, bufio.NewReaderSize(w.stdout, 1<<16))
	if err := w.greet(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// run starts the process.
func (w *Worker) run(ctx context.Context) error {
	path := w.path
	if _, err := os.Stat(path); err == nil { // in the present directory too, which exec does not look into
		if path, err = filepath.Abs(path); err != nil {
			return err
		}
	}
	w.cmd = exec.CommandContext(ctx, path, Command)
	w.cmd.WaitDelay = leave
	w.cmd.Stderr = w.stderr
	for _, v := range os.Environ() { // it needs no database, and least of all a password
		if !strings.HasPrefix(v, "DEJA_") {
			w.cmd.Env = append(w.cmd.Env, v)
		}
	}
	w.cmd.Env = append(w.cmd.Env, Variable+"="+strconv.Itoa(Protocol))
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return err
	}
	w.out = bufio.NewWriterSize(w.in, writeSize)
	// A pipe of our own, as Wait would close cmd's before all of it is read.
	r, wr, err := os.Pipe()
	if err != nil {
		return err
	}
	w.stdout, w.cmd.Stdout = r, wr
	if err := w.cmd.Start(); err != nil {
		return errors.Join(err, r.Close(), wr.Close())
	}
	return wr.Close()
}

// listen reads what the worker says, until it says no more.
func (w *Worker) listen(ctx context.Context, r *bufio.Reader) {
	defer close(w.heard)
	noise, err := findMagic(r)
	if err != nil {
		w.tell(ctx, heard{err: &Fault{Kind: NoWorker, Detail: fmt.Sprintf("it does not speak as a worker does%s", saying(noise))}})
		return
	}
	for err == nil {
		var h heard
		h.kind, h.body, err = readFrame(r)
		h.err = err
		if !w.tell(ctx, h) {
			return
		}
	}
}

func (w *Worker) tell(ctx context.Context, h heard) bool {
	select {
	case w.heard <- h:
		return true
	case <-ctx.Done():
		return false
	}
}

// saying quotes the beginning of what a program printed.
func saying(b []byte) string {
	const most = 200
	text := strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
	if text == "" {
		return ""
	}
	if len(text) > most {
		text = text[:most] + "…"
	}
	return fmt.Sprintf("; it printed %q", text)
}

func (w *Worker) greet(ctx context.Context) error {
	body, err := w.hear(ctx, frameHello, greeting)
	if err != nil {
		return err
	}
	if err := parseJSON(body, &w.hello); err != nil {
		return w.fault(Garbage, err.Error())
	}
	switch {
	case w.hello.Protocol != Protocol:
		return w.fault(OtherProtocol, fmt.Sprintf("it speaks protocol %d of workers, this program %d; build it with the same release of deja", w.hello.Protocol, Protocol))
	case w.hello.Service != w.service:
		return w.fault(OtherService, fmt.Sprintf("it is a build of the service %s, not of %s", w.hello.Service, w.service))
	}
	return nil
}

// Hello returns what the worker says of itself.
func (w *Worker) Hello() Hello { return w.hello }

// Program returns what was started.
func (w *Worker) Program() string { return w.path }

// Begin begins a life, on top of rows and of the inbox records of messages that wait.
func (w *Worker) Begin(ctx context.Context, b Begin, rows []driver.State, waiting []driver.Record) error {
	w.at = b
	err := w.write(frameBegin, asJSON(b))
	for i := range rows {
		if err == nil {
			err = w.write(frameRow, asJSON(RowOf(rows[i])))
		}
	}
	for _, r := range waiting {
		if err == nil {
			err = w.write(frameParked, asJSON(Parked{r.Offset, r.Time, r.Value}))
		}
	}
	return w.flushed(ctx, err)
}

// Send sends messages to be lived, in order of offsets. There is an answer for each. It may block until answers are taken.
func (w *Worker) Send(ctx context.Context, ms ...Message) error {
	for i := range ms {
		w.mu.Lock()
		w.pending = append(w.pending, ms[i])
		w.mu.Unlock()
		if err := w.write(frameMessage, ms[i].append); err != nil {
			return w.flushed(ctx, err)
		}
	}
	return w.flushed(ctx, nil)
}

// Next returns the answer to the first message that has none yet.
func (w *Worker) Next(ctx context.Context) (Answer, error) {
	body, err := w.hear(ctx, frameAnswer, w.patience)
	if err != nil {
		return Answer{}, err
	}
	a, err := parseAnswer(w.dec, w.at.Partition, body)
	if err != nil {
		return a, w.fault(Garbage, err.Error())
	}
	if !w.answered(a.Offset) {
		return a, w.fault(Garbage, fmt.Sprintf("it answered for offset %d, which it was not asked about", a.Offset))
	}
	return a, nil
}

// answered strikes out the first message without an answer, which must be that at an offset.
func (w *Worker) answered(offset int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 || w.pending[0].Offset != offset {
		return false
	}
	w.pending = w.pending[1:]
	return true
}

// Row returns the row of a stream as it is after all messages, which must have been answered.
func (w *Worker) Row(ctx context.Context, s deja.Stream) (r driver.State, err error) {
	err = w.flushed(ctx, w.write(frameAsk, asJSON(RowOf(driver.State{Stream: s}))))
	if err != nil {
		return r, err
	}
	body, err := w.hear(ctx, frameRow, w.patience)
	if err != nil {
		return r, err
	}
	var row Row
	if err := parseJSON(body, &row); err != nil || row.Stream() != s {
		return r, w.fault(Garbage, fmt.Sprintf("it answered %q for the state of %s", body, s))
	}
	if r, err = row.state(w.hello.Service, w.at.Partition); err != nil {
		return r, w.fault(Garbage, err.Error())
	}
	return r, nil
}

func (w *Worker) write(kind byte, fill func([]byte) []byte) error {
	_, err := w.out.Write(appendFrame(nil, kind, fill))
	return err
}

// flushed sends what was written. An error says only that the worker is gone: what it said last, or how it ended, tells more.
func (w *Worker) flushed(ctx context.Context, err error) error {
	if err == nil {
		err = w.out.Flush()
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errGone
}

// errGone is returned by what writes to a worker that has ended: Next tells why.
var errGone = errors.New("the worker is gone")

// hear returns the next thing that the worker says, which must be of a kind.
func (w *Worker) hear(ctx context.Context, kind byte, within time.Duration) ([]byte, error) {
	var h heard
	var ok bool
	select {
	case h, ok = <-w.heard:
	default:
		timer := time.NewTimer(within)
		defer timer.Stop()
		select {
		case h, ok = <-w.heard:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return nil, w.fault(Hung, fmt.Sprintf("it said nothing for %s", within))
		}
	}
	var f *Fault
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !ok || errors.Is(h.err, io.EOF):
		return nil, w.fault(Crashed, "")
	case errors.As(h.err, &f):
		return nil, w.fault(f.Kind, f.Detail)
	case h.err != nil:
		return nil, w.fault(Garbage, h.err.Error())
	case h.kind == frameFailed:
		return nil, w.fault(Failed, string(h.body))
	case h.kind != kind:
		return nil, w.fault(Garbage, fmt.Sprintf("a frame of kind %q, where %q was due", h.kind, kind))
	}
	return h.body, nil
}

// Close ends the worker: it is told that no more comes, and killed if it does not leave. It may be called twice.
func (w *Worker) Close() {
	_ = w.in.Close() // it may be gone
	within := leave
	if w.mu.Lock(); len(w.pending) > 0 {
		within = 0
	}
	w.mu.Unlock()
	_ = w.end(within) // however it ended: it was not asked for more
}

// end waits for the process, and returns how it ended; after a while it is killed.
func (w *Worker) end(within time.Duration) error {
	w.ended.Do(func() {
		timer := time.AfterFunc(within, w.stop)
		defer timer.Stop()
		go func() {
			for range w.heard { // nobody asks for what it says any more, and it must not wait for them
			}
		}()
		w.exit = w.cmd.Wait()
		w.stop()
		_ = w.stdout.Close() // ends listen, though a child of the worker may have the other end
	})
	return w.exit
}
