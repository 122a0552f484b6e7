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
//	business:1993-06-30     a time by the clock of the client; decided:1993-06-30 by that of the decisions
//	account/576@1993-06-30  the stream's last decision up to a moment, which is HEAD, a position or a time
//
// and, behind each of them, as many as are wanted of
//
//	~3      three messages before it: of the same stream where a stream or a message is named, else of the partition
//	~cause  the message that caused it
//	~root   the first message of its chain of causes
//
// A ~ alone is ~1, and ~3 alone is HEAD~3. A time without a clock means decision time, unless business time is asked for.
// In a URL's query nothing of it needs an escape, but a + in a time's zone, and what a stream's key has that needs one.
type Locator struct {
	text      string
	positions []deja.Position
	stream    deja.Stream
	version   int64
	lo, hi    deja.ID // of an ID or a prefix
	time      time.Time
	day       bool     // the time is the end of a day
	clock     *Clock   // of the time, where the text says so
	upTo      *Locator // of the last decision of a stream up to a moment
	kind      locatorKind
	moves     []move
}

type locatorKind uint8

const (
	atHead locatorKind = iota
	atPosition
	atVersion
	atMessage
	atTime
	atKey // the last decision of a stream up to a moment
)

// A move leads from a message to another one.
type move struct {
	kind moveKind
	n    int64
}

type moveKind uint8

const (
	back moveKind = iota
	toCause
	toRoot
)

// KeyAt returns the locator of the last decision of a stream up to a moment.
func KeyAt(s deja.Stream, at Locator) Locator {
	return Locator{text: s.String() + "@" + at.String(), kind: atKey, stream: s, upTo: &at}
}

// String returns the locator's text.
func (l Locator) String() string {
	if l.text == "" {
		return "HEAD"
	}
	return l.text
}

// IsTime reports whether the locator is a time.
func (l Locator) IsTime() bool { return l.kind == atTime && len(l.moves) == 0 }

// IsMessage reports whether the locator is a message's ID or a prefix of one.
func (l Locator) IsMessage() bool { return l.kind == atMessage && len(l.moves) == 0 }

// Stream returns the stream that the locator names, else the zero Stream.
func (l Locator) Stream() deja.Stream { return l.stream }

// by returns the clock of a time locator, where it says nothing the one that is asked for.
func (l Locator) by(asked Clock) Clock {
	if l.clock != nil {
		return *l.clock
	}
	return asked
}

// begin returns the moment at which something begins that begins with l: of a day its beginning.
func (l Locator) begin() Locator {
	if l.day {
		l.time = l.time.AddDate(0, 0, -1)
	}
	return l
}

// A SyntaxError says where a text in the grammar of locators goes wrong.
type SyntaxError struct {
	Text string
	At   int // the byte
	Err  error
}

// Error shows the place under the text.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("locator:\n  %s\n  %s^ %s", e.Text, strings.Repeat(" ", e.At), e.Err)
}

// Unwrap returns what is wrong there.
func (e *SyntaxError) Unwrap() error { return e.Err }

// ParseLocator reads a locator. The error is a [*SyntaxError].
func ParseLocator(text string) (Locator, error) {
	l, at, err := parseLocator(text)
	if err != nil {
		return Locator{}, &SyntaxError{text, at, err}
	}
	return l, nil
}

// parseLocator returns where it goes wrong with an error.
func parseLocator(text string) (Locator, int, error) {
	end := movesAt(text)
	l := Locator{text: text}
	moves, at, err := parseMoves(text[end:])
	if err != nil {
		return l, end + at, err
	}
	l.moves = moves
	at, err = l.parse(text[:end])
	return l, at, err
}

// movesAt returns where the moves begin: behind the last @, as a key may hold what looks like one.
func movesAt(text string) int {
	from := strings.LastIndexByte(text, '@') + 1
	if i := strings.IndexByte(text[from:], '~'); i >= 0 {
		return from + i
	}
	return len(text)
}

func parseMoves(text string) (moves []move, at int, err error) {
	for text != "" && err == nil {
		word, rest, more := strings.Cut(text[1:], "~")
		m := move{n: 1}
		switch word {
		case "":
		case "cause":
			m.kind = toCause
		case "root":
			m.kind = toRoot
		default:
			if m.n, err = strconv.ParseInt(word, 10, 64); err != nil || m.n < 0 {
				return nil, at + 1, fmt.Errorf("want how many messages before, cause or root, such as ~3 or ~cause")
			}
		}
		moves = append(moves, m)
		at += 1 + len(word)
		if text = ""; more {
			text = "~" + rest
		}
	}
	return moves, 0, nil
}

// parse reads a locator without moves.
func (l *Locator) parse(text string) (int, error) {
	parse := l.parseMessage
	switch {
	case text == "" || text == "HEAD":
		return 0, nil
	case looksLikeTime(text):
		parse = l.parseTime
	case strings.Contains(text, "@"):
		parse = l.parseVersion
	case strings.Contains(text, "/"):
		parse = l.lacksVersion
	case strings.HasPrefix(text, "business:"), strings.HasPrefix(text, "decided:"):
		parse = l.parseClock
	case strings.Contains(text, ":"):
		parse = l.parsePositions
	}
	return parse(text)
}

func looksLikeTime(s string) bool {
	return len(s) >= 10 && s[4] == '-' && s[7] == '-' && strings.Trim(s[:4]+s[5:7]+s[8:10], "0123456789") == ""
}

func (l *Locator) parseClock(text string) (int, error) {
	clock := Decided
	name, rest, _ := strings.Cut(text, ":")
	if name == "business" {
		clock = Business
	}
	l.clock = &clock
	if !looksLikeTime(rest) {
		return len(name) + 1, fmt.Errorf("want a day or a time, such as %s:1993-06-30", name)
	}
	at, err := l.parseTime(rest)
	return len(name) + 1 + at, err
}

func (l *Locator) parseTime(text string) (int, error) {
	l.kind = atTime
	if len(text) == 10 {
		day, err := time.Parse(time.DateOnly, text)
		l.time, l.day = day.AddDate(0, 0, 1).Add(-time.Microsecond), true
		if err != nil {
			return 0, fmt.Errorf("no such day; want YYYY-MM-DD")
		}
		return 0, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04:05.999999999", "2006-01-02 15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			l.time = t.UTC()
			return 0, nil
		}
	}
	return 10, fmt.Errorf("want a day, or a time such as %sT12:00:00Z", text[:10])
}

func (l *Locator) parseVersion(text string) (int, error) {
	i := strings.LastIndexByte(text, '@')
	s, err := deja.ParseStream(text[:i])
	if err != nil {
		return 0, err
	}
	l.stream = s
	if rest := text[i+1:]; rest == "HEAD" || looksLikeTime(rest) || strings.Contains(rest, ":") {
		l.kind, l.upTo = atKey, &Locator{text: rest}
		at, err := l.upTo.parse(rest)
		return i + 1 + at, err
	}
	l.kind = atVersion
	if l.version, err = strconv.ParseInt(text[i+1:], 10, 64); err != nil || l.version < 1 {
		return i + 1, fmt.Errorf("want a version of the stream, 1 or more, such as %s@17, or HEAD, a position or a time", s)
	}
	return 0, nil
}

func (l *Locator) lacksVersion(text string) (int, error) {
	return len(text), fmt.Errorf("a key is no moment; add a version, such as %s@17, or @HEAD", text)
}

func (l *Locator) parsePositions(text string) (int, error) {
	l.kind = atPosition
	at := 0
	for part := range strings.SplitSeq(text, ",") {
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

func (l *Locator) parseMessage(text string) (int, error) {
	l.kind = atMessage
	digits, at, err := idDigits(text)
	if err != nil {
		return at, err
	}
	for id, pad := range map[*deja.ID]string{&l.lo: "0", &l.hi: "f"} {
		if _, err := hex.Decode(id[:], []byte(digits+strings.Repeat(pad, 32-len(digits)))); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// idDigits returns the hexadecimal digits of an ID or a prefix of one.
func idDigits(text string) (string, int, error) {
	var digits strings.Builder
	for i, c := range text {
		switch {
		case c == '-' && (i == 8 || i == 13 || i == 18 || i == 23):
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			digits.WriteRune(c)
		default:
			return "", i, fmt.Errorf("want HEAD, a position, <aggregate>/<key>@<version>, a message's ID or a prefix of it, a day or a time")
		}
	}
	d := digits.String()
	if len(d) == 4 && (d[:2] == "19" || d[:2] == "20") && strings.Trim(d, "0123456789") == "" {
		return "", len(d), fmt.Errorf("a year, or the beginning of an ID? write a day, such as %s-12-31, or more digits", d)
	}
	if len(d) < 4 || len(d) > 32 {
		return "", 0, fmt.Errorf("an ID has 32 hexadecimal digits, a prefix at least 4; this has %d", len(d))
	}
	return d, 0, nil
}
