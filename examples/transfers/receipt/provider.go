package receipt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/gofrs/flock"

	"github.com/dejalog/deja"
)

// ErrKey is the provider's refusal of a key that it knows from another receipt.
var ErrKey = deja.NewRejection("receipt.key")

var (
	// ErrUnavailable is returned by Send where the provider would not do it now. It has not.
	ErrUnavailable = errors.New("the provider is not available; try again")

	// ErrNoAnswer is returned by Send where the answer got lost. The receipt may have been sent or not.
	ErrNoAnswer = errors.New("no answer came; the receipt may have been sent or not")
)

// An Answer is what the provider makes of a call.
type Answer string

// The answers.
const (
	Sent     Answer = "sent"     // the receipt was sent
	Repeated Answer = "repeated" // it was sent before, by a call with the same key: nothing was done
	Declined Answer = "declined" // not now: nothing was done
	Refused  Answer = "refused"  // the key is another receipt's: nothing was done
)

// A Call is a call of the provider, as a line of its file tells it.
type Call struct {
	Key string `json:"key"`
	Send
	Answer Answer `json:"answer"`
}

// Faults says how badly a provider behaves. A receipt is one of those parts or not by the seed and its transfer.
type Faults struct {
	Seed     uint64
	Decline  int // one of so many receipts is declined at its first call; 0: none
	NoAnswer int // of one of so many the answer to the call that sent it gets lost; 0: none
}

// A Provider sends receipts, once for each key, as providers of card payments do: it remembers the keys for ever. All it has
// is a file, to which each call is appended and synced before it is answered. Several providers, also of several processes,
// may have the same file. It is safe for concurrent use.
type Provider struct {
	faults Faults
	path   string
	lock   *flock.Flock

	mu      sync.Mutex
	file    *os.File // nil: there was none yet
	waiting []*pending
	writing bool // somebody is, and takes what is waiting

	// Of whoever writes.
	known map[string]known
	read  int64 // bytes of the file
}

// known is what the provider remembers of a key.
type known struct {
	content uint64
	sent    bool
}

// pending is a call that waits for its answer.
type pending struct {
	call Call
	done chan error
}

// Open opens the provider's file. If there is none, the first call makes it.
func Open(path string, faults Faults) (*Provider, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		file, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &Provider{faults: faults, path: path, lock: flock.New(path + ".lock"), file: file, known: map[string]known{}}, nil
}

// Close closes the file. Nobody may be calling.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil {
		return p.lock.Close()
	}
	return errors.Join(p.lock.Close(), p.file.Close())
}

// made returns the file, which it makes if there is none.
func (p *Provider) made() (*os.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file != nil {
		return p.file, nil
	}
	file, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syncDir(p.path); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	p.file = file
	return file, nil
}

// Send sends a receipt, or finds that it was sent by an earlier call with the same key. The error is ErrKey,
// [ErrUnavailable], or one after which nobody can know: call again with the same key.
func (p *Provider) Send(ctx context.Context, key string, s Send) error {
	c := &pending{Call{Key: key, Send: s}, make(chan error, 1)}
	p.mu.Lock()
	p.waiting = append(p.waiting, c)
	write := !p.writing
	p.writing = true
	p.mu.Unlock()
	if write {
		go p.write()
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNoAnswer, ctx.Err())
	}
}

// write answers calls until none waits: those that came together share one write and one sync.
func (p *Provider) write() {
	for {
		p.mu.Lock()
		batch := p.waiting
		p.waiting, p.writing = nil, len(batch) > 0
		p.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		err := p.answer(batch)
		for _, c := range batch {
			c.done <- p.outcome(c.call, err)
		}
	}
}

// outcome tells the caller what became of a call.
func (p *Provider) outcome(c Call, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNoAnswer, err)
	case c.Answer == Refused:
		return ErrKey
	case c.Answer == Declined:
		return ErrUnavailable
	case c.Answer == Sent && p.faults.hit(p.faults.NoAnswer, "no answer", c.Transfer):
		return ErrNoAnswer
	}
	return nil
}

// answer decides what becomes of the calls, and writes them down.
func (p *Provider) answer(batch []*pending) (err error) {
	if err := p.lock.Lock(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.lock.Unlock()) }()
	file, err := p.made()
	if err != nil {
		return err
	}
	if err := p.catchUp(file); err != nil {
		return err
	}
	var lines []byte
	for _, c := range batch {
		c.call.Answer = p.decide(&c.call)
		p.learn(&c.call)
		line, err := json.Marshal(c.call)
		if err != nil {
			return err
		}
		lines = append(append(lines, line...), '\n')
	}
	if _, err = file.WriteAt(lines, p.read); err == nil {
		err = file.Sync()
	}
	if err != nil {
		p.known, p.read = map[string]known{}, 0 // what is in the file now tells the next one who catches up
		return err
	}
	p.read += int64(len(lines))
	return nil
}

func (p *Provider) decide(c *Call) Answer {
	k, called := p.known[c.Key]
	switch {
	case called && k.content != c.content():
		return Refused
	case k.sent:
		return Repeated
	case !called && p.faults.hit(p.faults.Decline, "decline", c.Transfer):
		return Declined
	}
	return Sent
}

func (p *Provider) learn(c *Call) {
	k, called := p.known[c.Key]
	if !called {
		k.content = c.content()
	}
	k.sent = k.sent || c.Answer == Sent
	p.known[c.Key] = k
}

// catchUp learns what others have appended, and cuts off what is left of a line whose writer died: it was not answered.
func (p *Provider) catchUp(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < p.read {
		return errors.New("the provider's file has become shorter")
	}
	calls, whole, err := decode(io.NewSectionReader(file, p.read, info.Size()-p.read))
	if err != nil {
		return err
	}
	for i := range calls {
		p.learn(&calls[i])
	}
	if p.read += whole; p.read < info.Size() {
		return file.Truncate(p.read)
	}
	return nil
}

// ReadFile returns all calls of a provider's file, in order. A torn last line is none.
func ReadFile(path string) ([]Call, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	calls, _, err := decode(f)
	return calls, errors.Join(err, f.Close())
}

// decode reads the whole lines, and tells how many bytes they have.
func decode(r io.Reader) (calls []Call, whole int64, err error) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return calls, whole, nil
		}
		if err != nil {
			return nil, 0, err
		}
		var c Call
		if err := json.Unmarshal(bytes.TrimSuffix(line, []byte("\n")), &c); err != nil {
			return nil, 0, fmt.Errorf("the provider's file, at byte %d: %w", whole, err)
		}
		calls, whole = append(calls, c), whole+int64(len(line))
	}
}

// content tells receipts apart.
func (s *Send) content() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q %d", s.To, s.Transfer, s.Amount)
	return h.Sum64()
}

// hit reports whether a transfer's receipt is the one of so many.
func (f Faults) hit(of int, what, transfer string) bool {
	if of == 0 {
		return false
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %s", f.Seed, what, transfer)
	return h.Sum64()%uint64(of) == 0
}

// syncDir makes the name in path's directory durable.
func syncDir(path string) (err error) {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
