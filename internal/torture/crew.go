//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A hand is a process of the run: a worker or the second relay, behind proxies of its own. One without a program is a client
// of this process.
type hand struct {
	name    string
	program string
	command string // the hidden one
	place   where
	kafka   *proxy
	pg      *proxy
	log     *os.File
	notice  func(format string, args ...any) // of what may not happen

	takeovers atomic.Int64

	mu      sync.Mutex
	epochs  [partitions]int64 // of the leases that it took last
	cmd     *exec.Cmd         // nil while it does not run
	input   io.Closer
	ended   chan struct{}
	wanted  bool // it is not to end by itself
	frozen  bool
	starts  int
	lastErr string
}

// newHand makes proxies and a log for a process that is not started yet.
func newHand(ctx context.Context, dir, name, program, command string, at where, notice func(string, ...any)) (*hand, error) {
	h := &hand{name: name, program: program, command: command, notice: notice}
	var err error
	if h.kafka, err = newProxy(ctx, at.kafka); err != nil {
		return nil, err
	}
	host, rest, err := cutDSN(at.dsn)
	if err != nil {
		return nil, err
	}
	if h.pg, err = newProxy(ctx, host); err != nil {
		return nil, err
	}
	h.place = at
	h.place.kafka, h.place.dsn = h.kafka.address(), rest(h.pg.address())
	h.log, err = os.Create(filepath.Join(dir, name+".log"))
	return h, err
}

// cutDSN returns the address in a DSN, and what makes the DSN of another address.
func cutDSN(dsn string) (address string, with func(string) string, err error) {
	head, rest, ok := strings.Cut(dsn, "@")
	address, tail, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 {
		return "", nil, errors.New("the DSN has no user@host:port/database")
	}
	return address, func(to string) string { return head + "@" + to + "/" + tail }, nil
}

// start starts the process.
func (h *hand) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd != nil {
		return nil
	}
	h.starts++
	at := h.place
	at.dsn += fmt.Sprintf("&application_name=%s.%d", h.name, h.starts)           // no two processes have one name
	cmd := exec.Command(h.program, append([]string{h.command}, at.args()...)...) //nolint:noctx // it outlives every context but the run's, which kills it
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	input, err := cmd.StdinPipe() // when this process is gone, that one's input ends
	if err != nil {
		return err
	}
	lines, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", h.name, err)
	}
	h.cmd, h.input, h.ended, h.wanted, h.frozen = cmd, input, make(chan struct{}), true, false
	go h.watch(cmd, lines, h.ended)
	return nil
}

// watch reads what the process says until it has ended.
func (h *hand) watch(cmd *exec.Cmd, lines io.Reader, ended chan struct{}) {
	scan := bufio.NewScanner(lines)
	scan.Buffer(nil, 4<<20)
	for scan.Scan() {
		h.heard(scan.Bytes())
	}
	err := cmd.Wait()
	h.mu.Lock()
	wanted, last := h.wanted, h.lastErr
	h.cmd = nil
	_ = h.input.Close()
	h.mu.Unlock()
	close(ended)
	if wanted {
		h.notice("%s ended by itself: %v %s", h.name, err, last)
	}
}

// heard takes a line of the process's log.
func (h *hand) heard(line []byte) {
	_, _ = fmt.Fprintf(h.log, "%s\n", line) // a post-mortem's, no more
	var said struct {
		Msg, Error string
		Partition  int32
		Epoch      int64
	}
	if json.Unmarshal(line, &said) != nil {
		h.mu.Lock()
		h.lastErr = string(line) // a panic's
		h.mu.Unlock()
		return
	}
	switch said.Msg {
	case "partition taken over":
		h.takeovers.Add(1)
		h.mu.Lock()
		h.epochs[said.Partition] = said.Epoch
		h.mu.Unlock()
	case "partition halted":
		h.notice("%s: partition %d halted: %s", h.name, said.Partition, said.Error)
	case "message parked: its key waits for an operator":
		h.notice("%s parked a message: %s", h.name, line)
	case "the process ends":
		h.mu.Lock()
		h.lastErr = said.Error
		h.mu.Unlock()
	}
}

// signal sends the process a signal, if it runs.
func (h *hand) signal(s syscall.Signal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == nil {
		return
	}
	switch s {
	case syscall.SIGSTOP:
		h.frozen = true
	case syscall.SIGCONT:
		h.frozen = false
	default:
		h.wanted = false
	}
	_ = h.cmd.Process.Signal(s) // it may have ended just now
}

// patience is how long a process may take to end in good order.
const patience = 2 * time.Minute

// end ends the process with a signal, and waits until it is gone. One that does not hear is killed.
func (h *hand) end(s syscall.Signal) {
	h.mu.Lock()
	ended, running := h.ended, h.cmd != nil
	h.mu.Unlock()
	if !running {
		return
	}
	h.signal(s)
	h.signal(syscall.SIGCONT)
	select {
	case <-ended:
	case <-time.After(patience):
		if s != syscall.SIGKILL {
			h.notice("%s did not end within %s of %s", h.name, patience, s)
		}
		h.signal(syscall.SIGKILL)
		<-ended
	}
}

// running reports whether the process runs and is awake.
func (h *hand) running() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cmd != nil && !h.frozen
}

// took returns the epoch of the lease that it took last of a partition.
func (h *hand) took(partition int32) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.epochs[partition]
}

// proxies returns both.
func (h *hand) proxies() []*proxy { return []*proxy{h.kafka, h.pg} }

func (h *hand) calm() {
	for _, p := range h.proxies() {
		p.calm()
	}
}

// close ends everything.
func (h *hand) close() {
	h.end(syscall.SIGKILL)
	for _, p := range h.proxies() {
		p.close()
	}
	_ = h.log.Close() // a post-mortem's, no more
}
