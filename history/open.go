package history

import (
	"context"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// Open returns what a key waited for at a point, as [driver.State] has it; empty if for nothing.
func (h *History) Open(ctx context.Context, p Point) ([]byte, error) {
	w := h.opening(p.Stream)
	if err := w.upTo(ctx, p.n()); err != nil {
		return nil, err
	}
	return w.open.Append(nil), nil
}

// answers reports whether a message of a kind is handled only by who waits for it.
func answers(k deja.Kind) bool {
	return k == deja.KindReply || k == deja.KindTimer || k == deja.KindResult
}

// opening follows what a stream waits for, along its recorded decisions. It is not in the index: few ask, and of few streams.
type opening struct {
	h      *History
	stream deja.Stream
	rules  *deja.Saga
	last   int64 // decisions up to this one are in
	open   wire.Open
}

func (h *History) opening(s deja.Stream) *opening {
	return &opening{h: h, stream: s, rules: h.machine.Saga(s.Aggregate)}
}

// upTo goes on to a decision, which must not be before the last one.
func (w *opening) upTo(ctx context.Context, last int64) error {
	for st, err := range w.h.steps.key(ctx, w.stream, w.last, last, false) {
		if err != nil {
			return err
		}
		if err := w.take(ctx, st); err != nil {
			return err
		}
	}
	w.last = max(w.last, last)
	return nil
}

// put sets what a row says of what its stream waits for.
func (w *opening) put(row *driver.State) { row.Open, row.Due = w.open.Append(nil), w.open.Due() }

// take takes one recorded decision in.
func (w *opening) take(ctx context.Context, st *Step) error {
	e, err := w.h.source.Decision(ctx, st.Position.Partition, st.N)
	if err != nil {
		return err
	}
	w.open = w.open.After(e.Record, w.rules)
	return nil
}
