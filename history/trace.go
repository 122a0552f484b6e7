package history

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/replay"
)

// A Link is a message in a chain or a tree of causes.
type Link struct {
	*Step
	Service string // that decided it
	Depth   int    // 0 is the message that is asked for; a cause is one below its effect, in Why upwards
}

// ErrOutside is returned behind the last link of a chain whose next cause was not decided in this history: another service
// did, or it came from outside.
var ErrOutside = errors.New("not in this history")

// Why yields a message, its cause, and so on to the first cause there is. Where that names a cause of its own which is not
// in this history, an error that wraps [ErrOutside] comes last.
func (h *History) Why(ctx context.Context, of *Step) iter.Seq2[Link, error] {
	return func(yield func(Link, error) bool) {
		seen := map[deja.ID]bool{}
		for depth := 0; ; depth++ {
			if !yield(Link{of, h.machine.Name(), depth}, nil) || of.Cause.IsZero() {
				return
			}
			seen[of.ID] = true
			if seen[of.Cause] {
				yield(Link{}, fmt.Errorf("message %s is among its own causes", of.Cause))
				return
			}
			cause, err := h.first(ctx, of.Cause)
			if errors.Is(err, replay.ErrNotFound) {
				err = fmt.Errorf("%w: message %s, the cause of %s", ErrOutside, of.Cause, of.ID)
			}
			if err != nil {
				yield(Link{}, err)
				return
			}
			of = cause
		}
	}
}

// first returns the step that settled a message first: later ones of its ID are conflicts, or decide a parked one again.
func (h *History) first(ctx context.Context, id deja.ID) (*Step, error) {
	places, err := h.steps.find(ctx, id, id, 1000)
	if err != nil {
		return nil, err
	}
	for _, at := range places {
		s, err := h.steps.decision(ctx, at)
		if err != nil || s.Status != deja.Conflicted {
			return s, err
		}
	}
	return nil, fmt.Errorf("message %s: %w", id, replay.ErrNotFound)
}

// Impact yields a message and all that it caused in this history, depth first, causes before what they caused. It holds no
// more than the path to the present link, and the links beside it.
func (h *History) Impact(ctx context.Context, of *Step) iter.Seq2[Link, error] {
	return func(yield func(Link, error) bool) {
		todo, path := []Link{{of, h.machine.Name(), 0}}, []deja.ID{}
		for len(todo) > 0 {
			at := todo[len(todo)-1]
			todo, path = todo[:len(todo)-1], append(path[:at.Depth], at.ID)
			if !yield(at, nil) {
				return
			}
			next, err := h.Effects(ctx, at.Step)
			for i := len(next) - 1; i >= 0 && err == nil; i-- {
				for _, id := range path {
					if next[i].ID == id {
						err = fmt.Errorf("message %s is among its own causes", id)
					}
				}
				todo = append(todo, Link{next[i], at.Service, at.Depth + 1})
			}
			if err != nil {
				yield(Link{}, err)
				return
			}
		}
	}
}

// Effects returns the messages that a step's caused in this history, each once.
func (h *History) Effects(ctx context.Context, of *Step) ([]*Step, error) {
	if of.Status == deja.Conflicted { // its ID is another message's, and so are that ID's effects
		return nil, nil
	}
	places, err := h.steps.caused(ctx, of.ID)
	if err != nil {
		return nil, err
	}
	var once []*Step
	seen := map[deja.ID]bool{}
	for _, at := range places {
		s, err := h.steps.decision(ctx, at)
		if err != nil {
			return nil, err
		}
		if s.Status != deja.Conflicted && !seen[s.ID] {
			seen[s.ID] = true
			once = append(once, s)
		}
	}
	return once, nil
}
