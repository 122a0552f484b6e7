package history

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// RepairHeader is the header of the commands that a repair sends; its value is the plan's ID. They answer what was decided:
// who decides otherwise has no use for them, so they are not lived again.
const RepairHeader = "deja-repair"

// visits calls fn with the messages of a partition that are in a scope and within limits, in the order of the inbox: those
// of which there is a decision of their own. Duplicates have none. A conflict has one, which does not hang on who decides,
// and is left out. It returns how many decisions there were.
func (h *History) visits(ctx context.Context, partition int32, scope Scope, lim Limits, fn func(visit) error) error {
	inbox := recordReader{h: h, at: deja.Position{Topic: wire.Inbox(h.machine.Name()), Partition: partition}}
	var behind []journal.Entry // of an act whose own decision is to come
	for e, err := range h.source.Decisions(ctx, partition, lim.After[partition]+1) {
		if err != nil {
			return err
		}
		if e.N > lim.Last[partition] {
			break
		}
		if !scope.Matches(e.Cause.Stream) || e.Decided.Status == deja.Conflicted {
			continue
		}
		if !e.Act.IsZero() {
			behind = append(behind, *e)
			continue
		}
		rec, err := inbox.read(ctx, e.Cause.Position.Offset)
		if err != nil {
			return err
		}
		v := visit{rec: rec, entries: append(behind, *e), repair: e.Cause.Headers[RepairHeader] != ""}
		behind = nil
		if err := fn(v); err != nil {
			return err
		}
	}
	return nil
}

// recordReader reads a partition of the inbox, at offsets that rise.
type recordReader struct {
	h     *History
	at    deja.Position
	ahead []driver.Record
}

// Where the next offset is farther away than this, what lies between is not read.
const readAhead = 2000

func (r *recordReader) read(ctx context.Context, offset int64) (driver.Record, error) {
	for len(r.ahead) > 0 && r.ahead[0].Offset < offset {
		r.ahead = r.ahead[1:]
	}
	if len(r.ahead) == 0 {
		most := readAhead
		if offset > r.at.Offset+readAhead { // it may be one key of many
			most = 1
		}
		r.at.Offset = offset
		var err error
		if r.ahead, err = r.h.log.Fetch(ctx, r.at, most); err != nil {
			return driver.Record{}, fmt.Errorf("read %s: %w", r.at, err)
		}
	}
	if rec := r.ahead[0]; rec.Offset == offset {
		return rec, nil
	}
	return driver.Record{}, fmt.Errorf("read %s: %w", deja.Position{Topic: r.at.Topic, Partition: r.at.Partition, Offset: offset}, driver.ErrTrimmed)
}

// begun returns the number of the decision after which a partition can be lived: the given one or, where it is one of several
// that an act brought about, that of the act itself.
func (h *History) begun(ctx context.Context, partition int32, after, last int64) (int64, error) {
	var act deja.ID
	for n := after; n > 0 && n <= last; n++ {
		st, err := h.steps.decision(ctx, place{partition, n})
		switch {
		case err != nil:
			return after, err
		case n == after && st.Act.IsZero():
			return after, nil
		case n == after:
			act = st.Act
		case st.ID == act && st.Act.IsZero():
			return n, nil
		}
	}
	return min(after, last), nil
}

// pasts returns what the keys of a partition that a scope and limits leave to be lived are before the first message.
func (h *History) pasts(ctx context.Context, partition int32, scope Scope, lim Limits) ([]keyPast, error) {
	after := lim.After[partition]
	if after == 0 {
		return nil, nil
	}
	asks := map[deja.Stream]bool{} // does a message to come ask for what the key waits for?
	var streams []deja.Stream
	for e, err := range h.source.Decisions(ctx, partition, after+1) {
		if err != nil {
			return nil, err
		}
		s := e.Cause.Stream
		if e.N > lim.Last[partition] {
			break
		}
		if _, none := h.machine.NewState(s); none != nil || !scope.Matches(s) {
			continue
		}
		if _, seen := asks[s]; !seen {
			streams = append(streams, s)
		}
		asks[s] = asks[s] || answers(e.Cause.Kind)
	}
	all := make([]keyPast, 0, len(streams))
	for _, s := range streams {
		p, err := h.past(ctx, s, after, asks[s])
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// past returns what a key is after a decision of its partition; what it waits for only if that is asked for.
func (h *History) past(ctx context.Context, s deja.Stream, after int64, open bool) (p keyPast, err error) {
	waits := map[deja.Position]bool{}
	var order []deja.Position
	for st, err := range h.steps.key(ctx, s, 0, after, false) {
		if err != nil {
			return p, err
		}
		switch {
		case st.Status != deja.Parked:
			delete(waits, st.Position)
		case !waits[st.Position]:
			waits[st.Position] = true
			order = append(order, st.Position)
		}
	}
	state, err := h.steps.state(ctx, s, after)
	if err != nil {
		return p, err
	}
	p.row = driver.State{Stream: s, Version: state.Version, Parked: int64(len(waits))}
	if state.Version > 0 {
		if p.row.Data, err = state.Encode(); err != nil {
			return p, err
		}
	}
	if open {
		w := h.opening(s)
		if err := w.upTo(ctx, after); err != nil {
			return p, err
		}
		w.put(&p.row)
	}
	for _, at := range order {
		if !waits[at] {
			continue
		}
		inbox := recordReader{h: h, at: deja.Position{Topic: wire.Inbox(h.machine.Name()), Partition: at.Partition, Offset: at.Offset - 2*readAhead}}
		rec, err := inbox.read(ctx, at.Offset)
		if err != nil {
			return p, err
		}
		p.waiting = append(p.waiting, rec)
	}
	return p, nil
}
