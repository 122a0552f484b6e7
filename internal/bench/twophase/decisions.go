package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/gofrs/flock"
)

// decisions is a coordinator's log, a file: the names of the transactions that it has decided to commit. A name is on disk
// before any database is told. What is not in the log was not decided, and is rolled back.
//
// While a coordinator lives it holds the lock of its log, so that nobody else decides what it may still decide.
type decisions struct {
	file *os.File
	lock *flock.Flock

	mu      sync.Mutex
	next    *force // the one to come; nil if nobody waits for it
	writing sync.Mutex
}

// force is a write that several transactions share.
type force struct {
	names []byte
	done  chan struct{}
	err   error
}

// openDecisions opens a log, which may be there, and locks it.
func openDecisions(path string) (*decisions, error) {
	d := &decisions{lock: flock.New(path + ".lock")}
	if locked, err := d.lock.TryLock(); err != nil {
		return nil, err
	} else if !locked {
		return nil, fmt.Errorf("%s belongs to a coordinator that lives", path)
	}
	var err error
	if d.file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600); err != nil {
		return nil, errors.Join(err, d.lock.Unlock())
	}
	return d, nil
}

// commit decides that a transaction is committed. On an error it is not known whether it is; only the log as a later
// [decisions.all] reads it can tell.
func (d *decisions) commit(name string) error {
	d.mu.Lock()
	f, leads := d.next, d.next == nil
	if leads {
		f = &force{done: make(chan struct{})}
		d.next = f
	}
	f.names = append(append(f.names, name...), '\n')
	d.mu.Unlock()
	if leads {
		d.writing.Lock()
		d.mu.Lock()
		d.next = nil // who comes now waits for the next
		d.mu.Unlock()
		if _, f.err = d.file.Write(f.names); f.err == nil {
			f.err = d.file.Sync()
		}
		d.writing.Unlock()
		close(f.done)
	}
	<-f.done
	return f.err
}

// all returns what was decided. A last line that has no end was not: nobody was told of it.
func (d *decisions) all() (map[string]bool, error) {
	data, err := os.ReadFile(d.file.Name())
	if err != nil {
		return nil, err
	}
	decided := map[string]bool{}
	for line := range bytes.Lines(data) {
		if name, whole := bytes.CutSuffix(line, []byte{'\n'}); whole {
			decided[string(name)] = true
		}
	}
	return decided, nil
}

func (d *decisions) close() error { return errors.Join(d.file.Close(), d.lock.Unlock()) }
