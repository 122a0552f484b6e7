package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
)

// child is a process of this program: something that is to die.
type child struct {
	cmd   *exec.Cmd
	input io.Closer // when it ends, the child does too: it does not outlive who started it
	lines *bufio.Scanner
}

// startChild starts a hidden command. What it is to do goes to its standard input: arguments can be seen by everybody.
func startChild(ctx context.Context, command string, job any) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, command)
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd, input, bufio.NewScanner(output)}
	if _, err := input.Write(append(line, '\n')); err != nil {
		return nil, errors.Join(err, c.kill())
	}
	return c, nil
}

// kill ends the process as a crash does, by its id, if that was not done before. The error is that of a process that had ended
// by itself.
func (c *child) kill() error {
	if c.cmd.ProcessState != nil {
		return nil
	}
	_ = c.cmd.Process.Kill() // it may have ended by itself, as Wait tells
	err := c.cmd.Wait()
	if status := c.cmd.ProcessState; status != nil && !status.Exited() {
		return nil // a signal ended it
	}
	return errors.Join(errors.New("a process had ended by itself"), err)
}

// takeJob reads what a child is to do. The channel is closed when whoever started it is gone.
func takeJob(stdin io.Reader, job any) (alone <-chan struct{}, err error) {
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(line, job); err != nil {
		return nil, err
	}
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(gone)
	}()
	return gone, nil
}
