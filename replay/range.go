package replay

import (
	"cmp"
	"errors"
	"strings"
)

// A Range is a part of a history, a..b: from the message that a names to the one that b names, both included. A day is all of
// it: 1993-06-30..1993-06-30 is that day. Without a it begins where the history does, without b it ends at HEAD. The zero
// Range is all.
type Range struct {
	From *Locator // nil: the beginning
	To   Locator
}

// ParseRange reads a range. The error is a [*SyntaxError]. A stream's key may hold two dots: they separate where a locator
// stands on both sides.
func ParseRange(text string) (Range, error) {
	var first *SyntaxError
	for i := range len(text) - 1 {
		if text[i:i+2] != ".." {
			continue
		}
		r, err := cutRange(text, i)
		if err == nil {
			return r, nil
		}
		first = cmp.Or(first, err)
	}
	if text == "" {
		return Range{}, nil
	}
	return Range{}, cmp.Or(first, &SyntaxError{text, len(text), errors.New("want a range, such as " + text + "..HEAD")})
}

// cutRange reads a range whose two dots are at i.
func cutRange(text string, i int) (r Range, _ *SyntaxError) {
	if from := text[:i]; from != "" {
		l, at, err := parseLocator(from)
		if err != nil {
			return r, &SyntaxError{text, at, err}
		}
		r.From = &l
	}
	l, at, err := parseLocator(text[i+2:])
	if err != nil {
		return r, &SyntaxError{text, i + 2 + at, err}
	}
	r.To = l
	return r, nil
}

// String returns the range's text.
func (r Range) String() string {
	var text strings.Builder
	if r.From != nil {
		text.WriteString(r.From.String())
	}
	text.WriteString("..")
	if r.To.text != "" {
		text.WriteString(r.To.text)
	}
	return text.String()
}
