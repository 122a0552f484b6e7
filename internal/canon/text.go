package canon

import (
	"unicode/utf16"
	"unicode/utf8"
)

// Classes of the bytes of a JSON string.
const (
	plain   = iota
	upper   // A to Z
	wide    // beyond ASCII
	quote   // ends the string
	escape  // a backslash
	control // must be escaped
)

var class = classes()

func classes() (t [256]uint8) {
	for c := range t {
		switch {
		case c < ' ':
			t[c] = control
		case 'A' <= c && c <= 'Z':
			t[c] = upper
		case c >= utf8.RuneSelf:
			t[c] = wide
		}
	}
	t['"'], t['\\'] = quote, escape
	return t
}

// text is a string that was read. Its body is unescaped, and lies in the
// source if raw is set, else at the end of the scanner's text buffer.
type text struct {
	body  []byte
	at    int  // offset in the source
	raw   bool // the source is the canonical form
	cased bool // may equal another text under folding of case
}

// str reads a string value and appends its canonical form.
func (s *scanner) str(dst []byte) []byte {
	mark := len(s.text)
	if t := s.string(); s.err == nil {
		dst = s.appendText(dst, t)
	}
	s.text = s.text[:mark]
	return dst
}

// appendText appends the canonical form of t.
func (s *scanner) appendText(dst []byte, t text) []byte {
	if t.raw {
		return append(dst, s.src[t.at:t.at+len(t.body)+2]...)
	}
	return appendQuoted(dst, t.body)
}

// string reads a string up to its first escape; most have none.
func (s *scanner) string() text {
	start, cased := s.pos+1, false
	for i := start; i < len(s.src); i++ {
		switch class[s.src[i]] {
		case plain:
		case upper:
			cased = true
		case wide:
			cased = true
			n := s.rune(i)
			if n == 0 {
				return text{}
			}
			i += n - 1
		case quote:
			s.pos = i + 1
			return text{body: s.src[start:i], at: start - 1, raw: true, cased: cased}
		case escape:
			return s.escaped(start, i)
		default:
			s.failAt(i, "a control character in a string; escape it")
			return text{}
		}
	}
	s.failAt(len(s.src), "the text ends inside a string")
	return text{}
}

// rune returns the length of the rune at i, 0 if it fails.
func (s *scanner) rune(i int) int {
	r, n := utf8.DecodeRune(s.src[i:])
	if r == utf8.RuneError && n == 1 {
		s.failAt(i, "bytes that are not UTF-8; encode binary data as base64")
		return 0
	}
	return n
}

// escaped unescapes the string that began at start and has a backslash at i.
func (s *scanner) escaped(start, i int) text {
	mark := len(s.text)
	s.text = append(s.text, s.src[start:i]...)
	for s.pos = i; s.err == nil; {
		switch c := s.next(); class[c] {
		case quote:
			s.pos++
			return text{body: s.text[mark:], at: start - 1, cased: true}
		case escape:
			s.pos++
			s.unescape()
		case wide:
			n := s.rune(s.pos)
			s.text = append(s.text, s.src[s.pos:s.pos+n]...)
			s.pos += n
		case control:
			s.control()
		default:
			s.text = append(s.text, c)
			s.pos++
		}
	}
	return text{}
}

// control fails at a raw control character, or at the end, which reads as one.
func (s *scanner) control() {
	if s.pos == len(s.src) {
		s.fail("the text ends inside a string")
		return
	}
	s.fail("a control character in a string; escape it")
}

// unescape reads what follows a backslash.
func (s *scanner) unescape() {
	if s.pos == len(s.src) {
		return // the caller fails at the end
	}
	c := s.src[s.pos]
	s.pos++
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		s.text = utf8.AppendRune(s.text, s.unicode())
		return
	default:
		s.failAt(s.pos-2, "a backslash that escapes nothing; double it")
	}
	s.text = append(s.text, c)
}

// unicode reads the digits of an escape, and of the one after it if the two
// form a surrogate pair.
func (s *scanner) unicode() rune {
	start := s.pos - 2
	r := s.hex()
	if !utf16.IsSurrogate(r) {
		return r
	}
	if s.next() == '\\' && s.pos+1 < len(s.src) && s.src[s.pos+1] == 'u' {
		s.pos += 2
		r = utf16.DecodeRune(r, s.hex())
	}
	if utf16.IsSurrogate(r) || r == utf8.RuneError {
		s.failAt(start, "half of a surrogate pair, which is no character; send text that is valid Unicode")
	}
	return r
}

// hex reads four hexadecimal digits.
func (s *scanner) hex() (r rune) {
	for range 4 {
		v := unhex(s.next())
		if v < 0 {
			s.fail("an escape \\u needs four hexadecimal digits")
			return 0
		}
		r = r<<4 | v
		s.pos++
	}
	return r
}

func unhex(c byte) rune {
	switch {
	case '0' <= c && c <= '9':
		return rune(c - '0')
	case 'a' <= c && c <= 'f':
		return rune(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return rune(c-'A') + 10
	}
	return -1
}

const hexDigits = "0123456789abcdef"

// appendQuoted appends the canonical form of the string body, which is UTF-8.
func appendQuoted(dst, body []byte) []byte {
	dst = append(dst, '"')
	start := 0
	for i, c := range body {
		if class[c] < quote {
			continue
		}
		dst = append(dst, body[start:i]...)
		dst = appendEscape(dst, c)
		start = i + 1
	}
	return append(append(dst, body[start:]...), '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '\b':
		c = 'b'
	case '\f':
		c = 'f'
	case '\n':
		c = 'n'
	case '\r':
		c = 'r'
	case '\t':
		c = 't'
	case '"', '\\':
	default:
		return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
	}
	return append(dst, '\\', c)
}
