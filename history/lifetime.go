package history

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/wire"
)

// A lifetime is a plan that is being lived, and what came of it.
type lifetime struct {
	*plan
	mind    mind // of handlers that decide again
	build   *Build
	lived   int64
	list    []*settled
	settled map[deja.Position]*settled // by where the message was
	at      map[deja.Position]*settled // by where it is now
	fed     []int64                    // of each partition, up to where it was lived
	stopped map[deja.Stream]int64      // what is as it was again, and by how much its version is higher
	cursor  map[deja.Stream]int        // how many of its groups were handled
	fields  map[deja.Stream]map[string]string
	rows    map[deja.Stream]driver.State // of facts folded
	holes   []hole
	results map[deja.ID]bool // the effects that were answered
}

// A hole is an effect that is asked for.
type hole struct {
	id deja.ID
	Emission
}

// settled is a message as it was and as it is now.
type settled struct {
	stream   deja.Stream
	id       deja.ID
	typ      string
	position deja.Position
	time     time.Time
	edit     *edited
	gone     bool // it is not delivered any more
	repeat   bool // it was a duplicate
	was, now []*outcome
}

func newLifetime(p *plan) *lifetime {
	l := &lifetime{
		plan: p, settled: map[deja.Position]*settled{}, at: map[deja.Position]*settled{}, fed: make([]int64, len(p.parts)),
		stopped: map[deja.Stream]int64{}, cursor: map[deja.Stream]int{}, fields: map[deja.Stream]map[string]string{},
		rows: map[deja.Stream]driver.State{}, results: map[deja.ID]bool{},
	}
	for i := range l.fed {
		l.fed[i] = -1
	}
	for _, s := range p.streams {
		for _, st := range s.waiting {
			l.at[st.Position] = l.of(st)
		}
		for _, g := range s.groups {
			for _, st := range g.steps {
				l.of(st)
			}
		}
	}
	for _, e := range p.edits {
		if e.step != nil {
			l.of(e.step).edit, l.of(e.step).gone = e, e.Do == Drop
		}
	}
	for _, part := range p.parts {
		if part == nil {
			continue
		}
		for _, d := range part.todo {
			l.expect(d)
		}
	}
	for _, e := range p.edits { // one that is delivered twice is not edited itself
		if e.Do == Duplicate {
			l.of(e.step).edit = nil
		}
	}
	return l
}

// of returns the account of a message that was decided.
func (l *lifetime) of(st *Step) *settled {
	s := l.settled[st.Position]
	if s == nil {
		s = &settled{stream: st.Stream, id: st.ID, typ: st.Type, position: st.Position, time: st.Time}
		l.settled[st.Position] = s
		l.list = append(l.list, s)
	}
	return s
}

// expect opens the account of a delivery.
func (l *lifetime) expect(d *delivery) {
	var s *settled
	if d.step != nil {
		s = l.of(d.step)
		if d.step.Status == deja.Conflicted {
			s.was = append(s.was, &outcome{status: d.step.Status})
		}
	} else {
		topic := wire.Inbox(l.h.machine.Name())
		s = &settled{
			stream: d.env.Stream, id: d.env.ID, typ: d.env.Type, time: d.time, edit: d.edit, repeat: d.edit == nil,
			position: deja.Position{Topic: topic, Partition: d.rec.Partition, Offset: d.at},
		}
		l.list = append(l.list, s)
	}
	l.at[l.positionOf(d)] = s
}

func (l *lifetime) positionOf(d *delivery) deja.Position {
	return deja.Position{Topic: wire.Inbox(l.h.machine.Name()), Partition: d.rec.Partition, Offset: d.rec.Offset}
}

// decided notes a decision.
func (l *lifetime) decided(d relive.Decision) {
	s := l.at[d.Cause.Position]
	if s == nil {
		return
	}
	s.now = append(s.now, outcomeOf(d))
	for i := range d.Decided.Effects {
		ef := &d.Decided.Effects[i]
		l.holes = append(l.holes, hole{ef.ID, Emission{
			Message: s.id, Key: s.stream.String(), Kind: ef.Kind.String(), Type: ef.Type, Payload: jsonOf(ef.Payload),
		}})
	}
	if d.Cause.Kind == deja.KindResult {
		l.results[d.Cause.CausationID] = true
	}
}

// open returns the effects that have no result: none came while they were lived, nor was one recorded behind that.
func (l *lifetime) open() []Emission {
	for s, sp := range l.streams {
		groups := sp.groups
		if _, ok := l.stopped[s]; ok {
			groups = groups[l.cursor[s]:]
		} else if l.mind != nil {
			continue
		}
		for _, g := range groups {
			for _, st := range g.steps {
				if st.Kind == deja.KindResult {
					l.results[st.Cause] = true
				}
			}
		}
	}
	var all []Emission
	for _, h := range l.holes {
		if !l.results[h.id] {
			all = append(all, h.Emission)
		}
	}
	return all
}

// live lets the handlers decide again, of this build or another. This one leaves the keys that are as they were, unless it is to
// go on to the end.
func (l *lifetime) live(ctx context.Context, opt *WhatIfOptions) error {
	past, err := l.past(ctx)
	if err != nil {
		return err
	}
	if l.mind, err = l.newMind(ctx, past, opt.Program, opt.Patience); err != nil {
		return err
	}
	size := 16
	for order := l.order(); len(order) > 0; size = min(2*size, 1000) {
		n := min(size, len(order))
		if err := l.mind.live(ctx, order[:n]); err != nil {
			return err
		}
		for _, d := range order[:n] {
			l.pass(d)
		}
		if order = order[n:]; opt.Whole || opt.Program != "" {
			continue
		}
		if order, err = l.leave(ctx, order); err != nil {
			return err
		}
	}
	return nil
}

func (l *lifetime) newWorld(ctx context.Context, past relive.Past) (*relive.World, error) {
	return relive.New(ctx, relive.Config{
		Machine: l.h.machine, Partitions: int32(len(l.parts)), MaxRecord: l.topic.MaxRecord, Decided: l.decided,
	}, past)
}

// pass notes that a delivery was lived.
func (l *lifetime) pass(d *delivery) {
	l.lived++
	l.fed[d.rec.Partition] = d.at
	if s := l.streams[d.env.Stream]; s != nil && d.own {
		s.left--
	}
}

// leave takes those deliveries out of which it is known that they are settled as they were.
func (l *lifetime) leave(ctx context.Context, order []*delivery) ([]*delivery, error) {
	for _, d := range order {
		s := l.streams[d.env.Stream]
		if s == nil || s.left > 0 || s.until > l.fed[d.rec.Partition] {
			continue
		}
		if _, done := l.stopped[s.stream]; done {
			continue
		}
		if _, asked := l.cursor[s.stream]; asked && l.cursor[s.stream] == l.handled(s, d.rec.Partition) {
			continue // nothing has happened to it since it was looked at
		}
		if err := l.rejoin(ctx, s, d.rec.Partition); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(order, func(d *delivery) bool {
		_, done := l.stopped[d.env.Stream]
		return done
	}), nil
}

// handled returns how many of a stream's groups are behind what was lived.
func (l *lifetime) handled(s *streamPlan, partition int32) int {
	i, _ := slices.BinarySearchFunc(s.groups, l.fed[partition]+1, func(g group, from int64) int { return cmp.Compare(g.offset, from) })
	return i
}

// rejoin notes that a stream is as it was at this point, if it is.
func (l *lifetime) rejoin(ctx context.Context, s *streamPlan, partition int32) error {
	row, err := l.mind.row(ctx, s.stream)
	if err != nil {
		return err
	}
	last, waiting, err := l.follow(s, l.handled(s, partition))
	if err != nil || waiting > 0 || row.Parked > 0 {
		return err
	}
	now, err := l.flatRow(row)
	if err != nil || !sameFields(l.fields[s.stream], now) {
		return err
	}
	was, err := l.h.steps.state(ctx, s.stream, last)
	if err != nil {
		return err
	}
	data := []byte(nil)
	if was.Version > 0 {
		if data, err = was.Encode(); err != nil {
			return err
		}
	}
	if s.open != nil {
		var is driver.State
		if err := s.open.upTo(ctx, last); err != nil {
			return err
		}
		if s.open.put(&is); !bytes.Equal(is.Open, row.Open) {
			return nil
		}
	}
	if bytes.Equal(data, row.Data) { // fields do not tell an empty list from none
		l.stopped[s.stream] = row.Version - was.Version
	}
	return nil
}

// follow takes the record of a stream up to a group, and returns its last decision there and how many messages waited.
func (l *lifetime) follow(s *streamPlan, to int) (last, waiting int64, err error) {
	f := l.fields[s.stream]
	if f == nil {
		fields, err := l.flatRow(s.row)
		if err != nil {
			return 0, 0, err
		}
		f = map[string]string{}
		for _, x := range fields {
			f[x.Path] = x.Value
		}
		l.fields[s.stream] = f
	}
	last, waiting = s.before, int64(len(s.waiting))
	for i, g := range s.groups[:to] {
		for _, st := range g.steps {
			last, waiting = st.N, waiting+parks(st)
			if i < l.cursor[s.stream] {
				continue
			}
			for _, w := range st.Writes {
				if f[w.Path] = w.New; w.New == "" {
					delete(f, w.Path)
				}
			}
		}
	}
	l.cursor[s.stream] = to
	return last, waiting, nil
}

func (l *lifetime) flatRow(row driver.State) ([]canon.Field, error) {
	if row.Version == 0 {
		return nil, nil
	}
	return l.h.machine.Flatten(nil, row.Stream.Aggregate, row.Data)
}

func sameFields(a map[string]string, b []canon.Field) bool {
	if len(a) != len(b) {
		return false
	}
	for _, f := range b {
		if v, ok := a[f.Path]; !ok || v != f.Value {
			return false
		}
	}
	return true
}

// compared returns all accounts in order of time, each with how it was settled as far as that is compared.
func (l *lifetime) compared(ctx context.Context) ([]*settled, error) {
	for _, s := range l.streams { // each message is of one
		groups := s.groups
		if _, ok := l.stopped[s.stream]; ok {
			groups = groups[:l.cursor[s.stream]]
		}
		for _, g := range groups {
			for _, st := range g.steps {
				o, err := l.recorded(ctx, st)
				if err != nil {
					return nil, err
				}
				l.of(st).was = append(l.of(st).was, o)
			}
		}
	}
	slices.SortStableFunc(l.list, func(a, b *settled) int {
		return cmp.Or(a.time.Compare(b.time), cmp.Compare(a.position.Partition, b.position.Partition), cmp.Compare(a.position.Offset, b.position.Offset))
	})
	return l.list, nil
}

// row returns a stream's row at the end.
func (l *lifetime) row(ctx context.Context, s deja.Stream) (driver.State, error) {
	if l.mind != nil {
		return l.mind.row(ctx, s)
	}
	return l.rows[s], nil
}
