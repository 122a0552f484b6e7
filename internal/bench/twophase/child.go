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
	"strings"
	"sync"
	"time"
)

// coordinatorCommand is the hidden command of a coordinator's process.
const coordinatorCommand = "coordinator"

// job is what a coordinator's process is to do. It comes by standard input: arguments can be seen by everybody.
type job struct {
	Databases databases `json:"databases"`
	Name      string    `json:"name"`
	Log       string    `json:"log"`
	At        point     `json:"at"`
	Transfers int       `json:"transfers"`
}

// coordinate is the main function of a coordinator's process: it carries out its transfers at the same time, says of each
// that it has come to the point, and waits there to be killed, or for the end of its input: the one who started it is gone.
func coordinate(stdin io.Reader, stdout io.Writer) error {
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(line, &j); err != nil {
		return err
	}
	log, err := openDecisions(j.Log)
	if err != nil {
		return err
	}
	alone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(alone)
	}()
	var said sync.Mutex
	hold := func(t transfer) {
		said.Lock()
		_, _ = fmt.Fprintln(stdout, held, t.id) // nobody to tell: the input ends too
		said.Unlock()
		<-alone
	}
	errs := make(chan error, j.Transfers)
	for i := range j.Transfers {
		go func() { errs <- j.carryOut(context.Background(), log, doubtful(i), hold) }()
	}
	for range j.Transfers {
		err = errors.Join(err, <-errs)
	}
	return errors.Join(err, log.close())
}

// held begins the lines of a coordinator's process.
const held = "held"

func (j *job) carryOut(ctx context.Context, log *decisions, t transfer, hold func(transfer)) error {
	c, err := newCoordinator(ctx, j.Databases, j.Name, log, 0)
	if err != nil {
		return err
	}
	c.stop, c.hold = j.At, hold
	_, err = c.do(ctx, t)
	return errors.Join(err, c.close(ctx))
}

// killCoordinator starts a coordinator in a process of its own and kills it when all of its transfers have come to the point.
func killCoordinator(ctx context.Context, j job) (killed time.Time, err error) {
	self, err := os.Executable()
	if err != nil {
		return killed, err
	}
	arg, err := json.Marshal(j)
	if err != nil {
		return killed, err
	}
	cmd := exec.CommandContext(ctx, self, coordinatorCommand)
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return killed, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return killed, err
	}
	if err := cmd.Start(); err != nil {
		return killed, err
	}
	_, err = input.Write(append(arg, '\n'))
	n := 0
	for lines := bufio.NewScanner(output); n < j.Transfers && lines.Scan(); {
		if strings.HasPrefix(lines.Text(), held) {
			n++
		}
	}
	_ = cmd.Process.Kill() // it may have ended by itself, as Wait tells
	killed = time.Now()
	if ended := cmd.Wait(); err != nil || n < j.Transfers {
		return killed, errors.Join(fmt.Errorf("a coordinator ended with %d of its %d transfers at the point %q", n, j.Transfers, j.At), err, ended)
	}
	return killed, nil
}
