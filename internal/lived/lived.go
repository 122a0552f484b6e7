// Package lived makes pasts for tests: services that lived in memory, on a clock of their own.
package lived

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// A Past is a service that lived.
type Past struct {
	Service *deja.Service
	Log     *memory.Log
	Store   *memory.Store
	Now     time.Time

	t          testing.TB
	machine    *deja.Machine
	partitions int32
	workers    []*step.Worker
	prepare    *step.Preparer
	sent       []deja.Envelope
}

// New returns a service that is about to live.
func New(t testing.TB, s *deja.Service, partitions int32) *Past {
	t.Helper()
	p := &Past{Service: s, t: t, partitions: partitions, Now: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)}
	m, err := deja.Compile(s)
	p.check(err)
	p.machine, p.prepare = m, step.NewPreparer(m, partitions)
	p.Log = memory.NewLog(memory.LogConfig{Partitions: partitions, Now: func() time.Time { return p.Now }})
	p.Store = memory.NewStore()
	for n := range partitions {
		w, err := step.New(context.Background(), step.Config{
			Machine: m, Log: p.Log, Store: p.Store, Partition: n, Build: "test", NewNonce: func() [16]byte { return [16]byte{1} },
		})
		p.check(err)
		p.check(w.Takeover(context.Background()))
		p.workers = append(p.workers, w)
	}
	return p
}

func (p *Past) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// Send appends a message. What it does not say, and must, it is given.
func (p *Past) Send(env deja.Envelope) deja.Envelope {
	p.t.Helper()
	if env.ID.IsZero() {
		env.ID = deja.DeriveID("lived", fmt.Sprint(len(p.sent)))
	}
	if env.Kind == 0 {
		env.Kind = deja.KindCommand
	}
	if env.Source == "" {
		env.Source = p.machine.Name()
	}
	if env.CorrelationID.IsZero() {
		env.CorrelationID = env.ID
	}
	env.ContentType = p.machine.Codec().ContentType()
	if env.Stream.Aggregate == "" {
		var err error
		env.Stream.Aggregate, err = deja.Target(env.Type)
		p.check(err)
	}
	p.sent = append(p.sent, env)
	rec := driver.Record{Partition: place.Partition(env.Stream.Key, p.partitions), Value: wire.AppendMessage(nil, &env)}
	_, err := p.Log.Append(context.Background(), wire.Inbox(p.machine.Name()), []driver.Record{rec})
	p.check(err)
	return env
}

// Sent returns all messages that were sent, in order.
func (p *Past) Sent() []deja.Envelope { return p.sent }

// Handle decides all that was sent, up to so many messages a transaction, and logs it.
func (p *Past) Handle(most int) {
	p.t.Helper()
	ctx := context.Background()
	for n, w := range p.workers {
		_, end, err := p.Log.Bounds(ctx, wire.Inbox(p.machine.Name()), int32(n))
		p.check(err)
		for w.Position().Offset < end {
			recs, err := p.Log.Fetch(ctx, w.Position(), most)
			p.check(err)
			_, err = w.Handle(ctx, p.prepare.Prepare(recs))
			p.check(err)
		}
		p.check(w.Relay(ctx))
		p.check(w.Release(ctx))
	}
}

// Waiting returns the oldest parked message of a stream; the zero ID if there is none.
func (p *Past) Waiting(s deja.Stream) deja.ID {
	p.t.Helper()
	waiting, err := p.Store.Parked(context.Background(), place.Partition(s.Key, p.partitions), s, 0, 1)
	p.check(err)
	if len(waiting) == 0 {
		return deja.ID{}
	}
	return waiting[0].Key
}
