package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// A Saga tells how an instance stands: what it waits for, and whether a person should look at it.
type Saga struct {
	Stream  deja.Stream `json:"-"`
	Key     string      `json:"key"`             // Stream, as text
	Version int64       `json:"version"`         // of its state
	State   string      `json:"state"`           // "stuck": it says so itself; "late": it takes longer than is stated; "open"; "ended"; or "waiting": it has no end, or has not begun
	Event   string      `json:"event,omitempty"` // with which it said that it is stuck
	Began   time.Time   `json:"began,omitzero"`  // of one that has not ended
	Since   time.Time   `json:"since,omitzero"`  // when it became stuck or late
	Parked  int64       `json:"parked,omitempty"`
	Waits   []Wait      `json:"waits"` // what for
}

// The states of a [Saga].
const (
	SagaStuck   = "stuck"
	SagaLate    = "late"
	SagaOpen    = "open"
	SagaEnded   = "ended"
	SagaWaiting = "waiting"
)

// Overdue reports whether a person should look at it.
func (s *Saga) Overdue() bool { return s.State == SagaStuck || s.State == SagaLate }

// A Wait is a message that an instance waits for.
type Wait struct {
	For     string    `json:"for"`               // "reply", "timer" or "effect"
	ID      deja.ID   `json:"id"`                // of the command that was sent, the timer's message, or the effect
	Type    string    `json:"type"`              // its wire name
	To      string    `json:"to,omitempty"`      // of a reply: whom the command was sent to
	Name    string    `json:"name,omitempty"`    // of a timer
	Since   time.Time `json:"since,omitzero"`    // when the command was sent, or the effect asked for
	Due     time.Time `json:"due,omitzero"`      // of a timer
	Unknown bool      `json:"unknown,omitempty"` // an effect of which a person must say what became of it
}

// The kinds of [Wait].
const (
	WaitReply  = "reply"
	WaitTimer  = "timer"
	WaitEffect = "effect"
)

// SagaOf tells what an instance waits for, as its row says. Performers tell which effects must not be tried any more;
// without those of an effect's type nothing is said of that.
func SagaOf(m *deja.Machine, row driver.State, performers []deja.Performer, now time.Time) (Saga, error) {
	open, err := wire.DecodeOpen(m.Name(), row.Stream, row.Open)
	if err != nil {
		return Saga{}, err
	}
	s := Saga{
		Stream: row.Stream, Key: row.Stream.String(), Version: row.Version, State: SagaWaiting, Event: open.Stuck,
		Began: open.Began, Parked: row.Parked, Waits: []Wait{},
	}
	rules := m.Saga(row.Stream.Aggregate)
	switch {
	case open.Stuck != "":
		s.State, s.Since = SagaStuck, open.Since
	case open.Overdue(rules, now):
		s.State, s.Since = SagaLate, open.Began.Add(rules.Within)
	case !open.Began.IsZero():
		s.State = SagaOpen
	case rules != nil && len(rules.Ends) > 0 && row.Version > 0:
		s.State = SagaEnded
	}
	for _, c := range open.Sent {
		s.Waits = append(s.Waits, Wait{For: WaitReply, ID: c.ID, Type: c.Type, To: c.Stream.String(), Since: c.Time})
	}
	for i := range open.Effects {
		e := &open.Effects[i]
		p := slices.IndexFunc(performers, func(p deja.Performer) bool { return p.EffectType() == e.Type })
		s.Waits = append(s.Waits, Wait{
			For: WaitEffect, ID: e.ID, Type: e.Type, Since: e.Asked,
			Unknown: p >= 0 && !performers[p].Inquires() && now.Sub(e.Asked) > performers[p].Window(),
		})
	}
	for i := range open.Timers {
		t := &open.Timers[i]
		s.Waits = append(s.Waits, Wait{For: WaitTimer, ID: t.Command.ID, Type: t.Command.Type, Name: t.Name, Due: t.Due})
	}
	return s, nil
}

// SagaHealth tells of the instances that wait, as far as this process has looked: at those of its partitions while it runs,
// else at some of all. They are looked at in turn, at leisure; what it tells is of a while ago.
type SagaHealth struct {
	Open    int64  `json:"open"`              // how many wait for something
	Stuck   int64  `json:"stuck"`             // of these say so many that they are stuck
	Late    int64  `json:"late"`              // and so many take longer than is stated
	AtLeast bool   `json:"at_least"`          // not all were looked at yet: there may be more
	Overdue []Saga `json:"overdue,omitempty"` // some of those that are stuck or late, those first that are for longest
}

// maxOverdue bounds how many are listed.
const maxOverdue = 100

// count takes one more in.
func (h *SagaHealth) count(s Saga) {
	h.Open++
	switch s.State {
	case SagaStuck:
		h.Stuck++
	case SagaLate:
		h.Late++
	default:
		return
	}
	h.list(s)
}

func (h *SagaHealth) list(ss ...Saga) {
	h.Overdue = append(h.Overdue, ss...)
	if len(h.Overdue) > 2*maxOverdue {
		h.cut()
	}
}

func (h *SagaHealth) cut() {
	slices.SortFunc(h.Overdue, func(a, b Saga) int { return cmp.Or(a.Since.Compare(b.Since), a.Stream.Compare(b.Stream)) })
	h.Overdue = h.Overdue[:min(maxOverdue, len(h.Overdue))]
}

// add takes in what is known of another partition.
func (h *SagaHealth) add(other SagaHealth) {
	h.Open, h.Stuck, h.Late, h.AtLeast = h.Open+other.Open, h.Stuck+other.Stuck, h.Late+other.Late, h.AtLeast || other.AtLeast
	h.list(other.Overdue...)
}

const (
	lookEvery  = 2 * time.Second // how often all that wait are looked at, if that is quick
	lookShare  = 50              // else a fiftieth of the time is taken for it
	maxToldOf  = 10_000          // sagas of which it is known that their alarm was given
	lookAtOnce = 1000            // instances of a partition that Health looks at where nobody does all the time
)

// lookout looks at what the partition's instances wait for, again and again, and gives an alarm for each that became stuck
// or late since.
type lookout struct {
	p    *partition
	told map[deja.Stream]time.Time // since when those are overdue whose alarm was given
}

// hasSagas reports whether the service has instances that end, or may be stuck.
func (e *Engine) hasSagas() bool {
	return slices.ContainsFunc(e.machine.Aggregates(), func(name string) bool {
		s := e.machine.Saga(name)
		return len(s.Ends)+len(s.Sticks) > 0
	})
}

func (p *partition) lookOut(ctx context.Context) {
	p.e.keep(ctx, fmt.Sprintf("sagas of partition %d", p.number), func(ctx context.Context, well func()) error {
		l := lookout{p: p, told: map[deja.Stream]time.Time{}}
		defer p.seen(nil)
		for {
			began := time.Now()
			if err := l.round(ctx); err != nil {
				return err
			}
			well()
			if sleep(ctx, max(lookEvery-time.Since(began), 0)); ctx.Err() != nil {
				return ctx.Err()
			}
		}
	})
}

// round looks at all once.
func (l *lookout) round(ctx context.Context) error {
	var h SagaHealth
	told := map[deja.Stream]time.Time{}
	for after := (deja.Stream{}); ; {
		began := time.Now()
		next, err := l.p.page(ctx, after, batchSize, func(s Saga) {
			if h.count(s); s.Overdue() {
				l.alarm(ctx, told, &s)
			}
		})
		if err != nil {
			return err
		}
		if next == (deja.Stream{}) {
			break
		}
		after = next
		l.p.seen(&h)
		if sleep(ctx, lookShare*time.Since(began)); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	l.told = told
	h.cut()
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.p.sagas = &h
	return nil
}

// alarm tells of a saga that is overdue, once.
func (l *lookout) alarm(ctx context.Context, told map[deja.Stream]time.Time, s *Saga) {
	if len(told) < maxToldOf {
		told[s.Stream] = s.Since
	}
	if since, ok := l.told[s.Stream]; ok && since.Equal(s.Since) || len(l.told) >= maxToldOf {
		return
	}
	text := "a saga is stuck: a person must look at it"
	if s.State == SagaLate {
		text = "a saga takes longer than is stated"
	}
	args := []any{"saga", s.Key, "since", s.Since, "began", s.Began}
	if s.Event != "" {
		args = append(args, "event", s.Event)
	}
	for _, w := range s.Waits {
		args = append(args, "waits for", w.For+" "+w.Type+" "+w.ID.String())
	}
	l.p.logger.ErrorContext(ctx, text, args...)
}

// page calls fn with the instances of a partition that wait, after a stream, and returns the last one's; the zero Stream if
// there are no more.
func (p *partition) page(ctx context.Context, after deja.Stream, most int, fn func(Saga)) (deja.Stream, error) {
	rows, err := p.e.store.Open(ctx, p.number, after, most)
	if err != nil {
		return deja.Stream{}, err
	}
	now := time.Now()
	for _, row := range rows {
		s, err := SagaOf(p.e.machine, row, p.e.cfg.Effects, now)
		if err != nil {
			return deja.Stream{}, err
		}
		fn(s)
	}
	if len(rows) < most {
		return deja.Stream{}, nil
	}
	return rows[len(rows)-1].Stream, nil
}

// seen notes what is known while the first round is under way; nil: nothing is.
func (p *partition) seen(h *SagaHealth) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case h == nil:
		p.sagas = nil
	case p.sagas == nil || p.sagas.AtLeast:
		soFar := *h
		soFar.AtLeast, soFar.Overdue = true, slices.Clone(h.Overdue)
		soFar.cut()
		p.sagas = &soFar
	}
}

// sagaHealth tells of the partition's instances.
func (p *partition) sagaHealth(ctx context.Context) (h SagaHealth, err error) {
	p.mu.Lock()
	known := p.sagas
	p.mu.Unlock()
	switch {
	case known != nil:
		return *known, nil
	case p.e.running.Load():
		return h, nil // it has not looked yet, or is another process's
	}
	next, err := p.page(ctx, deja.Stream{}, lookAtOnce, h.count)
	h.AtLeast = next != (deja.Stream{})
	return h, err
}
