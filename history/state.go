package history

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/dejalog/deja"
)

// State returns the state of a key at a point, such as account/42@17 ([History.At]), and where it is from. agg is the
// aggregate of the service whose state it is.
func State[S any](ctx context.Context, h *History, agg *deja.Aggregate[S], at string) (S, Origin, error) {
	var none S
	p, err := h.At(ctx, at)
	if err != nil {
		return none, Origin{}, err
	}
	if p.Stream.Aggregate != agg.Name() {
		return none, Origin{}, fmt.Errorf("%s is no %s", p.Stream, agg.Name())
	}
	st, where, err := h.stateOf(ctx, p)
	if err != nil {
		return none, where, err
	}
	value, ok := st.Value().(*S)
	if !ok {
		return none, where, fmt.Errorf("the state of %s is a %T in this history's service", p.Stream, st.Value())
	}
	return *value, where, nil
}

// State returns the state at a point as JSON, and where it is from; at version 0 the empty state.
func (h *History) State(ctx context.Context, p Point) (json.RawMessage, Origin, error) {
	st, where, err := h.stateOf(ctx, p)
	if err != nil {
		return nil, where, err
	}
	data, err := st.Encode()
	return data, where, err
}

func (h *History) stateOf(ctx context.Context, p Point) (*deja.State, Origin, error) {
	st, err := h.steps.state(ctx, p.Stream, p.n())
	if err != nil {
		return nil, Origin{}, err
	}
	where, err := h.originOf(ctx, p)
	return st, where, err
}

// StateUpTo returns the state of a key after the decisions of its partition with N ≤ last. It is the caller's.
func (h *History) StateUpTo(ctx context.Context, s deja.Stream, last int64) (*deja.State, error) {
	return h.steps.state(ctx, s, last)
}
