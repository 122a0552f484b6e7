package replay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

// runFor runs a service while it is sent some messages.
func runFor(t *testing.T, log driver.Log, store driver.Store, n int, name string) {
	t.Helper()
	eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: log, Store: store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- eng.Run(ctx) }()
	for i := range n {
		id := deja.DeriveID("test", fmt.Sprint(name, i))
		if _, err := eng.Client().Do(ctx, deja.Request{ID: id, Key: fmt.Sprint(i % 7), Command: till.Put{Amount: int64(i + 1)}}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-ran; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// A store that went back goes on in a new life, and its journal holds two histories of which one counts: by its numbers, for
// a log alone, and for a replay that is interrupted.
func TestAHistoryOfSeveralLives(t *testing.T) {
	log := memory.NewLog(memory.LogConfig{Partitions: 2})
	store := memory.NewStore()
	runFor(t, log, store, 40, "first")
	for life := range 3 {
		backup := store.Snapshot()
		runFor(t, log, store, 25, fmt.Sprint("lost", life))
		store = backup
		runFor(t, log, store, 25, fmt.Sprint("kept", life))
	}
	svc := till.Service(till.Variant{})
	with, err := replay.Open(t.Context(), replay.Config{Service: svc, Log: log, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	alone, err := replay.Open(t.Context(), replay.Config{Service: svc, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	want, err := replay.HashStore(t.Context(), with.Machine(), store)
	if err != nil {
		t.Fatal(err)
	}
	for name, src := range map[string]*replay.Source{"with a store": with, "alone": alone} {
		past, err := src.Fold(t.Context(), replay.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := past.Hash(); err != nil || got != want {
			t.Errorf("%s: hash %s, %v, want %s", name, got, err, want)
		}
		for p, point := range past.Cut.Points {
			if last, err := src.Decision(t.Context(), int32(p), point.N); err != nil || last.Chain != point.Chain || last.Incarnation.Number == 0 {
				t.Errorf("%s: partition %d: decision %d is of life %d, %v", name, p, point.N, last.Incarnation.Number, err)
			}
			var prev [32]byte
			for n := int64(1); n <= point.N; n++ {
				d, err := src.Decision(t.Context(), int32(p), n)
				if err != nil || n > 1 && d.Prev != prev {
					t.Fatalf("%s: decision %d of partition %d does not follow, %v", name, n, p, err)
				}
				prev = d.Chain
			}
		}
	}
	hash, err := replay.HashStore(t.Context(), with.Machine(), alone.Recall())
	if err != nil || hash != want {
		t.Errorf("what the log recalls has the hash %s, %v, want %s", hash, err, want)
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "past.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	target := replay.Target{Log: db.Log(), Store: db.Store()}
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err = alone.Into(ctx, target, replay.Options{Progress: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	_, n, err := alone.Into(t.Context(), target, replay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if hash, err := replay.HashStore(t.Context(), with.Machine(), target.Store); err != nil || hash != want {
		t.Errorf("filled with %d: hash %s, %v, want %s", n, hash, err, want)
	}
}
