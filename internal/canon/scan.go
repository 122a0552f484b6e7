package canon

import (
	"strconv"
	"sync"
)

// mode says what a scanner lets pass.
type mode uint8

const (
	// strict refuses all that [Append] refuses.
	strict mode = iota
	// lenient takes any number and repeated keys.
	lenient
)

// scanner reads one JSON text from the front to the back. The first failure
// stays in err; every method that reads does nothing useful after it.
type scanner struct {
	src   []byte
	pos   int
	depth int
	mode  mode
	err   *Error
	trail []step // the path to err, innermost first

	members []member // of the objects that are open, outermost first
	text    []byte   // unescaped forms of their keys, where those had escapes
	swap    []byte   // the members of one object while they change places
}

// keep bounds the buffers that wait in a pool for the next text.
const keep = 64 << 10

var scanners = sync.Pool{New: func() any { return new(scanner) }}

func newScanner(src []byte, m mode) *scanner {
	s := scanners.Get().(*scanner)
	s.reset(src, m)
	return s
}

func (s *scanner) reset(src []byte, m mode) {
	s.src, s.pos, s.depth, s.mode = src, 0, 0, m
	s.err, s.trail = nil, nil
	s.members, s.text = s.members[:0], s.text[:0]
}

// free gives s back to the pool without a trace of the text.
func (s *scanner) free() {
	if s.forget() {
		scanners.Put(s)
	}
}

// forget drops the text, and reports whether the buffers are small enough to
// be kept.
func (s *scanner) forget() bool {
	if s.err != nil {
		clear(s.members[:cap(s.members)])
	}
	s.reset(nil, strict)
	return cap(s.text)+cap(s.swap)+cap(s.members) <= keep
}

func (s *scanner) fail(msg string) { s.failAt(s.pos, msg) }

func (s *scanner) failAt(offset int, msg string) {
	if s.err == nil {
		s.err = &Error{Offset: offset, Msg: msg}
	}
}

// unexpected fails at the next byte.
func (s *scanner) unexpected(want string) {
	if s.pos == len(s.src) {
		s.fail("the text ends where it needs " + want)
		return
	}
	s.fail(strconv.QuoteRune(rune(s.src[s.pos])) + " where it needs " + want)
}

// inKey and inIndex note, after a failure, inside what it happened.
func (s *scanner) inKey(key []byte) { s.trail = append(s.trail, step{key: append([]byte{}, key...)}) }
func (s *scanner) inIndex(i int)    { s.trail = append(s.trail, step{index: i}) }

// peek skips white space and returns the byte after it, 0 at the end.
func (s *scanner) peek() byte {
	for s.pos < len(s.src) {
		c := s.src[s.pos]
		if c > ' ' || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
		s.pos++
	}
	return 0
}

// enter opens the object or array at hand.
func (s *scanner) enter() {
	s.pos++
	if s.depth++; s.depth > MaxDepth {
		s.failAt(s.pos-1, "more than 100 objects and arrays inside each other; flatten the data")
	}
}

// more reports whether another element follows after n of them, and reads the
// comma before it, or the closing bracket.
func (s *scanner) more(closing byte, n int) bool {
	if s.err != nil {
		return false
	}
	c := s.peek()
	if c == closing {
		s.pos++
		s.depth--
		return false
	}
	return n == 0 || s.comma(c, closing)
}

func (s *scanner) comma(c, closing byte) bool {
	if c != ',' {
		s.unexpected("',' or '" + string(rune(closing)) + "'")
		return false
	}
	s.pos++
	return true
}

// value reads any value and appends its canonical form.
func (s *scanner) value(dst []byte) []byte {
	switch s.peek() {
	case '"':
		return s.str(dst)
	case '{':
		return s.object(dst)
	case '[':
		return s.array(dst)
	case 't':
		return s.literal(dst, "true")
	case 'f':
		return s.literal(dst, "false")
	case 'n':
		return s.literal(dst, "null")
	default:
		return s.number(dst)
	}
}

func (s *scanner) array(dst []byte) []byte {
	dst = append(dst, '[')
	s.enter()
	for n := 0; s.more(']', n); n++ {
		if n > 0 {
			dst = append(dst, ',')
		}
		if dst = s.value(dst); s.err != nil {
			s.inIndex(n)
		}
	}
	return append(dst, ']')
}

func (s *scanner) literal(dst []byte, word string) []byte {
	end := s.pos + len(word)
	if end > len(s.src) || string(s.src[s.pos:end]) != word {
		s.unexpected("a JSON value")
		return dst
	}
	s.pos = end
	return append(dst, word...)
}

// number reads a number. Its digits are its canonical form: no arithmetic can
// round them.
func (s *scanner) number(dst []byte) []byte {
	start := s.pos
	if s.next() == '-' {
		s.pos++
	}
	if !s.integer() {
		return dst
	}
	if s.mode == lenient {
		s.fraction()
	} else {
		s.refuseInexact(start)
	}
	return append(dst, s.src[start:s.pos]...)
}

// next returns the byte at hand, 0 at the end.
func (s *scanner) next() byte {
	if s.pos < len(s.src) {
		return s.src[s.pos]
	}
	return 0
}

func digit(c byte) bool { return c-'0' <= 9 }

// integer reads the digits before a point.
func (s *scanner) integer() bool {
	start := s.pos
	if !s.digits() {
		return false
	}
	if s.src[start] == '0' && s.pos > start+1 {
		s.failAt(start, "a number that begins with 0; write it without")
		return false
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.src) && digit(s.src[s.pos]) {
		s.pos++
	}
	if s.pos == start {
		s.unexpected("a JSON value")
	}
	return s.pos > start
}

const useIntegers = "; use integer minor units or a decimal string"

// refuseInexact fails if the integer read from start goes on as a fraction or
// an exponent, or is -0: what such a number means depends on who reads it.
func (s *scanner) refuseInexact(start int) {
	switch s.next() {
	case '.':
		s.failAt(start, "a number with a fraction"+useIntegers)
	case 'e', 'E':
		s.failAt(start, "a number with an exponent"+useIntegers)
	default:
		if string(s.src[start:s.pos]) == "-0" {
			s.failAt(start, "the number -0, which is 0 or not 0 depending on the reader"+useIntegers)
		}
	}
}

// fraction reads what may follow the integer part of a number.
func (s *scanner) fraction() {
	if s.next() == '.' {
		s.pos++
		s.digits()
	}
	if c := s.next(); s.err == nil && (c == 'e' || c == 'E') {
		s.pos++
		if c = s.next(); c == '+' || c == '-' {
			s.pos++
		}
		s.digits()
	}
}
