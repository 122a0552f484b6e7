package history

import (
	"context"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
)

// A Verdict is what a test makes of a state.
type Verdict uint8

// The verdicts.
const (
	Good Verdict = iota
	Bad
	Skip // it cannot be told
)

var verdictNames = [...]string{"good", "bad", "skipped"}

// String returns the verdict's word.
func (v Verdict) String() string { return verdictNames[v] }

// A Tried is a message that a test is given, and the state that it left behind.
type Tried struct {
	Message
	State *deja.State
	Left  int // how many messages the first bad one is among, this one counted; 0 if all are tested
}

// A Bisection is what a search by a test found.
type Bisection struct {
	FirstBad *Message      `json:"first_bad"` // nil: there is none, or it is one of the suspects
	LastGood *Message      `json:"last_good"` // nil: no message that was tested before it was good
	Suspects []Message     `json:"suspects"`  // those among which skipped messages leave the first bad one
	Tested   int           `json:"tested"`
	Assumed  string        `json:"assumed,omitempty"` // "sticky": right if what is bad stays bad; "" if each message was tested
	Complete bool          `json:"complete"`          // the history has all of the key's messages
	UpTo     deja.Position `json:"up_to"`             // the last message that was looked at; zero if there is none
}

// Bisect finds the first message of a key within limits after which a test says that the state is bad: by binary search, which
// assumes that it is bad ever after; or exactly, which tests each message up to the first bad one. Only messages that recorded
// something are tested. Before the first message all is good. Where the last one is good, binary search finds nothing; where
// the last one before the limits is bad, there is an error. What it is given is the test's until it returns.
func (h *History) Bisect(ctx context.Context, key deja.Stream, lim Limits, exact bool, test func(context.Context, *Tried) (Verdict, error)) (*Bisection, error) {
	b := &bisecting{h: h, test: test, found: &Bisection{Complete: true, Suspects: []Message{}}}
	lim = h.within(lim)
	p := h.partition(key)
	var before *Step // the last one before the limits
	for s, err := range h.steps.key(ctx, key, 0, lim.Last[p], false) {
		switch {
		case err != nil:
			return nil, err
		case len(s.Events) == 0:
		case s.N <= lim.After[p]:
			before = s.clone()
		default:
			b.places = append(b.places, place{p, s.N})
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var err error
	if b.found.Complete, err = h.untrimmed(ctx, key); err != nil || len(b.places) == 0 {
		return b.found, err
	}
	b.verdicts = map[int]Verdict{}
	search := b.search
	if exact {
		search = b.walk
	} else {
		b.found.Assumed = "sticky"
	}
	if before != nil {
		v, err := b.try(ctx, before, 0)
		if err != nil {
			return nil, err
		}
		if v == Bad {
			return nil, fmt.Errorf("%s is bad already at version %d, after message %s, before the range: begin earlier", key, before.Version, before.ID)
		}
	}
	if err := search(ctx); err != nil {
		return nil, err
	}
	return b.found, nil
}

// bisecting is a search for the first bad message.
type bisecting struct {
	h        *History
	test     func(context.Context, *Tried) (Verdict, error)
	places   []place // of the messages, in order
	verdicts map[int]Verdict
	found    *Bisection
}

// try tests the state after a message.
func (b *bisecting) try(ctx context.Context, s *Step, left int) (Verdict, error) {
	m, err := b.h.message(ctx, s)
	if err != nil {
		return Skip, err
	}
	st, err := b.h.steps.state(ctx, s.Stream, s.N)
	if err != nil {
		return Skip, err
	}
	b.found.Tested++
	return b.test(ctx, &Tried{m, st, left})
}

// at tests message i, once.
func (b *bisecting) at(ctx context.Context, i, left int) (Verdict, error) {
	if v, ok := b.verdicts[i]; ok {
		return v, nil
	}
	s, err := b.h.steps.decision(ctx, b.places[i])
	if err != nil {
		return Skip, err
	}
	v, err := b.try(ctx, s, left)
	b.verdicts[i] = v
	return v, err
}

// search is the binary search.
func (b *bisecting) search(ctx context.Context) error {
	good, bad := -1, len(b.places)-1
	switch last, err := b.at(ctx, bad, len(b.places)); {
	case err != nil:
		return err
	case last == Skip:
		return errors.New("the last message is skipped, so it is not known whether anything is bad: end before it")
	case last == Good:
		return b.conclude(ctx, good, len(b.places))
	}
	for bad-good > 1 {
		i, ok := b.middle(good, bad)
		if !ok { // all between are skipped
			break
		}
		v, err := b.at(ctx, i, bad-good)
		switch {
		case err != nil:
			return err
		case v == Bad:
			bad = i
		case v == Good:
			good = i
		}
	}
	return b.conclude(ctx, good, bad)
}

// middle returns the message between two that is nearest to their middle and was not skipped.
func (b *bisecting) middle(good, bad int) (int, bool) {
	middle := good + (bad-good)/2
	for off := range bad - good {
		for _, i := range [...]int{middle - off, middle + off} {
			if _, tested := b.verdicts[i]; !tested && i > good && i < bad {
				return i, true
			}
		}
	}
	return 0, false
}

// walk tests each message up to the first bad one.
func (b *bisecting) walk(ctx context.Context) error {
	good := -1
	for i := range b.places {
		switch v, err := b.at(ctx, i, 0); {
		case err != nil:
			return err
		case v == Bad:
			return b.conclude(ctx, good, i)
		case v == Good:
			good = i
		}
	}
	return b.conclude(ctx, good, len(b.places))
}

// conclude says what is known: message good is, as are those before it, and message bad is the first that is known to be; it is
// beyond the last one where none is.
func (b *bisecting) conclude(ctx context.Context, good, bad int) error {
	last, err := b.message(ctx, len(b.places)-1)
	if err != nil {
		return err
	}
	b.found.UpTo = last.Position
	if bad == len(b.places) {
		return nil
	}
	if good >= 0 {
		if b.found.LastGood, err = b.message(ctx, good); err != nil {
			return err
		}
	}
	if bad-good == 1 {
		b.found.FirstBad, err = b.message(ctx, bad)
		return err
	}
	for i := good + 1; i <= bad; i++ {
		m, err := b.message(ctx, i)
		if err != nil {
			return err
		}
		b.found.Suspects = append(b.found.Suspects, *m)
	}
	return nil
}

func (b *bisecting) message(ctx context.Context, i int) (*Message, error) {
	s, err := b.h.steps.decision(ctx, b.places[i])
	if err != nil {
		return nil, err
	}
	m, err := b.h.message(ctx, s)
	return &m, err
}
