package replay_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

// haunted returns a log whose journal has n decisions, and after half of them the marker of a new life behind which the old
// life wrote on: those count for nothing. It returns the hashes of those that count.
func haunted(t *testing.T, n int) (log *memory.Log, chains [][32]byte) {
	t.Helper()
	log = memory.NewLog(memory.LogConfig{})
	put := func(topic string, value []byte) int64 {
		at, err := log.Append(t.Context(), topic, []driver.Record{{Value: value}})
		if err != nil {
			t.Fatal(err)
		}
		return at[0].Offset
	}
	decide := func(after driver.Logged, name string) driver.Logged {
		env := &deja.Envelope{
			ID: deja.DeriveID("test", fmt.Sprint(name, after.N)), Kind: deja.KindCommand, Type: "till.put", Source: "shop",
			Stream: deja.Stream{Aggregate: "till", Key: name}, ContentType: "application/json", Payload: []byte(`{"Amount":1}`),
		}
		env.Position = deja.Position{Topic: wire.Inbox("shop"), Offset: put(wire.Inbox("shop"), wire.AppendMessage(nil, env))}
		hash, err := wire.ContentHash(env)
		if err != nil {
			t.Fatal(err)
		}
		cause := *env
		cause.Payload = nil
		raw := wire.AppendRecord(nil, &wire.Record{
			Kind: wire.KindDecision, N: after.N + 1, Prev: after.Chain, Incarnation: after.Incarnation, Cause: cause, Hash: hash,
			Covers: env.Position.Offset, Decided: deja.Decided{Status: deja.Ignored}, Build: "build", Fold: "fold",
		})
		put(wire.Journal("shop"), raw)
		after.N, after.Chain = after.N+1, wire.Hash(raw)
		return after
	}
	at := driver.Logged{Chain: wire.Genesis("shop", 0)}
	for i := range n {
		if i == n/2 {
			old := at
			at.Incarnation = driver.Incarnation{Number: 1, Nonce: [16]byte{1}}
			put(wire.Journal("shop"), wire.AppendRecord(nil, &wire.Record{Kind: wire.KindMarker, N: at.N, Prev: at.Chain, Incarnation: at.Incarnation}))
			for range n / 3 {
				old = decide(old, "ghost")
			}
		}
		at = decide(at, fmt.Sprint("key", i%5))
		chains = append(chains, at.Chain)
	}
	return log, chains
}

// A replay that is interrupted among decisions whose numbers a dead life has, too, goes on with those that count.
func TestAReplayAmongGhostsIsInterrupted(t *testing.T) {
	const n = 36_000
	log, chains := haunted(t, n)
	src := openLog(t, log)
	for _, i := range []int64{1, n / 2, n/2 + 1, n/2 + 100, n} {
		if d, err := src.Decision(t.Context(), 0, i); err != nil || d.Chain != chains[i-1] {
			t.Errorf("decision %d is not the one that counts, %v", i, err)
		}
	}
	db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "past.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	target := replay.Target{Log: db.Log(), Store: db.Store()}
	stops := 0
	for {
		ctx, cancel := context.WithCancel(t.Context())
		_, got, err := src.Into(ctx, target, replay.Options{Progress: func(int64, int64) { cancel() }})
		cancel()
		if err == nil {
			if got != n || stops < 2 {
				t.Errorf("%d decisions, want %d; interrupted %d times", got, n, stops)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted %d times: %v", stops, err)
		}
		stops++
	}
	at, err := target.Store.Progress(t.Context(), 0)
	if err != nil || at.N != n || at.Chain != chains[n-1] {
		t.Errorf("it is at decision %d, %v", at.N, err)
	}
	own, err := replay.Open(t.Context(), replay.Config{Service: till.Service(till.Variant{}), Log: target.Log, Store: target.Store})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []int64{n / 2, n/2 + 1, n} {
		if d, err := own.Decision(t.Context(), 0, i); err != nil || d.Chain != chains[i-1] {
			t.Errorf("in the past, decision %d is not the one that counts, %v", i, err)
		}
	}
}
