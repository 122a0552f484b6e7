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
	Points  []Point
	Notes   []string // what the reader of an answer has to know
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
	at  Locator
	by  Clock
	per bool // business time cuts each stream for itself

	positions map[int32]deja.Position // of atPosition, and of atMessage as journal numbers
	numbers   map[int32]int64
	reached   bool  // the version was seen
	in        int32 // the partition in which it was; -1 before
	last      int64 // the highest version seen of the locator's stream

	ended  map[deja.Stream]bool // by business time; the zero Stream stands for all
	late   int64                // decisions left out although their business time is early enough
	rising time.Time            // the latest business time so far, of all that is asked for
	falls  int64                // decisions whose business time is before an earlier one's
}

// limits prepares a locator for this history.
func (s *Source) limits(ctx context.Context, at Locator, by Clock, perStream bool) (*limit, error) {
	l := &limit{at: at, by: by, per: perStream, in: -1, positions: map[int32]deja.Position{}, numbers: map[int32]int64{}, ended: map[deja.Stream]bool{}}
	switch at.kind {
	case atHead, atTime:
	case atPosition:
		for _, p := range at.positions {
			if name := s.machine.Name(); !slices.Contains([]string{"inbox", "journal", wire.Inbox(name), wire.Journal(name)}, p.Topic) {
				return nil, fmt.Errorf("%w: %s has no topic %s; want %s or %s", ErrNotFound, name, p.Topic, wire.Inbox(name), wire.Journal(name))
			}
			if _, twice := l.positions[p.Partition]; twice {
				return nil, fmt.Errorf("%w: %s names partition %d twice", ErrNotFound, at, p.Partition)
			}
			if p.Partition >= s.partitions {
				return nil, fmt.Errorf("%w: partition %d; there are %d", ErrNotFound, p.Partition, s.partitions)
			}
			topic := wire.Inbox(s.machine.Name())
			if strings.HasSuffix(p.Topic, "journal") {
				topic = wire.Journal(s.machine.Name())
			}
			if _, end, err := s.log.Bounds(ctx, topic, p.Partition); err != nil || p.Offset >= end {
				return nil, cmp.Or(err, fmt.Errorf("%w: %s ends at offset %d", ErrNotFound, topic, end-1))
			}
			l.positions[p.Partition] = p
		}
	case atMessage:
		e, err := s.message(ctx, at)
		if err != nil {
			return nil, err
		}
		l.numbers[e.Partition] = e.N
	case atVersion:
		if _, err := s.machine.NewState(at.stream); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// upTo takes what a cut takes.
func upTo(c Cut) *limit {
	l := &limit{at: Locator{kind: atMessage}, in: -1, numbers: map[int32]int64{}}
	for _, p := range c.Points {
		l.numbers[p.Partition] = p.N
	}
	return l
}

// message finds the one message that an ID or a prefix names.
func (s *Source) message(ctx context.Context, at Locator) (driver.Entry, error) {
	find := s.find
	if s.store != nil {
		find = s.store.Find
	}
	found, err := find(ctx, at.lo, at.hi, 6)
	switch {
	case err != nil:
		return driver.Entry{}, err
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return driver.Entry{}, fmt.Errorf("%w: no message's ID begins with %s", ErrNotFound, at)
	}
	var ids []string
	for _, e := range found[:min(len(found), 5)] {
		ids = append(ids, e.Key.String())
	}
	if len(found) > 5 {
		ids = append(ids, "…")
	}
	return driver.Entry{}, fmt.Errorf("%w: the prefix %s is not unique; it begins\n  %s", ErrNotFound, at, strings.Join(ids, "\n  "))
}

// admit tells whether a decision is taken, and whether any later one of its partition may be, or counts for a note.
func (l *limit) admit(e *journal.Entry) (take, more bool) {
	partition := e.Cause.Position.Partition
	switch l.at.kind {
	case atHead:
		return true, true
	case atPosition:
		p, ok := l.positions[partition]
		if !ok {
			return true, true
		}
		take = e.Through() <= p.Offset
		if strings.HasSuffix(p.Topic, "journal") {
			take = e.Offset <= p.Offset
		}
		return take, take
	case atMessage:
		n, ok := l.numbers[partition]
		return !ok || e.N <= n, !ok || e.N < n
	case atVersion:
		return l.admitVersion(e)
	case atTime:
		if l.by == Business {
			return l.admitBusiness(e), true
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

// admitBusiness ends the whole history, or each stream for itself, before its first applied decision of a later
// business time. Messages without one go with those around them.
func (l *limit) admitBusiness(e *journal.Entry) bool {
	var scope deja.Stream
	if l.per {
		scope = e.Cause.Stream
	}
	t, applied := e.Cause.BusinessTime, e.Decided.Status == deja.Applied
	if applied && !t.IsZero() {
		if t.Before(l.rising) {
			l.falls++
		} else {
			l.rising = t
		}
		if t.After(l.at.time) {
			l.ended[scope] = true
		} else if l.ended[scope] {
			l.late++
		}
	}
	return !l.ended[scope]
}

// looksBack reports whether the moment depends on all decisions before it, so that none may be passed over.
func (l *limit) looksBack() bool {
	return l.at.kind == atVersion || l.at.kind == atTime && l.by == Business
}

// name notes which partitions the locator says something about, and what the reader of an answer has to know. asked tells
// whether a partition is part of the answer.
func (l *limit) name(c *Cut, asked func(Point) bool) {
	var rest []string
	for i := range c.Points {
		p := &c.Points[i]
		_, position := l.positions[p.Partition]
		_, number := l.numbers[p.Partition]
		p.Named = l.at.kind == atTime || position || number || l.in == p.Partition
		if !p.Named && asked(*p) {
			rest = append(rest, strconv.Itoa(int(p.Partition)))
		}
	}
	c.Notes = l.notes()
	if l.at.kind != atHead && len(rest) > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("%s says nothing about partition %s: what it has is taken to the end", l.at, strings.Join(rest, ", ")))
	}
}

func (l *limit) notes() []string {
	if l.at.kind != atTime || l.by != Business || l.falls == 0 {
		return nil
	}
	what := "the history was"
	if l.per {
		what = "each stream was"
	}
	return []string{fmt.Sprintf("business time does not rise along the log (%s dated before an earlier one): %s cut before its first decision dated after %s, which leaves out %s dated up to it",
		decisions(l.falls), what, l.at, decisions(l.late))}
}

func decisions(n int64) string {
	if n == 1 {
		return "1 decision"
	}
	return fmt.Sprintf("%d decisions", n)
}

// missing returns an error if the locator's stream never came to its version.
func (l *limit) missing() error {
	if l.at.kind != atVersion || l.reached {
		return nil
	}
	if l.last == 0 {
		return fmt.Errorf("%w: nothing was recorded for %s", ErrNotFound, l.at.stream)
	}
	return fmt.Errorf("%w: %s has versions 1 to %d", ErrNotFound, l.at.stream, l.last)
}
