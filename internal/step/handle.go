package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/body"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/wire"
)

type fieldList = []canon.Field

// A Settlement tells how the delivery of a message at an inbox offset was settled.
type Settlement struct {
	Offset    int64
	Duplicate bool         // suppressed; Entry is the first delivery's
	Entry     driver.Entry // of the ledger; of a conflict, its own decision
	Record    *wire.Record // the decision that was just made; nil for a duplicate

	Changes []canon.Change // what the decision changed in the state, if [Config.Settled] asks for it
}

// Handle settles messages, which must be the partition's next ones in order, a transaction at a time. What it
// returns was committed, with or without an error; it may be told once it is released. An error other than the
// context's asks for a new Takeover.
func (w *Worker) Handle(ctx context.Context, ms []Message) ([]Settlement, error) {
	var all []Settlement
	for len(ms) > 0 {
		n := Run(ms)
		var done []Settlement
		var err error
		if n == 0 {
			n = 1
			done, err = w.handleAct(ctx, ms[0])
		} else {
			done, err = w.handleRun(ctx, ms[:n])
		}
		all = append(all, done...)
		if err != nil {
			return all, err
		}
		ms = ms[n:]
	}
	return all, nil
}

// Run returns how many messages come before the first operator's act: what Decide takes. An act asks for transactions of
// its own, and for Handle, with nothing else under way.
func Run(ms []Message) int {
	n := slices.IndexFunc(ms, func(m Message) bool { return m.Env.Kind == deja.KindAct && m.dead == nil })
	if n < 0 {
		return len(ms)
	}
	return n
}

// handleRun settles messages that are no acts, in one transaction.
func (w *Worker) handleRun(ctx context.Context, ms []Message) ([]Settlement, error) {
	b, err := w.Decide(ctx, ms)
	if err != nil {
		return nil, err
	}
	return w.Commit(ctx, b)
}

// Decide looks up, loads and decides messages, none of them an act, on top of all that was decided before them,
// committed or not. The batches that it returns are to be committed in their order.
func (w *Worker) Decide(ctx context.Context, ms []Message) (*Batch, error) {
	b := w.newBatch()
	b.expect(len(ms))
	if err := b.lookUp(ctx, ms); err != nil {
		return nil, err
	}
	if err := w.load(ctx, b.streamsOf(ms), b.committed); err != nil {
		return nil, err
	}
	for _, m := range ms {
		if m.Env.Position.Offset < b.to.Position {
			return nil, fmt.Errorf("message at %s comes after position %d", m.Env.Position, b.to.Position)
		}
		if err := b.settle(ctx, m); err != nil {
			return nil, err
		}
		b.to.Position = m.Env.Position.Offset + 1
	}
	w.decided(b)
	return b, nil
}

// decided takes a batch as what comes next, and closes it.
func (w *Worker) decided(b *Batch) {
	b.out.States = w.changedStates()
	w.next = b.to
	w.flying = append(w.flying, b)
}

// Commit writes a batch, and returns what it settled.
func (w *Worker) Commit(ctx context.Context, b *Batch) ([]Settlement, error) {
	if err := w.commit(ctx, b); err != nil {
		return nil, err
	}
	return b.settled, nil
}

// A Batch is one core transaction in the making.
type Batch struct {
	w        *Worker
	from, to driver.Progress
	known    map[deja.ID]driver.Entry // the ledger, as far as this batch needs it, with what the batch added
	out      driver.Batch
	chains   [][32]byte        // of out.Records
	bytes    []byte            // see encoded
	slots    []wire.Record     // see slot
	size     int               // how many messages there will be; 0 if that is not known
	repeats  map[repeatKey]int // index into out.Repeats
	events   []deja.Envelope   // for the projections
	settled  []Settlement
	act      *Message       // the operator's act that asks for this batch, if one does
	changes  []canon.Change // by the decision in the making

	committed int64 // the number of the last decision that was committed when this batch was begun
}

type repeatKey struct {
	key      deja.ID
	conflict bool
}

func (w *Worker) newBatch() *Batch {
	committed := w.Progress().N
	w.flying = slices.DeleteFunc(w.flying, func(b *Batch) bool { return b.to.N <= committed })
	return &Batch{
		w: w, from: w.next, to: w.next, known: map[deja.ID]driver.Entry{}, repeats: map[repeatKey]int{}, committed: committed,
	}
}

// expect makes room for the decisions of so many messages.
func (b *Batch) expect(n int) {
	b.size = n
	b.known = make(map[deja.ID]driver.Entry, n)
	b.out.Records, b.chains = make([]driver.JournalRecord, 0, n), make([][32]byte, 0, n)
	b.out.Ledger, b.settled = make([]driver.Entry, 0, n), make([]Settlement, 0, n)
}

// flown returns the entry of a key in a batch that may not be committed yet.
func (w *Worker) flown(key deja.ID) (e driver.Entry, ok bool) {
	for i := len(w.flying) - 1; i >= 0 && !ok; i-- {
		e, ok = w.flying[i].known[key]
	}
	return e, ok
}

// lookUp asks the ledger for the batch's keys, sorted. Repeats inside the batch are found later, in log order.
func (b *Batch) lookUp(ctx context.Context, ms []Message) error {
	keys := make([]deja.ID, 0, len(ms))
	for _, m := range ms {
		if e, ok := b.w.flown(m.Key); ok {
			b.known[m.Key] = e // the store may not know it yet
		} else {
			keys = append(keys, m.Key)
		}
	}
	slices.SortFunc(keys, func(x, y deja.ID) int { return slices.Compare(x[:], y[:]) })
	entries, asked, err := b.w.cfg.Store.Lookup(ctx, slices.Compact(keys))
	if err != nil {
		return fmt.Errorf("look up the ledger: %w", err)
	}
	b.out.Asked = asked
	for _, e := range entries {
		if e.Partition == b.w.cfg.Partition && e.N > b.committed {
			return errAhead(e.N, b.committed)
		}
		b.known[e.Key] = e
	}
	return nil
}

// errAhead refuses what was read from a store that is ahead of the worker. Reading comes before the transaction: were
// the store to go back in between, to where this worker left it, the transaction would commit what followed from
// decisions that never were. What is not ahead is covered by the chain that the transaction compares.
func errAhead(n, own int64) error {
	return fmt.Errorf("%w: it has decision %d, this worker is at %d", driver.ErrFenced, n, own)
}

func (b *Batch) streamsOf(ms []Message) map[deja.Stream]bool {
	streams := map[deja.Stream]bool{}
	for _, m := range ms {
		if _, known := b.known[m.Key]; !known && m.dead == nil {
			streams[m.Env.Stream] = true
		}
	}
	return streams
}

// settle settles one delivery.
func (b *Batch) settle(ctx context.Context, m Message) error {
	offset := m.Env.Position.Offset
	first, known := b.known[m.Key]
	switch {
	case known && first.Hash == m.Hash:
		b.repeat(m.Key, offset, false)
		b.settled = append(b.settled, Settlement{Offset: offset, Duplicate: true, Entry: first})
	case known:
		paths, err := b.w.differ(ctx, first, m)
		if err != nil {
			return err
		}
		for i, p := range paths {
			paths[i] = cutTo(p, maxPath)
		}
		b.repeat(m.Key, offset, true)
		r := b.newRecord(m, offset)
		r.First, r.FirstIn, r.Paths = first.Offset, first.Partition, paths
		r.Decided = deja.Decided{Status: deja.Conflicted, Reason: deja.Rejection{Code: deja.CodeConflict}}
		b.record(m, r, b.encoded(r))
	case m.dead != nil:
		r := b.newRecord(m, offset)
		r.Decided = died(m.dead)
		b.record(m, r, b.encoded(r))
	default:
		h := b.w.states[m.Env.Stream]
		if h.row.Parked > 0 {
			b.block(m, h, offset)
			return nil
		}
		return b.decide(m, h, offset)
	}
	return nil
}

func (b *Batch) repeat(key deja.ID, offset int64, conflict bool) {
	k := repeatKey{key, conflict}
	i, ok := b.repeats[k]
	if !ok {
		i = len(b.out.Repeats)
		b.repeats[k] = i
		b.out.Repeats = append(b.out.Repeats, driver.Repeat{Key: key, Partition: b.w.cfg.Partition, Conflict: conflict, First: offset})
	}
	b.out.Repeats[i].Count++
	b.out.Repeats[i].Last = offset
}

func killed(processes int64) *deja.Rejection {
	return &deja.Rejection{Code: deja.CodeKilled, Detail: fmt.Sprintf("%d processes died while they handled it", processes)}
}

func died(reason *deja.Rejection) deja.Decided {
	return deja.Decided{Status: deja.DeadLetter, Reason: deja.Rejection{Code: cut(reason.Code), Detail: cut(reason.Detail)}}
}

// block parks a message behind an earlier one of its key.
func (b *Batch) block(m Message, h *held, covers int64) {
	r := b.newRecord(m, covers)
	r.Version = h.state.Version
	r.Decided = deja.Decided{Status: deja.Parked, Reason: deja.Rejection{Code: deja.CodeBlocked, Detail: "an earlier message of the key is parked"}}
	b.record(m, r, b.encoded(r))
	b.park(m, h)
}

// park notes the pointer to a parked message, and that its key is blocked.
func (b *Batch) park(m Message, h *held) {
	b.out.Parked = append(b.out.Parked, driver.Parked{
		Stream: m.Env.Stream, Partition: b.w.cfg.Partition, Offset: m.Env.Position.Offset, Key: m.Key, N: b.to.N,
	})
	h.row.Parked++
	b.touch(h)
}

// touch notes that the last decision changed a stream's row.
func (b *Batch) touch(h *held) {
	h.row.N = b.to.N
	if !h.changed {
		h.changed = true
		b.w.changed = append(b.w.changed, h)
	}
}

// decide lets the aggregate decide a message, folds what it recorded, and records the decision. The state in memory
// is restored where the decision does not stand.
func (b *Batch) decide(m Message, h *held, covers int64) error {
	if err := h.flatten(b.w.cfg.Machine); err != nil {
		return err
	}
	r := b.newRecord(m, covers)
	switch why := h.open.Refuses(m.Env, r.Time); {
	case m.killed > 0:
		r.Decided = deja.Decided{Status: deja.Parked, Reason: *killed(m.killed)}
	case why != nil:
		r.Decided = deja.Decided{Status: deja.Ignored, Reason: *why}
	case m.unheard != nil:
		r.Decided = deja.Decided{Status: deja.Parked, Reason: *m.unheard}
	default:
		r.Decided = *b.w.cfg.Machine.Decide(h.state, m.Env, m.payload, r.Time)
	}
	r.Decided.Reason.Code, r.Decided.Reason.Detail = cut(r.Decided.Reason.Code), cut(r.Decided.Reason.Detail)
	next, err := b.fold(r, h)
	raw := b.encoded(r)
	if err != nil {
		raw, err = b.withdraw(r, h, parked(err))
	} else if why := b.w.tooLarge(r, raw); why != nil {
		instead := deja.Decided{Status: deja.Parked, Reason: *why}
		if m.Env.Kind == deja.KindCommand {
			instead.Status = deja.Rejected
		}
		raw, err = b.withdraw(r, h, instead)
	}
	if err != nil {
		return err
	}
	if len(r.Decided.Events) > 0 {
		next.row.Position = r.Through()
		*h = next
		b.project(r.Decided.Events)
	}
	b.record(m, r, raw)
	if r.Opens() {
		h.opened(r, b.w.cfg.Machine)
		h.encodeOpen()
	}
	if len(r.Decided.Events) > 0 || r.Opens() {
		b.touch(h)
	}
	if r.Decided.Status == deja.Parked && b.act == nil {
		b.park(m, h)
	}
	return nil
}

// opened folds a decision into what the stream waits for.
func (h *held) opened(r *wire.Record, m *deja.Machine) {
	h.open = h.open.After(r, m.Saga(h.row.Stream.Aggregate))
}

// encodeOpen brings the row up to what the stream waits for.
func (h *held) encodeOpen() { h.row.Open, h.row.Due = h.open.Append(nil), h.open.Due() }

const (
	around = 16 << 10 // for what a message has beside payload, key and headers: in a reply, the reason of a refusal above all
	spread = 8        // a body has at most so many times the bytes of what it is made of: there is no need to count them all
)

// tooLarge returns why what was decided would not fit where it goes: into the journal; and, as nothing of a decision may
// leave that cannot arrive, into the inboxes of those it is for. A sent command must fit into the record of its decision, too,
// and into its reply, even if it is refused.
func (w *Worker) tooLarge(r *wire.Record, raw []byte) *deja.Rejection {
	reason := &deja.Rejection{Code: deja.CodeTooLarge}
	if limit := w.journal.MaxRecord; len(raw) > limit {
		return reason.Because("the decision's record has %d bytes, the journal takes %d", len(raw), limit)
	}
	beside := around
	for _, h := range wire.TraceHeaders {
		beside += len(r.Cause.Headers[h])
	}
	if limit := w.journal.MaxRecord; r.Cause.Sender != (deja.Stream{}) && len(raw)*spread+beside > limit {
		if size := replied(r) + names(&r.Cause) + beside; size > limit {
			return reason.Because("the decision's record has %d bytes, and its reply would have up to %d where an inbox takes %d", len(raw), size, limit)
		}
	}
	for i := range r.Decided.Commands {
		c := &r.Decided.Commands[i]
		if limit := w.limit(c.Stream.Aggregate); len(c.Payload)+names(c)+beside > limit {
			return reason.Because("%s has %d bytes, the inbox that it is sent to takes %d", c.Type, len(c.Payload), limit)
		}
		if limit := w.inbox.MaxRecord; len(c.Payload)*spread+names(c)+beside > limit && w.cfg.Machine.Saga(r.Cause.Stream.Aggregate).Hears(c.Type) {
			if size := body.Size(c.ContentType, c.Payload) + names(c) + beside; size > limit {
				return reason.Because("%s has %d bytes, and its reply would have up to %d where the inbox takes %d", c.Type, len(c.Payload), size, limit)
			}
		}
	}
	for i := range r.Decided.Timers {
		if c := &r.Decided.Timers[i].Command; len(c.Payload)+around > w.inbox.MaxRecord {
			return reason.Because("%s has %d bytes, the inbox takes %d", c.Type, len(c.Payload), w.inbox.MaxRecord)
		}
	}
	for i := range r.Decided.Effects {
		if e := &r.Decided.Effects[i]; len(e.Payload)*spread+around > w.inbox.MaxRecord && body.Size(e.ContentType, e.Payload)+around > w.inbox.MaxRecord {
			return reason.Because("%s has %d bytes, and its result would have more than the %d that the inbox takes", e.Type, len(e.Payload), w.inbox.MaxRecord)
		}
	}
	return nil
}

// replied returns how many bytes a decision has in the reply to its command, at most.
func replied(r *wire.Record) int {
	const beside = 128 // id, version and the names of fields
	size := body.Size(r.Cause.ContentType, r.Cause.Payload)
	for i := range r.Decided.Events {
		e := &r.Decided.Events[i]
		size += beside + len(e.Type) + len(e.ContentType) + body.Size(e.ContentType, e.Payload)
	}
	return size
}

// names returns how many bytes key and tenant have in a reply, at most.
func names(e *deja.Envelope) int { return 6 * (len(e.Stream.Key) + len(e.Stream.Tenant)) }

// limit returns how large a message to an aggregate may be.
func (w *Worker) limit(aggregate string) int {
	if w.cfg.Limit != nil {
		if limit := w.cfg.Limit(aggregate); limit > 0 {
			return limit
		}
	}
	return w.inbox.MaxRecord
}

// project notes events for the projections, if there are any.
func (b *Batch) project(events []deja.Envelope) {
	if b.w.cfg.Machine.Projects() && !b.w.cfg.NoProjections {
		b.events = append(b.events, events...)
	}
}

// fold applies a decision's events to h's state, completes the record, and returns what h becomes if it stands.
func (b *Batch) fold(r *wire.Record, h *held) (held, error) {
	next := *h
	for i := range r.Decided.Events {
		if err := b.w.cfg.Machine.Fold(h.state, &r.Decided.Events[i]); err != nil {
			return next, err
		}
	}
	r.Version = h.state.Version
	if len(r.Decided.Events) == 0 {
		return next, nil
	}
	err := next.encode()
	if err == nil {
		err = next.flatten(b.w.cfg.Machine)
	}
	if changes := canon.Diff(h.fields, next.fields); err == nil && len(changes) > 0 {
		r.Writes = canon.HashChanges(changes)
		b.changes = changes
	}
	return next, err
}

// encode brings the row of a state up to the state. At version 0 it has none: the stream's messages are parked.
func (h *held) encode() error {
	if h.state.Version == 0 {
		return nil
	}
	data, err := h.state.Encode()
	if err != nil {
		return fmt.Errorf("encode state of %s: %w", h.row.Stream, err)
	}
	h.row.Data, h.row.Version = data, h.state.Version
	h.fields, h.flat = nil, false
	return nil
}

// flatten brings the fields of a state up to its row, which only a decision needs.
func (h *held) flatten(m *deja.Machine) (err error) {
	if h.flat {
		return nil
	}
	h.flat = true
	if len(h.row.Data) > 0 {
		h.fields, err = m.Flatten(nil, h.row.Stream.Aggregate, h.row.Data)
	}
	return err
}

// withdraw replaces a decision that does not stand, undoes its folding, and returns the new record's bytes.
func (b *Batch) withdraw(r *wire.Record, h *held, instead deja.Decided) ([]byte, error) {
	restored, err := b.w.hold(h.row)
	if err != nil {
		return nil, err
	}
	restored.changed, restored.size = h.changed, h.size
	*h = *restored
	r.Decided, r.Version, r.Writes, b.changes = instead, h.row.Version, [32]byte{}, nil
	return b.encoded(r), nil
}

// What a text may add to a record, in bytes: with [Valid] they keep every record but one with events far below any
// topic's limit.
const (
	maxDetail = 2000 // an error or a refusal
	maxPath   = 200  // a path at which a conflicting message differs; there are few
)

func cut(s string) string { return cutTo(s, maxDetail) }

// cutTo bounds a text that goes into a record.
func cutTo(s string, most int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func parked(err error) deja.Decided {
	return deja.Decided{Status: deja.Parked, Reason: deja.Rejection{Code: deja.CodeFailed, Detail: cut(err.Error())}}
}

// room returns for how many more records memory is taken at once.
func (b *Batch) room(most int) int { return max(min(most, b.size-len(b.settled)), 1) }

// slot returns room for a record, out of a piece of memory that the batch's records share.
func (b *Batch) slot() *wire.Record {
	if len(b.slots) == 0 {
		b.slots = make([]wire.Record, b.room(64))
	}
	r := &b.slots[0]
	b.slots = b.slots[1:]
	return r
}

// newRecord begins the record of the next decision.
func (b *Batch) newRecord(m Message, covers int64) *wire.Record {
	r := b.slot()
	*r = wire.Record{
		Kind: wire.KindDecision, N: b.to.N + 1, Prev: b.to.Chain, Incarnation: b.to.Incarnation,
		Cause: *m.Env, Hash: m.Hash, Covers: covers,
		Build: b.w.cfg.Build, Fold: b.w.cfg.Machine.FoldVersion(),
	}
	if b.to.N == 0 {
		r.Prev = wire.Genesis(b.w.cfg.Machine.Name(), b.w.cfg.Partition)
	}
	if r.Cause.Sender == (deja.Stream{}) || r.Cause.Kind != deja.KindCommand {
		r.Cause.Payload = nil // else it is part of the reply
	}
	b.changes = nil
	at := later(m.Env.Time, m.NotBefore)
	if b.act != nil {
		at, r.Act = later(b.act.Env.Time, b.act.NotBefore), b.act.Env.ID
	}
	r.Time = later(b.to.Time, at)
	return r
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// record adds a decision's record, and its ledger entry: of a conflict there is none, as the key is another's.
func (b *Batch) record(m Message, r *wire.Record, raw []byte) {
	b.out.Records = append(b.out.Records, driver.JournalRecord{N: r.N, Value: raw})
	b.to.N, b.to.Chain, b.to.Time, b.to.Fold = r.N, wire.Hash(raw), r.Time, r.Fold
	b.chains = append(b.chains, b.to.Chain)
	e := driver.Entry{
		Key: m.Key, Hash: m.Hash, Partition: b.w.cfg.Partition, Offset: m.Env.Position.Offset, N: r.N, Status: r.Decided.Status,
	}
	first, known := b.known[m.Key]
	if elsewhere := known && first.Partition != e.Partition; e.Status != deja.Conflicted && !elsewhere {
		b.out.Ledger = append(b.out.Ledger, e)
		b.known[m.Key] = e
	}
	done := Settlement{Offset: e.Offset, Entry: e, Record: r}
	if b.w.cfg.Settled != nil {
		done.Changes = b.changes
	}
	b.settled = append(b.settled, done)
}

// commit writes a batch in one transaction. Whatever fails, nothing of it may be believed afterwards.
func (w *Worker) commit(ctx context.Context, b *Batch) error {
	if err := w.transact(ctx, b); err != nil {
		return err
	}
	if w.cfg.Settled != nil {
		w.cfg.Settled(b.settled)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress = b.to
	w.ahead(b.to)
	if !b.out.Logged && w.cfg.Recent {
		w.recent.add(b)
	}
	for _, s := range b.settled {
		if s.Record != nil {
			w.timers += int64(len(s.Record.Decided.Timers))
		}
	}
	if w.joint {
		w.released = b.to.N
		return nil
	}
	if b.out.Logged {
		return nil
	}
	w.fresh.add(b.out.Records)
	for i, r := range b.out.Records {
		w.chains[r.N] = b.chains[i]
	}
	return nil
}

func (w *Worker) transact(ctx context.Context, b *Batch) error {
	tx, err := w.cfg.Store.Begin(ctx, w.lease)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if err := tx.Write(ctx, &b.out); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	for i := range b.events {
		if err := w.cfg.Machine.Project(tx.SQL(), &b.events[i]); err != nil {
			return err
		}
	}
	if err := tx.Advance(ctx, b.from, b.to); err != nil {
		return fmt.Errorf("advance: %w", err)
	}
	switch err := tx.Commit(ctx); {
	case err == nil:
		return nil
	case errors.Is(err, driver.ErrFenced):
		return fmt.Errorf("commit: %w", err)
	default:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
}

// encoded returns a record's bytes, in a piece of memory that several share.
func (b *Batch) encoded(r *wire.Record) []byte {
	const usual = 1 << 10
	if cap(b.bytes)-len(b.bytes) < usual {
		b.bytes = make([]byte, 0, usual*b.room(64))
	}
	n := len(b.bytes)
	all := wire.AppendRecord(b.bytes, r)
	if cap(all) == cap(b.bytes) { // else it did not fit, and has memory of its own
		b.bytes = all
	}
	return all[n:len(all):len(all)]
}
