package dejatest

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/wire"
)

// disk is what outlives the processes: the log, a store for each service, the time, and the providers of effects, which
// are outside.
type disk struct {
	log    *memory.Log
	stores []*memory.Store
	now    time.Time

	performers map[string]*deja.Performer // by the effects' wire name
	performed  []Performed                // in the order of their first calls
	twice      bool                       // whoever delivers now does so twice
	came       []driver.Record            // for the services that the test plays
	delivered  int                        // how many times messages were delivered
}

func newDisk(services int) *disk {
	d := &disk{now: began, performers: map[string]*deja.Performer{}}
	d.log = memory.NewLog(memory.LogConfig{Partitions: partitions, Now: func() time.Time { return d.now }})
	for range services {
		d.stores = append(d.stores, memory.NewStore(memory.Nonces(counter())))
	}
	return d
}

// counter returns a source of nonces that are never equal, and the same each time.
func counter() func() [16]byte {
	var n uint64
	return func() (nonce [16]byte) {
		n++
		binary.BigEndian.PutUint64(nonce[8:], n)
		return nonce
	}
}

// pass moves the clock on to a time; it does not go back.
func (d *disk) pass(to time.Time) {
	if to.After(d.now) {
		d.now = to
	}
}

// end returns the end of a topic's partition, which is no call of any service.
func (d *disk) end(topic string, partition int32) int64 {
	_, end, err := d.log.Bounds(context.Background(), topic, partition)
	if err != nil {
		panic(err) // the log in memory knows all of its partitions
	}
	return end
}

// deliver appends messages to an inbox, by a log that is the disk's or stands before it, and returns where they are.
func (d *disk) deliver(ctx context.Context, log driver.Log, service string, recs []driver.Record) ([]deja.Position, error) {
	d.delivered++
	at, err := log.Append(ctx, wire.Inbox(service), recs)
	if err == nil && d.twice {
		_, err = log.Append(ctx, wire.Inbox(service), recs)
	}
	if err == nil && service == played {
		d.came = append(d.came, recs...)
	}
	return at, err
}

// called notes a call of a provider.
func (d *disk) called(e *deja.Envelope) {
	for i := range d.performed {
		if d.performed[i].Effect.ID == e.ID {
			d.performed[i].Calls++
			return
		}
	}
	d.performed = append(d.performed, Performed{Effect: *e, Calls: 1})
}
