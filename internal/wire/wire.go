// Package wire encodes what is kept in logs: inbox messages and journal records. The forms are protocol buffers
// (docs/formats.md has the schema), written in field order, so that equal values give equal bytes. Field 1 is the
// format's version. What is written is frozen by golden files.
package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/canon"
)

// Format is the version of both encodings.
const Format = 1

var errTruncated = errors.New("truncated or no protocol buffer")

// writer appends fields; zero values are left out.
type writer []byte

func (w *writer) uint(num protowire.Number, v uint64) {
	if v != 0 {
		*w = protowire.AppendTag(*w, num, protowire.VarintType)
		*w = protowire.AppendVarint(*w, v)
	}
}

func (w *writer) bytes(num protowire.Number, v []byte) {
	if len(v) != 0 {
		*w = protowire.AppendTag(*w, num, protowire.BytesType)
		*w = protowire.AppendBytes(*w, v)
	}
}

func (w *writer) string(num protowire.Number, v string) {
	if v != "" {
		*w = protowire.AppendTag(*w, num, protowire.BytesType)
		*w = protowire.AppendString(*w, v)
	}
}

func (w *writer) id(num protowire.Number, id deja.ID) {
	if !id.IsZero() {
		w.bytes(num, id[:])
	}
}

func (w *writer) hash(num protowire.Number, h [32]byte) {
	if h != ([32]byte{}) {
		w.bytes(num, h[:])
	}
}

// time writes microseconds since 1970, zigzag, plus one, so that an absent field is the zero time.
func (w *writer) time(num protowire.Number, t time.Time) {
	if !t.IsZero() {
		w.uint(num, protowire.EncodeZigZag(t.UnixMicro())+1)
	}
}

// begin begins a sub-message, and end ends it; an empty one is written too, as repeated ones need it. Its length goes
// in front, where one byte is kept free: a longer length moves the sub-message on.
func (w *writer) begin(num protowire.Number) (start int) {
	*w = append(protowire.AppendTag(*w, num, protowire.BytesType), 0)
	return len(*w)
}

func (w *writer) end(start int) {
	n := len(*w) - start
	if n < 0x80 {
		(*w)[start-1] = byte(n)
		return
	}
	var length [10]byte
	*w = slices.Replace(*w, start-1, start, protowire.AppendVarint(length[:0], uint64(n))...)
}

// field is one decoded field: v of a varint, b of bytes.
type field struct {
	num protowire.Number
	v   uint64
	b   []byte
}

// fields calls fn for each field of data, and refuses other wire types than varint and bytes.
func fields(data []byte, fn func(field) error) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errTruncated
		}
		data = data[n:]
		f := field{num: num}
		switch typ {
		case protowire.VarintType:
			f.v, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			f.b, n = protowire.ConsumeBytes(data)
		default:
			return fmt.Errorf("field %d has wire type %d", num, typ)
		}
		if n < 0 {
			return errTruncated
		}
		data = data[n:]
		if err := fn(f); err != nil {
			return fmt.Errorf("field %d: %w", num, err)
		}
	}
	return nil
}

func (f field) time() time.Time {
	if f.v == 0 {
		return time.Time{}
	}
	return time.UnixMicro(protowire.DecodeZigZag(f.v - 1)).UTC()
}

// max refuses a number that would be cut to fit.
func (f field) max(most uint64) error {
	if f.v > most {
		return fmt.Errorf("%d is more than %d", f.v, most)
	}
	return nil
}

func (f field) id() (deja.ID, error) {
	if len(f.b) != 16 {
		return deja.ID{}, fmt.Errorf("an id has 16 bytes, not %d", len(f.b))
	}
	return deja.ID(f.b), nil
}

func (f field) hash() ([32]byte, error) {
	if len(f.b) != 32 {
		return [32]byte{}, fmt.Errorf("a hash has 32 bytes, not %d", len(f.b))
	}
	return [32]byte(f.b), nil
}

// checkFormat reads field 1 of a record, which is always first.
func checkFormat(data []byte) error {
	num, typ, n := protowire.ConsumeTag(data)
	if n < 0 || num != 1 || typ != protowire.VarintType {
		return errors.New("not a record of deja: no format version in front")
	}
	v, n := protowire.ConsumeVarint(data[n:])
	if n < 0 {
		return errTruncated
	}
	if v != Format {
		return fmt.Errorf("format version %d, this build reads %d: run a newer build", v, Format)
	}
	return nil
}

// Micro cuts a time to the precision that records keep, in UTC.
func Micro(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}

// AppendMessage appends the inbox form of a message. Time, Version and Position are the log's or a decision's to
// give, and left out.
func AppendMessage(dst []byte, e *deja.Envelope) []byte {
	w := writer(dst)
	w.uint(1, Format)
	w.envelope(e)
	return w
}

// envelope writes fields 2 to 18 of message and cause, but for 16, which a cause has and a message has not.
func (w *writer) envelope(e *deja.Envelope) {
	w.id(2, e.ID)
	w.uint(3, uint64(e.Kind))
	w.string(4, e.Type)
	w.string(5, e.Stream.Tenant)
	w.string(6, e.Stream.Aggregate)
	w.string(7, e.Stream.Key)
	w.string(8, e.Source)
	w.string(9, e.Actor)
	w.time(10, e.BusinessTime)
	w.id(11, e.CausationID)
	w.id(12, e.CorrelationID)
	w.string(13, e.ContentType)
	for _, k := range sortedKeys(e.Headers) {
		at := w.begin(14)
		w.string(1, k)
		w.string(2, e.Headers[k])
		w.end(at)
	}
	w.bytes(15, e.Payload)
	w.string(17, e.Sender.Aggregate)
	w.string(18, e.Sender.Key)
}

func sortedKeys(m map[string]string) []string {
	if len(m) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(m))
}

// A Decoder decodes records of one service. It shares equal names between records, and is not safe for concurrent use.
type Decoder struct {
	service string
	inbox   string
	names   map[string]string
	slots   []deja.Envelope
	records []Record
	decoded int // how many records the last piece of memory had room for
}

// NewDecoder returns a decoder for a service's records.
func NewDecoder(service string) *Decoder {
	return &Decoder{service: service, inbox: Inbox(service), names: map[string]string{}}
}

// Inbox returns the name of a service's inbox topic.
func Inbox(service string) string { return service + ".inbox" }

// Journal returns the name of a service's journal topic.
func Journal(service string) string { return service + journalSuffix }

const journalSuffix = ".journal"

// name returns b as a string, the same one for the same bytes. The table is bounded: names are few and short.
func (d *Decoder) name(b []byte) string {
	if len(b) > 64 {
		return string(b)
	}
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(d.names) < 1024 {
		d.names[s] = s
	}
	return s
}

// Message decodes an inbox record; the envelope refers to data.
func (d *Decoder) Message(data []byte) (*deja.Envelope, error) {
	if err := checkFormat(data); err != nil {
		return nil, err
	}
	e := new(deja.Envelope)
	err := fields(data, func(f field) error { return d.envelope(e, f) })
	if err != nil {
		return nil, err
	}
	sent(e)
	return e, nil
}

// envelope takes one field of a message or a cause. Unknown fields are passed over.
func (d *Decoder) envelope(e *deja.Envelope, f field) (err error) {
	switch f.num {
	case 2:
		e.ID, err = f.id()
	case 3:
		e.Kind, err = deja.Kind(f.v), f.max(math.MaxUint8)
	case 4:
		e.Type = d.name(f.b)
	case 5:
		e.Stream.Tenant = d.name(f.b)
	case 6:
		e.Stream.Aggregate = d.name(f.b)
	case 7:
		e.Stream.Key = string(f.b)
	case 8:
		e.Source = d.name(f.b)
	case 9:
		e.Actor = d.name(f.b)
	case 10:
		e.BusinessTime = f.time()
	case 11:
		e.CausationID, err = f.id()
	case 12:
		e.CorrelationID, err = f.id()
	case 13:
		e.ContentType = d.name(f.b)
	case 14:
		err = d.header(e, f.b)
	case 15:
		e.Payload = payload(f.b)
	case 17:
		e.Sender.Aggregate = d.name(f.b)
	case 18:
		e.Sender.Key = string(f.b)
	}
	return err
}

// sent completes the stream that a message was sent by: it is of the same tenant.
func sent(e *deja.Envelope) {
	if e.Sender.Aggregate != "" {
		e.Sender.Tenant = e.Stream.Tenant
	}
}

// payload returns b, or nil for none: an empty one and an absent one are the same.
func payload(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

func (d *Decoder) header(e *deja.Envelope, data []byte) error {
	var kv [2]string
	err := fields(data, func(f field) error {
		if f.num == 1 || f.num == 2 {
			kv[f.num-1] = string(f.b)
		}
		return nil
	})
	if e.Headers == nil {
		e.Headers = map[string]string{}
	}
	e.Headers[kv[0]] = kv[1]
	return err
}

// ContentHash returns the hash that tells a redelivered message from a conflicting one: over the canonical payload
// and all that belongs to the content; not over actor, headers and what the log gave. The error says why the payload
// has no canonical form; the hash is then over its bytes as they are, and the message is dead.
func ContentHash(e *deja.Envelope) ([32]byte, error) {
	scratch := scratches.Get().(*[2][]byte)
	defer scratches.Put(scratch)
	content, form := e.Payload, "raw"
	var err error
	if e.ContentType == "application/json" {
		form = "json"
		if content, err = canon.Append(scratch[0][:0], e.Payload); err != nil {
			form, content = "malformed", e.Payload
		} else if cap(content) <= maxScratch {
			scratch[0] = content
		}
	}
	b := scratch[1][:0]
	for _, part := range []string{
		"deja/content/1", e.Stream.Tenant, e.Source, e.Kind.String(), e.Type, e.Stream.Aggregate, e.Stream.Key,
		string(e.CausationID[:]), e.ContentType, form,
	} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	if e.Sender != (deja.Stream{}) {
		for _, part := range []string{"sender", e.Sender.Aggregate, e.Sender.Key} {
			b = binary.AppendUvarint(b, uint64(len(part)))
			b = append(b, part...)
		}
	}
	w := writer(b)
	w.time(1, e.BusinessTime)
	w = append(append(w, 0), content...)
	if cap(w) <= maxScratch {
		scratch[1] = w
	}
	return sha256.Sum256(w), err
}

// scratches are buffers for hashing.
var scratches = sync.Pool{New: func() any { return &[2][]byte{} }}

const maxScratch = 64 << 10

// LedgerKey returns a message's identity in a service's ledger: its ID where tenant and source are the default ones,
// else a hash over the three, as two senders may use one ID for different things.
func LedgerKey(service string, e *deja.Envelope) deja.ID {
	if e.Stream.Tenant == "" && e.Source == service {
		return e.ID
	}
	return deja.DeriveID("deja/ledger/"+e.Stream.Tenant+"\x00"+e.Source, e.ID.String())
}
