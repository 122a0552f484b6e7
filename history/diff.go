package history

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
)

// A Diff is what makes the state at one point that at another.
type Diff struct {
	A, B    Origin
	Changes []Write     // of fields, in order of paths
	Patch   []Operation // a JSON Patch that makes the JSON of B of that of A
}

// Diff compares two points, such as account/42@17 and account/42@HEAD, or those of two keys ([History.At]).
func (h *History) Diff(ctx context.Context, a, b string) (*Diff, error) {
	from, err := h.At(ctx, a)
	if err != nil {
		return nil, err
	}
	to, err := h.At(ctx, b)
	if err != nil {
		return nil, err
	}
	return h.DiffOf(ctx, from, to)
}

// DiffOf compares two points. Of one key the changes are what was written between them, of two what differs.
func (h *History) DiffOf(ctx context.Context, a, b Point) (*Diff, error) {
	var d Diff
	var docs [2]json.RawMessage
	var err error
	if docs[0], d.A, err = h.State(ctx, a); err != nil {
		return nil, err
	}
	if docs[1], d.B, err = h.State(ctx, b); err != nil {
		return nil, err
	}
	if a.Stream == b.Stream {
		d.Changes, err = h.written(ctx, a, b)
	} else {
		d.Changes, err = h.compared(a.Stream, docs[0], b.Stream, docs[1])
	}
	if err != nil {
		return nil, err
	}
	before, err := parseTree(docs[0])
	if err != nil {
		return nil, err
	}
	after, err := parseTree(docs[1])
	if err != nil {
		return nil, err
	}
	d.Patch = patch([]Operation{}, "", before, after)
	return &d, nil
}

// written returns what the messages of a key between two points changed in all.
func (h *History) written(ctx context.Context, a, b Point) ([]Write, error) {
	back := a.n() > b.n()
	if back {
		a, b = b, a
	}
	all := map[string]Write{}
	for s, err := range h.steps.key(ctx, a.Stream, a.n(), b.n(), false) {
		if err != nil {
			return nil, err
		}
		for _, w := range s.Writes {
			if first, ok := all[w.Path]; ok {
				w.Old = first.Old
			}
			all[w.Path] = w
		}
	}
	changes := []Write{}
	for _, w := range all {
		if back {
			w.Old, w.New = w.New, w.Old
		}
		if w.Old != w.New {
			changes = append(changes, w)
		}
	}
	slices.SortFunc(changes, func(a, b Write) int { return cmp.Compare(a.Path, b.Path) })
	return changes, nil
}

// compared returns in which fields two states differ.
func (h *History) compared(a deja.Stream, docA []byte, b deja.Stream, docB []byte) ([]Write, error) {
	before, err := h.machine.Flatten(nil, a.Aggregate, docA)
	if err != nil {
		return nil, err
	}
	after, err := h.machine.Flatten(nil, b.Aggregate, docB)
	if err != nil {
		return nil, err
	}
	changes := []Write{}
	for _, c := range canon.Diff(before, after) {
		changes = append(changes, Write{c.Path, c.Old, c.New})
	}
	return changes, nil
}
