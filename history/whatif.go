package history

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/relive"
)

// Facts says what becomes of the messages that an overlay does not edit.
type Facts uint8

// The two ways to live a history again.
const (
	Decided Facts = iota // their handlers decide again, on the states that they now find
	Fixed                // what they recorded stays, and is folded onto those states
)

// String returns the word: decided or fixed.
func (f Facts) String() string {
	if f == Fixed {
		return "fixed"
	}
	return "decided"
}

// WhatIfOptions says how a history is lived again.
type WhatIfOptions struct {
	Facts Facts
	To    Limits // up to where; After is not looked at. The zero Limits is all there is
	Whole bool   // live on where all is as it was again

	Program  string        // the path of another build, which is to decide instead of this one
	Patience time.Duration // how long its answer may take; 0: a minute
}

// WhatIf is what would have been.
type WhatIf struct {
	Facts     string      `json:"facts"`
	Build     *Build      `json:"build,omitempty"` // another build that decided
	First     *Differing  `json:"first"`           // the first message that was settled otherwise; null: none
	Differing []Differing `json:"differing"`
	States    []KeyDiff   `json:"states"` // the keys that end otherwise
	Gained    []Emission  `json:"gained"`
	Lost      []Emission  `json:"lost"`
	Paradoxes []Paradox   `json:"paradoxes"`
	Holes     []Emission  `json:"holes"`     // effects that nobody has answered: they are not called
	Lived     int64       `json:"lived"`     // messages that were settled again
	Converged bool        `json:"converged"` // every key came to be as it was, after the last edit
	UpTo      []int64     `json:"up_to"`     // of each partition the last decision that is compared
	Complete  bool        `json:"complete"`
	Notes     []string    `json:"notes,omitempty"`
}

// A Differing is a message that was settled otherwise than it was.
type Differing struct {
	ID       deja.ID       `json:"id"`
	Key      string        `json:"key"`
	Position deja.Position `json:"position"` // as it was; of an inserted one, that which it comes after
	Type     string        `json:"type"`
	Edit     string        `json:"edit,omitempty"` // what was done to it
	Was      string        `json:"was"`            // its outcome; "" if it was not there
	Now      string        `json:"now"`            // "" if it is not there
	Reason   string        `json:"reason,omitempty"`

	same bool // for all that was done to it
}

// An Emission is what a decision emits: an event, a command that it sends, a timer that it sets, or an effect that it asks for.
type Emission struct {
	Message deja.ID         `json:"message"`
	Key     string          `json:"key"`
	Kind    string          `json:"kind"`         // event, command, timer or effect
	To      string          `json:"to,omitempty"` // of a command the stream, of a timer its name
	Due     time.Time       `json:"due,omitzero"` // of a timer
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload"`
}

// A Paradox is something in the history that would have no ground any more.
type Paradox struct {
	Kind    string  `json:"kind"` // refused: applied, and would be refused · parked: settled, and would be parked · orphaned: caused by a message that is not there
	Message deja.ID `json:"message"`
	Key     string  `json:"key"`
	Type    string  `json:"type"`
	Detail  string  `json:"detail,omitempty"`
}

// A KeyDiff is what differs in a key's state.
type KeyDiff struct {
	Key     string      `json:"key"`
	Version [2]int64    `json:"version"` // as it is, as it would be
	Parked  [2]int64    `json:"parked"`
	Fields  []FieldDiff `json:"fields"`

	stream       deja.Stream
	is, shouldBe []byte // the states, where they differ
}

// A FieldDiff is a field that differs: JSON, null where it is absent or zero.
type FieldDiff struct {
	Path string          `json:"path"`
	Old  json.RawMessage `json:"old"`
	New  json.RawMessage `json:"new"`
}

func fieldDiff(c canon.Change) FieldDiff {
	return FieldDiff{c.Path, token(c.Old), token(c.New)}
}

func token(s string) json.RawMessage { return json.RawMessage(cmp.Or(s, "null")) }

// WhatIf lives a part of the history again with an overlay on it. Only keys that the overlay may change are lived, from the
// first edit on, by the handlers of this build: nothing is written anywhere, and no effect is called. A key that is as it
// was again, after the last edit, is not lived on.
func (h *History) WhatIf(ctx context.Context, o Overlay, opt WhatIfOptions) (*WhatIf, error) {
	if opt.To.Last == nil {
		opt.To = h.All()
	}
	p, err := h.newPlan(ctx, o, opt.To)
	if err != nil {
		return nil, fmt.Errorf("what if: %w", err)
	}
	l := newLifetime(p)
	switch {
	case opt.Facts != Fixed:
		err = l.live(ctx, &opt)
	case opt.Program != "":
		err = cannotBe("with facts fixed there is nothing for another build to decide")
	default:
		err = l.keep(ctx)
	}
	if l.mind != nil {
		defer l.mind.close()
	}
	if err != nil {
		return nil, fmt.Errorf("what if: %w", err)
	}
	w := &WhatIf{
		Facts: opt.Facts.String(), UpTo: opt.To.Last, Complete: true, Lived: l.lived, Converged: true, Notes: p.notes, Build: l.build,
		Differing: []Differing{}, States: []KeyDiff{}, Gained: []Emission{}, Lost: []Emission{}, Paradoxes: []Paradox{}, Holes: []Emission{},
	}
	if err := w.tell(ctx, l); err != nil {
		return nil, fmt.Errorf("what if: %w", err)
	}
	return w, nil
}

// An outcome is how a delivery was settled, once itself and once for each act that had it decided again.
type outcome struct {
	status deja.Status // 0: not at all, or as a duplicate
	reason string
	emits  []Emission // without message and key
	again  bool       // for an act
}

func outcomeOf(d relive.Decision) *outcome {
	o := &outcome{status: d.Decided.Status, again: !d.Act.IsZero()}
	if d.Decided.Reason != (deja.Rejection{}) {
		o.reason = d.Decided.Reason.Error()
	}
	o.emits = emitted(&d.Decided)
	return o
}

// emitted returns what a decision emits.
func emitted(d *deja.Decided) []Emission {
	var all []Emission
	for i := range d.Events {
		all = append(all, Emission{Kind: deja.KindEvent.String(), Type: d.Events[i].Type, Payload: jsonOf(d.Events[i].Payload)})
	}
	for i := range d.Commands {
		c := &d.Commands[i]
		all = append(all, Emission{Kind: deja.KindCommand.String(), To: c.Stream.String(), Type: c.Type, Payload: jsonOf(c.Payload)})
	}
	for i := range d.Timers {
		t := &d.Timers[i]
		all = append(all, Emission{Kind: deja.KindTimer.String(), To: t.Name, Due: t.Due, Type: t.Command.Type, Payload: jsonOf(t.Command.Payload)})
	}
	for i := range d.Effects {
		all = append(all, Emission{Kind: deja.KindEffect.String(), Type: d.Effects[i].Type, Payload: jsonOf(d.Effects[i].Payload)})
	}
	return all
}

// recorded returns how a decision was settled, as the journal has it.
func (l *lifetime) recorded(ctx context.Context, s *Step) (*outcome, error) {
	e, err := l.h.source.Decision(ctx, s.Position.Partition, s.N)
	if err != nil {
		return nil, err
	}
	return &outcome{status: s.Status, emits: emitted(&e.Decided), again: !s.Act.IsZero()}, nil
}

// same reports whether two outcomes are one: the same word, and the same emissions.
func (o *outcome) same(p *outcome) bool {
	return o.status == p.status && slices.EqualFunc(o.emits, p.emits, sameEmission)
}

func sameEmission(a, b Emission) bool {
	return a.Kind == b.Kind && a.To == b.To && a.Due.Equal(b.Due) && a.Type == b.Type && bytes.Equal(a.Payload, b.Payload)
}

func sameEvent(a, b Event) bool { return a.Type == b.Type && bytes.Equal(a.Payload, b.Payload) }

// tell fills in what differs.
func (w *WhatIf) tell(ctx context.Context, l *lifetime) error {
	all, err := l.compared(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		w.compare(s)
	}
	if i := slices.IndexFunc(w.Differing, func(d Differing) bool { return !d.same }); i >= 0 {
		first := w.Differing[i]
		w.First = &first
	}
	w.Holes = append(w.Holes, l.open()...)
	if err := w.orphans(ctx, l); err != nil {
		return err
	}
	if err := w.states(ctx, l); err != nil {
		return err
	}
	w.foreign(l)
	return nil
}

// foreign says that nobody else was asked again, where that matters.
func (w *WhatIf) foreign(l *lifetime) {
	asks := func(e Emission) bool {
		return e.Kind == deja.KindCommand.String() || e.Kind == deja.KindEffect.String()
	}
	waits := slices.ContainsFunc(slices.Collect(maps.Values(l.streams)), func(s *streamPlan) bool { return s.open != nil })
	if w.Differs() && (waits || slices.ContainsFunc(w.Gained, asks) || slices.ContainsFunc(w.Lost, asks)) {
		w.Notes = append(w.Notes, "who is sent commands is not lived again, and no effect is called: replies, timers and results are those that were recorded")
	}
}

// compare tells what differs in how a delivery was settled.
func (w *WhatIf) compare(s *settled) {
	for i := range max(len(s.was), len(s.now)) {
		var was, now *outcome
		if i < len(s.was) {
			was = s.was[i]
		}
		if i < len(s.now) {
			now = s.now[i]
		}
		w.outcome(s, was, now)
	}
	if len(s.was)+len(s.now) == 0 && s.edit != nil { // a duplicate, put in
		w.outcome(s, nil, nil)
	}
}

func (w *WhatIf) outcome(s *settled, was, now *outcome) {
	d := Differing{ID: s.id, Key: s.stream.String(), Position: s.position, Type: s.typ}
	d.same = was != nil && now != nil && was.same(now) || was == nil && now == nil
	if d.same && s.edit == nil {
		return
	}
	if s.edit != nil {
		d.Edit = s.edit.Do.String()
	}
	lost, gained := []Emission(nil), []Emission(nil)
	switch {
	case was != nil:
		d.Was, lost = was.status.String(), was.emits
	case s.repeat:
		d.Was = "duplicate"
	}
	switch {
	case now != nil:
		d.Now, d.Reason, gained = now.status.String(), now.reason, now.emits
	case !s.gone && (was == nil || !was.again):
		d.Now = "duplicate"
	}
	w.Differing = append(w.Differing, d)
	w.Lost = append(w.Lost, s.emissions(minus(lost, gained))...)
	w.Gained = append(w.Gained, s.emissions(minus(gained, lost))...)
	if was == nil || now == nil {
		return
	}
	switch {
	case was.status == deja.Applied && now.status == deja.Rejected:
		w.Paradoxes = append(w.Paradoxes, Paradox{"refused", s.id, s.stream.String(), s.typ, now.reason})
	case was.status != deja.Parked && now.status == deja.Parked:
		w.Paradoxes = append(w.Paradoxes, Paradox{"parked", s.id, s.stream.String(), s.typ, now.reason})
	}
}

// minus returns the emissions of a that b has not.
func minus(a, b []Emission) []Emission {
	b = slices.Clone(b)
	var left []Emission
	for _, e := range a {
		if i := slices.IndexFunc(b, func(o Emission) bool { return sameEmission(e, o) }); i >= 0 {
			b = slices.Delete(b, i, i+1)
			continue
		}
		left = append(left, e)
	}
	return left
}

// emissions returns emissions as those of the message.
func (s *settled) emissions(all []Emission) []Emission {
	for i := range all {
		all[i].Message, all[i].Key = s.id, s.stream.String()
	}
	return all
}

// jsonOf returns a payload as JSON: itself if it is, else its bytes as a text.
func jsonOf(payload []byte) json.RawMessage {
	if json.Valid(payload) {
		return payload
	}
	b, _ := json.Marshal(payload) // bytes always have a JSON form
	return b
}

// orphans names the messages whose cause is not there any more.
func (w *WhatIf) orphans(ctx context.Context, l *lifetime) error {
	dropped := map[deja.ID]bool{}
	for _, e := range l.edits {
		if e.Do == Drop {
			dropped[e.step.ID] = true
		}
	}
	for _, e := range l.edits {
		if e.Do != Drop {
			continue
		}
		found, err := l.h.steps.caused(ctx, e.step.ID)
		if err != nil {
			return err
		}
		for _, at := range found {
			s, err := l.h.steps.decision(ctx, at)
			if err != nil {
				return err
			}
			if at.n <= l.to.Last[at.partition] && !dropped[s.ID] && s.Act.IsZero() {
				w.Paradoxes = append(w.Paradoxes, Paradox{"orphaned", s.ID, s.Stream.String(), s.Type, "caused by " + e.step.ID.String()})
			}
		}
	}
	return nil
}

// states compares the keys at the end.
func (w *WhatIf) states(ctx context.Context, l *lifetime) error {
	for _, s := range slices.SortedFunc(maps.Keys(l.streams), deja.Stream.Compare) {
		d, err := l.keyDiff(ctx, s)
		if err != nil {
			return err
		}
		if len(d.Fields) > 0 || d.Parked[0] != d.Parked[1] {
			w.Converged = false
		}
		if len(d.Fields) > 0 || d.Parked[0] != d.Parked[1] || d.Version[0] != d.Version[1] {
			w.States = append(w.States, d)
		}
	}
	return nil
}

// keyDiff compares a key at the end with what it was then.
func (l *lifetime) keyDiff(ctx context.Context, s deja.Stream) (KeyDiff, error) {
	d := KeyDiff{Key: s.String(), Fields: []FieldDiff{}, stream: s}
	sp := l.streams[s]
	was, err := l.h.steps.state(ctx, s, sp.last)
	if err != nil {
		return d, err
	}
	d.Parked[0] = int64(len(sp.waiting))
	for _, g := range sp.groups {
		for _, st := range g.steps {
			d.Parked[0] += parks(st)
		}
	}
	d.Version[0] = was.Version
	if at, ok := l.stopped[s]; ok { // from there on all is as it was
		d.Version[1], d.Parked[1] = was.Version+at, d.Parked[0]
		return d, nil
	}
	row, err := l.row(ctx, s)
	if err != nil {
		return d, err
	}
	d.Version[1], d.Parked[1] = row.Version, row.Parked
	before, err := l.h.flat(was)
	if err != nil {
		return d, err
	}
	after, err := l.h.machine.Flatten(nil, s.Aggregate, row.Data)
	if row.Version == 0 {
		after, err = nil, nil
	}
	for _, c := range canon.Diff(before, after) {
		d.Fields = append(d.Fields, fieldDiff(c))
	}
	if d.shouldBe = row.Data; err == nil && was.Version > 0 {
		d.is, err = was.Encode()
	}
	return d, err
}

// flat returns the fields of a state; none of an empty one.
func (h *History) flat(st *deja.State) ([]canon.Field, error) {
	if st.Version == 0 {
		return nil, nil
	}
	data, err := st.Encode()
	if err != nil {
		return nil, err
	}
	return h.machine.Flatten(nil, st.Stream.Aggregate, data)
}

// parks returns by how much a step changes the number of its stream's parked messages.
func parks(s *Step) int64 {
	switch waits := s.Status == deja.Parked; {
	case waits && s.Act.IsZero():
		return 1
	case !waits && !s.Act.IsZero():
		return -1
	}
	return 0
}

// Differs reports whether anything would have been otherwise, but for the edits themselves.
func (w *WhatIf) Differs() bool {
	return w.First != nil || len(w.States)+len(w.Gained)+len(w.Lost)+len(w.Paradoxes) > 0
}
