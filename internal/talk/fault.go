package talk

import (
	"fmt"
	"strings"
	"sync"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/wire"
)

// A FaultKind says in what way a worker failed.
type FaultKind string

// The ways in which a worker fails.
const (
	NoWorker      FaultKind = "no-worker"      // the program is none: it cannot be started, or does not speak as one
	OtherProtocol FaultKind = "other-protocol" // it speaks another version of the protocol
	OtherService  FaultKind = "other-service"  // it is a build of another service
	Crashed       FaultKind = "crashed"        // it ended
	Hung          FaultKind = "hung"           // it did not answer in time, and was killed
	Garbage       FaultKind = "garbage"        // it wrote what is no answer
	Failed        FaultKind = "failed"         // it says why it cannot go on
)

// A Fault is what became of a worker that does not answer. It is an error.
type Fault struct {
	Program string
	Kind    FaultKind
	Detail  string
	Message *deja.Envelope // that was under way, or the next one; nil if there was none, or it is no message
	Offset  int64          // of the message under way in the inbox; -1 if there was none
	Stderr  string         // the beginning and the end of what it wrote there
}

// Error tells all but the standard error's text.
func (f *Fault) Error() string {
	text := f.Program + ": " + map[FaultKind]string{
		NoWorker: "this is no worker", OtherProtocol: "another protocol", OtherService: "another service", Crashed: "it crashed",
		Hung: "it hung", Garbage: "it wrote garbage", Failed: "it failed",
	}[f.Kind]
	if f.Detail != "" {
		text += ": " + f.Detail
	}
	switch m := f.Message; {
	case m != nil:
		text += fmt.Sprintf("; under way was the message %s at %s (%s for %s)", m.ID, m.Position, m.Type, m.Stream)
	case f.Offset >= 0:
		text += fmt.Sprintf("; under way was the record at inbox offset %d", f.Offset)
	}
	return text
}

// fault ends the worker, and tells what became of it.
func (w *Worker) fault(kind FaultKind, detail string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := &Fault{Program: w.path, Kind: kind, Detail: detail, Offset: -1}
	if len(w.pending) > 0 {
		first := w.pending[0]
		f.Offset = first.Offset
		if env, err := wire.NewDecoder(w.service).Message(first.Value); err == nil {
			env.Position = deja.Position{Topic: wire.Inbox(w.service), Partition: w.at.Partition, Offset: first.Offset}
			f.Message = env
		}
	}
	within := leave
	if kind == Hung || kind == Garbage {
		within = 0
	}
	if how := w.end(within); kind == Crashed || kind == NoWorker {
		f.Detail = strings.TrimPrefix(f.Detail+"; "+ending(how), "; ")
	}
	f.Stderr = w.stderr.String()
	return f
}

// ending says how a process ended.
func ending(how error) string {
	if how == nil {
		return "it ended with exit status 0"
	}
	return "it ended with " + how.Error()
}

// tail keeps the beginning and the end of what is written to it. A program that dies tells why at the beginning of a trace.
type tail struct {
	mu   sync.Mutex
	head []byte
	rest []byte
	lost bool
}

const tailHead, tailRest = 2 << 10, 4 << 10

// Write implements [io.Writer].
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(b)
	k := min(tailHead-len(t.head), n)
	t.head, b = append(t.head, b[:k]...), b[k:]
	t.rest = append(t.rest, b...)
	if more := len(t.rest) - tailRest; more > 0 {
		t.rest, t.lost = append(t.rest[:0], t.rest[more:]...), true
	}
	return n, nil
}

// String returns what it kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	gap := ""
	if t.lost {
		gap = "\n…\n"
	}
	return strings.ToValidUTF8(string(t.head)+gap+string(t.rest), "?")
}
