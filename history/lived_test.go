package history

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/dejalog/deja"
	past "github.com/dejalog/deja/internal/lived"
)

// lived is a service that lived in memory, one message a second: tests send to it, then look at its history.
type lived struct {
	*past.Past
	t    testing.TB
	m    *deja.Machine
	sent int
}

const livedPartitions = 2

func newLived(t testing.TB, s *deja.Service) *lived {
	t.Helper()
	m, err := deja.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	l := &lived{Past: past.New(t, s, livedPartitions), t: t, m: m}
	l.Now = time.Unix(1e9, 0).UTC()
	return l
}

// send appends a message and lets it be decided. What the message does not say has a value of its own.
func (l *lived) send(env deja.Envelope) *deja.Envelope {
	l.t.Helper()
	if l.sent++; env.ID.IsZero() {
		env.ID = deja.DeriveID("lived", fmt.Sprint(l.sent))
	}
	env.Source, env.CorrelationID = l.m.Name(), env.ID
	l.Now = l.Now.Add(time.Second)
	env = l.Send(env)
	l.Handle(10)
	return &env
}

// open opens the history as it is now.
func (l *lived) open() *History {
	l.t.Helper()
	h, err := Open(context.Background(), Config{Service: l.Service, Log: l.Log.ReadOnly(), Ledger: l.Store, Build: "test"})
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
