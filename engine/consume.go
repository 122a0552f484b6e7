package engine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

// Consume says how a topic that others write is read into the inbox: what their records ask this service to do.
//
// Its messages' IDs are derived, from source and id where the record is a CloudEvent and from the record's position
// else: whatever is read again, after a crash, has no further effect. The same holds for a CloudEvent that its sender
// sent twice.
type Consume struct {
	Topic string

	// Map makes requests of a record; none: it is passed over. Of each the ID should be left zero, to be derived. An error,
	// a panic or a request that is not valid stops the reading of the record's partition, which is tried again and shown by
	// Health: nothing is skipped that was not understood. Map must be pure.
	Map func(f *Foreign) ([]deja.Request, error)
}

func (c Consume) check() error {
	if c.Topic == "" || c.Map == nil {
		return fmt.Errorf("consume %q: it needs a Topic and a Map", c.Topic)
	}
	return nil
}

// consume reads the partitions of a foreign topic that fall to this partition of the inbox, each by itself.
func (p *partition) consume(ctx context.Context, c Consume) {
	p.e.keep(ctx, fmt.Sprintf("consume %s beside partition %d", c.Topic, p.number), func(ctx context.Context, well func()) error {
		ps, err := p.e.partitions(ctx)
		if err != nil {
			return err
		}
		t, err := p.e.log.Topic(ctx, c.Topic)
		if err != nil {
			return err
		}
		well()
		var all sync.WaitGroup
		for n := p.number; n < t.Partitions; n += int32(len(ps)) {
			all.Go(func() {
				p.e.keep(ctx, fmt.Sprintf("consume %s/%d", c.Topic, n), func(ctx context.Context, well func()) error {
					return p.consumePartition(ctx, c, t, n, well)
				})
			})
		}
		all.Wait()
		<-ctx.Done()
		return ctx.Err()
	})
}

// consumePartition reads one partition of a foreign topic, at first from the oldest record that is still there. The
// cursor moves on when the inbox has acknowledged.
func (p *partition) consumePartition(ctx context.Context, c Consume, t driver.Topic, number int32, well func()) error {
	cursors := p.e.log.(driver.Cursors)
	reader := p.e.machine.Name() + ".consume"
	at := deja.Position{Topic: c.Topic, Partition: number}
	var err error
	if at.Offset, err = cursors.Cursor(ctx, reader, c.Topic, number); err != nil {
		return err
	}
	first, end, err := p.e.log.Bounds(ctx, c.Topic, number)
	if err != nil {
		return fmt.Errorf("bounds of %s: %w", at, err)
	}
	if at.Offset == 0 {
		at.Offset = first
	}
	if at.Offset == end {
		well()
	}
	for {
		recs, err := p.e.log.Fetch(ctx, at, batchSize)
		if err != nil {
			return fmt.Errorf("fetch %s: %w", at, err)
		}
		var rs []deja.Request
		for i := range recs {
			more, err := p.e.consumed(c, t, &recs[i])
			if err != nil {
				return err
			}
			rs = append(rs, more...)
		}
		if len(rs) > 0 {
			if _, err := p.e.Client().Send(ctx, rs...); err != nil {
				return fmt.Errorf("from %s: %w", at, err)
			}
		}
		at.Offset = recs[len(recs)-1].Offset + 1
		if err := cursors.SetCursor(ctx, reader, c.Topic, number, at.Offset); err != nil {
			return err
		}
		well()
	}
}

// consumed maps one record to requests, whose ids it derives.
func (e *Engine) consumed(c Consume, t driver.Topic, rec *driver.Record) ([]deja.Request, error) {
	f, err := foreign(c.Topic, rec)
	if err != nil {
		return nil, fmt.Errorf("record at %s: %w", f.Position, err)
	}
	rs, err := mapSafely(c, f)
	if err != nil {
		return nil, fmt.Errorf("record at %s: Map: %w", f.Position, err)
	}
	scope, name := "deja/foreign/"+t.ID, f.Position.String()
	if f.ID != "" {
		scope, name = "deja/cloudevent/"+f.Source, f.ID
	}
	rs = slices.Clone(rs) // what Map returned may be kept, and shared, by it
	for i := range rs {
		r := &rs[i]
		if r.ID.IsZero() {
			r.ID = deja.DeriveID(fmt.Sprintf("%s\x00%s\x00%d", scope, e.machine.Name(), i), name)
		}
		headers := map[string]string{}
		for _, h := range wire.TraceHeaders {
			if v, ok := f.Headers[h]; ok {
				headers[h] = v
			}
		}
		if maps.Copy(headers, r.Headers); len(headers) > 0 {
			r.Headers = headers
		}
	}
	return rs, nil
}

func mapSafely(c Consume, f *Foreign) (rs []deja.Request, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return c.Map(f)
}

// structured begins the content type of a CloudEvent that is one JSON object.
const structured = "application/cloudevents+json"

// foreign reads a record as what it is: a CloudEvent, or bytes. (CloudEvents 1.0, Kafka protocol binding and JSON
// format.)
func foreign(topic string, rec *driver.Record) (*Foreign, error) {
	f := &Foreign{
		Position: deja.Position{Topic: topic, Partition: rec.Partition, Offset: rec.Offset},
		Key:      rec.Key, Headers: map[string]string{}, Data: rec.Value,
	}
	for _, h := range rec.Headers {
		f.Headers[h.Name] = string(h.Value)
	}
	f.ContentType = f.Headers["content-type"]
	var err error
	switch {
	case strings.HasPrefix(strings.ToLower(f.ContentType), structured):
		err = f.structured(rec.Value)
	case f.Headers["ce_specversion"] != "":
		f.ID, f.Source, f.Type, f.Subject = f.Headers["ce_id"], f.Headers["ce_source"], f.Headers["ce_type"], f.Headers["ce_subject"]
		err = f.complete()
	}
	return f, err
}

func (f *Foreign) structured(value []byte) error {
	var ce struct {
		SpecVersion, ID, Source, Type, Subject, DataContentType string
		Data                                                    json.RawMessage
		Base64                                                  string `json:"data_base64"`
	}
	if err := json.Unmarshal(value, &ce); err != nil {
		return fmt.Errorf("a structured CloudEvent that is no JSON: %w", err)
	}
	f.ID, f.Source, f.Type, f.Subject = ce.ID, ce.Source, ce.Type, ce.Subject
	f.ContentType = cmp.Or(ce.DataContentType, "application/json")
	f.Data = bytes.Clone(ce.Data)
	var text string
	switch {
	case ce.Base64 != "":
		data, err := base64.StdEncoding.DecodeString(ce.Base64)
		if err != nil {
			return fmt.Errorf("data_base64: %w", err)
		}
		f.Data = data
	case !strings.Contains(strings.ToLower(f.ContentType), "json") && json.Unmarshal(ce.Data, &text) == nil:
		f.Data = []byte(text) // the JSON string stands for it
	}
	return f.complete()
}

// complete refuses a CloudEvent without what every one must have.
func (f *Foreign) complete() error {
	if f.ID == "" || f.Source == "" || f.Type == "" {
		return errors.New("a CloudEvent without id, source or type")
	}
	return nil
}
