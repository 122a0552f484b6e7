package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

// An Excerpt says what part of a history is taken out of it.
type Excerpt struct {
	Scope  Scope
	Limits Limits // from the beginning: what came before would be missing in the states
	Redact *Redaction
}

// A Taken is what came of taking an excerpt.
type Taken struct {
	Messages  int64 // inbox records, duplicates among them
	Decisions int64
	LeftOut   int64 // conflicts with messages of streams that are not in the excerpt
	Builds    []string
	Points    []replay.Point // where the excerpt was cut off, in the history that it was taken from
}

// Take fills a clean database with an excerpt of the history: the messages of some streams, all of their deliveries, what was
// decided, and the states. Offsets and numbers are given anew; IDs, times, outcomes and events stay as they are, but for what
// is redacted. It is held in memory on the way: for all of a large history there are archives.
func (h *History) Take(ctx context.Context, x Excerpt, target replay.Target) (_ *Taken, err error) {
	if slices.Max(x.Limits.After) > 0 {
		return nil, fmt.Errorf("an excerpt begins at the beginning: %w", ErrQuery)
	}
	t := &taking{h: h, x: x, parts: make([]part, h.source.Partitions()), dec: wire.NewDecoder(h.machine.Name())}
	for p := range t.parts {
		if err := t.choose(ctx, int32(p)); err != nil {
			return nil, err
		}
	}
	t.drop()
	log := memory.NewLog(memory.LogConfig{Partitions: h.source.Partitions(), MaxRecord: 64 << 20})
	defer func() { err = errors.Join(err, log.Close()) }()
	for p := range t.parts {
		if err := t.write(ctx, log, int32(p)); err != nil {
			return nil, err
		}
	}
	src, err := replay.Open(ctx, replay.Config{Service: h.service, Log: log})
	if err != nil {
		return nil, err
	}
	if _, _, err := src.Into(ctx, target, replay.Options{}); err != nil {
		return nil, err
	}
	slices.Sort(t.taken.Builds)
	t.taken.Builds = slices.Compact(t.taken.Builds)
	return &t.taken, nil
}

// taking is an excerpt in the making.
type taking struct {
	h     *History
	x     Excerpt
	parts []part
	dec   *wire.Decoder
	taken Taken
}

// part is what is taken of a partition, in order.
type part struct {
	inbox     []driver.Record
	decisions []*journal.Entry
}

// at returns where the record of an offset is among those taken; ok is false if it is not.
func (p *part) at(offset int64) (int64, bool) {
	i := sort.Search(len(p.inbox), func(i int) bool { return p.inbox[i].Offset >= offset })
	return int64(i), i < len(p.inbox) && p.inbox[i].Offset == offset
}

// choose reads what is in the excerpt.
func (t *taking) choose(ctx context.Context, number int32) error {
	p, last := &t.parts[number], t.x.Limits.Last[number]
	point := replay.Point{Partition: number, Covers: -1, Offset: -1}
	if last == 0 {
		t.taken.Points = append(t.taken.Points, point)
		return nil
	}
	for e, err := range t.h.source.Decisions(ctx, number, 1) {
		if err != nil {
			return err
		}
		if e.N > last {
			break
		}
		point.N, point.Covers, point.Offset, point.Chain, point.Time = e.N, e.Through(), e.Offset, e.Chain, e.Time
		if t.x.Scope.Matches(e.Cause.Stream) {
			p.decisions = append(p.decisions, e)
		}
	}
	t.taken.Points = append(t.taken.Points, point)
	at := deja.Position{Topic: wire.Inbox(t.h.machine.Name()), Partition: number}
	for at.Offset <= point.Covers {
		recs, err := t.h.log.Fetch(ctx, at, 2000)
		if err != nil {
			return fmt.Errorf("read %s: %w", at, err)
		}
		for _, r := range recs {
			at.Offset = r.Offset + 1
			env, err := t.dec.Message(r.Value)
			if err != nil || r.Offset > point.Covers || !t.x.Scope.Matches(env.Stream) { // what is no message has no stream
				continue
			}
			p.inbox = append(p.inbox, r)
		}
	}
	return nil
}

// drop leaves conflicts out whose first message is another stream's: there is nothing to tell that they are in conflict with.
func (t *taking) drop() {
	for i := range t.parts {
		p := &t.parts[i]
		gone := map[int64]bool{}
		p.decisions = slices.DeleteFunc(p.decisions, func(e *journal.Entry) bool {
			if e.Decided.Status == deja.Conflicted {
				if _, ok := t.parts[e.FirstIn].at(e.First); !ok {
					gone[e.Cause.Position.Offset] = true
				}
			}
			return gone[e.Cause.Position.Offset]
		})
		p.inbox = slices.DeleteFunc(p.inbox, func(r driver.Record) bool { return gone[r.Offset] })
		t.taken.LeftOut += int64(len(gone))
	}
}

// write writes a partition's records, numbered anew, into a log.
func (t *taking) write(ctx context.Context, log driver.Importer, number int32) error {
	p, name := &t.parts[number], t.h.machine.Name()
	inbox := make([]driver.Record, len(p.inbox))
	for i, r := range p.inbox {
		inbox[i] = driver.Record{Partition: number, Offset: int64(i), Time: r.Time, Key: r.Key, Value: r.Value}
		if t.x.Redact != nil {
			env, _, err := t.redacted(r.Value)
			if err != nil {
				return fmt.Errorf("redact the message at offset %d of partition %d: %w", r.Offset, number, err)
			}
			inbox[i].Value = wire.AppendMessage(nil, env)
		}
	}
	var out []driver.Record
	folds := newFolder(t.h.machine)
	chain := wire.Genesis(name, number)
	for i, e := range p.decisions {
		r, err := t.renumbered(e, int64(i)+1, chain)
		if err == nil && t.x.Redact != nil {
			err = t.redact(r, p.inbox[r.Cause.Position.Offset].Value, folds)
		}
		if err != nil {
			return fmt.Errorf("decision %d of partition %d: %w", e.N, number, err)
		}
		raw := wire.AppendRecord(nil, r)
		chain = wire.Hash(raw)
		out = append(out, driver.Record{Partition: number, Offset: int64(i), Time: r.Time, Key: r.Cause.Stream.Key, Value: raw})
		t.taken.Builds = append(t.taken.Builds, r.Build)
	}
	t.taken.Messages += int64(len(inbox))
	t.taken.Decisions += int64(len(out))
	for topic, recs := range map[string][]driver.Record{wire.Inbox(name): inbox, wire.Journal(name): out} {
		if err := log.CreateTopic(ctx, topic, t.h.source.Partitions()); err != nil {
			return err
		}
		if len(recs) > 0 {
			if err := log.Import(ctx, topic, recs); err != nil {
				return err
			}
		}
	}
	return nil
}

// renumbered returns a decision as record n of the excerpt's partition.
func (t *taking) renumbered(e *journal.Entry, n int64, prev [32]byte) (*wire.Record, error) {
	r := *e.Record
	p := &t.parts[e.Cause.Position.Partition]
	own, ok := p.at(e.Cause.Position.Offset)
	through, handled := p.at(e.Through())
	if !ok || !handled {
		return nil, fmt.Errorf("its message at %s is not in the inbox: %w", e.Cause.Position, driver.ErrTrimmed)
	}
	r.N, r.Prev, r.Incarnation = n, prev, driver.Incarnation{}
	r.Cause.Position.Offset, r.Covers = own, through
	if !r.Act.IsZero() {
		r.Covers = through - 1
	}
	if r.Decided.Status == deja.Conflicted {
		r.First, _ = t.parts[r.FirstIn].at(r.First)
	}
	r.Decided.Events = slices.Clone(r.Decided.Events)
	return &r, nil
}

// redacted returns a message of the inbox, redacted.
func (t *taking) redacted(value []byte) (*deja.Envelope, replaced, error) {
	env, err := t.dec.Message(value)
	if err != nil {
		return nil, nil, err
	}
	done, err := t.x.Redact.message(env)
	return env, done, err
}

// redact redacts a decision as its message, and hashes anew what follows.
func (t *taking) redact(r *wire.Record, message []byte, folds *folder) error {
	env, done, err := t.redacted(message)
	if err != nil {
		return err
	}
	if r.Hash, err = wire.ContentHash(env); err != nil {
		return err
	}
	position := r.Cause.Position
	r.Cause, r.Cause.Payload, r.Cause.Position = *env, nil, position
	for i := range r.Decided.Events {
		if err := t.x.Redact.payload(&r.Decided.Events[i], done); err != nil {
			return err
		}
	}
	r.Decided.Reason.Detail = done.in(r.Decided.Reason.Detail)
	r.Paths = slices.Clone(r.Paths)
	for i, path := range r.Paths {
		r.Paths[i] = done.in(path)
	}
	changes, err := folds.fold(r)
	if err == nil && len(changes) > 0 {
		r.Writes = canon.HashChanges(changes)
	}
	return err
}

// folder folds decisions, and tells what they write.
type folder struct {
	machine *deja.Machine
	states  map[deja.Stream]*deja.State
	fields  map[deja.Stream][]canon.Field
}

func newFolder(m *deja.Machine) *folder {
	return &folder{m, map[deja.Stream]*deja.State{}, map[deja.Stream][]canon.Field{}}
}

func (f *folder) fold(r *wire.Record) ([]canon.Change, error) {
	if len(r.Decided.Events) == 0 {
		return nil, nil
	}
	s := r.Cause.Stream
	st := f.states[s]
	if st == nil {
		var err error
		if st, err = f.machine.NewState(s); err != nil {
			return nil, err
		}
		f.states[s] = st
	}
	for i := range r.Decided.Events {
		if err := f.machine.Fold(st, &r.Decided.Events[i]); err != nil {
			return nil, err
		}
	}
	data, err := st.Encode()
	if err != nil {
		return nil, err
	}
	after, err := f.machine.Flatten(nil, s.Aggregate, data)
	if err != nil {
		return nil, err
	}
	changes := canon.Diff(f.fields[s], after)
	f.fields[s] = after
	return changes, nil
}
