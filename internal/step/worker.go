// Package step is the core: the step functions that take one partition of a service from its inbox to its journal.
// There is no goroutine, no sleep and no clock in it; the runners of package engine drive it, and so do simulations.
//
// The rules that it keeps are those of docs/architecture.md; internal/mutants breaks them one by one and names the
// test that notices.
package step

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// ErrUnknown is returned by Handle when the outcome of a commit is not known. The worker must take over anew, which
// tells; until then nothing may be answered, parked or given up.
var ErrUnknown = errors.New("outcome of the commit unknown")

// Config is what a worker works with.
type Config struct {
	Machine   *deja.Machine
	Log       driver.Log
	Store     driver.Store
	Partition int32
	Build     string        // recorded with every decision
	Owner     deja.ID       // the process, to a store that several share; or zero
	TTL       time.Duration // how long the store takes the owner for alive

	// NewNonce gives the nonce of a new incarnation.
	NewNonce func() [16]byte

	// Adopted is called after each transaction of a take-over that adopted decisions, with the number it reached; or
	// nil.
	Adopted func(n int64)

	// NoProjections leaves the projections' tables alone: what is decided is looked at, and goes nowhere.
	NoProjections bool

	// Limit returns how large a message to an aggregate of another service may be, in bytes; 0 or nil: as large as one of this
	// service's own.
	Limit func(aggregate string) int

	// Recent has the worker keep its newest decisions, for Decisions.
	Recent bool

	// Settled is called after each commit with what it settled, also with what an operator's act had decided again; or nil.
	Settled func([]Settlement)
}

// What a worker keeps of the states that it has loaded; above either bound those that are not on their way to the store
// are dropped, and loaded again as needed.
const (
	maxCached      = 1 << 16
	maxCachedBytes = 8 << 20 // of their rows; in memory they take several times that
)

// A Worker handles one partition. Its steps come in three groups, Decide, Commit, and Relay with Release; a step of
// one group may run beside those of the others, which is what lets a runner overlap them. Else a worker is not safe
// for concurrent use. After any error it must take over again.
type Worker struct {
	cfg     Config
	joint   bool
	inbox   driver.Topic
	journal driver.Topic
	lease   driver.Lease

	// Of Decide.
	next      driver.Progress // after all that was decided, committed or not
	flying    []*Batch        // decided, and when the last Decide began not known to be committed
	states    map[deja.Stream]*held
	bytes     int     // of their rows
	changed   []*held // of states: those that the batch in the making changed
	contested bool    // adopting has failed, perhaps as another partition has settled one of the messages
	last      driver.Progress
	dec       *wire.Decoder

	// Of Relay and Release.
	reading  *journal.Reader // of the own journal, for release; nil where log and store are one
	relayed  int64           // every decision up to it was appended to the journal by this worker, or read in it
	appended int64           // the journal's offset behind what this worker appended last; 0 if it has not
	noted    driver.Logged   // how far the store knows that the journal was read

	mu       sync.Mutex         // guards what the groups share
	progress driver.Progress    // as it was committed
	released int64              // every decision up to it is logged
	recent   recentDecisions    // committed
	timers   int64              // how many were scheduled by decisions that are committed, adopted ones apart
	fresh    freshRecords       // committed and not yet relayed, as far as they are kept in memory
	chains   map[int64][32]byte // of the decisions made, or found in the store, and not yet released
}

// held is a state in memory, with what the next write-set is told from.
type held struct {
	state   *deja.State
	row     driver.State
	open    wire.Open // what the row's Open tells
	fields  fieldList
	flat    bool // the fields are those of the row
	changed bool
	size    int // of the row, as far as it is counted
}

// New returns a worker. It does nothing before Takeover.
func New(ctx context.Context, cfg Config) (*Worker, error) {
	w := &Worker{cfg: cfg, dec: wire.NewDecoder(cfg.Machine.Name())}
	if j, ok := cfg.Store.(driver.Joint); ok {
		w.joint = j.Joint(cfg.Log)
	}
	var err error
	if w.inbox, err = cfg.Log.Topic(ctx, wire.Inbox(cfg.Machine.Name())); err != nil {
		return nil, err
	}
	if w.journal, err = cfg.Log.Topic(ctx, wire.Journal(cfg.Machine.Name())); err != nil {
		return nil, err
	}
	if w.inbox.Partitions != w.journal.Partitions {
		return nil, fmt.Errorf("%w: %w: %s has %d, %s has %d; they must have as many", deja.ErrHalted, driver.ErrPartitions,
			w.inbox.Name, w.inbox.Partitions, w.journal.Name, w.journal.Partitions)
	}
	return w, nil
}

// Position returns the next inbox position to fetch from.
func (w *Worker) Position() deja.Position {
	return deja.Position{Topic: w.inbox.Name, Partition: w.cfg.Partition, Offset: w.next.Position}
}

// Partitions returns how many partitions the inbox has.
func (w *Worker) Partitions() int32 { return w.inbox.Partitions }

// Progress returns how far the partition was handled, durably. It may be called at any time.
func (w *Worker) Progress() driver.Progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.progress
}

// Released returns the number up to which every decision is logged and may be told. It may be called at any time.
func (w *Worker) Released() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.released
}

// Timers returns how many timers the decisions since the worker was made have scheduled. It may be called at any time.
func (w *Worker) Timers() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.timers
}

// Lease returns the lease of the last take-over.
func (w *Worker) Lease() driver.Lease { return w.lease }

// Ready notes that the partition is whole, and returns those that are not yet: nobody may decide before there are none.
func (w *Worker) Ready(ctx context.Context) ([]int32, error) { return w.cfg.Store.Ready(ctx, w.lease) }

// Attempt notes that a message is about to be handled, for the case that it kills the process.
func (w *Worker) Attempt(ctx context.Context, offset, careful int64) (int64, error) {
	return w.cfg.Store.Attempt(ctx, w.lease, offset, careful)
}

// GiveBack ends the lease: the partition is anybody's.
func (w *Worker) GiveBack(ctx context.Context) error { return w.cfg.Store.Release(ctx, w.lease) }

// Joint reports whether log and store are one database.
func (w *Worker) Joint() bool { return w.joint }

// forget drops all that was learned from the store: it may not be true any more.
func (w *Worker) forget() { w.states, w.changed, w.bytes = map[deja.Stream]*held{}, nil, 0 }

// evict makes room for more states. Those that may be on their way to the store stay: it does not have them yet.
func (w *Worker) evict(more int, committed int64) {
	if len(w.states)+more <= maxCached && w.bytes <= maxCachedBytes {
		return
	}
	maps.DeleteFunc(w.states, func(_ deja.Stream, h *held) bool { return h.row.N <= committed && !h.changed })
	w.bytes = 0
	for _, h := range w.states {
		w.bytes += h.size
	}
}

// ahead remembers the furthest point of the store, to notice one that went back.
func (w *Worker) ahead(p driver.Progress) {
	if p.N >= w.last.N || p.Incarnation != w.last.Incarnation {
		w.last = p
	}
}

// Halt marks an error as one that trying again does not mend.
func Halt(err error) error {
	var unknown *deja.UnknownEventError
	if errors.Is(err, deja.ErrHalted) {
		return err
	}
	if errors.Is(err, journal.ErrForked) || errors.Is(err, journal.ErrGap) || errors.Is(err, driver.ErrIdentity) ||
		errors.Is(err, journal.ErrUnreadable) || errors.Is(err, driver.ErrTrimmed) || errors.Is(err, driver.ErrBeyondEnd) ||
		errors.Is(err, driver.ErrTooLarge) || errors.Is(err, driver.ErrUnusable) || errors.As(err, &unknown) {
		return fmt.Errorf("%w: %w", deja.ErrHalted, err)
	}
	return err
}

// load makes sure that the states of the streams are held. What is read may not be ahead of what was committed when
// Decide began: states that are on their way to the store are held.
func (w *Worker) load(ctx context.Context, streams map[deja.Stream]bool, committed int64) error {
	w.evict(len(streams), committed)
	var missing []deja.Stream
	for s := range streams {
		if _, ok := w.states[s]; !ok {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	rows, err := w.cfg.Store.Load(ctx, missing)
	if err != nil {
		return fmt.Errorf("load states: %w", err)
	}
	found := make(map[deja.Stream]driver.State, len(rows))
	for _, r := range rows {
		if r.N > committed {
			return errAhead(r.N, committed)
		}
		found[r.Stream] = r
	}
	for _, s := range missing {
		row, ok := found[s]
		if !ok {
			row = driver.State{Stream: s, Partition: w.cfg.Partition}
		}
		if w.states[s], err = w.hold(row); err != nil {
			return err
		}
		w.count(w.states[s])
	}
	return nil
}

// count counts what a state's row takes by now.
func (w *Worker) count(h *held) {
	n := len(h.row.Data) + len(h.row.Open)
	w.bytes += n - h.size
	h.size = n
}

// hold decodes a row of the store.
func (w *Worker) hold(row driver.State) (*held, error) {
	h := &held{row: row}
	var err error
	if h.state, err = w.cfg.Machine.DecodeState(row.Stream, row.Version, row.Data); err != nil {
		return nil, err
	}
	h.open, err = wire.DecodeOpen(w.cfg.Machine.Name(), row.Stream, row.Open)
	return h, err
}

// changedStates returns the rows of the states that this batch changed, sorted, as stores lock them in that order.
func (w *Worker) changedStates() []driver.State {
	slices.SortFunc(w.changed, func(a, b *held) int { return a.row.Stream.Compare(b.row.Stream) })
	rows := make([]driver.State, len(w.changed))
	for i, h := range w.changed {
		rows[i], h.changed = h.row, false
		w.count(h)
	}
	w.changed = w.changed[:0]
	return rows
}
