package history

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// Twins are messages to one key that say the same because of the same under different IDs, so that each was decided for
// itself. They are suspects: whoever sends a message again must send its ID again, and an ID that was made from what changes with
// each attempt is a broken idempotency key. But two equal requests may also be meant.
type Twins struct {
	Key   string  `json:"key"`
	Cause deja.ID `json:"cause,omitzero"` // zero: clients sent them

	// Whole says that all of their content is the same; else it is type and payload, and other things such as the business time
	// differ. Those are told only of messages that have a cause.
	Whole    bool   `json:"whole"`
	Messages []Twin `json:"messages"` // in the order in which they were decided
}

// A Twin is one of several messages that say the same.
type Twin struct {
	ID       deja.ID         `json:"id"`
	Position deja.Position   `json:"position"`
	Version  int64           `json:"version"`
	Type     string          `json:"type"`
	Status   string          `json:"status"`
	Payload  json.RawMessage `json:"payload"`
}

// Twins yields the twins among the messages of a scope, key by key. It remembers some forty bytes a message of one key.
func (h *History) Twins(ctx context.Context, in Scope, lim Limits) iter.Seq2[*Twins, error] {
	return func(yield func(*Twins, error) bool) {
		var t twinning
		for s, err := range h.steps.scan(ctx, in.Matches, lim.Last) {
			if err != nil {
				yield(nil, err)
				return
			}
			if s.Stream != t.stream {
				if !h.yieldTwins(ctx, &t, yield) {
					return
				}
				t = twinning{stream: s.Stream, partition: s.Position.Partition, candidates: t.candidates[:0]}
			}
			if lim.Has(s) {
				t.add(s)
			}
		}
		h.yieldTwins(ctx, &t, yield)
	}
}

// twinsOf returns the twins among the decisions of one stream with after < N ≤ last.
func (h *History) twinsOf(ctx context.Context, s deja.Stream, after, last int64) (all []*Twins, err error) {
	t := twinning{stream: s}
	for st, err := range h.steps.key(ctx, s, after, last, false) {
		if err != nil {
			return nil, err
		}
		t.partition = st.Position.Partition
		t.add(st)
	}
	h.yieldTwins(ctx, &t, func(tw *Twins, e error) bool {
		all, err = append(all, tw), e
		return e == nil
	})
	return all, err
}

// twinning looks for twins among the messages of one stream.
type twinning struct {
	stream     deja.Stream
	partition  int32
	candidates []candidate
}

// candidate is what is remembered of a message.
type candidate struct {
	n     int64
	hash  uint64
	cause deja.ID
}

// add takes the next decision of the stream. A conflict was not decided for itself, the message of an act was met before, and what
// is no message says nothing.
func (t *twinning) add(s *Step) {
	if s.Status != deja.Conflicted && s.Act.IsZero() && s.Type != "" {
		t.candidates = append(t.candidates, candidate{s.N, s.Hash, s.Cause})
	}
}

// yieldTwins yields the twins of a stream; those first of which one was decided first. It returns false when it should end.
func (h *History) yieldTwins(ctx context.Context, t *twinning, yield func(*Twins, error) bool) bool {
	var found []*Twins
	for _, alike := range t.alike() {
		groups, err := h.compare(ctx, t, alike)
		if err != nil {
			return yield(nil, err) && false
		}
		found = append(found, groups...)
	}
	slices.SortFunc(found, func(a, b *Twins) int {
		return cmp.Compare(a.Messages[0].Position.Offset, b.Messages[0].Position.Offset)
	})
	for _, g := range found {
		if !yield(g, nil) {
			return false
		}
	}
	return true
}

// alike returns the decisions, in order, that may be of twins: with the same cause, or with none and the same hash.
func (t *twinning) alike() (groups [][]int64) {
	order := func(a, b candidate) int {
		by := bytes.Compare(a.cause[:], b.cause[:])
		if by == 0 && a.cause.IsZero() {
			by = cmp.Compare(a.hash, b.hash)
		}
		return by
	}
	slices.SortStableFunc(t.candidates, order)
	for rest := t.candidates; len(rest) > 0; {
		n := 1
		for n < len(rest) && order(rest[0], rest[n]) == 0 {
			n++
		}
		if n > 1 {
			var group []int64
			for _, c := range rest[:n] {
				group = append(group, c.n)
			}
			groups = append(groups, group)
		}
		rest = rest[n:]
	}
	return groups
}

// compare reads messages that may be twins, and returns those that are.
func (h *History) compare(ctx context.Context, t *twinning, ns []int64) ([]*Twins, error) {
	groups := map[[32]byte]*Twins{}
	hashes := map[*Twins][32]byte{}
	var found []*Twins
	for _, n := range ns {
		s, err := h.steps.decision(ctx, place{t.partition, n})
		if err != nil {
			return nil, err
		}
		m, content, err := h.content(ctx, s)
		if err != nil {
			return nil, err
		}
		g := groups[content.same]
		if g == nil {
			g = &Twins{Key: t.stream.String(), Cause: s.Cause, Whole: true}
			groups[content.same], hashes[g] = g, content.whole
		}
		if slices.ContainsFunc(g.Messages, func(o Twin) bool { return o.ID == s.ID }) { // of other senders
			continue
		}
		if g.Messages = append(g.Messages, m); len(g.Messages) == 2 {
			found = append(found, g)
		}
		g.Whole = g.Whole && content.whole == hashes[g]
	}
	return found, nil
}

// content is what tells whether messages say the same.
type content struct{ whole, same [32]byte }

// content reads a message. Where the inbox has lost it, there is its hash in the journal yet.
func (h *History) content(ctx context.Context, s *Step) (Twin, content, error) {
	m := Twin{ID: s.ID, Position: s.Position, Version: s.Version, Type: s.Type, Status: s.Status.String()}
	env, err := h.envelope(ctx, s.Position)
	if errors.Is(err, driver.ErrTrimmed) {
		d, err := h.source.Decision(ctx, s.Position.Partition, s.N)
		if err != nil {
			return m, content{}, err
		}
		return m, content{d.Hash, d.Hash}, nil
	}
	if err != nil {
		return m, content{}, err
	}
	m.Payload = jsonOf(env.Payload)
	c := content{} // what has no canonical form is hashed by its bytes
	c.whole, _ = wire.ContentHash(env)
	if c.same = c.whole; !s.Cause.IsZero() {
		c.same, _ = wire.ContentHash(&deja.Envelope{Type: env.Type, ContentType: env.ContentType, Payload: env.Payload})
	}
	return m, c, nil
}

// has reports whether a message is one of the twins.
func (t *Twins) has(id deja.ID) bool {
	return slices.ContainsFunc(t.Messages, func(m Twin) bool { return m.ID == id })
}
