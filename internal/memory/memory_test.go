package memory_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
)

// must returns v, or fails the test.
func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestAppendTimeNeverGoesBack(t *testing.T) {
	start := time.Date(2024, 1, 1, 0, 0, 0, 1999, time.UTC)
	times := []time.Time{start, start.Add(-time.Hour), start.Add(time.Second)}
	i := -1
	l := memory.NewLog(memory.LogConfig{Now: func() time.Time { i++; return times[i] }})
	for range times {
		must[[]deja.Position](t)(l.Append(t.Context(), "t", []driver.Record{{}}))
	}
	rs := must[[]driver.Record](t)(l.Fetch(t.Context(), deja.Position{Topic: "t"}, 3))
	micro := start.Truncate(time.Microsecond)
	for i, want := range []time.Time{micro, micro, micro.Add(time.Second)} {
		if !rs[i].Time.Equal(want) {
			t.Errorf("record %d has time %s, want %s", i, rs[i].Time, want)
		}
	}
}

func TestTruncatedOffsetsAreGivenAgain(t *testing.T) {
	ctx := t.Context()
	l := memory.NewLog(memory.LogConfig{})
	for i := range 4 {
		must[[]deja.Position](t)(l.Append(ctx, "t", []driver.Record{{Value: []byte{byte(i)}}}))
	}
	before := l.Clone()
	l.Truncate("t", 0, 2)
	if _, err := l.Fetch(ctx, deja.Position{Topic: "t", Offset: 3}, 1); !errors.Is(err, driver.ErrBeyondEnd) {
		t.Errorf("fetch of a lost record: error %v", err)
	}
	ps := must[[]deja.Position](t)(l.Append(ctx, "t", []driver.Record{{Value: []byte("other")}}))
	if ps[0].Offset != 2 {
		t.Errorf("appended at %d, want 2", ps[0].Offset)
	}
	rs := must[[]driver.Record](t)(before.Fetch(ctx, deja.Position{Topic: "t", Offset: 2}, 9))
	if len(rs) != 2 || rs[0].Value[0] != 2 {
		t.Errorf("the copy changed with the original: %v", rs)
	}
}

func TestTruncateWakesFetch(t *testing.T) {
	l := memory.NewLog(memory.LogConfig{})
	must[[]deja.Position](t)(l.Append(t.Context(), "t", []driver.Record{{}}))
	got := make(chan error, 1)
	go func() {
		_, err := l.Fetch(t.Context(), deja.Position{Topic: "t", Offset: 1}, 1)
		got <- err
	}()
	l.Truncate("t", 0, 0)
	if err := <-got; !errors.Is(err, driver.ErrBeyondEnd) {
		t.Errorf("got error %v, want %v", err, driver.ErrBeyondEnd)
	}
}

// acquired is a store with a lease of partition 0.
type acquired struct {
	*testing.T
	store *memory.Store
	lease driver.Lease
	at    driver.Progress
}

func acquire(t *testing.T, s *memory.Store) *acquired {
	t.Helper()
	topic := driver.Topic{Name: "bank", Partitions: 1}
	l := must[driver.Lease](t)(s.Acquire(t.Context(), driver.Assignment{Inbox: topic, Journal: topic}))
	return &acquired{t, s, l, l.Progress}
}

// commit commits a transaction of some decisions, with what a projection does in it.
func (a *acquired) commit(decisions int64, project func(deja.Tx)) error {
	ctx := a.Context()
	tx := must[driver.Tx](a.T)(a.store.Begin(ctx, a.lease))
	defer func() { _ = tx.Rollback(ctx) }()
	to := a.at
	b := &driver.Batch{}
	for range decisions {
		to.N++
		b.Records = append(b.Records, driver.JournalRecord{N: to.N})
	}
	if err := tx.Write(ctx, b); err != nil {
		return err
	}
	project(tx.SQL())
	if err := tx.Advance(ctx, a.at, to); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	a.at = to
	return nil
}

func TestExecutedOncePerCommit(t *testing.T) {
	s := memory.NewStore()
	a := acquire(t, s)
	insert := func(tx deja.Tx) { tx.Queue("INSERT INTO t VALUES ($1)", a.at.N) }
	for range 2 {
		if err := a.commit(1, insert); err != nil {
			t.Fatal(err)
		}
	}
	a.at.N-- // fenced
	if err := a.commit(1, insert); !errors.Is(err, driver.ErrFenced) {
		t.Errorf("got error %v, want %v", err, driver.ErrFenced)
	}
	got := fmt.Sprint(s.Executed())
	if want := "[{0 INSERT INTO t VALUES ($1) [0]} {0 INSERT INTO t VALUES ($1) [1]}]"; got != want {
		t.Errorf("executed %s, want %s", got, want)
	}
	if err := s.Reset(t.Context(), a.lease); err != nil || len(s.Executed()) != 0 {
		t.Errorf("after Reset: error %v, executed %v", err, s.Executed())
	}
}

func TestProjectionErrorsFailTheTransaction(t *testing.T) {
	s := memory.NewStore()
	a := acquire(t, s)
	err := a.commit(1, func(tx deja.Tx) {
		for _, err := range tx.Rows("SELECT 1") {
			if !errors.Is(err, memory.ErrNoQueries) {
				t.Errorf("rows: error %v", err)
			}
		}
	})
	if !errors.Is(err, memory.ErrNoQueries) {
		t.Errorf("got error %v, want %v", err, memory.ErrNoQueries)
	}
	if err := a.commit(1, func(tx deja.Tx) { tx.Queue("x", struct{}{}) }); err == nil {
		t.Error("an argument was taken that no column takes")
	}
	if len(s.Executed()) != 0 {
		t.Errorf("executed %v", s.Executed())
	}
}

func TestKeepsTheLastLoggedRecords(t *testing.T) {
	const kept, more = 100_000, 5
	s := memory.NewStore()
	a := acquire(t, s)
	if err := a.commit(kept+more, func(deja.Tx) {}); err != nil {
		t.Fatal(err)
	}
	if err := s.Logged(t.Context(), a.lease, driver.Logged{N: kept + 3}); err != nil {
		t.Fatal(err)
	}
	rs := must[[]driver.JournalRecord](t)(s.Unlogged(t.Context(), 0, 0, 2*kept))
	if rs[0].N != 4 || rs[len(rs)-1].N != kept+more {
		t.Errorf("kept %d to %d, want 4 to %d", rs[0].N, rs[len(rs)-1].N, kept+more)
	}
}

func TestNewDecisionReplacesALostHistory(t *testing.T) {
	s := memory.NewStore()
	a := acquire(t, s)
	if err := a.commit(5, func(deja.Tx) {}); err != nil {
		t.Fatal(err)
	}
	if err := s.Reset(t.Context(), a.lease); err != nil {
		t.Fatal(err)
	}
	a.at = driver.Progress{}
	if err := a.commit(2, func(deja.Tx) {}); err != nil {
		t.Fatal(err)
	}
	if rs := must[[]driver.JournalRecord](t)(s.Unlogged(t.Context(), 0, 0, 9)); len(rs) != 2 {
		t.Errorf("records %v are kept, want two", rs)
	}
}

// TestZombieKeepsNobodyWaiting shows that neither the open transaction of a lease that was taken over nor one begun
// under it later holds the new owner up.
func TestZombieKeepsNobodyWaiting(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := memory.NewStore()
	old := acquire(t, s)
	must[driver.Tx](t)(s.Begin(ctx, old.lease))
	now := acquire(t, s)
	must[driver.Tx](t)(s.Begin(ctx, old.lease))
	must[driver.Tx](t)(s.Begin(ctx, now.lease))
}

func TestNoncesCanBeRepeated(t *testing.T) {
	next := func() func() [16]byte {
		var n byte
		return func() [16]byte { n++; return [16]byte{n} }
	}
	if a := acquire(t, memory.NewStore(memory.Nonces(next()))); a.lease.Nonce != [16]byte{1} {
		t.Errorf("nonce %x", a.lease.Nonce)
	}
}
