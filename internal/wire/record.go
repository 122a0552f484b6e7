package wire

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// Through returns the inbox offset whose handling made the decision: the message's own or, of a parked message decided
// again, that of the act, which is only covered with the last decision that it causes.
func (r *Record) Through() int64 {
	if r.Act.IsZero() {
		return r.Covers
	}
	return r.Covers + 1
}

// Parks returns by how much a decision changes the number of its stream's parked messages: 1 as it parks one, -1 as one
// that an act had decided again no longer waits.
func (r *Record) Parks() int64 {
	switch waits := r.Decided.Status == deja.Parked; {
	case waits && r.Act.IsZero():
		return 1
	case !waits && !r.Act.IsZero():
		return -1
	}
	return 0
}

// Touches reports whether a decision changes its stream's row.
func (r *Record) Touches() bool { return len(r.Decided.Events) > 0 || r.Parks() != 0 || r.Opens() }

// Opens reports whether a decision may change what its stream waits for. A dead reply, timer or result leaves it waiting:
// nobody has heard of it.
func (r *Record) Opens() bool {
	d := &r.Decided
	switch r.Cause.Kind {
	case deja.KindReply, deja.KindTimer, deja.KindResult:
		skipped := d.Status == deja.DeadLetter && d.Reason.Code == deja.CodeSkipped
		if d.Status == deja.Applied || d.Status == deja.Rejected || d.Status == deja.Ignored || skipped {
			return true
		}
	default:
	}
	return len(d.Events)+len(d.Commands)+len(d.Timers)+len(d.Cancelled)+len(d.Effects) > 0
}

// A Kind says what a journal record is. An unknown one is refused: a newer build's record may change what follows.
type Kind uint8

// The kinds of journal record. Their numbers are part of the format.
const (
	KindDecision Kind = 1 // a decision
	KindMarker   Kind = 2 // the beginning of a new incarnation; it has no N
)

// A Record is a journal record: a decision, or the marker of a new incarnation.
type Record struct {
	Kind        Kind
	N           int64    // of a decision, dense from 1; of a marker, that of the last decision before it
	Prev        [32]byte // the hash of record N-1; at N 1 the partition's [Genesis]; of a marker, of record N
	Incarnation driver.Incarnation
	Cause       deja.Envelope // the message, without payload unless an aggregate sent it; Position is its own in the inbox
	Hash        [32]byte      // of the message's content
	Covers      int64         // the inbox offset up to which all is decided
	Decided     deja.Decided
	Version     int64    // of the stream, after it; 0 for conflict and dead, which do not look at it
	Writes      [32]byte // of the fields that changed; zero if none did
	Time        time.Time
	Build       string
	Fold        string
	First       int64    // of a conflict: the first message's inbox offset
	FirstIn     int32    // of a conflict: the first message's partition
	Paths       []string // of a conflict: where the two differ
	Act         deja.ID  // of a parked message decided again: the operator's act that asked for it
}

// Marker reports whether r is an incarnation's marker.
func (r *Record) Marker() bool { return r.Kind == KindMarker }

// Genesis is what the first decision of a partition follows from: no journal can stand in for another's.
func Genesis(service string, partition int32) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "deja/genesis/1 %s %d", service, partition))
}

// Hash returns the link of the chain: the hash of a record's bytes.
func Hash(record []byte) [32]byte { return sha256.Sum256(record) }

// AppendRecord appends the journal form of a record.
func AppendRecord(dst []byte, r *Record) []byte {
	w := writer(dst)
	w.uint(1, Format)
	w.uint(26, uint64(r.Kind))
	w.uint(2, uint64(r.N))
	w.hash(3, r.Prev)
	w.uint(4, uint64(r.Incarnation.Number))
	if r.Incarnation.Nonce != [16]byte{} {
		w.bytes(5, r.Incarnation.Nonce[:])
	}
	if r.Marker() {
		w.time(18, r.Time)
		w.string(19, r.Build)
		return w
	}
	at := w.begin(6)
	w.envelope(&r.Cause)
	w.uint(16, uint64(r.Cause.Position.Offset))
	w.end(at)
	w.hash(7, r.Hash)
	w.uint(8, uint64(r.Covers))
	w.decided(&r.Decided)
	w.uint(16, uint64(r.Version))
	w.hash(17, r.Writes)
	w.time(18, r.Time)
	w.string(19, r.Build)
	w.string(20, r.Fold)
	w.uint(21, uint64(r.First))
	for _, p := range r.Paths {
		w.string(22, p)
	}
	w.id(24, r.Act)
	w.uint(25, uint64(r.FirstIn))
	return w
}

func (w *writer) decided(d *deja.Decided) {
	w.uint(9, uint64(d.Status))
	w.string(10, d.Reason.Code)
	w.string(11, d.Reason.Detail)
	for i := range d.Events {
		at := w.begin(12)
		w.emission(&d.Events[i])
		w.end(at)
	}
	for i := range d.Commands {
		at := w.begin(13)
		w.emission(&d.Commands[i])
		w.target(&d.Commands[i])
		w.end(at)
	}
	for i := range d.Timers {
		t := &d.Timers[i]
		at := w.begin(14)
		w.emission(&t.Command)
		w.string(5, t.Name)
		w.time(6, t.Due)
		w.end(at)
	}
	for i := range d.Effects {
		at := w.begin(15)
		w.emission(&d.Effects[i])
		w.end(at)
	}
	for _, name := range d.Cancelled {
		at := w.begin(23) // also one without a name
		*w = append(*w, name...)
		w.end(at)
	}
}

// emission writes what an emitted message does not share with its decision.
func (w *writer) emission(e *deja.Envelope) {
	w.id(1, e.ID)
	w.string(2, e.Type)
	w.bytes(3, e.Payload)
	w.string(4, e.ContentType)
}

func (w *writer) target(e *deja.Envelope) {
	w.string(5, e.Stream.Aggregate)
	w.string(6, e.Stream.Key)
}

// Record decodes a journal record of a partition, which must be one that this version wrote in full; it refers to
// data.
func (d *Decoder) Record(partition int32, data []byte) (*Record, error) {
	if err := checkFormat(data); err != nil {
		return nil, err
	}
	r := d.room()
	r.Cause.Position = deja.Position{Topic: d.inbox, Partition: partition}
	if err := fields(data, func(f field) error { return d.record(r, f) }); err != nil {
		return nil, fmt.Errorf("journal record %d: %w", r.N, err)
	}
	switch {
	case r.Kind != KindDecision && r.Kind != KindMarker:
		return nil, fmt.Errorf("journal record of kind %d, which this build does not know: run a newer build", r.Kind)
	case r.Kind == KindDecision && (r.N < 1 || r.Cause.ID.IsZero() || r.Decided.Status == 0):
		return nil, fmt.Errorf("journal record %d: %w", r.N, errors.New("number, cause or outcome is missing"))
	}
	d.complete(r)
	return r, nil
}

func (d *Decoder) record(r *Record, f field) (err error) {
	switch f.num {
	case 2:
		r.N = int64(f.v)
	case 3:
		r.Prev, err = f.hash()
	case 4:
		r.Incarnation.Number = int64(f.v)
	case 5:
		id, e := f.id()
		r.Incarnation.Nonce, err = id, e
	case 6:
		err = fields(f.b, func(f field) error {
			if f.num == 16 {
				r.Cause.Position.Offset = int64(f.v)
				return nil
			}
			return d.envelope(&r.Cause, f)
		})
	case 7:
		r.Hash, err = f.hash()
	case 8:
		r.Covers = int64(f.v)
	case 16:
		r.Version = int64(f.v)
	case 17:
		r.Writes, err = f.hash()
	case 18:
		r.Time = f.time()
	case 19:
		r.Build = d.name(f.b)
	case 20:
		r.Fold = d.name(f.b)
	case 21:
		r.First = int64(f.v)
	case 22:
		r.Paths = append(r.Paths, string(f.b))
	case 24:
		r.Act, err = f.id()
	case 25:
		r.FirstIn, err = int32(f.v), f.max(math.MaxInt32)
	case 26:
		r.Kind, err = Kind(f.v), f.max(math.MaxUint8)
	default:
		err = d.decided(&r.Decided, f)
	}
	return err
}

func (d *Decoder) decided(r *deja.Decided, f field) (err error) {
	switch f.num {
	case 9:
		r.Status, err = deja.Status(f.v), f.max(math.MaxUint8)
	case 10:
		r.Reason.Code = d.name(f.b)
	case 11:
		r.Reason.Detail = string(f.b)
	case 12:
		if r.Events == nil {
			r.Events = d.slot()
		}
		r.Events = append(r.Events, deja.Envelope{Kind: deja.KindEvent})
		err = d.emission(&r.Events[len(r.Events)-1], nil, f.b)
	case 13:
		e := deja.Envelope{Kind: deja.KindCommand}
		err = d.emission(&e, nil, f.b)
		r.Commands = append(r.Commands, e)
	case 14:
		t := deja.Timer{Command: deja.Envelope{Kind: deja.KindCommand}}
		err = d.emission(&t.Command, &t, f.b)
		r.Timers = append(r.Timers, t)
	case 15:
		e := deja.Envelope{Kind: deja.KindEffect}
		err = d.emission(&e, nil, f.b)
		r.Effects = append(r.Effects, e)
	case 23:
		r.Cancelled = append(r.Cancelled, string(f.b))
	}
	return err
}

// room returns room for a record, out of a larger piece of memory once several were decoded.
func (d *Decoder) room() *Record {
	if len(d.records) == 0 {
		d.decoded = min(max(2*d.decoded, 1), 64)
		d.records = make([]Record, d.decoded)
	}
	r := &d.records[0]
	d.records = d.records[1:]
	return r
}

// slot returns room for the one event that most decisions record, out of a larger piece of memory.
func (d *Decoder) slot() []deja.Envelope {
	if len(d.slots) == 0 {
		d.slots = make([]deja.Envelope, 64)
	}
	s := d.slots[:0:1]
	d.slots = d.slots[1:]
	return s
}

// emission decodes an emitted message; t is nil, or the timer that it belongs to.
func (d *Decoder) emission(e *deja.Envelope, t *deja.Timer, data []byte) error {
	return fields(data, func(f field) (err error) {
		switch f.num {
		case 1:
			e.ID, err = f.id()
		case 2:
			e.Type = d.name(f.b)
		case 3:
			e.Payload = payload(f.b)
		case 4:
			e.ContentType = d.name(f.b)
		case 5:
			if t != nil {
				t.Name = d.name(f.b)
			} else {
				e.Stream.Aggregate = d.name(f.b)
			}
		case 6:
			if t != nil {
				t.Due = f.time()
			} else {
				e.Stream.Key = string(f.b)
			}
		}
		return err
	})
}

// complete gives the emitted messages what they share with their decision.
func (d *Decoder) complete(r *Record) {
	sent(&r.Cause)
	first := r.Version - int64(len(r.Decided.Events))
	for i := range r.Decided.Events {
		e := &r.Decided.Events[i]
		d.inherit(r, e, r.Cause.Stream)
		e.Version, e.Position, e.Time = first+int64(i)+1, r.Cause.Position, r.Time
	}
	for i := range r.Decided.Commands {
		e := &r.Decided.Commands[i]
		e.Stream.Tenant, e.Sender = r.Cause.Stream.Tenant, r.Cause.Stream
		d.inherit(r, e, e.Stream)
	}
	for i := range r.Decided.Timers {
		d.inherit(r, &r.Decided.Timers[i].Command, r.Cause.Stream)
	}
	for i := range r.Decided.Effects {
		d.inherit(r, &r.Decided.Effects[i], r.Cause.Stream)
	}
}

func (d *Decoder) inherit(r *Record, e *deja.Envelope, s deja.Stream) {
	e.Stream, e.Source, e.Actor = s, d.service, r.Cause.Actor
	e.BusinessTime, e.CausationID, e.CorrelationID = r.Cause.BusinessTime, r.Cause.ID, r.Cause.CorrelationID
}
