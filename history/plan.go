package history

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	placing "github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// A plan is what has to be lived again for an overlay: the messages of the streams that it may change, from the first that
// it touches on. All else stays as it was: keys have nothing in common but IDs, and who bears an ID that an edited message
// has is among them.
type plan struct {
	h       *History
	to      Limits
	topic   driver.Topic // the journal
	edits   []*edited
	keys    map[deja.ID]bool // ledger keys of the edited messages
	parts   []*partPlan      // by partition; nil: nothing of it is lived
	streams map[deja.Stream]*streamPlan
	in      inboxReader
	prepare *step.Preparer
	notes   []string
}

// partPlan is a partition's share of a plan.
type partPlan struct {
	from int64       // the offset from which on it is lived
	todo []*delivery // in the order in which they are lived
}

// streamPlan is a stream's share of a plan.
type streamPlan struct {
	stream  deja.Stream
	before  int64        // the decision up to which it is as it was; 0: none
	groups  []group      // how it was settled from there on, conflicts left out
	last    int64        // the last of their decisions; before, if there are none
	waiting []*Step      // parked before it, and not settled
	left    int          // deliveries to come that are not as they were
	until   int64        // up to this offset it is not as it was, as a message is not there
	open    *opening     // what it waited for, as it was recorded; nil where none of the messages to come asks for that
	row     driver.State // before
}

// A group is what the handling of one message settled: itself or, of an act, first the parked messages that it had decided
// again.
type group struct {
	offset int64
	steps  []*Step
}

// A delivery is a message in the inbox as it is thought to have been.
type delivery struct {
	rec     driver.Record
	env     *deja.Envelope
	step    *Step // how it was settled; nil if it is new, or was a duplicate
	edit    *edited
	at, sub int64 // where it comes: right behind what was at an offset, or that itself
	own     bool  // it is not as it was, or might be settled otherwise for its ID's sake
	time    time.Time
}

// newPlan prepares to live an overlay.
func (h *History) newPlan(ctx context.Context, o Overlay, to Limits) (*plan, error) {
	p := &plan{
		h: h, to: to, keys: map[deja.ID]bool{}, parts: make([]*partPlan, h.source.Partitions()),
		streams: map[deja.Stream]*streamPlan{}, in: inboxReader{h: h},
		prepare: step.NewPreparer(h.machine, h.source.Partitions()),
	}
	var err error
	if p.topic, err = h.log.Topic(ctx, wire.Journal(h.machine.Name())); err != nil {
		return nil, err
	}
	if p.edits, err = h.edits(ctx, o, to); err != nil {
		return nil, err
	}
	extra, err := p.bearers(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range p.edits {
		p.touch(e)
	}
	for _, d := range extra {
		p.begin(d.env.Stream, d.rec.Partition, d.at)
	}
	for _, s := range p.streams {
		if err := p.addStream(ctx, s); err != nil {
			return nil, err
		}
	}
	p.addExtra(extra)
	if err := p.edit(ctx); err != nil {
		return nil, err
	}
	p.settle()
	return p, nil
}

// touch notes from where on an edited message's stream is to be lived.
func (p *plan) touch(e *edited) {
	if e.step != nil {
		p.begin(e.step.Stream, e.step.Position.Partition, e.step.Position.Offset)
	}
	if e.Do == Insert || e.Do == Move {
		p.begin(e.stream(), e.place.Partition, e.place.Offset+1)
	}
}

// begin notes that a stream is to be lived from an offset on.
func (p *plan) begin(s deja.Stream, partition int32, from int64) {
	if p.streams[s] == nil {
		p.streams[s] = &streamPlan{stream: s}
	}
	if p.parts[partition] == nil {
		p.parts[partition] = &partPlan{from: from}
	}
	p.parts[partition].from = min(p.parts[partition].from, from)
}

// bearers returns all deliveries of the IDs that edited messages have but the edited ones: duplicates, conflicts, and the
// message that an inserted one would be taken for.
func (p *plan) bearers(ctx context.Context) ([]*delivery, error) {
	ids := map[deja.ID]bool{}
	for _, e := range p.edits {
		env := e.new
		if e.step != nil {
			rec, err := p.in.at(ctx, e.step.Position)
			if err != nil {
				return nil, err
			}
			if env, err = wire.NewDecoder(p.h.machine.Name()).Message(rec.Value); err != nil {
				return nil, fmt.Errorf("message at %s: %w", e.step.Position, err)
			}
		}
		if e.Do != Duplicate { // another delivery of it changes nothing for the rest
			ids[env.ID], p.keys[wire.LedgerKey(p.h.machine.Name(), env)] = true, true
		}
	}
	seen := map[deja.Position]bool{}
	for _, e := range p.edits {
		if e.step != nil {
			seen[e.step.Position] = true
		}
	}
	var all []*delivery
	for id := range ids {
		found, err := p.h.steps.find(ctx, id, id, math.MaxInt32)
		if err != nil {
			return nil, err
		}
		for _, at := range found {
			s, err := p.h.steps.decision(ctx, at)
			if err != nil {
				return nil, err
			}
			if s.N > p.to.Last[at.partition] || seen[s.Position] {
				continue
			}
			seen[s.Position] = true
			d, err := p.delivery(ctx, s)
			if err != nil {
				return nil, err
			}
			if p.keys[wire.LedgerKey(p.h.machine.Name(), d.env)] {
				d.own = true
				all = append(all, d)
			}
		}
	}
	repeats, err := p.repeats(ctx, seen)
	return append(all, repeats...), err
}

// repeats finds the duplicates among the deliveries of the edited messages' IDs.
func (p *plan) repeats(ctx context.Context, seen map[deja.Position]bool) ([]*delivery, error) {
	var all []*delivery
	dec := wire.NewDecoder(p.h.machine.Name())
	for n := range p.parts {
		from, to, err := p.repeated(ctx, int32(n))
		if err != nil || from > to {
			if err != nil {
				return nil, err
			}
			continue
		}
		recs, err := p.h.again(ctx, int32(n), p.keys, from, to)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			at := deja.Position{Topic: wire.Inbox(p.h.machine.Name()), Partition: rec.Partition, Offset: rec.Offset}
			if seen[at] {
				continue
			}
			env, err := dec.Message(rec.Value)
			if err != nil {
				return nil, err
			}
			all = append(all, &delivery{rec: rec, env: env, at: rec.Offset, own: true, time: rec.Time})
		}
	}
	return all, nil
}

// repeated returns the offsets of a partition between which there may be duplicates of the edited messages.
func (p *plan) repeated(ctx context.Context, partition int32) (from, to int64, err error) {
	none := func() (int64, int64, error) { return 0, -1, err }
	if to, err = p.h.through(ctx, place{partition, p.to.Last[partition]}); err != nil {
		return none()
	}
	if p.h.ledger != nil && p.to.Last[partition] == p.h.steps.upTo()[partition] {
		at, err := p.h.ledger.Progress(ctx, partition)
		if err != nil {
			return none()
		}
		if at.N == p.to.Last[partition] {
			to = max(to, at.Position-1)
		}
	}
	if p.h.ledger == nil {
		from = math.MaxInt64
		for _, e := range p.edits {
			if e.step != nil && e.step.Position.Partition == partition && e.Do != Duplicate {
				from = min(from, e.step.Position.Offset+1)
			}
			if e.Do == Insert {
				from = 0 // it may be known from anywhere
			}
		}
		return from, to, nil
	}
	from, last := int64(math.MaxInt64), int64(-1)
	for key := range p.keys {
		counts, err := p.h.ledger.Repeats(ctx, key)
		if err != nil {
			return none()
		}
		for _, c := range counts {
			if !c.Conflict && c.Partition == partition {
				from, last = min(from, c.First), max(last, c.Last)
			}
		}
	}
	return from, min(to, last), nil
}

// delivery returns how a message was delivered that was decided.
func (p *plan) delivery(ctx context.Context, s *Step) (*delivery, error) {
	rec, err := p.in.at(ctx, s.Position)
	if err != nil {
		return nil, err
	}
	env, err := wire.NewDecoder(p.h.machine.Name()).Message(rec.Value)
	if err != nil {
		env = &deja.Envelope{} // it is dead, and stays so
	}
	return &delivery{rec: rec, env: env, step: s, at: rec.Offset, time: s.Time}, nil
}

// addStream reads how a stream was settled, and adds its messages.
func (p *plan) addStream(ctx context.Context, s *streamPlan) error {
	partition := p.partition(s.stream)
	part := p.parts[partition]
	if part == nil {
		return nil // a message of another partition's key, which is dead
	}
	groups, err := p.groups(ctx, s.stream, p.to.Last[partition])
	if err != nil {
		return err
	}
	i, _ := slices.BinarySearchFunc(groups, part.from, func(g group, from int64) int { return cmp.Compare(g.offset, from) })
	waiting := map[int64]*Step{}
	for _, g := range groups[:i] {
		for _, st := range g.steps {
			s.before = st.N
			switch {
			case st.Status == deja.Parked && st.Act.IsZero():
				waiting[st.Position.Offset] = st
			case st.Status != deja.Parked && !st.Act.IsZero():
				delete(waiting, st.Position.Offset)
			}
		}
	}
	for _, st := range waiting {
		s.waiting = append(s.waiting, st)
	}
	slices.SortFunc(s.waiting, func(a, b *Step) int { return cmp.Compare(a.N, b.N) })
	s.groups, s.last = groups[i:], s.before
	for _, g := range s.groups {
		st := g.steps[len(g.steps)-1]
		s.last = st.N
		d, err := p.delivery(ctx, st)
		if err != nil {
			return err
		}
		part.todo = append(part.todo, d)
	}
	return nil
}

func (p *plan) partition(s deja.Stream) int32 { return placing.Partition(s.Key, int32(len(p.parts))) }

// prepared returns what tells a delivery's message from others.
func (p *plan) prepared(d *delivery) step.Message { return p.prepare.Open(&d.rec) }

// groups returns how the messages of a stream were settled, up to a decision, conflicts left out.
func (p *plan) groups(ctx context.Context, s deja.Stream, last int64) ([]group, error) {
	var all []group
	var drained []*Step
	for st, err := range p.h.steps.key(ctx, s, 0, last, false) {
		switch {
		case err != nil:
			return nil, err
		case !st.Act.IsZero():
			drained = append(drained, st)
			continue
		case st.Status == deja.Conflicted:
			continue // whatever else is otherwise: its ID is known, unless it is an edited message's
		}
		all = append(all, group{st.Position.Offset, append(drained, st)})
		drained = nil
	}
	if len(drained) > 0 {
		p.notes = append(p.notes, fmt.Sprintf("the moment is in the middle of what act %s had decided again: for %s it is taken before that", drained[0].Act, s))
	}
	return all, nil
}

// addExtra adds the deliveries that no decision of the streams stands for.
func (p *plan) addExtra(extra []*delivery) {
	for _, d := range extra {
		part := p.parts[d.rec.Partition]
		i := slices.IndexFunc(part.todo, func(o *delivery) bool { return o.rec.Offset == d.rec.Offset })
		if i >= 0 {
			part.todo[i].own = true
		} else {
			part.todo = append(part.todo, d)
		}
	}
}

// edit puts the overlay onto the deliveries.
func (p *plan) edit(ctx context.Context) error {
	for i, e := range p.edits {
		sub := int64(i + 1)
		if e.Do == Insert {
			if err := p.insert(ctx, e, sub); err != nil {
				return err
			}
			continue
		}
		part := p.parts[e.step.Position.Partition]
		at := slices.IndexFunc(part.todo, func(d *delivery) bool { return d.rec.Offset == e.step.Position.Offset && d.sub == 0 })
		if at < 0 {
			return cannotBe("message %s at %s was found in conflict: nothing depends on it", e.step.ID, e.step.Position)
		}
		d := part.todo[at]
		switch e.Do {
		case Drop:
			part.todo = slices.Delete(part.todo, at, at+1)
			p.gone(e)
		case Set:
			env := *d.env
			var err error
			if env.Payload, err = e.set(env.ContentType, env.Payload); err != nil {
				return err
			}
			d.env, d.rec.Value, d.edit, d.own = &env, wire.AppendMessage(nil, &env), e, true
		case Move:
			t, err := p.timeAt(ctx, e.place)
			if err != nil {
				return err
			}
			d.at, d.sub, d.edit, d.own, d.rec.Time, d.time = e.place.Offset, sub, e, true, t, e.after(t)
			p.gone(e)
		case Duplicate:
			d.own = true // it must be known when it comes again
			again := *d
			again.step, again.edit, again.own, again.sub = nil, e, true, sub
			part.todo = append(part.todo, &again)
		default:
			return fmt.Errorf("an edit that does nothing (%d)", e.Do)
		}
	}
	return nil
}

// gone notes that a message is not where it was.
func (p *plan) gone(e *edited) {
	s := p.streams[e.step.Stream]
	s.until = max(s.until, e.step.Position.Offset)
}

func (p *plan) insert(ctx context.Context, e *edited, sub int64) error {
	t, err := p.timeAt(ctx, e.place)
	if err != nil {
		return err
	}
	rec := driver.Record{Partition: e.place.Partition, Time: t, Key: e.new.Stream.Key, Value: wire.AppendMessage(nil, e.new)}
	p.parts[e.place.Partition].todo = append(p.parts[e.place.Partition].todo,
		&delivery{rec: rec, env: e.new, edit: e, at: e.place.Offset, sub: sub, own: true, time: e.after(t)})
	return nil
}

// after returns when a message is decided that is put behind one that was appended at a time: not before that one was.
func (e *edited) after(t time.Time) time.Time {
	if t.Before(e.floor) {
		return e.floor
	}
	return t
}

// timeAt returns when the message at a position was appended; of the beginning, the first one.
func (p *plan) timeAt(ctx context.Context, at deja.Position) (time.Time, error) {
	if at.Offset < 0 {
		first, end, err := p.h.log.Bounds(ctx, at.Topic, at.Partition)
		if err != nil || first >= end {
			return time.Time{}, err
		}
		at.Offset = first
	}
	rec, err := p.in.at(ctx, at)
	return rec.Time, err
}

// settle orders the deliveries, gives each an offset, as close to its own as can be, counts those that matter, and finds the
// streams of which it matters what they wait for.
func (p *plan) settle() {
	for _, part := range p.parts {
		if part == nil {
			continue
		}
		slices.SortFunc(part.todo, func(a, b *delivery) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.sub, b.sub)) })
		next := int64(0)
		for _, d := range part.todo {
			own := d.at
			if d.sub > 0 {
				own++
			}
			d.rec.Offset = max(own, next)
			next = d.rec.Offset + 1
			s := p.streams[d.env.Stream]
			if s != nil && d.own {
				s.left++
			}
			if s != nil && s.open == nil && answers(d.env.Kind) {
				s.open = p.h.opening(s.stream)
			}
		}
	}
}

// order returns all deliveries in the order in which they are lived. Partitions have nothing to do with each other, unless an
// edited message's ID is used in several: then they go by time, and a conflict comes after the message that it is one with,
// unless that one came later.
func (p *plan) order() []*delivery {
	var lists [][]*delivery
	for _, part := range p.parts {
		if part != nil {
			lists = append(lists, part.todo)
		}
	}
	if !p.crossed() {
		return slices.Concat(lists...)
	}
	var all []*delivery
	first := map[deja.ID]bool{} // settled first
	for {
		best := -1
		for i, l := range lists {
			if len(l) == 0 {
				continue
			}
			if best < 0 || p.before(l[0], lists[best][0], first, lists) {
				best = i
			}
		}
		if best < 0 {
			return all
		}
		d := lists[best][0]
		first[d.env.ID] = true
		all, lists[best] = append(all, d), lists[best][1:]
	}
}

// crossed reports whether an edited message's ID is used in several partitions.
func (p *plan) crossed() bool {
	in := map[deja.ID]int32{}
	for n, part := range p.parts {
		if part == nil {
			continue
		}
		for _, d := range part.todo {
			if first, ok := in[d.env.ID]; d.own && ok && first != int32(n) {
				return true
			} else if d.own {
				in[d.env.ID] = int32(n)
			}
		}
	}
	return false
}

// before reports whether a delivery comes before one of another partition.
func (p *plan) before(a, b *delivery, settled map[deja.ID]bool, lists [][]*delivery) bool {
	wa, wb := waits(a, settled, lists), waits(b, settled, lists)
	if wa != wb {
		return wb
	}
	return cmp.Or(a.time.Compare(b.time), cmp.Compare(a.rec.Partition, b.rec.Partition)) < 0
}

// waits reports whether a delivery was found in conflict with a message that is still to come, and that was not put off.
func waits(d *delivery, settled map[deja.ID]bool, lists [][]*delivery) bool {
	if d.step == nil || d.step.Status != deja.Conflicted || settled[d.env.ID] {
		return false
	}
	for _, l := range lists {
		for _, o := range l {
			if o.env.ID == d.env.ID && o.step != nil && o.step.Status != deja.Conflicted && !o.later() {
				return true
			}
		}
	}
	return false
}

// later reports whether a message was moved to a later place: what came after it need not do so any more.
func (d *delivery) later() bool {
	return d.edit != nil && d.edit.Do == Move && d.at > d.step.Position.Offset
}

// past returns what was before the part that is lived.
func (p *plan) past(ctx context.Context) (relive.Past, error) {
	var past relive.Past
	for _, s := range p.streams {
		partition := p.partition(s.stream)
		row, err := p.rowBefore(ctx, s, partition)
		if err != nil {
			return past, err
		}
		s.row = row
		if row.Version > 0 || row.Parked > 0 || len(row.Open) > 0 {
			past.States = append(past.States, row)
		}
		for _, st := range s.waiting {
			rec, err := p.in.at(ctx, st.Position)
			if err != nil {
				return past, err
			}
			m := p.prepare.Open(&rec)
			past.Inbox = append(past.Inbox, rec)
			past.Parked = append(past.Parked, driver.Parked{Stream: s.stream, Partition: partition, Offset: rec.Offset, Key: m.Key})
			past.Ledger = append(past.Ledger, driver.Entry{
				Key: m.Key, Hash: m.Hash, Partition: partition, Offset: rec.Offset, Status: deja.Parked,
			})
		}
	}
	slices.SortFunc(past.Inbox, func(a, b driver.Record) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	return past, nil
}

// rowBefore returns a stream's row before the part that is lived.
func (p *plan) rowBefore(ctx context.Context, s *streamPlan, partition int32) (driver.State, error) {
	row := driver.State{Stream: s.stream, Partition: partition, Parked: int64(len(s.waiting))}
	if s.before == 0 {
		return row, nil
	}
	if s.open != nil {
		if err := s.open.upTo(ctx, s.before); err != nil {
			return row, err
		}
		s.open.put(&row)
	}
	st, err := p.h.steps.state(ctx, s.stream, s.before)
	if err != nil || st.Version == 0 {
		return row, err
	}
	row.Version = st.Version
	row.Data, err = st.Encode()
	return row, err
}

// message makes a delivery ready to be lived.
func (p *plan) message(ctx context.Context, w *relive.World, d *delivery) (relive.Message, error) {
	killed, err := p.killed(ctx, d)
	if err != nil {
		return relive.Message{}, err
	}
	m := w.Prepare(d.rec)
	if killed > 0 {
		m = w.Killed(d.rec, killed)
	}
	return m.NotBefore(d.notBefore()), nil
}

// notBefore returns the time before which a delivery is not decided: others, which are not lived, may have moved the clock on.
func (d *delivery) notBefore() time.Time {
	switch {
	case d.edit != nil && d.edit.Do != Set:
		return d.edit.floor
	case d.step != nil:
		return d.step.Time
	}
	return time.Time{}
}

// killed returns how many processes died of a message, if that is why it was parked.
func (p *plan) killed(ctx context.Context, d *delivery) (n int64, err error) {
	if d.step == nil || d.step.Status != deja.Parked && d.step.Kind != deja.KindAct {
		return 0, nil
	}
	e, err := p.h.source.Decision(ctx, d.step.Position.Partition, d.step.N)
	if err != nil {
		return 0, err
	}
	return diedOf(&e), nil
}

func diedOf(e *journal.Entry) (n int64) {
	if e.Decided.Reason.Code != deja.CodeKilled {
		return 0
	}
	if _, err := fmt.Sscanf(e.Decided.Reason.Detail, "%d", &n); err != nil || n < 1 {
		return 1
	}
	return n
}
