package history

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
	placing "github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// lived is a service that lived in memory: tests send to it, then look at its history.
type lived struct {
	t       testing.TB
	service *deja.Service
	m       *deja.Machine
	log     *memory.Log
	store   *memory.Store
	workers []*step.Worker
	prepare *step.Preparer
	now     time.Time
	sent    int
}

const livedPartitions = 2

func newLived(t testing.TB, s *deja.Service) *lived {
	t.Helper()
	m, err := deja.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	l := &lived{t: t, service: s, m: m, store: memory.NewStore(), prepare: step.NewPreparer(m, livedPartitions), now: time.Unix(1e9, 0).UTC()}
	l.log = memory.NewLog(memory.LogConfig{Partitions: livedPartitions, Now: func() time.Time { return l.now }})
	for p := range livedPartitions {
		w, err := step.New(t.Context(), step.Config{
			Machine: m, Log: l.log, Store: l.store, Partition: int32(p), Build: "test", NewNonce: func() [16]byte { return [16]byte{1} },
		})
		if err == nil {
			err = w.Takeover(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		l.workers = append(l.workers, w)
	}
	return l
}

// send appends a message and lets it be decided. What the message does not say has a value of its own.
func (l *lived) send(env deja.Envelope) *deja.Envelope {
	l.t.Helper()
	ctx := context.Background()
	l.sent++
	if env.ID.IsZero() {
		env.ID = deja.DeriveID("lived", fmt.Sprint(l.sent))
	}
	if env.Kind == 0 {
		env.Kind = deja.KindCommand
	}
	env.Source, env.ContentType = l.m.Name(), l.m.Codec().ContentType()
	env.CorrelationID = env.ID
	if env.Stream.Aggregate == "" {
		env.Stream.Aggregate, _ = deja.Target(env.Type)
	}
	l.now = l.now.Add(time.Second)
	p := placing.Partition(env.Stream.Key, livedPartitions)
	_, err := l.log.Append(ctx, wire.Inbox(l.m.Name()), []driver.Record{{Partition: p, Value: wire.AppendMessage(nil, &env)}})
	if err != nil {
		l.t.Fatal(err)
	}
	w := l.workers[p]
	recs, err := l.log.Fetch(ctx, w.Position(), 10)
	if err == nil {
		_, err = w.Handle(ctx, l.prepare.Prepare(recs))
	}
	if err == nil {
		err = w.Relay(ctx)
	}
	if err == nil {
		err = w.Release(ctx)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return &env
}

// open opens the history as it is now.
func (l *lived) open() *History {
	l.t.Helper()
	h, err := Open(context.Background(), Config{Service: l.service, Log: l.log.ReadOnly(), Ledger: l.store, Build: "test"})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if err := h.Close(); err != nil {
			l.t.Error(err)
		}
	})
	return h
}
