package canon

import (
	"encoding"
	"encoding/json"
	"reflect"
)

// builder makes the nodes of a type, one for each type it meets.
type builder struct {
	nodes map[reflect.Type]*node
}

// ref returns the use of t, behind any pointers.
func (b *builder) ref(t reflect.Type, s shown) ref {
	by := t // the last pointer
	for depth := 0; t.Kind() == reflect.Pointer; depth++ {
		if depth == MaxDepth {
			return ref{refused("a pointer that leads to no value"), s}
		}
		by, t, s = t, t.Elem(), max(s, nonNull)
	}
	if by != t && writesItself(by) {
		return ref{&node{kind: opaque, zero: zeroToken(reflect.New(t))}, s}
	}
	return ref{b.node(t), s}
}

func refused(msg string) *node { return &node{faults: []fault{{msg: msg}}} }

// node returns the node of t. For a type inside itself it is not finished yet.
func (b *builder) node(t reflect.Type) *node {
	if n, ok := b.nodes[t]; ok {
		return n
	}
	n := new(node)
	b.nodes[t] = n
	b.fill(n, t)
	return n
}

func (b *builder) fill(n *node, t reflect.Type) {
	switch {
	case t.Kind() == reflect.Interface:
		n.blame("", unfit(t))
	case writesItself(t):
		n.kind, n.zero = opaque, zeroToken(reflect.Zero(t))
	case writesItself(reflect.PointerTo(t)):
		n.blame("", []fault{{msg: t.String() + " writes its JSON by a method of its pointer, which encoding/json skips where it has a value; use a pointer, or declare the method on the value"}})
	default:
		b.fillKind(n, t)
	}
}

func (b *builder) fillKind(n *node, t reflect.Type) {
	switch t.Kind() {
	case reflect.Struct:
		b.structure(n, t)
	case reflect.Map:
		b.mapping(n, t)
	case reflect.Slice:
		b.slice(n, t)
	case reflect.Array:
		b.elements(n, tuple, t.Elem(), nonZero)
		n.length = t.Len()
	default:
		n.kind, n.zero = scalar, zeroScalar(t)
		n.blame("", unfit(t))
	}
}

func (b *builder) mapping(n *node, t reflect.Type) {
	b.elements(n, mapping, t.Elem(), always)
	if t.Key().Kind() != reflect.String {
		n.blame("", []fault{{msg: t.String() + " has keys that are no strings; make its key type a string"}})
	}
}

func (b *builder) slice(n *node, t reflect.Type) {
	if t.Elem().Kind() == reflect.Uint8 && !writesItself(reflect.PointerTo(t.Elem())) {
		n.kind, n.zero = scalar, `""` // encoding/json writes bytes as base64
		return
	}
	b.elements(n, list, t.Elem(), nonZero)
}

func (b *builder) elements(n *node, k kind, t reflect.Type, s shown) {
	n.kind, n.elem = k, b.ref(t, s)
	n.blame(".*", n.elem.faults)
}

// unfit returns the fault of the kinds that no state may have.
func unfit(t reflect.Type) []fault {
	var why string
	switch t.Kind() {
	case reflect.Interface:
		why = "is an interface, and JSON does not tell what was in it; use a concrete type"
	case reflect.Float32, reflect.Float64:
		why = "is not computed alike on all machines; use integer minor units or a decimal string"
	case reflect.Complex64, reflect.Complex128:
		why = "has no JSON form; use two integers"
	case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Uintptr:
		why = "is no data; keep it out of the state"
	default:
		return nil
	}
	return []fault{{msg: t.String() + " " + why}}
}

// zeroScalar returns the token of the zero value of a scalar type.
func zeroScalar(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.Bool:
		return "false"
	case t.Kind() == reflect.String && t != reflect.TypeFor[json.Number]():
		return `""`
	}
	return "0"
}

// writesItself reports whether t has a method that writes its JSON.
func writesItself(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[json.Marshaler]()) || t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

// zeroToken returns what zero, of an opaque type, looks like, "" if it cannot be
// written: methods may fail, and even panic, on a zero value.
func zeroToken(zero reflect.Value) (token string) {
	defer func() { _ = recover() }()
	text, err := json.Marshal(zero.Interface())
	if err != nil {
		return ""
	}
	form, err := Append(nil, text)
	if err != nil {
		return ""
	}
	return string(form)
}
