package canon

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Shape describes a Go type as encoding/json sees it, so that the JSON of a
// value can be taken apart into fields ([Shape.Flatten]): a zero member of a
// struct is left out, so that a new member changes no old hash, while an entry
// of a map is kept, zero or not. A Shape comes from [ShapeOf]; it is immutable,
// and may be used concurrently.
type Shape struct {
	root ref
	plan *place
}

// kind is what the JSON of a type looks like.
type kind uint8

const (
	scalar kind = iota + 1 // a string, an integer, a bool
	opaque                 // any JSON, written by a method of the type
	structure
	mapping
	list  // a slice
	tuple // an array: its length is no news
	open  // any JSON of a type unknown
)

// node is a type.
type node struct {
	kind   kind
	fields []field        // of a structure
	byName map[string]int // index in fields
	elem   ref            // of a mapping, list or tuple
	length int            // of a tuple
	zero   string         // the token of the zero value of a scalar or opaque
	faults []fault
}

// field is a member of a structure.
type field struct {
	name  []byte
	token string // the name as the JSON has it, with its colon
	ref   ref
}

// ref is a node where it is used.
type ref struct {
	*node
	shown shown
}

// shown says which values leave a field even if nothing in them does.
type shown uint8

const (
	nonZero shown = iota // members of structs, elements of slices
	nonNull              // the same behind a pointer: Go code can tell nil from zero
	always               // entries of maps
)

// fault is a reason to refuse a type.
type fault struct {
	path string // from the type that holds it, with a dot before it
	msg  string
}

// ShapeOf returns the shape of t, or of what t points to. Types that have
// MarshalJSON or MarshalText are opaque: one field, whatever they write.
// Types may recur through pointers, slices and maps.
//
// The error joins one line for each place in t, given by its path with a star
// for any key or index, whose value would be lost in JSON, not come back from
// it, or not be the same on every machine: unexported and hidden fields,
// fields with names that are equal but for case, floats and complex numbers,
// interfaces, channels, functions, maps with keys that are no strings, and
// values of which only a pointer has the methods named above.
//
// ShapeOf writes zero values of opaque types to learn what they look like.
func ShapeOf(t reflect.Type) (*Shape, error) {
	if t == nil {
		return nil, errors.New("no type: the state is a nil interface; use a struct")
	}
	b := builder{nodes: map[reflect.Type]*node{}}
	root := b.ref(t, nonZero)
	if len(root.faults) > 0 {
		return nil, joinFaults(root.faults)
	}
	root.shown = nonZero
	p := planner{budget: maxPlaces}
	return &Shape{root: root, plan: p.place(root.node, nil, nil)}, nil
}

func joinFaults(faults []fault) error {
	errs := make([]error, len(faults))
	for i, f := range faults {
		errs[i] = fmt.Errorf("%s: %s", cmp.Or(strings.TrimPrefix(f.path, "."), "state"), f.msg)
	}
	return errors.Join(errs...)
}

// maxFaults bounds the faults reported: shared types multiply their paths.
const maxFaults = 100

// blame adds the faults of child, which n holds at segment.
func (n *node) blame(segment string, child []fault) {
	for _, f := range child[:min(len(child), maxFaults-len(n.faults))] {
		n.faults = append(n.faults, fault{segment + f.path, f.msg})
	}
}

// isZero reports whether token is what the zero value of a scalar or opaque
// type looks like.
func (n *node) isZero(token []byte) bool {
	return string(token) == n.zero || n.kind != opaque && string(token) == "null"
}

// hides reports whether a leaf with this token leaves no field.
func (r ref) hides(token []byte) bool {
	switch r.shown {
	case nonZero:
		return r.isZero(token)
	case nonNull:
		return string(token) == "null"
	case always:
	}
	return false
}

// find returns the index of the field key, where guess is likely; -1 if there
// is none.
func (n *node) find(key []byte, guess int) int {
	if guess < len(n.fields) && string(n.fields[guess].name) == string(key) {
		return guess
	}
	if i, ok := n.byName[string(key)]; ok {
		return i
	}
	return -1
}

// maxPlaces bounds the paths that are kept for one shape.
const maxPlaces = 4096

// place is a node at the end of a path that leads through structs only. Such
// paths are built once.
type place struct {
	path string
	kids []*place // of a structure's fields; nil if they have no place
}

// planned reports whether the fields of pl have places.
func (pl *place) planned() bool { return pl != nil && pl.kids != nil }

// kid returns the place of the field i of pl, nil if it has none.
func (pl *place) kid(i int) *place {
	if !pl.planned() {
		return nil
	}
	return pl.kids[i]
}

// planner makes places.
type planner struct {
	budget int
}

func (p *planner) place(n *node, path []byte, above []*node) *place {
	p.budget--
	pl := &place{path: string(path)}
	if n.kind != structure || p.budget < len(n.fields) || slices.Contains(above, n) {
		return pl
	}
	above = append(above, n)
	pl.kids = make([]*place, len(n.fields))
	for i, f := range n.fields {
		pl.kids[i] = p.place(f.ref.node, appendKey([]byte(pl.path), f.name), above)
	}
	return pl
}
