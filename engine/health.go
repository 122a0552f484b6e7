package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// Health is how a service stands, as one of its processes sees it.
type Health struct {
	Service    string            `json:"service"`
	Member     deja.ID           `json:"member"` // this process, in its present or last Run
	Partitions []PartitionHealth `json:"partitions"`
	Faults     []string          `json:"faults,omitempty"` // of what goes on beside the partitions: publishing, consuming, the outbox
}

// OK reports whether nothing needs an operator.
func (h Health) OK() bool {
	for _, p := range h.Partitions {
		if p.State == string(halted) || p.State == string(stalled) {
			return false
		}
	}
	return len(h.Faults) == 0
}

// PartitionHealth is how a partition stands.
type PartitionHealth struct {
	Partition int32 `json:"partition"`

	// State is "idle" (all is handled), "working", "stalled" (there is something to do, and the position has not moved for
	// ten seconds), "taking" (being taken over), "waiting" (for other partitions, after the store was made anew),
	// "fenced" (it was lost, or a fault stopped it; it is taken over again), "halted" (it needs an operator: see Error), or
	// "elsewhere" (not this process's).
	State string `json:"state"`

	Position int64         `json:"position"` // the next inbox offset to handle
	End      int64         `json:"end"`      // of the inbox
	Lag      int64         `json:"lag"`      // how many offsets are not handled yet
	Age      time.Duration `json:"age"`      // how long the oldest message that is not handled has been waiting
	N        int64         `json:"n"`        // decisions made
	Logged   int64         `json:"logged"`   // of which so many were read back from the journal
	Owner    deja.ID       `json:"owner"`    // the process that holds it; zero if none does
	Error    string        `json:"error,omitempty"`
}

// state is what a partition does.
type state string

const (
	idle      state = "idle"
	working   state = "working"
	stalled   state = "stalled"
	taking    state = "taking"
	waiting   state = "waiting"
	fenced    state = "fenced"
	halted    state = "halted"
	elsewhere state = "elsewhere"
)

// stalledAfter is how long a position may stand still though there is something to do.
const stalledAfter = 10 * time.Second

// status is what a partition's runner last said of it.
type status struct {
	state            state
	err              error
	position, logged int64
	n                int64
	moved            time.Time // when the position last moved, or something to do arrived
}

// note says what the partition does, and why if something went wrong. A halted one wakes those who wait.
func (p *partition) note(s state, err error) {
	p.mu.Lock()
	p.status.state, p.status.err = s, err
	if s == halted || s == elsewhere {
		p.open()
	}
	p.mu.Unlock()
	if s == halted {
		p.tail.fail(err)
	}
}

// takenOver says that the partition is this process's.
func (p *partition) takenOver(w *step.Worker) {
	p.note(working, nil)
	p.moved(w)
	p.mu.Lock()
	p.open()
	p.mu.Unlock()
}

// moved notes how far the partition was handled and logged.
func (p *partition) moved(w *step.Worker) {
	at, released := w.Progress(), w.Released()
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.Position != p.status.position {
		p.status.moved = time.Now()
	}
	p.status.position, p.status.n, p.status.logged = at.Position, at.N, released
}

// arrived notes that there is something to do from an offset on: if nothing else was, a stand-still begins only now.
func (p *partition) arrived(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status.position >= offset {
		p.status.moved = time.Now()
	}
}

// haltedBy returns why the partition halted; nil if it has not.
func (p *partition) haltedBy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status.state != halted {
		return nil
	}
	return p.status.err
}

// Health asks log and store how the service stands. It works whether the engine runs or not.
func (e *Engine) Health(ctx context.Context) (Health, error) {
	h := Health{Service: e.machine.Name(), Member: e.alive(), Faults: e.faults.list()}
	ps, err := e.partitions(ctx)
	if err != nil {
		return h, err
	}
	leases, err := e.store.Leases(ctx)
	if err != nil {
		return h, fmt.Errorf("leases: %w", err)
	}
	for _, p := range ps {
		ph, err := p.health(ctx, leases)
		if err != nil {
			return h, err
		}
		h.Partitions = append(h.Partitions, ph)
	}
	return h, nil
}

func (p *partition) health(ctx context.Context, leases []driver.Lease) (PartitionHealth, error) {
	h := PartitionHealth{Partition: p.number}
	for _, l := range leases {
		if l.Partition == p.number {
			h.Position, h.N, h.Logged = l.Progress.Position, l.Progress.N, l.Logged.N
			if l.Held {
				h.Owner = l.Owner
			}
		}
	}
	at := deja.Position{Topic: wire.Inbox(p.e.machine.Name()), Partition: p.number}
	_, end, err := p.e.log.Bounds(ctx, at.Topic, p.number)
	if err != nil && !errors.Is(err, driver.ErrIdentity) {
		return h, fmt.Errorf("end of %s: %w", at, err)
	}
	p.mu.Lock()
	now := p.status
	p.mu.Unlock()
	if now.state == working || now.state == halted {
		h.Position, h.N, h.Logged = max(h.Position, now.position), max(h.N, now.n), max(h.Logged, now.logged)
	}
	if p.e.joint() {
		h.Logged = h.N
	}
	h.End, h.Lag = end, max(end-h.Position, 0)
	if h.Lag > 0 {
		at.Offset = h.Position
		if recs, err := p.e.log.Fetch(ctx, at, 1); err == nil {
			h.Age = max(time.Since(recs[0].Time), 0)
		}
	}
	switch {
	case now.state == working && h.Lag == 0:
		h.State = string(idle)
	case now.state == working && time.Since(now.moved) > stalledAfter:
		h.State = string(stalled)
	case now.state == "":
		h.State = string(elsewhere)
	default:
		h.State = string(now.state)
	}
	if now.err != nil {
		h.Error = now.err.Error()
	}
	return h, nil
}
