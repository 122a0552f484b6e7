package canon

import (
	"bytes"
	"cmp"
	"slices"
	"unicode"
	"unicode/utf8"
)

// member is one member of an open object.
type member struct {
	key    []byte // unescaped
	at     int    // offset in the source, for errors
	lo, hi int    // the canonical member, counted from the object's first byte
}

// order is what is known of the keys of an open object.
type order struct {
	last    []byte
	untidy  bool // some key does not follow the one before it
	cased   bool // some key may equal another but for case
	members int  // where they begin in the scanner's stack
	text    int  // where they begin in its text buffer
}

// object reads an object and appends its canonical form.
func (s *scanner) object(dst []byte) []byte {
	start, o := len(dst), s.open()
	dst = append(dst, '{')
	for n := 0; s.more('}', n); n++ {
		if n > 0 {
			dst = append(dst, ',')
		}
		m := member{lo: len(dst) - start}
		dst = s.member(dst, &m, &o)
		m.hi = len(dst) - start
		s.members = append(s.members, m)
	}
	if s.err == nil {
		dst = s.settle(dst, start, &o)
	}
	s.close(&o)
	return append(dst, '}')
}

// member reads one member and appends its canonical form.
func (s *scanner) member(dst []byte, m *member, o *order) []byte {
	t := s.key(o)
	if s.err != nil {
		return dst
	}
	m.key, m.at = t.body, t.at
	dst = append(s.appendText(dst, t), ':')
	if dst = s.value(dst); s.err != nil {
		s.inKey(m.key)
	}
	return dst
}

// open enters an object.
func (s *scanner) open() order {
	s.enter()
	return order{members: len(s.members), text: len(s.text)}
}

// close forgets the members of an object.
func (s *scanner) close(o *order) {
	clear(s.members[o.members:])
	s.members, s.text = s.members[:o.members], s.text[:o.text]
}

// key reads a key and the colon after it; what it returns has no body if and
// only if it fails.
func (s *scanner) key(o *order) text {
	if s.peek() != '"' {
		s.unexpected("a key in quotes")
		return text{}
	}
	t := s.string()
	if s.err != nil {
		return text{}
	}
	if s.peek() != ':' {
		s.unexpected("':'")
		return text{}
	}
	s.pos++
	o.add(t)
	return t
}

func (o *order) add(t text) {
	if o.last != nil && bytes.Compare(o.last, t.body) >= 0 {
		o.untidy = true
	}
	o.last, o.cased = t.body, o.cased || t.cased
}

// settle brings the members of the object at dst[start:] in order.
func (s *scanner) settle(dst []byte, start int, o *order) []byte {
	if o.cased {
		s.refuseFolded(o)
	}
	if !o.untidy {
		return dst
	}
	s.sort(o)
	return s.reorder(dst, start, s.members[o.members:])
}

const twice = "a key that this object has already, and readers differ on which of them counts; send it once"

// sort sorts the members of an object, and refuses those of equal keys.
func (s *scanner) sort(o *order) {
	if !o.untidy {
		return
	}
	ms := s.members[o.members:]
	slices.SortFunc(ms, func(a, b member) int {
		return cmp.Or(bytes.Compare(a.key, b.key), a.at-b.at)
	})
	for i := 1; i < len(ms); i++ {
		if bytes.Equal(ms[i-1].key, ms[i].key) {
			s.refuseKey(ms[i], twice)
			return
		}
	}
}

func (s *scanner) refuseKey(m member, msg string) {
	if s.err == nil {
		s.failAt(m.at, msg)
		s.inKey(m.key)
	}
}

// reorder rewrites the object at dst[start:] in the order of its members ms.
func (s *scanner) reorder(dst []byte, start int, ms []member) []byte {
	s.swap = append(s.swap[:0], dst[start:]...)
	dst = dst[:start+1]
	for i, m := range ms {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, s.swap[m.lo:m.hi]...)
	}
	return dst
}

// few is the number of members up to which comparing each with each is cheaper
// than sorting.
const few = 8

// refuseFolded fails if two keys of the object differ only by case. It may
// disturb the order of the members.
func (s *scanner) refuseFolded(o *order) {
	ms := s.members[o.members:]
	if len(ms) > few {
		o.untidy = true
		slices.SortFunc(ms, func(a, b member) int {
			return cmp.Or(compareFolded(a.key, b.key), a.at-b.at)
		})
		for i := 1; i < len(ms); i++ {
			s.refuseFoldedPair(ms[i-1], ms[i])
		}
		return
	}
	for i := range ms {
		for j := range i {
			s.refuseFoldedPair(ms[j], ms[i])
		}
	}
}

func (s *scanner) refuseFoldedPair(a, b member) {
	if !alike(a.key, b.key) || !bytes.EqualFold(a.key, b.key) || bytes.Equal(a.key, b.key) {
		return
	}
	other := string(appendQuoted(nil, a.key))
	s.refuseKey(b, "a key that differs from "+other+" only by case, and encoding/json reads both into one field; rename one")
}

// alike reports whether the first bytes of a and b let them be equal but for
// case. Beyond ASCII it cannot tell: the Kelvin sign folds to k.
func alike(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	x, y := a[0], b[0]
	return x|' ' == y|' ' || x >= utf8.RuneSelf || y >= utf8.RuneSelf
}

// compareFolded orders a and b such that it is 0 if and only if
// [bytes.EqualFold] holds.
func compareFolded(a, b []byte) int {
	for len(a) > 0 && len(b) > 0 {
		x, n := utf8.DecodeRune(a)
		y, m := utf8.DecodeRune(b)
		if c := cmp.Compare(fold(x), fold(y)); c != 0 {
			return c
		}
		a, b = a[n:], b[m:]
	}
	return cmp.Compare(len(a), len(b))
}

// fold returns the smallest rune that equals r but for case.
func fold(r rune) rune {
	if r < utf8.RuneSelf {
		if 'a' <= r && r <= 'z' {
			r -= 'a' - 'A'
		}
		return r
	}
	for {
		next := unicode.SimpleFold(r)
		if next <= r {
			return next
		}
		r = next
	}
}
