package history

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// capsuleFormat is the version of a capsule's JSON.
const capsuleFormat = 1

// A Capsule is a piece of an inbox that stands alone: what a service needs to live it again, and nothing of what it decided.
// As JSON it is what WriteTo writes and ReadCapsule reads.
type Capsule struct {
	Format     int        `json:"format"` // 1
	Service    string     `json:"service"`
	Partitions int32      `json:"partitions"`
	MaxRecord  int        `json:"max_record,omitempty"` // the largest record that the journal takes; 0: 1 MiB
	Messages   []Delivery `json:"messages"`             // in the order in which they are handled; offsets rise in each partition
}

// A Delivery is a message as an inbox has it.
type Delivery struct {
	Partition     int32             `json:"partition"`
	Offset        int64             `json:"offset"`
	Time          time.Time         `json:"time"` // when it was appended
	ID            deja.ID           `json:"id,omitzero"`
	Kind          string            `json:"kind,omitempty"` // command, act …; "" is a command
	Type          string            `json:"type,omitempty"`
	Tenant        string            `json:"tenant,omitempty"`
	Aggregate     string            `json:"aggregate,omitempty"`
	Key           string            `json:"key,omitempty"`
	Source        string            `json:"source,omitempty"`
	Actor         string            `json:"actor,omitempty"`
	BusinessTime  time.Time         `json:"business_time,omitzero"`
	CausationID   deja.ID           `json:"causation_id,omitzero"`
	CorrelationID deja.ID           `json:"correlation_id,omitzero"`
	ContentType   string            `json:"content_type,omitempty"`
	Headers       map[string]string `json:"headers,omitempty"`
	Payload       json.RawMessage   `json:"payload,omitempty"` // one of JSON
	Data          []byte            `json:"data,omitempty"`    // another payload
	Raw           []byte            `json:"raw,omitempty"`     // the record, where it is no message
}

// deliveryOf returns an inbox record as a delivery.
func deliveryOf(dec *wire.Decoder, rec driver.Record) Delivery {
	d := Delivery{Partition: rec.Partition, Offset: rec.Offset, Time: wire.Micro(rec.Time)}
	env, err := dec.Message(rec.Value)
	if err != nil {
		d.Raw = rec.Value
		return d
	}
	d.ID, d.Kind, d.Type, d.Source, d.Actor = env.ID, env.Kind.String(), env.Type, env.Source, env.Actor
	d.Tenant, d.Aggregate, d.Key = env.Stream.Tenant, env.Stream.Aggregate, env.Stream.Key
	d.BusinessTime, d.CausationID, d.CorrelationID = env.BusinessTime, env.CausationID, env.CorrelationID
	d.ContentType, d.Headers = env.ContentType, env.Headers
	if env.ContentType == "application/json" && json.Valid(env.Payload) {
		d.Payload = env.Payload
	} else {
		d.Data = env.Payload
	}
	return d
}

// record returns the inbox record of a delivery.
func (d *Delivery) record() (driver.Record, error) {
	rec := driver.Record{Partition: d.Partition, Offset: d.Offset, Time: d.Time, Key: d.Key, Value: d.Raw}
	if d.Raw != nil {
		return rec, nil
	}
	env, err := d.envelope()
	if err != nil {
		return rec, err
	}
	rec.Value = wire.AppendMessage(nil, env)
	return rec, nil
}

// envelope returns the message of a delivery.
func (d *Delivery) envelope() (*deja.Envelope, error) {
	kind, err := kindOf(cmp.Or(d.Kind, deja.KindCommand.String()))
	if err != nil {
		return nil, err
	}
	env := &deja.Envelope{
		ID: d.ID, Kind: kind, Type: d.Type, Stream: deja.Stream{Tenant: d.Tenant, Aggregate: d.Aggregate, Key: d.Key},
		Source: d.Source, Actor: d.Actor, BusinessTime: d.BusinessTime, CausationID: d.CausationID, CorrelationID: d.CorrelationID,
		ContentType: d.ContentType, Headers: d.Headers, Payload: d.Payload,
	}
	if d.Payload == nil {
		env.Payload = d.Data
	}
	return env, nil
}

func kindOf(word string) (deja.Kind, error) {
	for k := deja.KindCommand; k <= deja.KindEffect; k++ {
		if k.String() == word {
			return k, nil
		}
	}
	return 0, fmt.Errorf("there is no kind of message %q", word)
}

// Records returns the capsule's inbox records, in its order.
func (c *Capsule) Records() ([]driver.Record, error) {
	recs := make([]driver.Record, len(c.Messages))
	for i := range c.Messages {
		d := &c.Messages[i]
		var err error
		if recs[i], err = d.record(); err != nil {
			return nil, fmt.Errorf("message %d of the capsule: %w", i, err)
		}
		if d.Partition < 0 || d.Partition >= c.Partitions {
			return nil, fmt.Errorf("message %d of the capsule is in partition %d of %d", i, d.Partition, c.Partitions)
		}
	}
	return recs, nil
}

// WriteTo writes the capsule as JSON, a message a line.
func (c *Capsule) WriteTo(w io.Writer) (int64, error) {
	n, err := fmt.Fprintf(w, "{\"format\": %d, \"service\": %q, \"partitions\": %d, \"max_record\": %d, \"messages\": [", capsuleFormat, c.Service, c.Partitions, c.MaxRecord)
	all := int64(n)
	enc := json.NewEncoder(countTo{w, &all})
	enc.SetEscapeHTML(false)
	for i := range c.Messages {
		sep := ",\n"
		if i == 0 {
			sep = "\n"
		}
		if err == nil {
			n, err = io.WriteString(w, sep)
			all += int64(n)
		}
		if err == nil {
			err = enc.Encode(&c.Messages[i])
		}
	}
	if err == nil {
		n, err = io.WriteString(w, "]}\n")
		all += int64(n)
	}
	return all, err
}

// countTo counts what is written through it.
type countTo struct {
	to io.Writer
	n  *int64
}

func (c countTo) Write(b []byte) (int, error) {
	n, err := c.to.Write(b)
	*c.n += int64(n)
	return n, err
}

// ReadCapsule reads what WriteTo wrote. Another format is an error.
func ReadCapsule(r io.Reader) (*Capsule, error) {
	var c Capsule
	if err := json.NewDecoder(r).Decode(&c); err != nil {
		return nil, fmt.Errorf("read capsule: %w", err)
	}
	if c.Format != capsuleFormat {
		return nil, fmt.Errorf("read capsule: it is of format %d, this build reads %d", c.Format, capsuleFormat)
	}
	return &c, nil
}

// capsule returns the messages at some places of the inbox as a capsule, in order of their decisions' times.
func (h *History) capsule(ctx context.Context, steps []*Step) (*Capsule, error) {
	t, err := h.log.Topic(ctx, wire.Journal(h.machine.Name()))
	if err != nil {
		return nil, err
	}
	c := &Capsule{Format: capsuleFormat, Service: h.machine.Name(), Partitions: h.source.Partitions(), MaxRecord: t.MaxRecord}
	dec := wire.NewDecoder(h.machine.Name())
	steps = slices.Clone(steps)
	slices.SortFunc(steps, func(a, b *Step) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Position.Partition, b.Position.Partition), cmp.Compare(a.N, b.N))
	})
	in := inboxReader{h: h}
	for _, s := range steps {
		rec, err := in.at(ctx, s.Position)
		if err != nil {
			return nil, err
		}
		c.Messages = append(c.Messages, deliveryOf(dec, rec))
	}
	return c, nil
}
