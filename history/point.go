package history

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/replay"
)

// A Point is a key at a moment: after one of its messages, or before all of them.
type Point struct {
	Stream deja.Stream
	Step   *Step    // the key's last message by then; nil before its first
	Notes  []string // for the reader of an answer
}

// n returns the number of the last decision that the point has.
func (p Point) n() int64 {
	if p.Step == nil {
		return 0
	}
	return p.Step.N
}

// At returns the point that a text names: a locator (account/42@17, account/42@1993-06-30, a message's ID), whose key is that
// of the message it names, or a key (account/42) at its present end. A key that holds an @ needs a moment behind it. A time
// is one of decisions, unless it says otherwise.
func (h *History) At(ctx context.Context, text string) (Point, error) {
	return h.AtBy(ctx, text, replay.Decided)
}

// AtBy returns what At does, of a time by a clock.
func (h *History) AtBy(ctx context.Context, text string, by replay.Clock) (Point, error) {
	if s, err := deja.ParseStream(text); err == nil && !strings.Contains(text, "@") {
		return h.Of(ctx, s, replay.Locator{}, by)
	}
	at, err := replay.ParseLocator(text)
	if err != nil {
		return Point{}, err
	}
	f, notes, err := h.source.Message(ctx, at, by)
	if none, ok := errors.AsType[*replay.NoneError](err); ok && !none.Moved {
		return Point{Stream: none.Stream, Notes: notes}, nil
	}
	if err != nil {
		return Point{}, err
	}
	return h.point(ctx, f, notes)
}

// Of returns the point of a key at a moment. A business time cuts the key for itself.
func (h *History) Of(ctx context.Context, s deja.Stream, at replay.Locator, by replay.Clock) (Point, error) {
	f, notes, err := h.source.LastOf(ctx, s, at, by)
	if err != nil {
		return Point{}, err
	}
	if f.N == 0 {
		return Point{Stream: s, Notes: notes}, nil
	}
	return h.point(ctx, f, notes)
}

func (h *History) point(ctx context.Context, f replay.Found, notes []string) (Point, error) {
	st, err := h.steps.decision(ctx, place{f.Partition, f.N})
	if err != nil {
		return Point{}, err
	}
	if _, err := h.machine.NewState(st.Stream); err != nil {
		return Point{}, fmt.Errorf("message %s has no state: %w", st.ID, err)
	}
	return Point{Stream: st.Stream, Step: st, Notes: notes}, nil
}

// An Origin says where a state is from.
type Origin struct {
	Stream   deja.Stream
	Version  int64
	Position deja.Position // the inbox position up to which all was decided when it last changed; zero at version 0
	Time     time.Time     // of the decision that last changed it; zero at version 0
	Notes    []string      // for the reader of an answer
}

// originOf tells where the state of a point is from: the last step up to it that recorded something.
func (h *History) originOf(ctx context.Context, p Point) (Origin, error) {
	at := Origin{Stream: p.Stream, Notes: p.Notes}
	for st, err := range h.steps.key(ctx, p.Stream, 0, p.n(), true) {
		if err != nil {
			return at, err
		}
		if len(st.Events) == 0 {
			continue
		}
		at.Version, at.Position, at.Time = st.Version, st.Position, st.Time
		if !st.Act.IsZero() { // then it is the act's place
			e, err := h.Entry(ctx, st)
			if err != nil {
				return at, err
			}
			at.Position.Offset = e.Through()
		}
		break
	}
	return at, nil
}
