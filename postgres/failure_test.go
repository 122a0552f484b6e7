package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/postgres"
)

// A proxy stands between a store and its server.
type proxy struct {
	listener net.Listener
	to       string
	cut      atomic.Int32 // what it does with the next COMMIT
	commits  atomic.Int32 // that it cut at
	all      sync.WaitGroup
}

const (
	cutBefore = 1 + iota // the server never gets it
	cutAnswer            // the server gets it, and its answer is lost
)

// newProxy returns a proxy and the DSN that leads through it.
func newProxy(t *testing.T) (*proxy, string) {
	t.Helper()
	u, err := url.Parse(testenv.Postgres(t))
	must(t, err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{listener: listener, to: u.Host}
	p.all.Go(p.run)
	t.Cleanup(func() { listener.Close(); p.all.Wait() })
	u.Host = listener.Addr().String()
	return p, u.String()
}

func (p *proxy) run() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			client.Close()
			continue
		}
		var silent atomic.Bool
		p.all.Go(func() {
			defer client.Close()
			defer server.Close()
			p.forward(server, client, &silent)
		})
		p.all.Go(func() {
			defer client.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := server.Read(buf)
				if err != nil {
					return
				}
				if silent.Load() { // the answer: it was committed, or not
					return
				}
				if _, err := client.Write(buf[:n]); err != nil {
					return
				}
			}
		})
	}
}

// forward carries what the client says, until there is a COMMIT to cut at.
func (p *proxy) forward(server, client net.Conn, silent *atomic.Bool) {
	buf := make([]byte, 1<<20)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		// A prepared COMMIT has no text. It is in the message that has the journal's records, and ends with a Sync.
		ending := bytes.Contains(buf[:n], []byte("record ")) && bytes.HasSuffix(buf[:n], []byte("S\x00\x00\x00\x04"))
		if mode := p.cut.Load(); mode != 0 && ending {
			p.cut.Store(0)
			p.commits.Add(1)
			if mode == cutBefore {
				return
			}
			silent.Store(true)
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, client) // until the other direction closes it
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// The connection is lost between COMMIT and its answer, or before COMMIT has arrived. The caller cannot tell; Acquire can.
func TestUnknownCommit(t *testing.T) {
	p, dsn := newProxy(t)
	schema := newSchema(t)
	db, err := postgres.Open(t.Context(), testenv.With(dsn, "pool_max_conns", "3"), postgres.Schema(schema))
	must(t, err)
	defer db.Close()
	w := acquire(t, db.Store(), assignment(0))
	for range 8 { // until all is prepared on each connection
		must(t, w.try(w.batch(0, newIDs(3)...)))
	}
	for i := range 10 {
		mode := []int32{cutBefore, cutAnswer}[i%2]
		p.cut.Store(mode)
		was := w.at
		ids := newIDs(3)
		b, to := w.batch(0, ids...)
		if err := w.try(b, to); err == nil || errors.Is(err, driver.ErrFenced) {
			t.Fatalf("the commit was cut: error %v", err)
		}
		if n := p.commits.Load(); n != int32(i+1) {
			t.Fatalf("cut at %d commits, want %d", n, i+1)
		}
		w = acquire(t, db.Store(), assignment(0))
		want := was
		if mode == cutAnswer {
			want = to
		}
		if w.at.N != want.N || w.at.Chain != want.Chain {
			t.Fatalf("mode %d: at %d, want %d", mode, w.at.N, want.N)
		}
		es, _, err := db.Store().Lookup(t.Context(), ids)
		must(t, err)
		if len(es) != int(want.N-was.N) {
			t.Fatalf("mode %d: %d entries", mode, len(es))
		}
	}
}

// An owner is frozen in the middle of its commit, holding the lease's row and rows of the ledger that its successor needs.
func TestFrozenOwner(t *testing.T) {
	schema := newSchema(t)
	db := open(t, schema, quiet)
	frozen := open(t, schema)
	ids := newIDs(100)
	w := acquire(t, frozen.Store(), assignment(0))
	must(t, w.try(w.batch(0, newIDs(2)...)))
	b, to := w.batch(0, ids...)
	for _, where := range []string{"holding rows", "holding the lease"} {
		wake, err := frozen.FreezeInCommit(t, w.lease, w.at, b, to, where == "holding the lease")
		must(t, err)
		start := time.Now()
		now := acquire(t, db.Store(), assignment(0))
		t.Logf("%s: taken over after %s", where, time.Since(start))
		if now.at != w.at {
			t.Errorf("%s: at %+v, want %+v", where, now.at, w.at)
		}
		before := now.at
		must(t, now.try(now.batch(0, ids[:1]...)))
		if err := wake(); err == nil {
			t.Errorf("%s: the frozen owner committed when it woke up", where)
		}
		if w = acquire(t, frozen.Store(), assignment(0)); w.at.N != before.N+1 {
			t.Errorf("%s: at %d, want %d", where, w.at.N, before.N+1)
		}
		ids = newIDs(100)
		b, to = w.batch(0, ids...)
	}
}

// Two workers of two partitions get the same messages at the same time, while the ledger's segments are sealed under them.
// Each message is settled once.
func TestSealingBesideWriters(t *testing.T) {
	schema := newSchema(t)
	const rounds, size = 60, 20
	var (
		all   sync.WaitGroup
		won   [2]atomic.Int64
		ids   = newIDs(rounds * size)
		start = make(chan struct{})
		stop  = make(chan struct{})
	)
	for p := range int32(2) {
		db := open(t, schema, postgres.SegmentRows(1), quiet)
		all.Go(func() {
			<-start
			for r := 0; r < rounds && !t.Failed(); {
				batch := ids[r*size : (r+1)*size]
				es, asked, err := db.Store().Lookup(t.Context(), batch)
				if err != nil {
					t.Error(err)
					return
				}
				if len(es) > 0 {
					if len(es) != size {
						t.Errorf("%d of %d messages are settled, which were decided together", len(es), size)
					}
					r++
					continue
				}
				w := acquire(t, db.Store(), assignment(p))
				if err := w.try(w.batch(asked, batch...)); err == nil {
					won[p].Add(1)
					r++
				}
			}
		})
	}
	sealing := open(t, schema, quiet)
	var sealer sync.WaitGroup
	sealer.Go(func() {
		<-start
		for {
			select {
			case <-stop:
				return
			default:
				sealing.TryRoll(t.Context())
				time.Sleep(3 * time.Millisecond)
			}
		}
	})
	close(start)
	all.Wait()
	close(stop)
	sealer.Wait()
	if n := won[0].Load() + won[1].Load(); n != rounds {
		t.Errorf("%d batches committed, %d and %d, want %d", n, won[0].Load(), won[1].Load(), rounds)
	}
	es, err := sealing.Store().Find(t.Context(), deja.ID{}, deja.ID(bytes.Repeat([]byte{255}, 16)), 1<<20)
	must(t, err)
	if len(es) != len(ids) {
		t.Errorf("%d entries, want %d", len(es), len(ids))
	}
	seen := map[deja.ID]bool{}
	for _, e := range es {
		if seen[e.Key] {
			t.Errorf("%s is settled twice", e.Key)
		}
		seen[e.Key] = true
	}
	t.Logf("%d segments; partition 0 won %d, 1 won %d", sealing.Int(t, "SELECT count(*) FROM deja_segments"), won[0].Load(), won[1].Load())
}

// A filter that is lost, damaged or not of this segment is noticed: its segment is asked itself, and the filter made anew.
func TestFiltersAreChecked(t *testing.T) {
	schema := newSchema(t)
	db := open(t, schema, quiet)
	w := acquire(t, db.Store(), assignment(0))
	var ids []deja.ID
	for range 3 {
		batch := newIDs(30)
		must(t, w.try(w.batch(0, batch...)))
		ids = append(ids, batch...)
		db.Roll(t)
	}
	db.MakeFilters(t)
	if n := db.Int(t, "SELECT count(*) FROM deja_segments WHERE sealed AND filter IS NOT NULL AND rows = 30"); n != 3 {
		t.Fatalf("%d filters", n)
	}
	for name, sql := range map[string]string{
		"lost":      "UPDATE deja_segments SET filter = NULL WHERE n = 2",
		"all lost":  "UPDATE deja_segments SET filter = NULL, rows = NULL, lo = NULL, hi = NULL",
		"damaged":   "UPDATE deja_segments SET filter = set_byte(filter, 60, get_byte(filter, 60) # 4) WHERE n = 2",
		"truncated": "UPDATE deja_segments SET filter = substr(filter, 1, 20) WHERE n = 2",
		"another's": "UPDATE deja_segments SET filter = (SELECT filter FROM deja_segments WHERE n = 1) WHERE n = 2",
		"of fewer keys": "ALTER TABLE deja_ledger_2 DISABLE TRIGGER deja_sealed; " +
			"INSERT INTO deja_ledger_2 SELECT gen_random_uuid(), off, n, 0, status, hash FROM deja_ledger_2 LIMIT 1",
	} {
		db.Exec(t, sql+"; UPDATE deja_catalog SET version = gen_random_uuid()")
		fresh := open(t, schema, quiet)
		for range 2 {
			es, _, err := fresh.Store().Lookup(t.Context(), ids)
			must(t, err)
			if len(es) != len(ids) {
				t.Errorf("%s: found %d of %d", name, len(es), len(ids))
			}
			fresh.MakeFilters(t)
		}
		bad := fresh.Int(t, "SELECT count(*) FROM deja_segments WHERE sealed AND (filter IS NULL OR rows IS NULL OR lo IS NULL)")
		if bad != 0 {
			t.Errorf("%s: %d filters were not made anew", name, bad)
		}
		for n := range int64(3) {
			count := fresh.Int(t, fmt.Sprintf("SELECT count(*) FROM deja_ledger_%d", n+1))
			if rows := fresh.Int(t, "SELECT rows FROM deja_segments WHERE n = $1", n+1); rows != count {
				t.Errorf("%s: segment %d of %d rows has a filter of %d", name, n+1, count, rows)
			}
		}
	}
	if err := db.TryExec("INSERT INTO deja_ledger_1 SELECT gen_random_uuid(), off, n, 0, status, hash FROM deja_ledger_1 LIMIT 1"); err == nil {
		t.Error("a key came into a sealed segment")
	}
	if err := db.TryExec("DELETE FROM deja_ledger_1"); err == nil {
		t.Error("keys went out of a sealed segment")
	}
}

// Look-ups go by the index, whatever the planner knew of the table when it was empty.
func TestLookupGoesByTheIndex(t *testing.T) {
	db := open(t, newSchema(t))
	for i := range 8 {
		plan := db.Plan(t)
		if !strings.Contains(plan, "Index Scan using deja_ledger_1_pkey") {
			t.Errorf("run %d:\n%s", i, plan)
		}
	}
}

// Processes that take partitions over, beat and reset beside each other do not lock each other out.
func TestNoDeadlocks(t *testing.T) {
	schema := newSchema(t)
	tables := []deja.TableDef{{Name: "one", DDL: "CREATE TABLE one (a int)"}, {Name: "two", DDL: "CREATE TABLE two (a int)"}}
	var all sync.WaitGroup
	for p := range int32(4) {
		db := open(t, schema, quiet, postgres.SegmentRows(1))
		all.Go(func() {
			m := driver.Member{ID: deja.NewID()}
			a := assignment(p, tables...)
			a.Owner, a.TTL = m.ID, time.Second
			for i := range 8 {
				if _, err := db.Store().(driver.Shared).Beat(t.Context(), m, time.Second); err != nil {
					t.Error(err)
				}
				l, err := db.Store().Acquire(t.Context(), a)
				if err != nil {
					t.Error(err)
					return
				}
				w := &worker{t, db.Store(), l, l.Progress}
				if err := w.try(w.batch(0, newIDs(5)...)); err != nil && !errors.Is(err, driver.ErrFenced) {
					t.Error(err)
				}
				if _, _, err := db.Store().Lookup(t.Context(), newIDs(10)); err != nil {
					t.Error(err)
				}
				if i%4 == int(p) {
					if err := db.Store().Reset(t.Context(), w.lease); err != nil && !errors.Is(err, driver.ErrFenced) {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
}
