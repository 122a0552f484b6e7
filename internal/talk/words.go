package talk

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/wire"
)

// A Hello is what a worker says of itself.
type Hello struct {
	Protocol int    `json:"protocol"`
	Service  string `json:"service"`
	Build    string `json:"build"` // as its decisions would record it
	Fold     string `json:"fold"`  // the fold version of its states
	Go       string `json:"go"`
}

// Begin begins a life: of a partition, on top of the rows and parked messages that follow it.
type Begin struct {
	Partition  int32 `json:"partition"`
	Partitions int32 `json:"partitions"`
	MaxRecord  int   `json:"max_record"` // the largest record that the journal takes
}

// A Row is a stream's state.
type Row struct {
	Tenant    string          `json:"tenant,omitempty"`
	Aggregate string          `json:"aggregate"`
	Key       string          `json:"key"`
	Version   int64           `json:"version"`
	Parked    int64           `json:"parked,omitempty"` // how many of its messages wait
	Data      json.RawMessage `json:"data,omitempty"`   // none at version 0
	Open      []byte          `json:"open,omitempty"`   // what it waits for
}

// RowOf returns the row of a stream's state.
func RowOf(s driver.State) Row {
	return Row{s.Stream.Tenant, s.Stream.Aggregate, s.Stream.Key, s.Version, s.Parked, s.Data, s.Open}
}

// Stream returns the stream whose state it is.
func (r *Row) Stream() deja.Stream {
	return deja.Stream{Tenant: r.Tenant, Aggregate: r.Aggregate, Key: r.Key}
}

// state returns the stream's state of a service, in a partition.
func (r *Row) state(service string, partition int32) (driver.State, error) {
	open, err := wire.DecodeOpen(service, r.Stream(), r.Open)
	return driver.State{
		Stream: r.Stream(), Partition: partition, Version: r.Version, Data: r.Data, Parked: r.Parked, Open: r.Open, Due: open.Due(),
	}, err
}

// A Parked is a message that waits when a life begins.
type Parked struct {
	Offset int64     `json:"offset"` // in the inbox
	Time   time.Time `json:"time"`   // when the log appended it
	Value  []byte    `json:"value"`  // its inbox record
}

// A Message is an inbox record to be lived.
type Message struct {
	Offset    int64
	Time      time.Time // when the log appended it
	Value     []byte
	NotBefore time.Time // it is decided no earlier; zero: as early as it may be
	Killed    bool      // it is not decided, but parked as one that has killed processes
}

// An Answer is what a message came to.
type Answer struct {
	Offset    int64      // of the message
	Decisions []Decision // in order: an act's own comes last, after those that it brought about
	State     [32]byte   // of the message's stream, after it: the hash of its fields; zero if it has none
}

// A Decision is a decision, and what it changed.
type Decision struct {
	*wire.Record
	Changes []canon.Change // in order of paths
}

// asJSON returns what appends a value as JSON.
func asJSON(v any) func([]byte) []byte {
	return func(dst []byte) []byte {
		data, err := json.Marshal(v)
		if err != nil { // all that is sent so has a JSON form
			panic(err)
		}
		return append(dst, data...)
	}
}

// micros writes a time as records have it: 0 for none.
func micros(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixMicro()) + 1
}

func timeOf(v uint64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(v - 1)).UTC()
}

func (m *Message) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(m.Offset))
	dst = binary.AppendUvarint(dst, micros(m.Time))
	dst = binary.AppendUvarint(dst, micros(m.NotBefore))
	killed := byte(0)
	if m.Killed {
		killed = 1
	}
	return append(append(dst, killed), m.Value...)
}

func parseMessage(body []byte) (m Message, err error) {
	p := parser{rest: body}
	m.Offset, m.Time, m.NotBefore = int64(p.uint()), timeOf(p.uint()), timeOf(p.uint())
	flag := p.take(1)
	if p.err == nil {
		m.Killed, m.Value = flag[0] == 1, p.rest
	}
	return m, p.err
}

func (a *Answer) append(dst []byte) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(a.Offset)), a.State[:]...)
	dst = binary.AppendUvarint(dst, uint64(len(a.Decisions)))
	for _, d := range a.Decisions {
		dst = appendBytes(dst, wire.AppendRecord(nil, d.Record))
		dst = binary.AppendUvarint(dst, uint64(len(d.Changes)))
		for _, c := range d.Changes {
			dst = appendBytes(appendBytes(appendBytes(dst, c.Path), c.Old), c.New)
		}
	}
	return dst
}

func parseAnswer(dec *wire.Decoder, partition int32, body []byte) (a Answer, err error) {
	p := parser{rest: body}
	a.Offset = int64(p.uint())
	copy(a.State[:], p.take(len(a.State)))
	for n := p.uint(); n > 0 && p.err == nil; n-- {
		raw := p.bytes()
		if p.err != nil {
			break
		}
		var d Decision
		if d.Record, p.err = dec.Record(partition, raw); p.err != nil {
			break
		}
		for c := p.uint(); c > 0 && p.err == nil; c-- {
			d.Changes = append(d.Changes, canon.Change{Path: string(p.bytes()), Old: string(p.bytes()), New: string(p.bytes())})
		}
		a.Decisions = append(a.Decisions, d)
	}
	if p.err == nil && len(p.rest) > 0 {
		p.err = errShort
	}
	return a, p.err
}

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

var errShort = errors.New("a frame's body has another length than it says")

// parser reads numbers and bytes off a body, and keeps the first error.
type parser struct {
	rest []byte
	err  error
}

func (p *parser) uint() uint64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 {
		p.rest, p.err = nil, errShort
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

// take returns the next n bytes; fewer, and an error, if there are not as many.
func (p *parser) take(n int) []byte {
	if n < 0 || n > len(p.rest) {
		n, p.err = 0, errShort
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) bytes() []byte {
	n := p.uint()
	if n > uint64(len(p.rest)) {
		p.rest, p.err = nil, errShort
		return nil
	}
	return p.take(int(n))
}

func parseJSON(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("read a frame: %w", err)
	}
	return nil
}
