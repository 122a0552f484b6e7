package history

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math/big"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/cond"
	placing "github.com/dejalog/deja/internal/place"
)

// A Holding tells where a predicate holds in the past of one key.
type Holding struct {
	Key       deja.Stream   `json:"-"`
	Intervals []Interval    `json:"intervals"` // in order
	Complete  bool          `json:"complete"`  // the history has all of the key's messages
	Scan      Scan          `json:"scan"`
	Assumed   string        `json:"assumed,omitempty"` // "sticky": found by binary search, right if the predicate stays true once it is
	UpTo      deja.Position `json:"up_to"`             // the last message of the key that was looked at; zero if there is none
}

// An Interval is a stretch of a key's past in which a predicate holds after each message.
type Interval struct {
	From Message  `json:"from"` // the first one after which it holds
	To   *Message `json:"to"`   // the first one after which it does not any more; nil if it holds at the end

	// Min and Max are how low and how high the integer went that the predicate is about: the left side of its first comparison
	// of integers, less the right side where that is no constant either. Nil: it is about none.
	Min *big.Int `json:"min"`
	Max *big.Int `json:"max"`
}

// Scan says at which messages a predicate was evaluated.
type Scan string

// The scans. Both are exact.
const (
	ScanWrites Scan = "writes" // at those that write a field that it reads: no others can change it
	ScanAll    Scan = "all"    // at all that recorded an event
	ScanSome   Scan = "some"   // of a binary search
)

// Subject returns the text of the integer that the predicate is about, of which answers tell how low and how high it went; ""
// if there is none.
func (p Predicate) Subject() string {
	for _, prog := range p.programs {
		return prog.Subject()
	}
	return ""
}

// When yields, for each key of a scope, in order of keys, all intervals within limits in which a predicate holds. It is exact:
// the predicate is evaluated after each message that can change it, and only messages that recorded an event can. An interval
// that began before the limits is given whole. A key that has no messages is yielded only where the scope names it. The zero
// Limits are all of the history.
func (h *History) When(ctx context.Context, s Scope, p Predicate, lim Limits) iter.Seq2[*Holding, error] {
	return h.whenWith(ctx, s, p, lim, h.message)
}

// WhenBrief is When without the messages' payloads, which are null: it does not read the inbox, and is much faster where there
// are many intervals.
func (h *History) WhenBrief(ctx context.Context, s Scope, p Predicate, lim Limits) iter.Seq2[*Holding, error] {
	return h.whenWith(ctx, s, p, lim, func(_ context.Context, s *Step) (Message, error) { return brief(s), nil })
}

func (h *History) whenWith(ctx context.Context, s Scope, p Predicate, lim Limits, read reading) iter.Seq2[*Holding, error] {
	return func(yield func(*Holding, error) bool) {
		if err := h.when(ctx, s, p, lim, read, yield); err != nil {
			yield(nil, err)
		}
	}
}

// reading returns the message of a step.
type reading func(context.Context, *Step) (Message, error)

func (h *History) when(ctx context.Context, s Scope, p Predicate, lim Limits, read reading, yield func(*Holding, error) bool) error {
	w := watch{h: h, p: p, lim: h.within(lim), read: read, runners: map[string]runner{}}
	steps := h.steps.scan(ctx, s.Matches, w.lim.Last)
	key, single := s.Single()
	if single {
		steps = h.steps.key(ctx, key, 0, w.lim.Last[h.partition(key)], false)
		if err := w.begin(key); err != nil {
			return err
		}
	}
	for step, err := range steps {
		if err != nil {
			return err
		}
		if w.on == nil || step.Stream != w.on.Key {
			if !w.emit(ctx, yield) {
				return nil
			}
			if err := w.begin(step.Stream); err != nil {
				return err
			}
		}
		if err := w.step(ctx, step); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w.emit(ctx, yield)
	return nil
}

// within returns limits as they are, or those of all of the history.
func (h *History) within(lim Limits) Limits {
	all := h.All()
	if lim.Last != nil {
		all.Last = lim.Last
	}
	if lim.After != nil {
		all.After = lim.After
	}
	return all
}

// partition returns the partition that a key is in.
func (h *History) partition(s deja.Stream) int32 {
	return placing.Partition(s.Key, h.source.Partitions())
}

// A watch follows a predicate along the messages of one key after another.
type watch struct {
	h       *History
	p       Predicate
	lim     Limits
	read    reading
	runners map[string]runner // by aggregate

	on      *Holding // of the key that it is at; nil before the first
	run     runner
	spans   []span
	begun   bool // it is known what was before the messages that the history has
	judged  bool // the predicate was evaluated
	holding bool // the last span is open
}

// A span is an interval whose messages have not been read yet.
type span struct {
	from, to  *Step
	low, high cond.Number
	measured  bool
}

// begin goes on to a key.
func (w *watch) begin(s deja.Stream) (err error) {
	w.on = &Holding{Key: s, Intervals: []Interval{}, Complete: true, Scan: ScanAll}
	if _, static := w.p.Reads(); static {
		w.on.Scan = ScanWrites
	}
	w.spans, w.begun, w.judged, w.holding = w.spans[:0], false, false, false
	if w.run = w.runners[s.Aggregate]; w.run == nil {
		if w.run, err = w.p.runner(w.h.machine, s); err != nil {
			return err
		}
		w.runners[s.Aggregate] = w.run
	}
	return w.run.reset(s)
}

// step takes the predicate past a message.
func (w *watch) step(ctx context.Context, s *Step) error {
	w.on.UpTo = s.Position
	if !w.begun && s.Version > 0 {
		w.begun = true
		if err := w.rest(ctx, s); err != nil {
			return err
		}
	}
	if len(s.Events) == 0 {
		return nil
	}
	due, err := w.run.message(s)
	if err != nil {
		return describeError(s, err)
	}
	if !due && w.judged {
		return nil
	}
	w.judged = true
	holds, err := w.run.holds()
	if err != nil && w.lim.Has(s) {
		return describeError(s, err)
	}
	w.judge(s, holds)
	return nil
}

// rest begins with the state that is left of what came before a key's first message that the history has.
func (w *watch) rest(ctx context.Context, s *Step) error {
	before := s.Version - int64(len(s.Events))
	if before <= 0 {
		return nil
	}
	w.on.Complete = false
	st, err := w.h.steps.state(ctx, s.Stream, s.N-1)
	if err != nil {
		return err
	}
	if st.Version != before {
		return fmt.Errorf("%w: the history of %s begins with version %d", driver.ErrTrimmed, s.Stream, before+1)
	}
	return w.run.start(st)
}

// describeError says at which message something failed.
func describeError(s *Step, err error) error {
	return fmt.Errorf("message %s at %s, which brought %s to version %d: %w", s.ID, s.Position, s.Stream, s.Version, err)
}

// judge notes whether the predicate holds after a message.
func (w *watch) judge(s *Step, holds bool) {
	switch {
	case holds && !w.holding:
		w.spans = append(w.spans, span{from: s.clone()})
	case !holds && w.holding && s.N <= w.lim.After[s.Position.Partition]: // it ended before the limits
		w.spans = w.spans[:len(w.spans)-1]
	case !holds && w.holding:
		w.spans[len(w.spans)-1].to = s.clone()
	}
	if w.holding = holds; !holds {
		return
	}
	if n, ok := w.run.subject(); ok {
		w.spans[len(w.spans)-1].measure(n)
	}
}

func (s *span) measure(n cond.Number) {
	if !s.measured || n.Less(s.low) {
		s.low = n
	}
	if !s.measured || s.high.Less(n) {
		s.high = n
	}
	s.measured = true
}

// emit yields what there is to say of the key that w is at. It reports whether to go on.
func (w *watch) emit(ctx context.Context, yield func(*Holding, error) bool) bool {
	if w.on == nil {
		return true
	}
	for i := range w.spans {
		in, err := w.spans[i].interval(ctx, w.read)
		if err != nil {
			yield(nil, err)
			return false
		}
		w.on.Intervals = append(w.on.Intervals, in)
	}
	return yield(w.on, nil)
}

// interval reads the messages of a span.
func (s *span) interval(ctx context.Context, read reading) (in Interval, err error) {
	if in.From, err = read(ctx, s.from); err != nil {
		return in, err
	}
	if s.to != nil {
		to, err := read(ctx, s.to)
		if err != nil {
			return in, err
		}
		in.To = &to
	}
	if s.measured {
		in.Min, in.Max = s.low.Big(), s.high.Big()
	}
	return in, nil
}

// clone returns a copy of s that stays.
func (s *Step) clone() *Step {
	c := *s
	c.Events, c.Writes = slices.Clone(s.Events), slices.Clone(s.Writes)
	for i := range c.Events {
		c.Events[i].Payload = bytes.Clone(c.Events[i].Payload)
	}
	return &c
}
