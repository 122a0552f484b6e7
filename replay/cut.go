package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// Clock says which time a time locator means.
type Clock uint8

// The two times of a message.
const (
	Decided  Clock = iota // when it was decided: rises along the log
	Business              // the client's time: may not rise
)

// ErrNotFound is returned where a locator names nothing in the history.
var ErrNotFound = errors.New("not in this history")

// A Point is how far a partition is taken: up to decision N.
type Point struct {
	Partition int32
	N         int64    // 0: nothing
	Covers    int64    // the inbox offset whose handling made decision N; all before it was handled; -1 with N 0
	Offset    int64    // the decision's journal offset; -1 with N 0
	Chain     [32]byte // the decision's hash
	Time      time.Time
	Named     bool // the locator says how far; else it is taken to its end

	drains bool // decision N is one of several that an operator's act at Covers causes
}

// A Cut is a moment of a history, partition by partition. It is no causal cut: what happened in one partition because
// of another may be in it without its cause.
type Cut struct {
	service string
	at      Locator
	found   []string // the notes that are of all partitions
	Points  []Point
	Notes   []string // what the reader of an answer has to know
}

// notesOf returns the notes for an answer about one partition.
func (c Cut) notesOf(partition int32) []string {
	if c.at.kind == atHead && len(c.at.moves) == 0 || c.Points[partition].Named {
		return c.found
	}
	return append(slices.Clone(c.found), c.saysNothing(strconv.Itoa(int(partition))))
}

func (c Cut) saysNothing(partitions string) string {
	return fmt.Sprintf("%s says nothing about partition %s: what it has is taken to the end", c.at, partitions)
}

// String returns the cut as positions, itself a locator. Of an empty cut it is "".
func (c Cut) String() string {
	var parts []string
	for _, p := range c.Points {
		if p.N > 0 {
			parts = append(parts, c.position(p).String())
		}
	}
	return strings.Join(parts, ",")
}

// Numbers returns the number of each partition's last decision.
func (c Cut) Numbers() []int64 {
	last := make([]int64, len(c.Points))
	for i, p := range c.Points {
		last[i] = p.N
	}
	return last
}

func (c Cut) position(p Point) deja.Position {
	if p.drains { // the inbox position would take all that the act causes
		return deja.Position{Topic: wire.Journal(c.service), Partition: p.Partition, Offset: p.Offset}
	}
	return deja.Position{Topic: wire.Inbox(c.service), Partition: p.Partition, Offset: p.Covers}
}

// Cut finds the moment that a locator names, without folding anything.
func (s *Source) Cut(ctx context.Context, at Locator, by Clock) (Cut, error) {
	return s.cut(ctx, at, by, nil)
}

// cut finds a moment; of a partition that begin has an entry for, what is up to it was read already.
func (s *Source) cut(ctx context.Context, at Locator, by Clock, begin []*journal.Entry) (Cut, error) {
	lim, err := s.limits(ctx, at, by, false)
	if err != nil {
		return Cut{}, err
	}
	if s.index != nil && !lim.looksBack() {
		return s.indexedCut(ctx, lim)
	}
	if lim.looksBack() {
		begin = nil
	}
	cut := s.emptyCut()
	for p := range s.partitions {
		from, more, err := s.beginAt(ctx, lim, &cut.Points[p], begin)
		if err != nil {
			return cut, err
		}
		if !more {
			continue
		}
		err = s.scan(ctx, p, from, func(e *journal.Entry) (bool, error) {
			take, more := lim.admit(e)
			if take {
				cut.Points[p].reach(e)
			}
			return more, nil
		})
		if err != nil {
			return cut, err
		}
	}
	lim.name(&cut, func(p Point) bool { return p.N > 0 })
	return cut, lim.missing()
}

// beginAt returns where reading a partition up to a moment begins: behind an entry that was read before, which the moment
// must not be before, else at the beginning. more is false if nothing is left to read.
func (s *Source) beginAt(ctx context.Context, lim *limit, to *Point, begin []*journal.Entry) (from driver.Logged, more bool, err error) {
	var e *journal.Entry
	if len(begin) > 0 {
		e = begin[to.Partition]
	}
	if e == nil {
		from, err = s.whole(ctx, to.Partition)
		return from, true, err
	}
	take, more := lim.admit(e)
	if !take {
		return from, false, errAfter
	}
	to.reach(e)
	return e.After(), more, nil
}

var errAfter = fmt.Errorf("%w: it was made after the moment that is asked for; begin at an earlier one, or at none", ErrSnapshot)

func (s *Source) emptyCut() Cut {
	cut := Cut{service: s.machine.Name(), Points: make([]Point, s.partitions)}
	for p := range cut.Points {
		cut.Points[p] = Point{Partition: int32(p), Covers: -1, Offset: -1}
	}
	return cut
}

func (p *Point) reach(e *journal.Entry) {
	p.N, p.Covers, p.Offset, p.Chain, p.Time, p.drains = e.N, e.Through(), e.Offset, e.Chain, e.Time, !e.Act.IsZero()
}

// limit decides, decision by decision in order, what a locator takes.
type limit struct {
	at   Locator
	kind locatorKind // of what at comes down to

	positions map[int32]deja.Position // of atPosition, and of atMessage as journal numbers
	numbers   map[int32]int64
	found     []string  // what finding the message tells
	reached   bool      // the version was seen
	in        int32     // the partition in which it was; -1 before
	last      int64     // the highest version seen of the locator's stream
	dates     *calendar // of a business time
}

// limits prepares a locator for this history.
func (s *Source) limits(ctx context.Context, at Locator, by Clock, perStream bool) (*limit, error) {
	l := &limit{
		at: at, kind: at.kind, in: -1,
		positions: map[int32]deja.Position{}, numbers: map[int32]int64{},
	}
	if len(at.moves) > 0 || at.kind == atMessage || at.kind == atKey || at.kind == atVersion && s.index != nil {
		f, notes, err := s.locate(ctx, at, by)
		l.kind, l.found, l.numbers[f.Partition] = atMessage, notes, f.N
		return l, err
	}
	switch at.kind {
	case atHead, atMessage, atKey:
	case atTime:
		if at.by(by) == Business {
			l.dates = newCalendar(at.time, perStream)
		}
	case atPosition:
		for _, p := range at.positions {
			if _, twice := l.positions[p.Partition]; twice {
				return nil, fmt.Errorf("%w: %s names partition %d twice", ErrNotFound, at, p.Partition)
			}
			var err error
			if l.positions[p.Partition], err = s.position(ctx, p); err != nil {
				return nil, err
			}
		}
	case atVersion:
		if _, err := s.machine.NewState(at.stream); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// position returns a position with the whole name of its topic, if there is such a one.
func (s *Source) position(ctx context.Context, p deja.Position) (deja.Position, error) {
	name := s.machine.Name()
	switch p.Topic {
	case "inbox", wire.Inbox(name):
		p.Topic = wire.Inbox(name)
	case "journal", wire.Journal(name):
		p.Topic = wire.Journal(name)
	default:
		return p, fmt.Errorf("%w: %s has no topic %s; want %s or %s", ErrNotFound, name, p.Topic, wire.Inbox(name), wire.Journal(name))
	}
	if p.Partition >= s.partitions {
		return p, fmt.Errorf("%w: partition %d; there are %d", ErrNotFound, p.Partition, s.partitions)
	}
	if _, end, err := s.log.Bounds(ctx, p.Topic, p.Partition); err != nil || p.Offset >= end {
		return p, cmp.Or(err, fmt.Errorf("%w: %s ends at offset %d", ErrNotFound, p.Topic, end-1))
	}
	return p, nil
}

// upTo takes what a cut takes.
func upTo(c Cut) *limit {
	l := &limit{kind: atMessage, in: -1, numbers: map[int32]int64{}}
	for _, p := range c.Points {
		l.numbers[p.Partition] = p.N
	}
	return l
}

// admit tells whether a decision is taken, and whether any later one of its partition may be, or counts for a note.
func (l *limit) admit(e *journal.Entry) (take, more bool) {
	partition := e.Cause.Position.Partition
	switch l.kind {
	case atHead:
		return true, true
	case atPosition:
		p, ok := l.positions[partition]
		if !ok {
			return true, true
		}
		return !beyond(e, p), !beyond(e, p)
	case atMessage, atKey: // a limit is never atKey: it comes down to the message
		n, ok := l.numbers[partition]
		return !ok || e.N <= n, !ok || e.N < n
	case atVersion:
		return l.admitVersion(e)
	case atTime:
		if l.dates != nil {
			return l.dates.admit(found(e)), true
		}
		take = !e.Time.After(l.at.time)
	}
	return take, take
}

func (l *limit) admitVersion(e *journal.Entry) (take, more bool) {
	if l.reached && e.Cause.Stream != l.at.stream { // another partition's: the version bounds its own only
		return true, true
	}
	if e.Cause.Stream == l.at.stream {
		l.last = max(l.last, e.Version)
		l.reached, l.in = l.last >= l.at.version, e.Cause.Position.Partition
	}
	return true, !l.reached
}

// looksBack reports whether the moment depends on all decisions before it, so that none may be passed over.
func (l *limit) looksBack() bool {
	return l.kind == atVersion || l.dates != nil
}

// name notes which partitions the locator says something about, and what the reader of an answer has to know. asked tells
// whether a partition is part of the answer.
func (l *limit) name(c *Cut, asked func(Point) bool) {
	var rest []string
	for i := range c.Points {
		p := &c.Points[i]
		_, position := l.positions[p.Partition]
		_, number := l.numbers[p.Partition]
		p.Named = l.kind == atTime || position || number || l.in == p.Partition
		if !p.Named && asked(*p) {
			rest = append(rest, strconv.Itoa(int(p.Partition)))
		}
	}
	c.at, c.found = l.at, l.found
	if l.dates != nil {
		c.found = l.dates.notes(l.at)
	}
	c.Notes = c.found
	if l.kind != atHead && len(rest) > 0 {
		c.Notes = append(slices.Clone(c.found), c.saysNothing(strings.Join(rest, ", ")))
	}
}

// missing returns an error if the locator's stream never came to its version.
func (l *limit) missing() error {
	if l.kind != atVersion || l.reached {
		return nil
	}
	return noVersion(l.at.stream, l.last)
}

// beyond reports whether a decision is after a position in inbox or journal.
func beyond(e *journal.Entry, p deja.Position) bool {
	if strings.HasSuffix(p.Topic, "journal") {
		return e.Offset > p.Offset
	}
	return e.Through() > p.Offset
}

// indexedCut cuts where the index says.
func (s *Source) indexedCut(ctx context.Context, lim *limit) (Cut, error) {
	cut := s.emptyCut()
	for p := range s.partitions {
		n, err := s.indexed(ctx, lim, p)
		if err != nil {
			return cut, err
		}
		if n == 0 {
			continue
		}
		e, err := s.index.Entry(ctx, p, n)
		if err != nil {
			return cut, err
		}
		cut.Points[p].reach(&e)
	}
	lim.name(&cut, func(p Point) bool { return p.N > 0 })
	return cut, nil
}

// indexed returns the number of the last decision of a partition that a limit takes.
func (s *Source) indexed(ctx context.Context, lim *limit, p int32) (int64, error) {
	at, isPosition := lim.positions[p]
	n, isNumber := lim.numbers[p]
	switch {
	case isNumber:
		return n, nil
	case isPosition:
		return s.index.Handled(ctx, at)
	case lim.kind == atTime:
		return s.index.DecidedBy(ctx, p, lim.at.time)
	}
	return s.index.Last(ctx, p)
}
