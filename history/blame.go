package history

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
)

// A Blame is a field of a state, and who wrote it last. All values are canonical JSON tokens.
type Blame struct {
	Path  string
	Value string // at the point; "" if the state has nothing there
	Old   string // before the last write; "" if absent or zero
	New   string // after it; "" if absent or zero
	By    *Writer
}

// A Writer is a message that wrote a field. It is nil for a field that was never written.
type Writer struct {
	*Step
	Actor  string // who asked for it
	Source string // and through whom
}

// Blame tells of each field of a state who wrote it last, at a point such as account/42@17 ([History.At]). Paths restrict the
// answer to these fields and those below them; without one it is about all, those that were removed since among them. A
// field that is named is in the answer, whether it was ever written or not. The answer is in order of paths.
func (h *History) Blame(ctx context.Context, at string, paths ...string) ([]Blame, error) {
	p, err := h.At(ctx, at)
	if err != nil {
		return nil, err
	}
	return h.BlameOf(ctx, p, paths...)
}

// BlameOf tells of each field of the state at a point who wrote it last.
func (h *History) BlameOf(ctx context.Context, p Point, paths ...string) ([]Blame, error) {
	doc, _, err := h.State(ctx, p)
	if err != nil {
		return nil, err
	}
	state, err := parseTree(doc)
	if err != nil {
		return nil, err
	}
	last, err := h.lastWrites(ctx, p, state, paths)
	if err != nil {
		return nil, err
	}
	read := h.reader(ctx)
	var all []Blame
	for path, w := range last {
		if w.New == "" && holds(state, path) {
			continue // an entry that was empty, and now has fields of its own
		}
		b := Blame{Path: path, Old: w.Old, New: w.New}
		if b.By, err = read(w.step); err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	all = append(all, neverWritten(state, paths, last)...)
	for i := range all {
		if v, ok := descend(state, all[i].Path); ok {
			all[i].Value = tokenOf(v)
		}
	}
	slices.SortFunc(all, func(a, b Blame) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

// holds reports whether a state has something with members or elements at a path.
func holds(state any, path string) bool {
	switch v, _ := descend(state, path); v := v.(type) {
	case map[string]any:
		return len(v) > 0
	case []any:
		return len(v) > 0
	}
	return false
}

// lastWrite is a write, and the step that did it.
type lastWrite struct {
	Write
	step *Step
}

// lastWrites returns the last write of each field that the paths name. It looks no further back than it must.
func (h *History) lastWrites(ctx context.Context, p Point, state any, paths []string) (map[string]lastWrite, error) {
	last := map[string]lastWrite{}
	for s, err := range h.steps.key(ctx, p.Stream, 0, p.n(), true) {
		if err != nil {
			return nil, err
		}
		for _, w := range s.Writes {
			if _, known := last[w.Path]; !known && named(w.Path, paths) {
				last[w.Path] = lastWrite{w, s}
			}
		}
		if len(paths) > 0 && !slices.ContainsFunc(paths, func(path string) bool { return open(path, state, last) }) {
			break
		}
	}
	return last, nil
}

// open reports whether writes of a path may be found further back that are news: all but the one of a scalar.
func open(path string, state any, last map[string]lastWrite) bool {
	_, known := last[path]
	if !known {
		return true
	}
	switch v, _ := descend(state, path); v.(type) {
	case nil, map[string]any, []any:
		return true
	}
	return false
}

func named(field string, paths []string) bool {
	return len(paths) == 0 || slices.ContainsFunc(paths, func(path string) bool { return within(field, path) })
}

// neverWritten returns the fields that a state has, or that are named, and nothing wrote.
func neverWritten(state any, paths []string, last map[string]lastWrite) (all []Blame) {
	fields := slices.Sorted(maps.Keys(last))
	written := func(path string) bool {
		i, _ := slices.BinarySearch(fields, path)
		for ; i < len(fields) && strings.HasPrefix(fields[i], path); i++ {
			if within(fields[i], path) {
				return true
			}
		}
		return false
	}
	leaves("", state, func(path string, _ any) {
		if named(path, paths) && !written(path) {
			all = append(all, Blame{Path: path})
		}
	})
	for _, path := range paths {
		below := func(b Blame) bool { return within(b.Path, path) }
		if !written(path) && !slices.ContainsFunc(all, below) {
			all = append(all, Blame{Path: path})
		}
	}
	return all
}

// Writes yields all writes of some fields and those below them up to a point, the last first; without a path of all fields.
// Value is what was written.
func (h *History) Writes(ctx context.Context, p Point, paths ...string) iter.Seq2[Blame, error] {
	return func(yield func(Blame, error) bool) {
		read := h.reader(ctx)
		for s, err := range h.steps.key(ctx, p.Stream, 0, p.n(), true) {
			if err != nil {
				yield(Blame{}, err)
				return
			}
			for _, w := range s.Writes {
				if !named(w.Path, paths) {
					continue
				}
				by, err := read(s)
				if !yield(Blame{Path: w.Path, Value: w.New, Old: w.Old, New: w.New, By: by}, err) || err != nil {
					return
				}
			}
		}
	}
}

// reader returns a function that reads who sent a step's message; of one step after another it reads each once.
func (h *History) reader(ctx context.Context) func(*Step) (*Writer, error) {
	known := map[int64]*Writer{} // one key is in one partition
	return func(s *Step) (*Writer, error) {
		if w, ok := known[s.N]; ok {
			return w, nil
		}
		e, err := h.Entry(ctx, s)
		if err != nil {
			return nil, err
		}
		if len(known) > 1000 {
			clear(known)
		}
		known[s.N] = &Writer{s, e.Cause.Actor, e.Cause.Source}
		return known[s.N], nil
	}
}
