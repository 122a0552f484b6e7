package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// coordinatorCommand is the hidden command of a coordinator's process.
const coordinatorCommand = "coordinator"

// job is what a coordinator's process is to do.
type job struct {
	Databases databases `json:"databases"`
	Name      string    `json:"name"`
	Log       string    `json:"log"`
	At        point     `json:"at"`
	Transfers int       `json:"transfers"`
}

// held begins what a coordinator's process says of a transfer that has come to the point.
const held = "held"

// coordinate is the main function of a coordinator's process: it carries out its transfers at the same time, says of each
// that it has come to the point, and waits there to be killed.
func coordinate(stdin io.Reader, stdout io.Writer) error {
	var j job
	alone, err := takeJob(stdin, &j)
	if err != nil {
		return err
	}
	log, err := openDecisions(j.Log)
	if err != nil {
		return err
	}
	var said sync.Mutex
	hold := func(t move) {
		said.Lock()
		_, _ = fmt.Fprintln(stdout, held, t.id) // if nobody is there to be told, the input ends too
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

func (j *job) carryOut(ctx context.Context, log *decisions, t move, hold func(move)) error {
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
	c, err := startChild(ctx, coordinatorCommand, j)
	if err != nil {
		return killed, err
	}
	n := 0
	for n < j.Transfers && c.lines.Scan() {
		if strings.HasPrefix(c.lines.Text(), held) {
			n++
		}
	}
	err = c.kill()
	if n < j.Transfers {
		err = errors.Join(fmt.Errorf("only %d of the coordinator's %d transfers came to the point %q", n, j.Transfers, j.At), err)
	}
	return time.Now(), err
}
