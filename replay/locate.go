package replay

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dejalog/deja"
)

// Message finds the message that a locator names: of an ID the one, as it was settled at last; else the one that was decided
// last up to there. Of several partitions it is of one that the locator speaks of, and of several of those the last in time.
// The notes are for the reader of an answer.
func (s *Source) Message(ctx context.Context, at Locator, by Clock) (Found, []string, error) {
	if len(at.moves) > 0 || at.kind == atMessage || at.kind == atVersion || at.kind == atKey {
		return s.locate(ctx, at, by)
	}
	cut, err := s.Cut(ctx, at, by)
	if err != nil {
		return Found{}, nil, err
	}
	last := slices.MaxFunc(cut.spokenOf(), func(a, b Point) int { return a.Time.Compare(b.Time) })
	if last.N == 0 {
		return Found{}, nil, fmt.Errorf("%w: nothing was decided up to %s", ErrNotFound, at)
	}
	f, err := s.finder().Decision(ctx, last.Partition, last.N)
	return f, cut.Notes, err
}

// A NoneError says that nothing was decided for a stream up to a moment. It wraps [ErrNotFound].
type NoneError struct {
	Stream deja.Stream
	UpTo   Locator
	Moved  bool // the locator leads on from there
}

// Error says so.
func (e *NoneError) Error() string {
	return fmt.Sprintf("%v: nothing was decided for %s up to %s", ErrNotFound, e.Stream, e.UpTo)
}

// Unwrap returns ErrNotFound.
func (e *NoneError) Unwrap() error { return ErrNotFound }

// spokenOf returns the partitions that the locator says something about; of HEAD all.
func (c Cut) spokenOf() []Point {
	named := slices.DeleteFunc(slices.Clone(c.Points), func(p Point) bool { return !p.Named })
	if len(named) == 0 {
		return c.Points
	}
	return named
}

// locate finds the message of a locator that names one, or has moves.
func (s *Source) locate(ctx context.Context, at Locator, by Clock) (f Found, notes []string, err error) {
	base := at
	base.moves = nil
	keyed := false // the last move was along a stream's messages, or led to one
	switch at.kind {
	case atMessage:
		keyed = true
		f, err = s.message(ctx, base)
	case atVersion:
		keyed = true
		f, err = s.version(ctx, base)
	case atKey:
		keyed = true
		f, notes, err = s.LastOf(ctx, at.stream, *at.upTo, by)
		if err == nil && f.N == 0 {
			err = &NoneError{at.stream, *at.upTo, len(at.moves) > 0}
		}
	case atHead, atPosition, atTime:
		f, notes, err = s.Message(ctx, base, by)
	}
	for i, m := range at.moves {
		if err != nil {
			return f, notes, err
		}
		if m.kind == back && !keyed {
			err = s.oneOf(at)
		}
		if err == nil {
			f, err = s.move(ctx, f, m, keyed)
		}
		keyed = keyed || m.kind != back
		if err != nil {
			err = fmt.Errorf("%w (at the move %d of %s)", err, i+1, at)
		}
	}
	return f, notes, err
}

// oneOf returns an error if a locator does not say in which partition messages are counted back.
func (s *Source) oneOf(at Locator) error {
	if s.partitions == 1 || at.kind == atPosition && len(at.positions) == 1 {
		return nil
	}
	return fmt.Errorf("%w: there are %d partitions, each with an order of its own: count back from a message, from a key's version, or from one position",
		ErrNotFound, s.partitions)
}

// message finds the one message that an ID or a prefix names.
func (s *Source) message(ctx context.Context, at Locator) (Found, error) {
	all, err := s.finder().Messages(ctx, at.lo, at.hi, 6)
	switch {
	case err != nil:
		return Found{}, err
	case len(all) == 1:
		return all[0], nil
	case len(all) == 0:
		return Found{}, fmt.Errorf("%w: no message's ID begins with %s", ErrNotFound, at)
	}
	var ids []string
	for _, f := range all[:min(len(all), 5)] {
		ids = append(ids, f.ID.String())
	}
	if len(all) > 5 {
		ids = append(ids, "…")
	}
	return Found{}, fmt.Errorf("%w: the prefix %s is not unique; it begins\n  %s", ErrNotFound, at, strings.Join(ids, "\n  "))
}

// version finds the decision that brought a stream to a version.
func (s *Source) version(ctx context.Context, at Locator) (Found, error) {
	if _, err := s.machine.NewState(at.stream); err != nil {
		return Found{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	f, highest, err := s.finder().Version(ctx, at.stream, at.version)
	if err == nil && f.N == 0 {
		err = noVersion(at.stream, highest)
	}
	return f, err
}

// noVersion says that a stream never came to a version.
func noVersion(s deja.Stream, highest int64) error {
	if highest == 0 {
		return fmt.Errorf("%w: nothing was recorded for %s", ErrNotFound, s)
	}
	return fmt.Errorf("%w: %s has versions 1 to %d", ErrNotFound, s, highest)
}

// LastOf finds a stream's last decision up to a moment; the zero Found if there is none. A business time cuts the stream for
// itself. The notes are for the reader of an answer.
func (s *Source) LastOf(ctx context.Context, stream deja.Stream, at Locator, by Clock) (Found, []string, error) {
	if _, err := s.machine.NewState(stream); err != nil {
		return Found{}, nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	x := s.finder()
	if at.IsTime() && at.by(by) == Business {
		return s.lastDated(ctx, stream, at)
	}
	cut, err := s.Cut(ctx, at, by)
	if err != nil {
		return Found{}, nil, err
	}
	for f, err := range x.Key(ctx, stream, cut.Numbers(), true) {
		if err != nil {
			return f, nil, err
		}
		return f, cut.notesOf(f.Partition), nil
	}
	return Found{}, nil, nil
}

// lastDated finds a stream's last decision up to a business time.
func (s *Source) lastDated(ctx context.Context, stream deja.Stream, at Locator) (last Found, notes []string, err error) {
	c := newCalendar(at.time, true)
	head, err := s.Cut(ctx, Locator{}, Decided)
	if err != nil {
		return last, nil, err
	}
	for f, err := range s.finder().Key(ctx, stream, head.Numbers(), false) {
		if err != nil {
			return last, nil, err
		}
		if c.admit(f) {
			last = f
		}
	}
	return last, c.notes(at), nil
}

// move goes from a message to another one; keyed says that those before it are its stream's.
func (s *Source) move(ctx context.Context, from Found, m move, keyed bool) (Found, error) {
	switch m.kind {
	case toCause:
		return s.cause(ctx, from)
	case toRoot:
		return s.root(ctx, from)
	case back:
	}
	if !keyed {
		if m.n >= from.N {
			return from, fmt.Errorf("%w: there are %d messages before decision %d of partition %d", ErrNotFound, from.N-1, from.N, from.Partition)
		}
		return s.finder().Decision(ctx, from.Partition, from.N-m.n)
	}
	last := make([]int64, s.partitions)
	last[from.Partition] = from.N
	passed := int64(-1)
	for f, err := range s.finder().Key(ctx, from.Stream, last, true) {
		if err != nil {
			return f, err
		}
		if passed++; passed == m.n {
			return f, nil
		}
	}
	return from, fmt.Errorf("%w: there are %d messages of %s before %s", ErrNotFound, passed, from.Stream, from.ID)
}

// cause finds the message that caused one.
func (s *Source) cause(ctx context.Context, f Found) (Found, error) {
	if f.Cause.IsZero() {
		return f, fmt.Errorf("%w: nothing caused %s: it came from outside", ErrNotFound, f.ID)
	}
	all, err := s.finder().Messages(ctx, f.Cause, f.Cause, 1)
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%w: %s was caused by %s, which is none of this service's messages", ErrNotFound, f.ID, f.Cause)
	}
	if err != nil {
		return f, err
	}
	return all[0], nil
}

// root finds the first message of a chain of causes: the one that came from outside, or whose cause is another service's.
func (s *Source) root(ctx context.Context, f Found) (Found, error) {
	for passed := map[deja.ID]bool{}; !f.Cause.IsZero() && !passed[f.ID]; {
		passed[f.ID] = true
		all, err := s.finder().Messages(ctx, f.Cause, f.Cause, 1)
		if err != nil || len(all) == 0 {
			return f, err
		}
		f = all[0]
	}
	return f, nil
}
