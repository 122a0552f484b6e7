package engine

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/wire"
)

// publish carries the partition's recorded events from the journal into the public topic, in order. The cursor, which
// the log keeps, moves on only when the topic has acknowledged all before it.
func (p *partition) publish(ctx context.Context) {
	e := p.e
	name, topic := e.machine.Name(), e.cfg.Publish
	source := wire.Journal(name)
	reader := name + ".publish." + topic
	p.e.keep(ctx, fmt.Sprintf("publish partition %d into %s", p.number, topic), func(ctx context.Context, well func()) error {
		cursors := e.log.(driver.Cursors)
		at, err := cursors.Cursor(ctx, reader, source, p.number)
		if err != nil {
			return err
		}
		from, err := journal.MarkAt(ctx, e.log, name, p.number, at)
		if err != nil {
			return err
		}
		if _, end, err := e.log.Bounds(ctx, source, p.number); err != nil {
			return err
		} else if from.Offset >= end {
			well()
		}
		r := journal.NewReader(e.log, name, p.number, from)
		for {
			entries, err := r.Wait(ctx, batchSize)
			if err != nil {
				return err
			}
			if err := e.appendPlaced(ctx, topic, publicRecords(entries)); err != nil {
				return err
			}
			if err := cursors.SetCursor(ctx, reader, source, p.number, r.Seen().Offset); err != nil {
				return err
			}
			well()
		}
	})
}

// publicRecords returns the events of decisions as plain CloudEvents.
func publicRecords(entries []journal.Entry) []driver.Record {
	var recs []driver.Record
	for i := range entries {
		d := &entries[i].Decided
		for j := range d.Events {
			ev := &d.Events[j]
			recs = append(recs, driver.Record{
				Key: ev.Stream.Key, Value: ev.Payload, Headers: wire.EventHeaders(ev, &entries[i].Cause),
			})
		}
	}
	return recs
}

// appendPlaced appends records to any topic, each where its key belongs.
func (e *Engine) appendPlaced(ctx context.Context, topic string, recs []driver.Record) error {
	if len(recs) == 0 {
		return nil
	}
	t, err := e.log.Topic(ctx, topic)
	if err != nil {
		return fmt.Errorf("topic %s: %w", topic, err)
	}
	for i := range recs {
		recs[i].Partition = place.Partition(recs[i].Key, t.Partitions)
	}
	if _, err := e.log.Append(ctx, topic, recs); err != nil {
		return fmt.Errorf("append to %s: %w", topic, err)
	}
	return nil
}

// A Foreign record comes from a topic that is not deja's. If it is a CloudEvent, in binary or in structured mode, its
// attributes are set and Data is its data; else Data is the record's value.
type Foreign struct {
	Position deja.Position
	Key      string
	Headers  map[string]string // all of the record's own, by name; the last one of a name

	ID, Source, Type, Subject string // of a CloudEvent; else empty
	ContentType               string // of Data
	Data                      []byte
}
