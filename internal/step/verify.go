package step

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// A Difference is where a decision, made again, is not what was recorded.
type Difference struct {
	N        int64         // the decision
	Message  deja.ID       // that it decided
	Position deja.Position // of the message
	Stream   deja.Stream
	Path     string // of the record: status, reason, events[0].payload, …
	Recorded string
	Again    string
}

// Error says what differs.
func (d *Difference) Error() string {
	if d.Store() {
		return fmt.Sprintf("the store is not what the record gives at decision %d: %s%s: the record gives %s, the store has %s",
			d.N, d.Path, d.about(), d.Recorded, d.Again)
	}
	return fmt.Sprintf("decision %d of message %s at %s (%s): %s was recorded as %s, and is %s when decided again",
		d.N, d.Message, d.Position, d.Stream, d.Path, d.Recorded, d.Again)
}

// Store reports whether the difference is between record and store, which can be made anew from it.
func (d *Difference) Store() bool { return strings.HasPrefix(d.Path, InStore) }

// about names what a difference in the store is about, as far as there is one thing.
func (d *Difference) about() string {
	switch {
	case !d.Message.IsZero():
		return " of message " + d.Message.String()
	case d.Stream != deja.Stream{}:
		return " of " + d.Stream.String()
	}
	return ""
}

// A Verifier decides recorded messages again, each on the state that the record gives, in a place of its own: it has
// no store. It is not safe for concurrent use.
type Verifier struct {
	w       *Worker
	prepare *Preparer
	known   map[deja.ID]driver.Entry
	ahead   []driver.Record // inbox records read ahead
	at      driver.Progress
}

// NewVerifier returns a verifier of a partition, at its beginning. The config's store is not used.
func NewVerifier(ctx context.Context, cfg Config) (*Verifier, error) {
	cfg.Store = nil
	w, err := New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	w.forget()
	return &Verifier{w: w, prepare: NewPreparer(cfg.Machine, w.inbox.Partitions), known: map[deja.ID]driver.Entry{}}, nil
}

// Check decides the next decision again. judged is false where the record was made by another build: then it is only
// folded. The error is a *[Difference], or what kept it from being checked.
func (v *Verifier) Check(ctx context.Context, e *journal.Entry) (judged bool, err error) {
	rec, err := v.record(ctx, e.Cause.Position.Offset)
	if err != nil {
		return false, err
	}
	m := v.prepare.one(&rec)
	if m.Env.ID != e.Cause.ID || m.Hash != e.Hash {
		return true, v.difference(e, "content", fmt.Sprintf("%s %x", e.Cause.ID, e.Hash[:8]), fmt.Sprintf("%s %x", m.Env.ID, m.Hash[:8]))
	}
	b := v.batch(e)
	defer func() { v.at = b.to; v.at.Time = e.Time }()
	h, err := v.held(e.Cause.Stream)
	if err != nil && (m.dead == nil || e.Touches()) {
		return false, fmt.Errorf("decision %d: %w: %w", e.N, &deja.UnknownEventError{Type: e.Cause.Type, Stream: e.Cause.Stream}, err)
	}
	if elsewhere := e.Decided.Status == deja.Conflicted && e.FirstIn != v.w.cfg.Partition; e.Build != v.w.cfg.Build || elsewhere {
		return false, v.take(b, e, &m, h)
	}
	if operator(e, &m) {
		return true, v.take(b, e, &m, h)
	}
	if err := v.again(ctx, b, e, m, h); err != nil {
		return true, err
	}
	if len(b.out.Records) == 0 {
		return true, v.difference(e, "status", e.Decided.Status.String(), "duplicate")
	}
	if raw := b.out.Records[0].Value; string(raw) != string(e.Raw) {
		r, err := v.w.dec.Record(v.w.cfg.Partition, raw)
		if err != nil {
			return true, err
		}
		return true, v.compare(e, r)
	}
	return true, nil
}

// operator reports whether a decision was not the service's, but an operator's or a runner's.
func operator(e *journal.Entry, m *Message) bool {
	return e.Decided.Reason.Code == deja.CodeKilled || m.Env.Kind == deja.KindAct && m.dead == nil || e.Decided.Reason.Code == deja.CodeSkipped
}

// batch returns an empty batch right before a decision.
func (v *Verifier) batch(e *journal.Entry) *Batch {
	b := v.w.newBatch()
	b.known = v.known
	b.to = driver.Progress{N: e.N - 1, Chain: e.Prev, Time: v.at.Time, Incarnation: e.Incarnation}
	return b
}

// again decides as Handle does.
func (v *Verifier) again(ctx context.Context, b *Batch, e *journal.Entry, m Message, h *held) error {
	if e.Act.IsZero() {
		return b.settle(ctx, m)
	}
	b.act = &Message{Env: &deja.Envelope{ID: e.Act, Time: e.Time}}
	if err := b.decide(m, h, e.Covers); err != nil {
		return err
	}
	if b.settled[0].Entry.Status != deja.Parked {
		b.unpark(driver.Parked{}, h)
	}
	return nil
}

// take folds a recorded decision without deciding it, and checks what it wrote if it was folded by this fold version.
func (v *Verifier) take(b *Batch, e *journal.Entry, m *Message, h *held) error {
	b.to.N = e.N
	if e.Decided.Status != deja.Conflicted {
		v.known[m.Key] = driver.Entry{Key: m.Key, Hash: e.Hash, Partition: v.w.cfg.Partition, Offset: e.Cause.Position.Offset, N: e.N, Status: e.Decided.Status}
	}
	if !e.Touches() {
		return nil
	}
	h.row.Parked += e.Parks()
	if len(e.Decided.Events) == 0 {
		v.opened(e, h)
		return nil
	}
	r := *e.Record
	r.Writes = [32]byte{}
	next, err := b.fold(&r, h)
	if err != nil {
		return err
	}
	*h = next
	v.opened(e, h)
	if e.Fold == v.w.cfg.Machine.FoldVersion() && r.Writes != e.Writes {
		return v.difference(e, "writes", fmt.Sprintf("%x", e.Writes[:8]), fmt.Sprintf("%x", r.Writes[:8]))
	}
	return nil
}

// opened folds a decision into what the stream waits for.
func (v *Verifier) opened(e *journal.Entry, h *held) {
	if e.Opens() {
		h.opened(e.Record, v.w.cfg.Machine)
		h.encodeOpen()
	}
}

func (v *Verifier) held(s deja.Stream) (*held, error) {
	if h, ok := v.w.states[s]; ok {
		return h, nil
	}
	h, err := v.w.hold(driver.State{Stream: s, Partition: v.w.cfg.Partition})
	if err == nil {
		v.w.states[s] = h
	}
	return h, err
}

// record reads an inbox record, ahead of those that follow it.
func (v *Verifier) record(ctx context.Context, offset int64) (driver.Record, error) {
	if len(v.ahead) > 0 {
		if i := offset - v.ahead[0].Offset; i >= 0 && i < int64(len(v.ahead)) && v.ahead[i].Offset == offset {
			rec := v.ahead[i]
			v.ahead = v.ahead[i:]
			return rec, nil
		}
	}
	at := deja.Position{Topic: v.w.inbox.Name, Partition: v.w.cfg.Partition, Offset: offset}
	recs, err := v.w.cfg.Log.Fetch(ctx, at, chunk)
	if err != nil {
		return driver.Record{}, fmt.Errorf("read %s: %w", at, err)
	}
	v.ahead = recs
	if recs[0].Offset != offset {
		return driver.Record{}, fmt.Errorf("read %s: %w", at, driver.ErrTrimmed)
	}
	return recs[0], nil
}

func (v *Verifier) difference(e *journal.Entry, path, recorded, again string) error {
	return &Difference{
		N: e.N, Message: e.Cause.ID, Position: e.Cause.Position, Stream: e.Cause.Stream,
		Path: path, Recorded: recorded, Again: again,
	}
}

// compare finds the first part of two records that differs.
func (v *Verifier) compare(e *journal.Entry, again *wire.Record) error {
	a, b := &e.Decided, &again.Decided
	for _, f := range []struct{ path, recorded, again string }{
		{"status", a.Status.String(), b.Status.String()},
		{"reason", a.Reason.Error(), b.Reason.Error()},
		{"cancelled", strings.Join(a.Cancelled, " "), strings.Join(b.Cancelled, " ")},
	} {
		if f.recorded != f.again {
			return v.difference(e, f.path, f.recorded, f.again)
		}
	}
	for _, f := range []struct {
		path     string
		recorded []deja.Envelope
		again    []deja.Envelope
	}{
		{"events", a.Events, b.Events},
		{"commands", a.Commands, b.Commands},
		{"timers", scheduled(a.Timers), scheduled(b.Timers)},
		{"effects", a.Effects, b.Effects},
	} {
		if err := v.emissions(e, f.path, f.recorded, f.again); err != nil {
			return err
		}
	}
	for i := range a.Timers {
		x, y, at := &a.Timers[i], &b.Timers[i], "timers["+strconv.Itoa(i)+"]"
		if x.Name != y.Name {
			return v.difference(e, at+".name", x.Name, y.Name)
		}
		if !x.Due.Equal(y.Due) {
			return v.difference(e, at+".due", x.Due.String(), y.Due.String())
		}
	}
	for _, f := range []struct{ path, recorded, again string }{
		{"version", strconv.FormatInt(e.Version, 10), strconv.FormatInt(again.Version, 10)},
		{"writes", fmt.Sprintf("%x", e.Writes[:8]), fmt.Sprintf("%x", again.Writes[:8])},
		{"time", e.Time.String(), again.Time.String()},
		{"covers", strconv.FormatInt(e.Covers, 10), strconv.FormatInt(again.Covers, 10)},
	} {
		if f.recorded != f.again {
			return v.difference(e, f.path, f.recorded, f.again)
		}
	}
	return v.difference(e, "record", fmt.Sprintf("%x", e.Chain[:8]), fmt.Sprintf("%x", wire.Hash(wire.AppendRecord(nil, again))))
}

// scheduled returns the commands of timers.
func scheduled(ts []deja.Timer) []deja.Envelope {
	es := make([]deja.Envelope, len(ts))
	for i := range ts {
		es[i] = ts[i].Command
	}
	return es
}

// emissions finds the first difference between what two decisions emit of one kind.
func (v *Verifier) emissions(e *journal.Entry, path string, recorded, again []deja.Envelope) error {
	if len(recorded) != len(again) {
		return v.difference(e, path, strconv.Itoa(len(recorded)), strconv.Itoa(len(again)))
	}
	for i := range recorded {
		x, y := &recorded[i], &again[i]
		at := path + "[" + strconv.Itoa(i) + "]"
		switch {
		case x.Type != y.Type:
			return v.difference(e, at+".type", x.Type, y.Type)
		case x.Stream != y.Stream:
			return v.difference(e, at+".stream", x.Stream.String(), y.Stream.String())
		case string(x.Payload) != string(y.Payload):
			if paths := canon.Differ(x.Payload, y.Payload); len(paths) > 0 {
				at += ".payload." + paths[0]
			}
			return v.difference(e, at, string(x.Payload), string(y.Payload))
		case x.ID != y.ID:
			return v.difference(e, at+".id", x.ID.String(), y.ID.String())
		}
	}
	return nil
}
