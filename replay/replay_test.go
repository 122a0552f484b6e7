package replay_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/replay"
)

// An operator's retry decides messages long after they came. A position between the two shows the world without them,
// and what is printed for a moment leads back to it.
func TestADrainedMessageIsOfTheMomentOfItsAct(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	svc := till.Service(till.Variant{Broken: broken.Load})
	log := memory.NewLog(memory.LogConfig{Partitions: 1, Now: time.Now})
	store := memory.NewStore(memory.Joint(log))
	eng, err := engine.New(engine.Config{Service: svc, Log: log, Store: store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- eng.Run(ctx) }()
	bad := deja.Request{ID: deja.NewID(), Key: "a", Command: till.Crash{}}
	for _, r := range []deja.Request{bad, {Key: "a", Command: till.Put{Amount: 5}}, {Key: "b", Command: till.Put{Amount: 7}}} {
		if _, err := eng.Client().Do(ctx, r); err != nil && !errors.Is(err, deja.ErrParked) {
			t.Fatal(err)
		}
	}
	broken.Store(false)
	if err := eng.Retry(ctx, engine.Act{Stream: deja.Stream{Aggregate: "till", Key: "a"}, Message: bad.ID}); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ran; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}

	src, err := replay.Open(t.Context(), replay.Config{Service: svc, Log: log, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at, a, cut string
	}{
		{"inbox:0:2", `"balance":0`, "shop.inbox:0:2"},          // before the act
		{"inbox:0:3", `"balance":1005`, "shop.inbox:0:3"},       // after it
		{bad.ID.String(), `"balance":1000`, "shop.journal:0:3"}, // between its two decisions
		{"shop.journal:0:3", `"balance":1000`, "shop.journal:0:3"},
		{"HEAD", `"balance":1005`, "shop.inbox:0:3"},
	} {
		to, err := replay.ParseLocator(c.at)
		if err != nil {
			t.Fatal(err)
		}
		past, err := src.Fold(t.Context(), replay.Options{To: to})
		if err != nil {
			t.Fatal(err)
		}
		k, err := past.State(deja.Stream{Aggregate: "till", Key: "a"})
		if err != nil || !strings.Contains(string(k.State), c.a) || past.Cut.String() != c.cut {
			t.Errorf("at %s: %s, cut %s, %v; want %s, cut %s", c.at, k.State, past.Cut, err, c.a, c.cut)
		}
	}
}
