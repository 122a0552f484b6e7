// Package canon gives JSON one canonical token form, so that two payloads are
// the same content if and only if their canonical bytes are equal
// ([Append]), and so that two states can be hashed and compared field by field
// ([Shape], [Diff]). It knows nothing of messages, envelopes or storage.
package canon

import (
	"fmt"
	"slices"
)

// MaxDepth is the number of objects and arrays that may be open at once.
const MaxDepth = 100

// Error says why a JSON text was refused, and what to do about it.
type Error struct {
	// Path is the place in the text, in the syntax of [Field]; it is empty for
	// the text as a whole.
	Path string
	// Offset counts the bytes before the fault.
	Offset int
	// Msg names the fault, never the value found: values may be secret.
	Msg string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("byte %d: %s", e.Offset, e.Msg)
	}
	return fmt.Sprintf("%s (byte %d): %s", e.Path, e.Offset, e.Msg)
}

// Append appends the canonical form of the JSON text payload to dst and returns
// the extended buffer. That form has no white space, and sorts the members of
// an object by the bytes of their unescaped keys. In strings only the quote,
// the backslash and the control characters below U+0020 are escaped, in one
// way each; all else is raw UTF-8 and is not normalised. Integers keep their
// digits, at any size. It is never longer than payload, and its own canonical
// form is itself.
//
// The error is an [*Error] if payload is empty or no single JSON value; if a
// number has a fraction or an exponent, or is -0; if an object has a key twice,
// or two keys that differ only by case (in the sense of [strings.EqualFold]:
// encoding/json reads both into one field); if a string is not UTF-8 or escapes
// half of a surrogate pair; or if more than [MaxDepth] values are nested.
// The buffer returned with an error is dst, as long as it was.
//
// Append may be called concurrently. It keeps neither buffer; they must not
// overlap.
func Append(dst, payload []byte) ([]byte, error) {
	s := newScanner(payload, strict)
	defer s.free()
	out := s.document(slices.Grow(dst, len(payload)))
	if s.err != nil {
		return dst, s.fault()
	}
	return out, nil
}

// document reads the one value that s holds.
func (s *scanner) document(dst []byte) []byte {
	s.begin()
	if s.err == nil {
		dst = s.value(dst)
	}
	s.end()
	return dst
}

// begin refuses a text without a value.
func (s *scanner) begin() {
	if s.peek() == 0 && s.pos == len(s.src) {
		s.fail("no JSON value; for nothing write null")
	}
}

// end refuses what follows the value.
func (s *scanner) end() {
	if s.peek(); s.err == nil && s.pos < len(s.src) {
		s.fail("data after the JSON value; write one value only")
	}
}

// fault returns the first failure, with its path.
func (s *scanner) fault() *Error {
	s.err.Path = stepsPath(s.trail)
	return s.err
}
