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
	Faults     []string          `json:"faults,omitempty"` // of what goes on beside the partitions: publishing, consuming, the outbox, routes, timers, effects

	// Unknown are effects of which a person must say what became of them, as far as this process performs them: see
	// [Engine.Resolve].
	Unknown []UnknownEffect `json:"unknown,omitempty"`

	Sagas  SagaHealth    `json:"sagas"`
	Routes []RouteHealth `json:"routes,omitempty"` // those that lag
}

// OK reports whether nothing needs an operator.
func (h Health) OK() bool {
	for _, p := range h.Partitions {
		if p.State == string(halted) || p.State == string(stalled) {
			return false
		}
	}
	for i := range h.Routes {
		if h.Routes[i].Stalled {
			return false
		}
	}
	return len(h.Faults) == 0 && len(h.Unknown) == 0 && h.Sagas.Stuck+h.Sagas.Late == 0
}

// PartitionHealth is how a partition stands.
type PartitionHealth struct {
	Partition int32 `json:"partition"`

	// State is "idle" (all is handled), "working", "stalled" (for ten seconds there was something to handle or to log, and
	// nothing was: Error says why, if a fault is the reason), "taking" (being taken over), "waiting" (for other partitions,
	// after the store was made anew), "fenced" (it was lost, or a fault stopped it; it is taken over again), "halted" (it
	// needs an operator: see Error), or "elsewhere" (not this process's).
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
	moved            time.Time // when something was last handled or logged, or the first thing to do arrived
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
		p.tail.halt(err)
	}
}

// turn says what the partition does next. What went wrong before stays known until there is progress.
func (p *partition) turn(s state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.state = s
}

// takenOver says that the partition is this process's.
func (p *partition) takenOver(w *step.Worker) {
	p.mu.Lock()
	if p.status.state == waiting { // nothing moved meanwhile, as was meant
		p.status.moved = time.Now()
	}
	p.status.state = working
	p.open()
	p.mu.Unlock()
	p.moved(w)
}

// moved notes how far the partition was handled and logged.
func (p *partition) moved(w *step.Worker) {
	at, released := w.Progress(), w.Released()
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.Position != p.status.position || released != p.status.logged {
		p.status.moved, p.status.err = time.Now(), nil
	}
	p.status.position, p.status.n, p.status.logged = at.Position, at.N, released
	p.tellNews()
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
		h.Unknown = append(h.Unknown, p.unknownEffects()...)
		sagas, err := p.sagaHealth(ctx)
		if err != nil {
			return h, fmt.Errorf("what waits in partition %d: %w", p.number, err)
		}
		h.Sagas.add(sagas)
	}
	h.Sagas.cut()
	if h.Routes, err = e.routeHealth(ctx, h.Partitions); err != nil {
		return h, fmt.Errorf("routes: %w", err)
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
	due := now.logged < now.n
	if h.Lag > 0 {
		at.Offset = h.Position
		var known bool
		h.Age, known = p.age(ctx, at)
		due = due || !known || h.Age > stalledAfter
	}
	switch {
	case due && now.tries() && time.Since(now.moved) > stalledAfter:
		h.State = string(stalled)
	case now.state == working && h.Lag == 0:
		h.State = string(idle)
	case now.state == "":
		h.State = string(elsewhere)
	default:
		h.State = string(now.state)
	}
	if now.err != nil && h.State != string(idle) {
		h.Error = now.err.Error()
	}
	return h, nil
}

// tries reports whether the partition is being handled: where nothing moves then, something is wrong. A first take-over
// may have a long journal to read.
func (s *status) tries() bool {
	return s.state == working || s.state == fenced || s.state == taking && s.err != nil
}

// age returns how long the message at a position has been waiting, if it can be read at once.
func (p *partition) age(ctx context.Context, at deja.Position) (time.Duration, bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Second) // health is told soon
	defer cancel()
	recs, err := p.e.log.Fetch(ctx, at, 1)
	if err != nil {
		return 0, false
	}
	return max(time.Since(recs[0].Time), 0), true
}
