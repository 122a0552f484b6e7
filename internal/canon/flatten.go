package canon

import (
	"slices"
	"strings"
	"sync"
)

// Field is one leaf of a state: the canonical JSON token of a scalar, and the
// path to it.
//
// A path joins the names of its steps with dots: JSON names, keys of maps,
// indexes from 0, and # for the length of a slice. A name that is not made of
// A-Z, a-z, 0-9, _ and - stands without a dot in brackets, as a canonical JSON
// string: limits["a.b"].daily. The state itself has the path "". No two leaves
// of a state have one path, and a path reads in one way only.
type Field struct {
	Path  string
	Value string
}

// Flatten appends the fields of state to dst, sorted by the bytes of their
// paths, and returns the extended slice. State is the JSON of a value of the
// shape's type, as json.Marshal wrote it; members may be in any order.
//
//   - A scalar is a field, unless it is zero: 0, "" or false, null, or what the
//     zero value of an opaque type looks like.
//   - A struct is the fields of its members. An array is those of its elements.
//   - A slice that is not empty is its length, and the fields of its elements.
//   - A map is the fields of its entries. An entry is never left out: one
//     without a field is itself a field, with its zero token, or {} for a struct
//     or map, [] for a slice or array, null for nil.
//   - What a pointer leads to is not left out either, though zero; nil is.
//
// So two values have the same fields if and only if they have the same JSON,
// except that a slice or map in a struct or slice may be nil in one and empty in
// the other, and a pointer that is embedded nil in one and to a zero struct in
// the other.
//
// The error is an [*Error] if state is not of the shape's type, or has a value
// that [Append] refuses; keys of maps may differ only by case. The slice
// returned with an error is dst, as long as it was.
//
// Flatten may be called concurrently. It does not keep state. The new strings
// share one or two blocks of memory: clone what outlives the rest.
func (s *Shape) Flatten(dst []Field, state []byte) ([]Field, error) {
	f := newFlattener(state, strict)
	defer f.free()
	f.document(s.root, s.plan)
	if f.err != nil {
		return dst, f.fault()
	}
	return f.appendFields(dst), nil
}

// flattener takes one JSON text apart. A value that has a place is told it; for
// one that has none, path is the path to it.
type flattener struct {
	scanner
	path   []byte
	paths  []byte // of the leaves that have no place, end to end
	values []byte // of the leaves, end to end
	leaves []leaf
	seen   []bool // of the fields of each open struct: was it seen
}

// leaf is a field whose strings have not been made yet.
type leaf struct {
	place          *place // or its path is in paths
	pathLo, pathHi int
	lo, hi         int // in values
}

var flatteners = sync.Pool{New: func() any { return new(flattener) }}

func newFlattener(src []byte, m mode) *flattener {
	f := flatteners.Get().(*flattener)
	f.reset(src, m)
	return f
}

func (f *flattener) free() {
	clear(f.leaves)
	f.path, f.paths, f.values = f.path[:0], f.paths[:0], f.values[:0]
	f.leaves, f.seen = f.leaves[:0], f.seen[:0]
	if f.forget() && cap(f.path)+cap(f.paths)+cap(f.values)+cap(f.leaves) <= keep {
		flatteners.Put(f)
	}
}

// appendFields makes the fields and sorts them.
func (f *flattener) appendFields(dst []Field) []Field {
	n := len(dst)
	dst = slices.Grow(dst, len(f.leaves))
	paths, values := string(f.paths), string(f.values)
	for i := range f.leaves {
		l := &f.leaves[i]
		dst = append(dst, Field{Path: l.path(paths), Value: values[l.lo:l.hi]})
	}
	slices.SortFunc(dst[n:], compareFields)
	return dst
}

// compareFields looks at values only where a text had a key twice.
func compareFields(a, b Field) int {
	if c := strings.Compare(a.Path, b.Path); c != 0 {
		return c
	}
	return strings.Compare(a.Value, b.Value)
}

func (l *leaf) path(paths string) string {
	if l.place != nil {
		return l.place.path
	}
	return paths[l.pathLo:l.pathHi]
}
