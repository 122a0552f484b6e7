package canon

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// structure fills n with the fields of t, in the order of the JSON. It does
// not follow encoding/json in choosing among fields of one name: it refuses
// them.
func (b *builder) structure(n *node, t reflect.Type) {
	n.kind = structure
	b.fields(n, t, []reflect.Type{t})
	n.byName = make(map[string]int, len(n.fields))
	for i, f := range n.fields {
		n.byName[string(f.name)] = i
		n.blame(segment(string(f.name)), f.ref.faults)
		n.blame(segment(string(f.name)), clash(n.fields[:i], f))
	}
}

// clash returns the fault of a field that encoding/json takes for one before
// it.
func clash(before []field, f field) []fault {
	for _, g := range before {
		switch {
		case bytes.Equal(g.name, f.name):
			return []fault{{msg: "two fields have this JSON name, and encoding/json drops one or both; rename one"}}
		case bytes.EqualFold(g.name, f.name):
			return []fault{{msg: "differs from " + string(g.name) + " only by case, and encoding/json reads both into one; rename one"}}
		}
	}
	return nil
}

// fields appends to n the fields of t, and those promoted from structs that t
// embeds; into lists the types from the outermost to t.
func (b *builder) fields(n *node, t reflect.Type, into []reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := parseTag(f)
		inner := embedded(f)
		switch {
		case f.Name == "_" || tag.skip && (f.IsExported() || inner != nil):
		case inner == nil && !f.IsExported():
			n.blameField(f, "is not exported, and JSON loses it; export it or keep it out of the state")
		case inner != nil && !f.IsExported() && f.Type.Kind() == reflect.Pointer:
			n.blameField(f, "is a pointer to an embedded unexported struct, and encoding/json cannot fill it; embed the struct itself")
		case tag.odd:
			n.blameField(f, "has a tag whose name encoding/json ignores; use letters, digits, _ and -")
		case inner == nil || tag.name != "":
			b.field(n, f, tag)
		case slices.Contains(into, inner):
			n.blameField(f, "embeds a struct in itself, and JSON loses it; give the field a name")
		default:
			b.fields(n, inner, append(into, inner))
		}
	}
}

func (n *node) blameField(f reflect.StructField, msg string) {
	n.blame(segment(f.Name), []fault{{msg: msg}})
}

func (b *builder) field(n *node, f reflect.StructField, tag tag) {
	name := tag.name
	if name == "" {
		name = f.Name
	}
	r := b.ref(f.Type, nonZero)
	if tag.quoted && r.kind == scalar && !doublePointer(f.Type) {
		r.node = &node{kind: scalar, zero: quoted(r.zero), faults: r.faults}
	}
	n.fields = append(n.fields, field{[]byte(name), quoted(name) + ":", r})
}

// doublePointer reports whether t is a pointer beyond the one that the option
// "string" sees through.
func doublePointer(t reflect.Type) bool {
	return t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Pointer
}

func quoted(token string) string { return string(appendQuoted(nil, []byte(token))) }

// embedded returns the struct that f embeds, itself or by pointer, or nil.
func embedded(f reflect.StructField) reflect.Type {
	t := f.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !f.Anonymous || t.Kind() != reflect.Struct {
		return nil
	}
	return t
}

// tag is what a json tag says.
type tag struct {
	name   string
	odd    bool // the name is none, or one depending on the version of encoding/json
	skip   bool
	quoted bool
}

func parseTag(f reflect.StructField) tag {
	text := f.Tag.Get("json")
	name, options, _ := strings.Cut(text, ",")
	return tag{
		name:   name,
		odd:    strings.ContainsFunc(name, odd),
		skip:   text == "-",
		quoted: slices.Contains(strings.Split(options, ","), "string"),
	}
}

// odd reports whether encoding/json takes no name from a tag that has c in it.
func odd(c rune) bool {
	return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", c)
}

// segment returns the path segment of a name, with its dot.
func segment(name string) string {
	return string(appendKey([]byte{'.'}, []byte(name))[1:])
}
