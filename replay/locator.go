package replay

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dejalog/deja"
)

// A Locator names a moment of a service's history. The zero Locator is HEAD, the present end. Its text forms:
//
//	HEAD
//	bank.inbox:0:1234       a position: all messages up to and including it are handled; also inbox:0:1234
//	bank.journal:0:1234     a position: all decisions up to and including it; also journal:0:1234
//	inbox:0:12,inbox:1:7    a position of each partition
//	account/576@17          the decision that brought the stream to version 17
//	0190163d-8694-739b-…    a message, by ID or a unique prefix of it with at least four digits
//	1993-06-30              a time: the end of that day, in UTC
//	1993-06-30T12:00:00Z    a time, RFC 3339; without a zone, UTC
//
// A time means decision time, unless business time is asked for.
type Locator struct {
	text      string
	positions []deja.Position
	stream    deja.Stream
	version   int64
	lo, hi    deja.ID // of an ID or a prefix
	time      time.Time
	kind      locatorKind
}

type locatorKind uint8

const (
	atHead locatorKind = iota
	atPosition
	atVersion
	atMessage
	atTime
)

// String returns the locator's text.
func (l Locator) String() string {
	if l.text == "" {
		return "HEAD"
	}
	return l.text
}

// IsTime reports whether the locator is a time.
func (l Locator) IsTime() bool { return l.kind == atTime }

// Stream returns the stream of a stream@version locator, else the zero Stream.
func (l Locator) Stream() deja.Stream { return l.stream }

// ParseLocator reads a locator. The error shows where it went wrong.
func ParseLocator(text string) (Locator, error) {
	l := Locator{text: text}
	parse := l.parseMessage
	switch {
	case text == "" || text == "HEAD":
		return Locator{}, nil
	case looksLikeTime(text):
		parse = l.parseTime
	case strings.Contains(text, "@"):
		parse = l.parseVersion
	case strings.Contains(text, ":"):
		parse = l.parsePositions
	case strings.Contains(text, "/"):
		parse = l.lacksVersion
	}
	if at, err := parse(); err != nil {
		return Locator{}, fmt.Errorf("locator:\n  %s\n  %s^ %w", text, strings.Repeat(" ", at), err)
	}
	return l, nil
}

func looksLikeTime(s string) bool {
	return len(s) >= 10 && s[4] == '-' && s[7] == '-' && strings.Trim(s[:4]+s[5:7]+s[8:10], "0123456789") == ""
}

func (l *Locator) parseTime() (int, error) {
	l.kind = atTime
	if len(l.text) == 10 {
		day, err := time.Parse(time.DateOnly, l.text)
		l.time = day.AddDate(0, 0, 1).Add(-time.Microsecond)
		if err != nil {
			return 0, fmt.Errorf("no such day; want YYYY-MM-DD")
		}
		return 0, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04:05.999999999", "2006-01-02 15:04"} {
		if t, err := time.Parse(layout, l.text); err == nil {
			l.time = t.UTC()
			return 0, nil
		}
	}
	return 10, fmt.Errorf("want a day, or a time such as %sT12:00:00Z", l.text[:10])
}

func (l *Locator) parseVersion() (int, error) {
	l.kind = atVersion
	i := strings.LastIndexByte(l.text, '@')
	s, err := deja.ParseStream(l.text[:i])
	if err != nil {
		return 0, err
	}
	l.stream = s
	if l.version, err = strconv.ParseInt(l.text[i+1:], 10, 64); err != nil || l.version < 1 {
		return i + 1, fmt.Errorf("want a version of the stream, 1 or more, such as %s@17", s)
	}
	return 0, nil
}

func (l *Locator) lacksVersion() (int, error) {
	return len(l.text), fmt.Errorf("a key is no moment; add a version, such as %s@17", l.text)
}

func (l *Locator) parsePositions() (int, error) {
	l.kind = atPosition
	at := 0
	for part := range strings.SplitSeq(l.text, ",") {
		f := strings.Split(part, ":")
		if len(f) != 3 {
			return at, fmt.Errorf("want <topic>:<partition>:<offset>, such as inbox:0:1234")
		}
		partition, err := strconv.ParseInt(f[1], 10, 32)
		if err != nil || partition < 0 {
			return at + len(f[0]) + 1, fmt.Errorf("want a partition's number")
		}
		offset, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil || offset < 0 {
			return at + len(f[0]) + len(f[1]) + 2, fmt.Errorf("want an offset, 0 or more")
		}
		if f[0] != "inbox" && f[0] != "journal" && !strings.HasSuffix(f[0], ".inbox") && !strings.HasSuffix(f[0], ".journal") {
			return at, fmt.Errorf("want a position in an inbox or a journal, such as inbox:0:1234")
		}
		l.positions = append(l.positions, deja.Position{Topic: f[0], Partition: int32(partition), Offset: offset})
		at += len(part) + 1
	}
	return 0, nil
}

func (l *Locator) parseMessage() (int, error) {
	l.kind = atMessage
	var digits strings.Builder
	for i, c := range l.text {
		switch {
		case c == '-' && (i == 8 || i == 13 || i == 18 || i == 23):
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			digits.WriteRune(c)
		default:
			return i, fmt.Errorf("want HEAD, a position, <aggregate>/<key>@<version>, a message's ID or a prefix of it, a day or a time")
		}
	}
	d := digits.String()
	if len(d) == 4 && (d[:2] == "19" || d[:2] == "20") && strings.Trim(d, "0123456789") == "" {
		return len(d), fmt.Errorf("a year, or the beginning of an ID? write a day, such as %s-12-31, or more digits", d)
	}
	if len(d) < 4 || len(d) > 32 {
		return 0, fmt.Errorf("an ID has 32 hexadecimal digits, a prefix at least 4; this has %d", len(d))
	}
	for i, pad := range []string{"0", "f"} {
		id, err := hex.DecodeString(d + strings.Repeat(pad, 32-len(d)))
		if err != nil {
			return 0, err
		}
		if i == 0 {
			l.lo = deja.ID(id)
		} else {
			l.hi = deja.ID(id)
		}
	}
	return 0, nil
}
