package canon

import (
	"slices"
	"strconv"
)

func (f *flattener) document(r ref, pl *place) {
	f.begin()
	if f.err == nil {
		f.value(r, pl)
	}
	f.end()
}

// value reads a value of r, whose place is pl or nil.
func (f *flattener) value(r ref, pl *place) {
	k := r.kind
	if k == open {
		k = openKind(f.peek())
	}
	switch {
	case k == scalar || k == opaque || f.peek() == 'n':
		f.leaf(r, pl, k)
	case k == structure:
		f.structure(r, pl)
	case k == mapping:
		f.mapping(r, pl)
	default:
		f.list(r, pl)
	}
}

func openKind(first byte) kind {
	switch first {
	case '{':
		return mapping
	case '[':
		return list
	}
	return scalar
}

// leaf reads a scalar, an opaque value or null.
func (f *flattener) leaf(r ref, pl *place, k kind) {
	lo := len(f.values)
	if c := f.peek(); k != opaque && (c == '{' || c == '[') {
		f.unexpected("a string, number, true, false or null")
		return
	}
	f.values = f.scanner.value(f.values)
	if r.hides(f.values[lo:]) {
		f.values = f.values[:lo]
		return
	}
	f.emit(pl, lo)
}

// emit adds the leaf whose value begins at lo.
func (f *flattener) emit(pl *place, lo int) {
	l := leaf{place: pl, lo: lo, hi: len(f.values)}
	if pl == nil {
		l.pathLo = len(f.paths)
		f.paths = append(f.paths, f.path...)
		l.pathHi = len(f.paths)
	}
	f.leaves = append(f.leaves, l)
}

// emitEmpty adds token as the leaf of a value of which no leaf came after the
// first n, if such a value shows.
func (f *flattener) emitEmpty(r ref, pl *place, n int, token string) {
	if r.shown == nonZero || len(f.leaves) > n || f.err != nil {
		return
	}
	lo := len(f.values)
	f.values = append(f.values, token...)
	f.emit(pl, lo)
}

// structure reads the object of a struct.
func (f *flattener) structure(r ref, pl *place) {
	if !f.at('{', "an object") {
		return
	}
	if !pl.planned() {
		f.leave(pl)
	}
	leaves, seen := len(f.leaves), f.see(len(r.fields))
	f.enter()
	for n, i := 0, -1; f.more('}', n); n++ {
		if i = f.field(r.node, i+1, seen); i >= 0 {
			f.entry(r.fields[i].ref, pl.kid(i), r.fields[i].name)
		}
	}
	f.seen = f.seen[:seen]
	f.emitEmpty(r, pl, leaves, "{}")
}

// see makes room to note which of n fields were seen, and returns where.
func (f *flattener) see(n int) int {
	base := len(f.seen)
	f.seen = slices.Grow(f.seen, n)[:base+n]
	clear(f.seen[base:])
	return base
}

// field reads a key, which is probably that of the field guess, and returns the
// index of its field, -1 if it fails.
func (f *flattener) field(n *node, guess, seen int) int {
	i, at := guess, f.pos
	if guess == len(n.fields) || !f.skip(n.fields[guess].token) {
		i = f.search(n, guess)
	}
	if i < 0 {
		return -1
	}
	if f.seen[seen+i] {
		f.refuseKey(member{key: n.fields[i].name, at: at}, twice)
		return -1
	}
	f.seen[seen+i] = true
	return i
}

// skip reads token if it comes next.
func (f *flattener) skip(token string) bool {
	end := f.pos + len(token)
	if end > len(f.src) || string(f.src[f.pos:end]) != token {
		return false
	}
	f.pos = end
	return true
}

// search reads a key and looks up its field.
func (f *flattener) search(n *node, guess int) int {
	mark := len(f.text)
	t := f.key(&order{})
	if t.body == nil {
		return -1
	}
	i := n.find(t.body, guess)
	if i < 0 {
		f.refuseKey(member{key: t.body, at: t.at}, "no field of this struct; flatten only what the same type wrote")
	}
	f.text = f.text[:mark]
	return i
}

// mapping reads the object of a map.
func (f *flattener) mapping(r ref, pl *place) {
	if !f.at('{', "an object") {
		return
	}
	f.leave(pl)
	leaves, o := len(f.leaves), f.open()
	for n := 0; f.more('}', n); n++ {
		if key := f.name(&o); key != nil {
			f.entry(r.elem, nil, key)
		}
	}
	f.shut(&o)
	f.emitEmpty(r, pl, leaves, "{}")
}

// list reads the array of a slice or an array.
func (f *flattener) list(r ref, pl *place) {
	if !f.at('[', "an array") {
		return
	}
	f.leave(pl)
	f.enter()
	leaves, n := len(f.leaves), 0
	for ; f.more(']', n); n++ {
		f.element(r.elem, n)
	}
	if n > 0 && r.kind != tuple {
		f.length(n)
	}
	f.emitEmpty(r, pl, leaves, "[]")
}

func (f *flattener) at(first byte, want string) bool {
	if f.peek() != first {
		f.unexpected(want)
	}
	return f.err == nil
}

// leave makes f.path the path to pl: what is inside has no place.
func (f *flattener) leave(pl *place) {
	if pl != nil {
		f.path = append(f.path[:0], pl.path...)
	}
}

// name reads the key of an entry, and notes it.
func (f *flattener) name(o *order) []byte {
	t := f.key(o)
	f.members = append(f.members, member{key: t.body, at: t.at})
	return t.body
}

// shut ends an object: its keys must differ.
func (f *flattener) shut(o *order) {
	if f.err == nil && f.mode == strict {
		f.sort(o)
	}
	f.close(o)
}

// entry reads the value of key, which lies at pl or at key below f.path.
func (f *flattener) entry(r ref, pl *place, key []byte) {
	base := len(f.path)
	if pl == nil {
		f.path = appendKey(f.path, key)
	}
	if f.value(r, pl); f.err != nil {
		f.inKey(key)
	}
	f.path = f.path[:base]
}

// element reads the element i of the array at f.path.
func (f *flattener) element(r ref, i int) {
	base := len(f.path)
	f.path = appendIndex(f.path, i)
	if f.value(r, nil); f.err != nil {
		f.inIndex(i)
	}
	f.path = f.path[:base]
}

// length adds the length of the array at f.path.
func (f *flattener) length(n int) {
	base, lo := len(f.path), len(f.values)
	f.path = append(appendDot(f.path), '#')
	f.values = strconv.AppendInt(f.values, int64(n), 10)
	f.emit(nil, lo)
	f.path = f.path[:base]
}
