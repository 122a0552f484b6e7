package history

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

// A Chain is all that followed from one first message: in this service, and in those on the same log that it came to. It is
// read from the journals, once, and holds no more than the chain. A cause may be a message; or an event or an effect, and
// then the message whose decision recorded it or asked for it.
type Chain struct {
	root     deja.ID
	window   window
	first    map[deja.ID]Link      // by message: how it was settled first
	emitter  map[deja.ID]deja.ID   // by event or effect: the message that led to it
	children map[deja.ID][]deja.ID // by message: those that it caused, in the order in which they were read
	missing  []string
}

// window is what is read of journals. Decisions before and behind it may be met, too.
type window struct {
	from, to time.Time // zero: from the beginning; to the end
	near     int64     // as [journal.Since] has it
	middle   bool      // a journal was read from its middle on
}

const (
	// Clocks of brokers and services may differ by so much, and no more: an effect was decided at most so long before its cause.
	slack = time.Hour

	nearby = 4000 // records that are read rather than looked behind
)

// Beyond says what a chain is read from beside the history's own journal.
type Beyond struct {
	// Why and Impact say which of the two the chain will be asked for, and of the one message alone; neither: anything. What
	// this has no need of may be left unread.
	Why, Impact bool

	Services []string              // they are read in any case; those whose messages are met on the way are read, too
	Logs     map[string]driver.Log // by service: where its journal is, if not on the history's log

	// Progress is called now and then while a service's journal is read, from one goroutine; nil: not.
	Progress func(service string, done, total int64)

	slack  time.Duration // of tests; 0: slack
	nearby int64         // 0: nearby
}

// windows returns what of the journals is read for what is asked of a chain: if the first does not do, the next, and the last
// is all.
func (b *Beyond) windows(of time.Time) []window {
	all, d, near := window{}, cmp.Or(b.slack, slack), cmp.Or(b.nearby, nearby)
	switch {
	case b.Impact:
		return []window{{from: of.Add(-d), near: near}, all}
	case b.Why:
		return []window{{from: of.Add(-d), to: of.Add(d), near: near}, {from: of.Add(-48 * d), to: of.Add(d), near: near}, all}
	}
	return []window{all}
}

// Talks reports whether a message's chain may lead beyond this history, or through effects and events: [History.Why] and
// [History.Impact] then see less than [History.Chain].
func (h *History) Talks(ctx context.Context, of *Step) (bool, error) {
	e, err := h.source.Decision(ctx, of.Position.Partition, of.N)
	if err != nil || of.Status == deja.Conflicted || e.Cause.CorrelationID.IsZero() { // it is in no chain
		return false, err
	}
	sends, _, events := h.machine.Counterparts()
	return len(sends)+len(events)+len(h.machine.Effects()) > 0 || e.Cause.Sender != (deja.Stream{}), nil
}

// Chain reads the chain that a message is in, as [History.Talks] tells of it: from this service's journal and from those beyond.
func (h *History) Chain(ctx context.Context, of *Step, beyond Beyond) (*Chain, error) {
	e, err := h.source.Decision(ctx, of.Position.Partition, of.N)
	if err != nil {
		return nil, err
	}
	for _, w := range beyond.windows(e.Time) {
		c := &Chain{root: e.Cause.CorrelationID, window: w, first: map[deja.ID]Link{}, emitter: map[deja.ID]deja.ID{}, children: map[deja.ID][]deja.ID{}}
		err := c.readAll(ctx, h, &e.Cause, &beyond)
		switch {
		case c.window.middle && (errors.Is(err, journal.ErrGap) || errors.Is(err, journal.ErrForked)): // it may be for that
			continue
		case err != nil:
			return nil, err
		}
		if slices.Sort(c.missing); (c.window.middle || !w.to.IsZero()) && beyond.Why && !c.leads(of.ID) {
			continue
		}
		return c, nil
	}
	panic("unreachable: the last window is all")
}

// leads reports whether the causes of a message are there, up to the first one, as all journals would tell them.
func (c *Chain) leads(of deja.ID) bool {
	for l, err := range c.Why(of) {
		if err != nil || !l.Act.IsZero() { // a parked message, decided again: it was decided first before
			return false
		}
	}
	return true
}

// readAll takes in what the journals have of the chain that a message is in.
func (c *Chain) readAll(ctx context.Context, h *History, of *deja.Envelope, beyond *Beyond) error {
	todo := append([]string{h.machine.Name()}, beyond.Services...)
	if name := sentBy(of); name != "" {
		todo = append(todo, name)
	}
	read := map[string]bool{}
	for len(todo) > 0 {
		name := todo[0]
		if todo = todo[1:]; read[name] {
			continue
		}
		read[name] = true
		log := h.log
		if l, ok := beyond.Logs[name]; ok {
			log = l
		}
		met, err := c.read(ctx, log, name, beyond.Progress)
		if errors.Is(err, driver.ErrNotFound) {
			c.missing = append(c.missing, name)
			continue
		}
		if err != nil {
			return fmt.Errorf("journal of %s: %w", name, err)
		}
		todo = append(todo, met...)
	}
	c.join()
	return nil
}

// read takes in what a service's journal has of the chain, and returns the services that the messages come from.
func (c *Chain) read(ctx context.Context, log driver.Log, service string, tell func(string, int64, int64)) (met []string, err error) {
	t, err := log.Topic(ctx, wire.Journal(service))
	if err != nil {
		return nil, err
	}
	for n := range t.Partitions {
		err := c.window.each(ctx, log, service, n, tell, func(e *journal.Entry) bool {
			if c.take(service, e.Record) {
				if name := sentBy(&e.Cause); name != "" && !slices.Contains(met, name) {
					met = append(met, name)
				}
			}
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return met, nil
}

// each calls fn with the decisions of a partition that are in the window, in order, until it returns false.
func (w *window) each(ctx context.Context, log driver.Log, service string, n int32, tell func(string, int64, int64), fn func(*journal.Entry) bool) error {
	begin, err := journal.Begin(ctx, log, service, n)
	if err != nil {
		return err
	}
	from, err := journal.Since(ctx, log, service, n, w.from, w.near)
	if err != nil {
		return err
	}
	w.middle = w.middle || from != begin
	_, end, err := log.Bounds(ctx, wire.Journal(service), n)
	if err != nil {
		return err
	}
	r := journal.NewReader(log, service, n, from)
	for {
		entries, err := r.Next(ctx, end, 1000)
		if err != nil || len(entries) == 0 {
			return err
		}
		for i := range entries {
			if !w.to.IsZero() && entries[i].Time.After(w.to) || !fn(&entries[i]) {
				return nil
			}
		}
		if tell != nil {
			tell(service, r.Mark().Offset-from.Offset, end-from.Offset)
		}
	}
}

// sentBy returns the service whose aggregate sent a message, answered with it or recorded it; empty if a client sent it, whose
// name for itself may be anything.
func sentBy(m *deja.Envelope) string {
	if m.Kind == deja.KindReply || m.Sender != (deja.Stream{}) {
		return m.Source
	}
	return ""
}

// take takes a decision in, if it is of the chain, and reports whether it is.
func (c *Chain) take(service string, rec *wire.Record) bool {
	if rec.Cause.CorrelationID != c.root || rec.Decided.Status == deja.Conflicted {
		return false
	}
	if _, known := c.first[rec.Cause.ID]; !known {
		c.first[rec.Cause.ID] = Link{Step: stepOf(&relive.Decision{Record: rec}), Service: service}
	}
	for _, emitted := range [][]deja.Envelope{rec.Decided.Events, rec.Decided.Effects} {
		for i := range emitted {
			c.emitter[emitted[i].ID] = rec.Cause.ID
		}
	}
	return true
}

// join finds each message's cause.
func (c *Chain) join() {
	links := make([]Link, 0, len(c.first))
	for _, l := range c.first {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b Link) int {
		if d := a.Time.Compare(b.Time); d != 0 {
			return d
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
	for _, l := range links {
		if cause := c.cause(l.Step); !cause.IsZero() {
			c.children[cause] = append(c.children[cause], l.ID)
		}
	}
}

// cause returns the message that caused a step; zero if it has no cause.
func (c *Chain) cause(s *Step) deja.ID {
	if emitter, ok := c.emitter[s.Cause]; ok {
		return emitter
	}
	return s.Cause
}

// Missing returns the services of the chain whose journals were not there to be read.
func (c *Chain) Missing() []string { return c.missing }

// Why is as [History.Why], in all services.
func (c *Chain) Why(of deja.ID) iter.Seq2[Link, error] {
	return func(yield func(Link, error) bool) {
		seen := map[deja.ID]bool{}
		for depth := 0; ; depth++ {
			l, ok := c.first[of]
			switch {
			case !ok:
				yield(Link{}, fmt.Errorf("%w: message %s", ErrOutside, of))
				return
			case seen[of]:
				yield(Link{}, fmt.Errorf("message %s is among its own causes", of))
				return
			}
			seen[of], l.Depth = true, depth
			if !yield(l, nil) || l.Cause.IsZero() {
				return
			}
			of = c.cause(l.Step)
		}
	}
}

// Impact is as [History.Impact], in all services.
func (c *Chain) Impact(of deja.ID) iter.Seq2[Link, error] {
	return func(yield func(Link, error) bool) {
		type node struct {
			id    deja.ID
			depth int
		}
		todo, path := []node{{of, 0}}, []deja.ID{}
		for len(todo) > 0 {
			at := todo[len(todo)-1]
			todo, path = todo[:len(todo)-1], path[:at.depth]
			if slices.Contains(path, at.id) {
				yield(Link{}, fmt.Errorf("message %s is among its own causes", at.id))
				return
			}
			path = append(path, at.id)
			l, ok := c.first[at.id]
			if !ok {
				yield(Link{}, fmt.Errorf("%w: message %s", ErrOutside, at.id))
				return
			}
			if l.Depth = at.depth; !yield(l, nil) {
				return
			}
			next := c.children[at.id]
			for i := len(next) - 1; i >= 0; i-- {
				todo = append(todo, node{next[i], at.depth + 1})
			}
		}
	}
}

// Emitted returns the step whose decision emitted something that is no message of this history, and what it is: an event, an
// effect, a timer, or a command for another service. It reads the journal: first from the time on that the ID tells of, if it
// does. The error wraps [replay.ErrNotFound] if there is none. Progress, if not nil, is called now and then.
func (h *History) Emitted(ctx context.Context, id deja.ID, progress func(service string, done, total int64)) (*Step, string, error) {
	ws := []window{{}}
	if id.Version() == 7 {
		ms := int64(binary.BigEndian.Uint64(append([]byte{0, 0}, id[:6]...)))
		ws = []window{{from: time.UnixMilli(ms).Add(-slack), near: nearby}, {}}
	}
	for _, w := range ws {
		s, what, err := h.emitted(ctx, id, &w, progress)
		if w.middle && (errors.Is(err, replay.ErrNotFound) || errors.Is(err, journal.ErrGap) || errors.Is(err, journal.ErrForked)) {
			continue
		}
		return s, what, err
	}
	panic("unreachable: the last window is all")
}

func (h *History) emitted(ctx context.Context, id deja.ID, w *window, progress func(string, int64, int64)) (s *Step, what string, err error) {
	for p := range h.source.Partitions() {
		var n int64
		err := w.each(ctx, h.log, h.machine.Name(), p, progress, func(e *journal.Entry) bool {
			what, n = emission(&e.Decided, id), e.N
			return what == ""
		})
		if err != nil {
			return nil, "", err
		}
		if what != "" {
			s, err := h.steps.decision(ctx, place{p, n})
			return s, what, err
		}
	}
	return nil, "", fmt.Errorf("%s: %w", id, replay.ErrNotFound)
}

// emission returns what a decision has under an ID; empty if nothing.
func emission(d *deja.Decided, id deja.ID) string {
	for _, es := range [][]deja.Envelope{d.Events, d.Commands, d.Effects} {
		for i := range es {
			if es[i].ID == id {
				return es[i].Kind.String() + " " + es[i].Type
			}
		}
	}
	for i := range d.Timers {
		if d.Timers[i].Command.ID == id {
			return "timer " + d.Timers[i].Name
		}
	}
	return ""
}
