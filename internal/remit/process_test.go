package remit_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/fault"
	"github.com/dejalog/deja/internal/wire"
)

// A point is where a process may die: at a call, before or after it took effect.
type point struct {
	service string
	call    string
	about   string // the kind and type of a message that the call is about; or empty
	after   bool
}

func (p point) String() string {
	when := "before"
	if p.after {
		when = "after"
	}
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s", p.service, when, p.call) + ", " + p.about)
}

// A process runs one service or both. It sees log and stores through calls that know what messages they are about, and
// dies at one of them if it is told to.
type process struct {
	*fault.Injector

	mu     sync.Mutex
	suffix string         // of the keys of the transfer that counts
	target *point         // where to die; nil: nowhere
	seen   map[point]bool // all points that were passed
	gate   chan struct{}  // what holds the ledger's posting up until it is closed; or nil

	dead chan struct{} // closed when it has died
	once sync.Once
}

func newProcess() *process {
	return &process{Injector: fault.New(nil), seen: map[point]bool{}, dead: make(chan struct{})}
}

// arm says which transfer counts, and where in it to die.
func (p *process) arm(suffix string, target *point, gate chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suffix, p.target, p.gate, p.seen = suffix, target, gate, map[point]bool{}
}

func (p *process) passed() map[point]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.seen) // it goes on meanwhile
}

// at passes a point, and dies there if it is the one.
func (p *process) at(service, call string, about []string, after bool) {
	p.mu.Lock()
	var hit bool
	for _, a := range about {
		here := point{service, call, a, after}
		p.seen[here] = true
		hit = hit || p.target != nil && *p.target == here
	}
	if hit {
		p.target = nil
	}
	p.mu.Unlock()
	if hit {
		p.die()
	}
}

func (p *process) die() {
	p.Crash()
	p.once.Do(func() { close(p.dead) })
}

// around makes a call that is about messages.
func around[R any](p *process, service, call string, about []string, do func() (R, error)) (R, error) {
	p.at(service, call, about, false)
	r, err := do()
	if err == nil {
		if p.at(service, call, about, true); p.Crashed() {
			var none R
			return none, fault.ErrCrashed
		}
	}
	return r, err
}

// counts returns the name of a message, in a list of its own, if it belongs to the transfer that counts.
func (p *process) counts(m *deja.Envelope) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.suffix == "" || !strings.HasSuffix(m.Stream.Key, p.suffix) {
		return nil
	}
	return []string{m.Kind.String() + " " + m.Type}
}

// view is how a process sees a service's log and store.
type view struct {
	p       *process
	service string

	mu       sync.Mutex
	fetched  map[deja.ID]delivery // by the ledger's key
	streams  map[deja.Stream][]string
	deciding map[int32][][]string // what was looked up and is not begun, by partition
}

// delivery is a message that was fetched.
type delivery struct {
	partition int32
	about     []string
}

func newView(p *process, service string) *view {
	return &view{p: p, service: service, fetched: map[deja.ID]delivery{}, streams: map[deja.Stream][]string{}, deciding: map[int32][][]string{}}
}

// inbox returns what messages of a service's inbox are about.
func (v *view) inbox(service string, recs []driver.Record) []string {
	var about []string
	dec := wire.NewDecoder(service)
	for _, r := range recs {
		m, err := dec.Message(r.Value)
		if err != nil {
			panic(err)
		}
		a := v.p.counts(m)
		about = append(about, a...)
		if service == v.service {
			v.mu.Lock()
			v.fetched[wire.LedgerKey(service, m)] = delivery{r.Partition, a}
			v.streams[m.Stream] = append(v.streams[m.Stream], a...)
			v.mu.Unlock()
		}
	}
	return about
}

// journal returns what a service's decisions are about.
func (v *view) journal(service string, partition int32, values [][]byte) []string {
	var about []string
	dec := wire.NewDecoder(service)
	for _, value := range values {
		r, err := dec.Record(partition, value)
		if err != nil {
			panic(err)
		}
		if !r.Marker() {
			about = append(about, v.p.counts(&r.Cause)...)
		}
	}
	return about
}

// seenLog is a log as a service's process sees it.
type seenLog struct {
	driver.Log
	driver.Cursors
	v *view
}

func (v *view) log(l driver.Log) seenLog {
	wrapped := v.p.Log(l)
	return seenLog{wrapped, wrapped.(driver.Cursors), v}
}

// owner returns whose topic it is.
func owner(topic string) (service string, inbox bool) {
	service, what, _ := strings.Cut(topic, ".")
	return service, what == "inbox"
}

func (l seenLog) Append(ctx context.Context, topic string, recs []driver.Record) ([]deja.Position, error) {
	call, about := "append to an inbox", []string(nil)
	if service, inbox := owner(topic); inbox {
		about = l.v.inbox(service, recs)
	} else {
		call = "append to the journal"
		for _, r := range recs {
			about = append(about, l.v.journal(service, r.Partition, [][]byte{r.Value})...)
		}
	}
	return around(l.v.p, l.v.service, call, about, func() ([]deja.Position, error) { return l.Log.Append(ctx, topic, recs) })
}

func (l seenLog) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	recs, err := l.Log.Fetch(ctx, from, max)
	if err != nil {
		return nil, err
	}
	service, inbox := owner(from.Topic)
	call, about := "fetch", []string(nil)
	switch {
	case inbox:
		about = l.v.inbox(service, recs)
		l.v.p.wait(ctx, about)
	default:
		if call = "read back"; service != l.v.service {
			call = "read the other's journal"
		}
		for _, r := range recs {
			about = append(about, l.v.journal(service, from.Partition, [][]byte{r.Value})...)
		}
	}
	if l.v.p.at(l.v.service, call, about, true); l.v.p.Crashed() {
		return nil, fault.ErrCrashed
	}
	return recs, nil
}

// wait holds the posting up while there is a gate.
func (p *process) wait(ctx context.Context, about []string) {
	for _, a := range about {
		if a != "command posting.post" {
			continue
		}
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		if gate == nil {
			return
		}
		select {
		case <-gate:
		case <-p.dead:
		case <-ctx.Done():
		}
	}
}

func (l seenLog) SetCursor(ctx context.Context, reader, topic string, partition int32, offset int64) error {
	_, err := around(l.v.p, l.v.service, "set the cursor", l.v.p.any(reader+" in "+topic), func() (struct{}, error) {
		return struct{}{}, l.Cursors.SetCursor(ctx, reader, topic, partition, offset)
	})
	return err
}

// any returns what a call is about that is about no message.
func (p *process) any(what string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.suffix == "" {
		return nil
	}
	return []string{what}
}

// seenStore is a store as a service's process sees it.
type seenStore struct {
	driver.Store
	v *view
}

// seenJoint is one that is the log's database.
type seenJoint struct {
	seenStore
	joint driver.Joint
}

func (s seenJoint) Joint(l driver.Log) bool { return s.joint.Joint(l.(seenLog).Log) }

func (v *view) store(s driver.Store) driver.Store {
	wrapped := v.p.Store(s)
	seen := seenStore{wrapped, v}
	if j, ok := wrapped.(driver.Joint); ok {
		return seenJoint{seen, j}
	}
	return seen
}

func (s seenStore) Lookup(ctx context.Context, keys []deja.ID) ([]driver.Entry, int64, error) {
	var about []string
	s.v.mu.Lock()
	for i, k := range keys {
		d, ok := s.v.fetched[k]
		if about = append(about, d.about...); ok && i == len(keys)-1 {
			s.v.deciding[d.partition] = append(s.v.deciding[d.partition], about)
		}
	}
	s.v.mu.Unlock()
	s.v.p.at(s.v.service, "look up", about, false)
	return s.Store.Lookup(ctx, keys)
}

func (s seenStore) Load(ctx context.Context, streams []deja.Stream) ([]driver.State, error) {
	var about []string
	s.v.mu.Lock()
	for _, st := range streams {
		about = append(about, s.v.streams[st]...)
	}
	s.v.mu.Unlock()
	s.v.p.at(s.v.service, "load", about, false)
	return s.Store.Load(ctx, streams)
}

func (s seenStore) Logged(ctx context.Context, l driver.Lease, to driver.Logged) error {
	_, err := around(s.v.p, s.v.service, "note", s.v.p.any("what is logged"), func() (struct{}, error) {
		return struct{}{}, s.Store.Logged(ctx, l, to)
	})
	return err
}

func (s seenStore) Begin(ctx context.Context, l driver.Lease) (driver.Tx, error) {
	s.v.mu.Lock()
	var about []string
	if ds := s.v.deciding[l.Partition]; len(ds) > 0 {
		about, s.v.deciding[l.Partition] = ds[0], ds[1:]
	}
	s.v.mu.Unlock()
	s.v.p.at(s.v.service, "begin", about, false)
	tx, err := s.Store.Begin(ctx, l)
	if err != nil {
		return nil, err
	}
	s.v.p.at(s.v.service, "begin", about, true)
	return &seenTx{Tx: tx, v: s.v, partition: l.Partition}, nil
}

type seenTx struct {
	driver.Tx
	v         *view
	partition int32
	about     []string
}

func (t *seenTx) Write(ctx context.Context, b *driver.Batch) error {
	var values [][]byte
	for _, r := range b.Records {
		values = append(values, r.Value)
	}
	t.about = t.v.journal(t.v.service, t.partition, values)
	return t.around("write", func() error { return t.Tx.Write(ctx, b) })
}

func (t *seenTx) Advance(ctx context.Context, from, to driver.Progress) error {
	return t.around("advance", func() error { return t.Tx.Advance(ctx, from, to) })
}

func (t *seenTx) Commit(ctx context.Context) error {
	return t.around("commit", func() error { return t.Tx.Commit(ctx) })
}

func (t *seenTx) around(call string, do func() error) error {
	_, err := around(t.v.p, t.v.service, call, t.about, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

// counted returns the end of the keys of the transfer that counts.
func (p *process) counted() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cmp.Or(p.suffix, "none")
}
