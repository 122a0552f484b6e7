package sqlite_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/sqlite"
)

// open opens a database that is closed with the test.
func open(t testing.TB, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Abandon(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "shop.db") }

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr fails the test unless err wraps target.
func wantErr(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want one that wraps %q", err, target)
	}
}

// acquire acquires the store's partition for topics in and out.
func acquire(t testing.TB, db *sqlite.DB, tables ...deja.TableDef) driver.Lease {
	t.Helper()
	l, err := db.Store().Acquire(t.Context(), assignment(t, db, tables...))
	must(t, err)
	return l
}

func assignment(t testing.TB, db *sqlite.DB, tables ...deja.TableDef) driver.Assignment {
	t.Helper()
	a := driver.Assignment{Tables: tables}
	var err error
	a.Inbox, err = db.Log().Topic(t.Context(), "in")
	must(t, err)
	a.Journal, err = db.Log().Topic(t.Context(), "out")
	must(t, err)
	return a
}

// values makes records.
func values(texts ...string) []driver.Record {
	rs := make([]driver.Record, len(texts))
	for i, s := range texts {
		rs[i].Value = []byte(s)
	}
	return rs
}

// id makes a key that sorts by n.
func id(n int) (k deja.ID) {
	binary.BigEndian.PutUint64(k[:], uint64(n))
	k[8] = 0x80
	return k
}

// step writes a batch under a lease and returns it with its progress moved on by one.
func step(t testing.TB, db *sqlite.DB, l driver.Lease, b *driver.Batch) driver.Lease {
	t.Helper()
	to := after(l.Progress)
	tx, err := db.Store().Begin(t.Context(), l)
	must(t, err)
	must(t, tx.Write(t.Context(), b))
	must(t, tx.Advance(t.Context(), l.Progress, to))
	must(t, tx.Commit(t.Context()))
	l.Progress = to
	return l
}

// after is a progress one decision on.
func after(p driver.Progress) driver.Progress {
	p.Position++
	p.N++
	p.Chain[0]++
	p.Time = time.UnixMicro(1_700_000_000_000_000 + p.N).UTC()
	p.Fold = "fold"
	return p
}

func TestAppendFetch(t *testing.T) {
	db := open(t, newPath(t))
	log := db.Log()
	got, err := log.Append(t.Context(), "in", values("a", "b"))
	must(t, err)
	if len(got) != 2 || got[0] != (deja.Position{Topic: "in"}) || got[1].Offset != 1 {
		t.Fatalf("positions %v", got)
	}
	rs, err := log.Fetch(t.Context(), deja.Position{Topic: "in"}, 10)
	must(t, err)
	if len(rs) != 2 || string(rs[1].Value) != "b" || rs[1].Offset != 1 || time.Since(rs[0].Time) > time.Minute {
		t.Fatalf("records %v", rs)
	}
	first, end, err := log.Bounds(t.Context(), "in", 0)
	must(t, err)
	if first != 0 || end != 2 {
		t.Fatalf("bounds %d, %d", first, end)
	}
	_, err = log.Fetch(t.Context(), deja.Position{Topic: "in", Offset: 3}, 1)
	wantErr(t, err, driver.ErrBeyondEnd)
	_, err = log.Append(t.Context(), "in", []driver.Record{{Value: make([]byte, 1<<20+1)}})
	wantErr(t, err, driver.ErrTooLarge)
}

func TestFetchWaits(t *testing.T) {
	db := open(t, newPath(t))
	l := acquire(t, db)
	got := make(chan string)
	go func() {
		for i := range int64(2) {
			rs, err := db.Log().Fetch(context.Background(), deja.Position{Topic: "out", Offset: i}, 1)
			if err != nil {
				got <- err.Error()
				return
			}
			got <- string(rs[0].Value)
		}
	}()
	l = step(t, db, l, &driver.Batch{Records: []driver.JournalRecord{{N: 1, Value: []byte("one")}}})
	if s := <-got; s != "one" {
		t.Fatal(s)
	}
	step(t, db, l, &driver.Batch{Records: []driver.JournalRecord{{N: 2, Value: []byte("two")}}})
	if s := <-got; s != "two" {
		t.Fatal(s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := db.Log().Fetch(ctx, deja.Position{Topic: "out", Offset: 2}, 1)
	wantErr(t, err, context.DeadlineExceeded)
}

func TestFetchIsBounded(t *testing.T) {
	db := open(t, newPath(t))
	rs := make([]driver.Record, 6)
	for i := range rs {
		rs[i].Value = bytes.Repeat([]byte{byte(i)}, 1<<20)
	}
	_, err := db.Log().Append(t.Context(), "in", rs)
	must(t, err)
	got, err := db.Log().Fetch(t.Context(), deja.Position{Topic: "in"}, 100)
	must(t, err)
	if len(got) != 4 || !bytes.Equal(got[3].Value, rs[3].Value) {
		t.Fatalf("%d records", len(got))
	}
}

func TestImport(t *testing.T) {
	db := open(t, newPath(t))
	im := db.Log().(driver.Importer)
	past := time.UnixMicro(1_000_000).UTC()
	must(t, im.Import(t.Context(), "in", []driver.Record{{Offset: 5, Time: past, Value: []byte("x")}, {Offset: 7, Time: past, Value: []byte("y")}}))
	if err := im.Import(t.Context(), "in", []driver.Record{{Offset: 7, Time: past}}); err == nil {
		t.Fatal("offsets may go back")
	}
	_, err := db.Log().Fetch(t.Context(), deja.Position{Topic: "in", Offset: 4}, 1)
	wantErr(t, err, driver.ErrTrimmed)
	rs, err := db.Log().Fetch(t.Context(), deja.Position{Topic: "in", Offset: 6}, 9)
	must(t, err)
	if len(rs) != 1 || rs[0].Offset != 7 || !rs[0].Time.Equal(past) {
		t.Fatalf("got %v", rs)
	}
	at, err := db.Log().Append(t.Context(), "in", values("z"))
	must(t, err)
	if at[0].Offset != 8 {
		t.Fatalf("appended at %v", at)
	}
}

func TestStoreReadsBack(t *testing.T) {
	db := open(t, newPath(t))
	l := acquire(t, db)
	stream := deja.Stream{Tenant: "t", Aggregate: "account", Key: "1"}
	b := &driver.Batch{
		Ledger: []driver.Entry{
			{Key: id(2), Hash: [32]byte{2}, Offset: 1, N: 1, Status: deja.Parked},
			{Key: id(1), Hash: [32]byte{1}, Offset: 0, N: 1, Status: deja.Applied},
		},
		States:  []driver.State{{Stream: stream, Version: 3, Data: []byte("{}"), Position: 1, N: 1, Parked: 1}},
		Parked:  []driver.Parked{{Stream: stream, Offset: 1, Key: id(2), N: 1}},
		Repeats: []driver.Repeat{{Key: id(1), Count: 2, First: 3, Last: 4}},
	}
	l = step(t, db, l, b)
	if b.Ledger[0].Key != id(2) {
		t.Error("the caller's batch was reordered")
	}
	l = step(t, db, l, &driver.Batch{
		Ledger:   []driver.Entry{{Key: id(2), Hash: [32]byte{2}, Offset: 1, N: 2, Status: deja.Applied}},
		Unparked: b.Parked,
		Repeats:  []driver.Repeat{{Key: id(1), Count: 1, First: 9, Last: 9}},
	})
	s := db.Store()
	es, _, err := s.Lookup(t.Context(), []deja.ID{id(3), id(2), id(1), id(2)})
	must(t, err)
	if len(es) != 2 || es[0] != b.Ledger[1] || es[1].Status != deja.Applied || es[1].N != 2 {
		t.Fatalf("entries %v", es)
	}
	ss, err := s.Load(t.Context(), []deja.Stream{stream, {Aggregate: "account", Key: "2"}})
	must(t, err)
	if len(ss) != 1 || ss[0].Stream != stream || ss[0].Version != 3 || string(ss[0].Data) != "{}" || ss[0].Parked != 1 {
		t.Fatalf("states %v", ss)
	}
	ps, err := s.Parked(t.Context(), 0, stream, 0, 10)
	must(t, err)
	rs, err := s.Repeats(t.Context(), id(1))
	must(t, err)
	if len(ps) != 0 || len(rs) != 1 || rs[0] != (driver.Repeat{Key: id(1), Count: 3, First: 3, Last: 9}) {
		t.Fatalf("parked %v, repeats %v", ps, rs)
	}
	p, err := s.Progress(t.Context(), 0)
	must(t, err)
	if p != l.Progress {
		t.Fatalf("progress %+v, want %+v", p, l.Progress)
	}
}

func TestLedgerIsNeverOverwritten(t *testing.T) {
	db := open(t, newPath(t))
	l := acquire(t, db)
	e := driver.Entry{Key: id(1), N: 1, Status: deja.Applied}
	l = step(t, db, l, &driver.Batch{Ledger: []driver.Entry{e}})
	tx, err := db.Store().Begin(t.Context(), l)
	must(t, err)
	must(t, tx.Write(t.Context(), &driver.Batch{Ledger: []driver.Entry{{Key: id(1), N: 2, Status: deja.Rejected}}}))
	err = tx.Advance(t.Context(), l.Progress, after(l.Progress))
	if err == nil || !strings.Contains(err.Error(), "settled already") || tx.Commit(t.Context()) == nil {
		t.Fatalf("a settled key was settled again: %v", err)
	}
	es, _, err := db.Store().Lookup(t.Context(), []deja.ID{id(1)})
	must(t, err)
	if len(es) != 1 || es[0] != e {
		t.Fatalf("entries %v", es)
	}
}

func TestFencing(t *testing.T) {
	db := open(t, newPath(t))
	old := acquire(t, db)
	l := acquire(t, db)
	tx, err := db.Store().Begin(t.Context(), old)
	must(t, err)
	wantErr(t, tx.Advance(t.Context(), old.Progress, after(old.Progress)), driver.ErrFenced)
	wantErr(t, tx.Commit(t.Context()), driver.ErrFenced)
	wantErr(t, db.Store().Logged(t.Context(), old, driver.Logged{N: 1}), driver.ErrFenced)
	wantErr(t, db.Store().Reset(t.Context(), old), driver.ErrFenced)

	tx, err = db.Store().Begin(t.Context(), l)
	must(t, err)
	elsewhere := l.Progress
	elsewhere.Chain[3] = 1
	wantErr(t, tx.Advance(t.Context(), elsewhere, after(elsewhere)), driver.ErrFenced)
	wantErr(t, tx.Commit(t.Context()), driver.ErrFenced)

	must(t, db.Store().Logged(t.Context(), l, driver.Logged{N: 5, Offset: 6}))
	must(t, db.Store().Logged(t.Context(), l, driver.Logged{N: 4, Offset: 5}))
	if l = acquire(t, db); l.Logged != (driver.Logged{N: 5, Offset: 6}) || l.Epoch != 3 {
		t.Fatalf("lease %+v", l)
	}
}

func TestIdentity(t *testing.T) {
	db := open(t, newPath(t))
	a := assignment(t, db)
	_, err := db.Store().Acquire(t.Context(), a)
	must(t, err)
	a.Inbox, err = db.Log().Topic(t.Context(), "other")
	must(t, err)
	_, err = db.Store().Acquire(t.Context(), a)
	wantErr(t, err, driver.ErrIdentity)
	a = assignment(t, db)
	a.Journal.ID = "another"
	_, err = db.Store().Acquire(t.Context(), a)
	wantErr(t, err, driver.ErrIdentity)
}
