package step

import (
	"cmp"
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// maxDrain bounds the parked messages that one transaction decides again.
const maxDrain = 256

// handleAct handles an operator's act: the oldest parked message of a key is decided again or given up, then those
// parked behind it, in order, until one fails or the key is free. Up to maxDrain go into one transaction. The
// position moves to the act only with the act's own record, the last; so an act that is handled again after a crash
// goes on with its drain.
func (w *Worker) handleAct(ctx context.Context, m Message) ([]Settlement, error) {
	stream := m.Env.Stream
	if _, err := w.cfg.Machine.NewState(stream); err != nil {
		m.dead = &deja.Rejection{Code: deja.CodeUnknownType, Detail: err.Error()}
		return w.handleRun(ctx, []Message{m})
	}
	if known, _, err := w.cfg.Store.Lookup(ctx, []deja.ID{m.Key}); err != nil || len(known) > 0 {
		if err != nil {
			return nil, fmt.Errorf("look up the ledger: %w", err)
		}
		return w.handleRun(ctx, []Message{m})
	}
	for begun := false; ; begun = true {
		b, done, err := w.drain(ctx, &m, begun)
		if err != nil {
			return nil, err
		}
		w.decided(b)
		if err := w.commit(ctx, b); err != nil {
			return nil, err
		}
		if done {
			return b.settled[len(b.settled)-1:], nil
		}
	}
}

// drain makes the next batch of an act, and tells whether it is the last.
func (w *Worker) drain(ctx context.Context, m *Message, begun bool) (*Batch, bool, error) {
	stream, act := m.Env.Stream, m.payload.(deja.Act)
	waiting, err := w.cfg.Store.Parked(ctx, w.cfg.Partition, stream, 0, maxDrain+1)
	if err != nil {
		return nil, false, fmt.Errorf("read parked messages: %w", err)
	}
	more := len(waiting) > maxDrain
	ms, err := w.reread(ctx, waiting[:min(len(waiting), maxDrain)])
	if err != nil {
		return nil, false, err
	}
	b := w.newBatch()
	b.act = m
	if err := w.load(ctx, map[deja.Stream]bool{stream: true}, b.committed); err != nil {
		return nil, false, err
	}
	if m.killed > 0 { // by one of those that it would decide again: they stay where they are
		b.close(m, killed(m.killed))
		return b, true, nil
	}
	if !begun {
		if begun, err = w.begun(ctx, m.Env.ID); err != nil {
			return nil, false, err
		}
	}
	if !begun && (len(ms) == 0 || ms[0].Env.ID != act.Message) {
		b.close(m, &deja.Rejection{Code: deja.CodeNotParked, Detail: fmt.Sprintf("message %s is not the oldest parked one of %s", act.Message, stream)})
		return b, true, nil
	}
	if n := len(waiting); n > 0 && waiting[n-1].N > b.committed {
		return nil, false, errAhead(waiting[n-1].N, b.committed)
	}
	keys := make([]deja.ID, len(waiting))
	for i := range waiting {
		keys[i] = waiting[i].Key
	}
	if err := b.settledElsewhere(ctx, keys); err != nil {
		return nil, false, err
	}
	for i, pm := range ms {
		skip := i == 0 && !begun && m.Env.Type == deja.ActSkip
		failed, err := b.again(pm, waiting[i], skip, act)
		if err != nil {
			return nil, false, err
		}
		if failed != nil {
			b.close(m, failed)
			return b, true, nil
		}
	}
	if !more {
		b.close(m, nil)
	}
	return b, !more, nil
}

// again settles a parked message anew. It returns why it failed again, if it did; then it stays where it is.
func (b *Batch) again(m Message, p driver.Parked, skip bool, act deja.Act) (*deja.Rejection, error) {
	h := b.w.states[p.Stream]
	covers := b.to.Position - 1
	if m.Key != p.Key && m.dead == nil {
		return nil, fmt.Errorf("%w: the inbox record at offset %d is not the message that was parked there", deja.ErrHalted, p.Offset)
	}
	m.Key = p.Key
	if skip {
		m.dead = &deja.Rejection{Code: deja.CodeSkipped, Detail: act.Reason}
	}
	if m.dead != nil { // skipped, or of a type that this build no longer handles
		r := b.newRecord(m, covers)
		r.Cause.Stream = p.Stream
		r.Decided = died(m.dead)
		b.record(m, r, b.encoded(r))
		if r.Opens() {
			h.opened(r, b.w.cfg.Machine)
			h.encodeOpen()
		}
	} else if err := b.decide(m, h, covers); err != nil {
		return nil, err
	}
	last := b.settled[len(b.settled)-1].Record
	if last.Decided.Status == deja.Parked {
		return &last.Decided.Reason, nil
	}
	b.unpark(p, h)
	return nil, nil
}

func (b *Batch) unpark(p driver.Parked, h *held) {
	b.out.Unparked = append(b.out.Unparked, p)
	h.row.Parked--
	b.touch(h)
}

// close records the act's own decision, which moves the position past it.
func (b *Batch) close(m *Message, refusal *deja.Rejection) {
	offset := m.Env.Position.Offset
	b.act = nil
	r := b.newRecord(*m, offset)
	r.Version = b.w.states[m.Env.Stream].state.Version
	r.Decided = deja.Decided{Status: deja.Applied}
	if refusal != nil {
		r.Decided = deja.Decided{Status: deja.Rejected, Reason: *refusal}
	}
	b.record(*m, r, b.encoded(r))
	b.to.Position = offset + 1
}

// begun reports whether an act's drain was begun before a crash: then the last decision was made for it.
func (w *Worker) begun(ctx context.Context, act deja.ID) (bool, error) {
	if w.next.N == 0 {
		return false, nil
	}
	r, err := w.lastRecord(ctx)
	if err != nil {
		return false, err
	}
	return r.Act == act, nil
}

// lastRecord reads the partition's last decision: from the journal where it was committed into it, else from those
// that the store keeps.
func (w *Worker) lastRecord(ctx context.Context) (*wire.Record, error) {
	n := w.next.N
	if !w.joint {
		kept, err := w.cfg.Store.Unlogged(ctx, w.cfg.Partition, n-1, 1)
		if err != nil {
			return nil, fmt.Errorf("read kept records: %w", err)
		}
		if len(kept) == 1 && kept[0].N == n {
			return w.dec.Record(w.cfg.Partition, kept[0].Value)
		}
	}
	e, err := journal.Find(ctx, w.cfg.Log, w.cfg.Machine.Name(), w.cfg.Partition, n, w.lives())
	return e.Record, err
}

// lives returns the number of the newest life where a journal can hold several, else 0.
func (w *Worker) lives() int64 {
	if w.joint {
		return 0
	}
	return w.next.Incarnation.Number
}

// reread fetches parked messages from the inbox again.
func (w *Worker) reread(ctx context.Context, ps []driver.Parked) ([]Message, error) {
	prepare := NewPreparer(w.cfg.Machine, w.inbox.Partitions)
	ms := make([]Message, 0, len(ps))
	for _, p := range ps {
		rec, err := w.fetchOne(ctx, p.Partition, p.Offset)
		if err != nil {
			return nil, fmt.Errorf("read parked message: %w", err)
		}
		ms = append(ms, prepare.one(&rec))
	}
	return ms, nil
}

// fetchOne reads the inbox record at an offset, which must have been there.
func (w *Worker) fetchOne(ctx context.Context, partition int32, offset int64) (driver.Record, error) {
	at := deja.Position{Topic: w.inbox.Name, Partition: partition, Offset: offset}
	if _, end, err := w.cfg.Log.Bounds(ctx, at.Topic, partition); err != nil || offset >= end {
		return driver.Record{}, Halt(fmt.Errorf("read %s: %w", at, cmp.Or(err, driver.ErrBeyondEnd)))
	}
	recs, err := w.cfg.Log.Fetch(ctx, at, 1)
	if err != nil {
		return driver.Record{}, fmt.Errorf("read %s: %w", at, err)
	}
	if recs[0].Offset != offset {
		return driver.Record{}, fmt.Errorf("read %s: %w", at, driver.ErrTrimmed)
	}
	return recs[0], nil
}
