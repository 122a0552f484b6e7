package history

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/replay"
)

// A Minimal is a small history that still fails: the message after which a predicate holds, decided as it was, and as few as can
// be of those before it.
type Minimal struct {
	Key      string    `json:"key"`
	FirstBad Message   `json:"first_bad"`
	Messages []Message `json:"messages"`         // in order; the first bad one is the last of its key
	Causes   int       `json:"causes,omitempty"` // how many of them are of other keys, and caused those of this one
	Of       int       `json:"of"`               // how many messages the key had up to then

	// Reproduced says that this build comes there at all, when it decides all messages again; if not, Messages is empty.
	Reproduced bool `json:"reproduced"`
	// Minimal says that no message can be left out, with those that it has caused, without the failure going away.
	Minimal  bool     `json:"minimal"`
	Tests    int      `json:"tests"`    // histories that were lived
	Lived    int64    `json:"lived"`    // messages in them
	Complete bool     `json:"complete"` // false: it was cut off, and could perhaps be smaller
	Notes    []string `json:"notes,omitempty"`

	steps []*Step
}

// Minimal looks for a small history in which the predicate comes to hold by the same message in the same way as after first: the
// message is settled as it was, it writes the fields that the predicate reads as it did (numbers by as much), and the predicate is
// false before it. The history is closed: with a message it has the one that caused it. It is the same each time it is looked
// for. Where ctx ends before it is known to be minimal, the smallest history so far is returned, and Complete is false.
func (h *History) Minimal(ctx context.Context, first *Step, p Predicate) (*Minimal, error) {
	return h.minimal(ctx, first, p, math.MaxInt64)
}

// minimal is Minimal, but ends as if ctx did where more messages were to be lived than most.
func (h *History) minimal(ctx context.Context, first *Step, p Predicate, most int64) (*Minimal, error) {
	m := &Minimal{Key: first.Stream.String(), Messages: []Message{}, Complete: true}
	var err error
	if m.FirstBad, err = h.message(ctx, first); err != nil {
		return nil, err
	}
	r, err := h.newReduction(ctx, first, p)
	if err != nil {
		return nil, fmt.Errorf("minimal history of %s: %w", first.Stream, err)
	}
	m.Of, r.most = len(r.items), most
	if m.Reproduced, err = r.fails(ctx, numbers(len(r.items))); err != nil {
		return nil, fmt.Errorf("minimal history of %s: %w", first.Stream, err)
	}
	m.Tests, m.Lived = r.tests, r.lived
	if !m.Reproduced {
		m.Notes = append(m.Notes, "when this build decides the messages again, the predicate does not come to hold by this message as it did: another build decided then")
		return m, nil
	}
	left, minimal, err := r.reduce(ctx)
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("minimal history of %s: %w", first.Stream, err)
	}
	m.Minimal, m.Complete, m.Tests, m.Lived = minimal, minimal, r.tests, r.lived
	return m, h.tellMinimal(context.WithoutCancel(ctx), m, r, left)
}

// tellMinimal fills in the messages that are left, and those of other keys that caused them.
func (h *History) tellMinimal(ctx context.Context, m *Minimal, r *reduction, left []int) error {
	for _, i := range left {
		m.steps = append(m.steps, r.items[i].step)
	}
	all, err := h.withCauses(ctx, m.steps)
	if err != nil {
		return err
	}
	m.steps, m.Causes = all, len(all)-len(left)
	slices.SortStableFunc(m.steps, byTime)
	for _, s := range m.steps {
		msg, err := h.message(ctx, s)
		if err != nil {
			return err
		}
		m.Messages = append(m.Messages, msg)
	}
	return nil
}

// withCauses adds to messages those that caused them, as far as the history has them.
func (h *History) withCauses(ctx context.Context, steps []*Step) ([]*Step, error) {
	known := map[deja.ID]bool{}
	for _, s := range steps {
		known[s.ID] = true
	}
	for i := 0; i < len(steps); i++ {
		id := steps[i].Cause
		if id.IsZero() || known[id] {
			continue
		}
		known[id] = true
		s, err := h.first(ctx, id)
		if errors.Is(err, replay.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		steps = append(steps, s)
	}
	return steps, nil
}

func byTime(a, b *Step) int {
	if c := a.Time.Compare(b.Time); c != 0 {
		return c
	}
	if a.Position.Partition != b.Position.Partition {
		return int(a.Position.Partition - b.Position.Partition)
	}
	return int(a.Position.Offset - b.Position.Offset)
}

// Capsule returns the minimal history as a piece that stands alone.
func (m *Minimal) Capsule(ctx context.Context, h *History) (*Capsule, error) {
	return h.capsule(ctx, m.steps)
}

// A reduction makes a history smaller, and lives it each time.
type reduction struct {
	h         *History
	first     *Step
	predicate Predicate
	paths     []string // that the predicate reads
	maxRecord int
	items     []item
	must      []bool          // cannot be left out: the first bad message, and what led to it
	known     map[string]bool // of sets of items: do they fail
	tests     int
	lived     int64
	most      int64
}

// An item is a message that can be left out.
type item struct {
	m      relive.Message
	step   *Step
	parent int // the item that caused it; -1: none of them
}

// newReduction reads the messages of the key up to the first bad one.
func (h *History) newReduction(ctx context.Context, first *Step, p Predicate) (*reduction, error) {
	r := &reduction{h: h, first: first, predicate: p, known: map[string]bool{}}
	var static bool
	if r.paths, static = p.Reads(); !static {
		r.paths = []string{""}
	}
	pl, err := h.newPlan(ctx, nil, h.All())
	if err != nil {
		return nil, err
	}
	r.maxRecord = pl.topic.MaxRecord
	groups, err := pl.groups(ctx, first.Stream, h.All().Last[first.Position.Partition])
	if err != nil {
		return nil, err
	}
	w, err := r.world(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		st := g.steps[len(g.steps)-1]
		d, err := pl.delivery(ctx, st)
		if err != nil {
			return nil, err
		}
		m, err := pl.message(ctx, w, d)
		if err != nil {
			return nil, err
		}
		r.items = append(r.items, item{m, st, -1})
		if slices.ContainsFunc(g.steps, func(s *Step) bool { return s.N == first.N }) {
			err := r.link(ctx)
			return r, err
		}
	}
	return nil, fmt.Errorf("message %s at %s is not one that was settled", first.ID, first.Position)
}

// link finds what caused what, also by way of other keys, and what must stay.
func (r *reduction) link(ctx context.Context) error {
	by := map[deja.ID]int{}
	for i := range r.items {
		by[r.items[i].step.ID] = i
	}
	for i := range r.items {
		seen := map[deja.ID]bool{}
		for id := r.items[i].step.Cause; !id.IsZero() && !seen[id]; {
			if p, ok := by[id]; ok && p != i {
				r.items[i].parent = p
				break
			}
			seen[id] = true
			s, err := r.h.first(ctx, id)
			if errors.Is(err, replay.ErrNotFound) {
				break
			}
			if err != nil {
				return err
			}
			id = s.Cause
		}
	}
	r.must = make([]bool, len(r.items))
	own := slices.IndexFunc(r.items, func(it item) bool { return it.step.Position == r.first.Position })
	for i := own; i >= 0 && !r.must[i]; i = r.items[i].parent {
		r.must[i] = true
	}
	return nil
}

// reduce leaves out what can be.
func (r *reduction) reduce(ctx context.Context) (left []int, minimal bool, err error) {
	return shrink(numbers(len(r.items)), r.closed, func(some []int) (fails, more bool, err error) {
		if r.lived+int64(len(some)) > r.most {
			return false, false, nil
		}
		fails, err = r.fails(ctx, some)
		return fails, true, err
	})
}

// closed returns the items without those of which the cause is missing, and with those that must stay.
func (r *reduction) closed(some, left []int) []int {
	in := make([]bool, len(r.items))
	for _, i := range some {
		in[i] = true
	}
	for i, must := range r.must {
		in[i] = in[i] || must
	}
	for again := true; again; { // a cause mostly comes first, and one pass will do
		again = false
		for _, i := range left {
			if p := r.items[i].parent; in[i] && p >= 0 && !in[p] {
				in[i], again = false, true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(left), func(i int) bool { return !in[i] })
}

func (r *reduction) world(ctx context.Context, decided func(relive.Decision)) (*relive.World, error) {
	return relive.New(ctx, relive.Config{
		Machine: r.h.machine, Partitions: r.h.source.Partitions(), MaxRecord: r.maxRecord, Decided: decided,
	}, relive.Past{})
}

// fails reports whether a history fails as the whole one did.
func (r *reduction) fails(ctx context.Context, some []int) (bool, error) {
	key := setKey(some)
	if fails, ok := r.known[key]; ok {
		return fails, nil
	}
	l := trial{r: r}
	var err error
	if l.along, err = r.predicate.along(r.h.machine, r.first.Stream); err != nil {
		return false, err
	}
	w, err := r.world(ctx, l.decided)
	if err != nil {
		return false, err
	}
	ms := make([]relive.Message, len(some))
	for i, n := range some {
		ms[i] = r.items[n].m
	}
	if err := w.Live(ctx, ms); err != nil {
		return false, err
	}
	r.tests++
	r.lived += int64(len(some))
	r.known[key] = l.same
	return r.known[key], l.err
}

func setKey(some []int) string {
	var b strings.Builder
	var buf [binary.MaxVarintLen64]byte
	last := -1
	for i := 0; i < len(some); {
		j := i + 1
		for j < len(some) && some[j] == some[j-1]+1 {
			j++
		}
		b.Write(buf[:binary.PutUvarint(buf[:], uint64(some[i]-last))])
		b.Write(buf[:binary.PutUvarint(buf[:], uint64(j-i))])
		last, i = some[j-1], j
	}
	return b.String()
}

// A trial follows the predicate along a history that is being lived.
type trial struct {
	r     *reduction
	along *along
	holds bool
	same  bool // the first bad message did as it had done
	err   error
}

func (l *trial) decided(d relive.Decision) {
	if l.err != nil || d.Cause.Stream != l.r.first.Stream {
		return
	}
	s, before := stepOf(&d), l.holds
	if l.holds, l.err = l.along.step(s); l.err != nil {
		return
	}
	if s.Position == l.r.first.Position && s.Act.IsZero() == l.r.first.Act.IsZero() {
		l.same = !before && l.holds && l.r.alike(s)
	}
}

// alike reports whether the first bad message did as it had done.
func (r *reduction) alike(s *Step) bool {
	return s.Status == r.first.Status &&
		slices.EqualFunc(s.Events, r.first.Events, func(a, b Event) bool { return a.Type == b.Type }) &&
		slices.EqualFunc(r.read(s.Writes), r.read(r.first.Writes), alikeWrite)
}

// read returns the writes of the fields that the predicate reads.
func (r *reduction) read(ws []Write) []Write {
	var read []Write
	for _, w := range ws {
		if slices.ContainsFunc(r.paths, func(p string) bool { return within(w.Path, p) }) {
			read = append(read, w)
		}
	}
	return read
}

// alikeWrite reports whether two writes change a field in the same way: a number by as much, all else to the same.
func alikeWrite(a, b Write) bool {
	if a.Path != b.Path {
		return false
	}
	x, y := growth(a), growth(b)
	if x == nil || y == nil {
		return a.New == b.New
	}
	return x.Cmp(y) == 0
}

// growth returns by how much a write changes an integer; nil if it is none.
func growth(w Write) *big.Int {
	var of [2]big.Int
	for i, token := range []string{w.Old, w.New} {
		if token == "" {
			continue // zero
		}
		if _, ok := of[i].SetString(token, 10); !ok {
			return nil
		}
	}
	return new(big.Int).Sub(&of[1], &of[0])
}
