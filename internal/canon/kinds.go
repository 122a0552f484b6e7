package canon

import (
	"encoding/json"
	"iter"
	"strings"
)

// Kind is what a value of a [Type] is, as its fields tell.
type Kind uint8

// The kinds. Those from Struct on have no token of their own, but where they are empty entries of a map.
const (
	Any    Kind = iota + 1 // any JSON, as a method of the type writes it
	Bool                   // true or false
	Int                    // an integer of any size
	Text                   // a string
	Struct                 // members, see Type.Members
	Map                    // entries, see Type.Elem
	List                   // elements, and their number at #
	Array                  // elements, always Type.Len of them
)

// A Type is the type of a state, or of something in it. It is comparable.
type Type struct{ ref ref }

// Type returns the type of the state itself.
func (s *Shape) Type() Type { return Type{s.root} }

// Kind returns what values are.
func (t Type) Kind() Kind {
	switch t.ref.kind {
	case structure:
		return Struct
	case mapping:
		return Map
	case list:
		return List
	case tuple:
		return Array
	case scalar:
		switch {
		case t.ref.zero == "false":
			return Bool
		case strings.HasPrefix(t.ref.zero, `"`):
			return Text
		}
		return Int
	case opaque, open:
	}
	return Any
}

// Nullable reports whether null is a value besides the others: Go has a pointer there.
func (t Type) Nullable() bool { return t.ref.shown == nonNull }

// Plain returns the type without regard to where it is used: of all uses of one type the same.
func (t Type) Plain() Type { return Type{ref{t.ref.node, nonZero}} }

// Zero returns the token of a value that leaves no field: "null" where null is one, "" if it is not known, and of types
// without a token.
func (t Type) Zero() string {
	if t.Nullable() {
		return "null"
	}
	return t.ref.zero
}

// Members yields the members of a Struct, as their names in JSON, in order.
func (t Type) Members() iter.Seq2[string, Type] {
	return func(yield func(string, Type) bool) {
		for _, f := range t.ref.fields {
			if !yield(string(f.name), Type{f.ref}) {
				return
			}
		}
	}
}

// Member returns the index of a member of a Struct, and its type.
func (t Type) Member(name string) (i int, member Type, ok bool) {
	i, ok = t.ref.byName[name]
	if !ok {
		return 0, Type{}, false
	}
	return i, Type{t.ref.fields[i].ref}, true
}

// Len returns the number of a Struct's members, or of an Array's elements.
func (t Type) Len() int {
	if t.ref.kind == tuple {
		return t.ref.length
	}
	return len(t.ref.fields)
}

// Elem returns the type of the entries or elements of a Map, List or Array.
func (t Type) Elem() Type { return Type{t.ref.elem} }

// AppendMember appends to a path the step to a member or an entry.
func AppendMember(path, name string) string { return string(appendKey([]byte(path), []byte(name))) }

// CutStep takes the first step off a path: the name of a member or an entry, an index, or # for a length. Quoted is set
// for a name in brackets, which is no index and no length. It expects a path as [Shape.Flatten] makes it.
func CutStep(path string) (step string, quoted bool, rest string) {
	if strings.HasPrefix(path, "[") {
		return cutQuoted(path)
	}
	i := strings.IndexAny(path, ".[")
	switch {
	case i < 0:
		return path, false, ""
	case path[i] == '.':
		return path[:i], false, path[i+1:]
	}
	return path[:i], false, path[i:]
}

// cutQuoted takes ["…"] off a path.
func cutQuoted(path string) (step string, quoted bool, rest string) {
	end := 2
	for end < len(path) && path[end] != '"' {
		if path[end] == '\\' {
			end++
		}
		end++
	}
	if end+1 >= len(path) {
		return path, true, ""
	}
	if json.Unmarshal([]byte(path[1:end+1]), &step) != nil {
		return path, true, ""
	}
	return step, true, strings.TrimPrefix(path[end+2:], ".")
}
