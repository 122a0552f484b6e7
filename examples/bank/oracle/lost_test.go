package oracle_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja/examples/bank/berka"
)

// reach waits until the workers have handled so much of the inbox.
func (s *servers) reach(t *testing.T, offsets int64) {
	t.Helper()
	await(t, "the workers come on", func() bool { return s.handled(t.Context()) >= offsets })
}

// A busy is a bank on two workers, which a feed keeps at work.
type busy struct {
	*servers
	rows    []berka.Transaction
	workers []*worker
	fed     func() // sends the rest, and waits until all is sent
}

func newBusy(t *testing.T, seed uint64, over time.Duration) *busy {
	t.Helper()
	b := &busy{servers: newServers(t, 4), rows: get(t, transactions)}
	b.workers = b.servers.workers(t, 2)
	b.fed = b.sender(t).feed(t, b.rows, seed, over)
	return b
}

// The store is a cache: without it, all is folded anew from the journal, while messages go on coming.
func TestASchemaThatIsDroppedInMidRunIsMadeAnew(t *testing.T) {
	o, rng := shipped(t), newRand(t)
	b := newBusy(t, rng.Uint64(), 3*time.Second)
	b.reach(t, 1+rng.Int64N(messages/2))
	before := b.journal(t)
	b.drop(t)
	t.Logf("dropped; %d decisions were logged right before", before.count())
	// Those that run go on saying that it is gone, until one is started that makes it.
	for _, w := range b.workers {
		await(t, "a worker says that its store is gone", func() bool { return strings.Contains(w.said.String(), "does not exist") })
	}
	b.workers = append(b.workers, b.worker(t))
	b.shared(t, 3) // and then they work on it too
	b.fed()
	b.wantWhole(t, o)
	after := b.journal(t)
	after.wantKept(t, before)
	for _, w := range b.workers {
		w.stop(t)
	}
}

// drop drops the schema under the workers, which may lock its tables in another order.
func (s *servers) drop(t *testing.T) {
	t.Helper()
	await(t, "the schema is dropped", func() bool {
		err := s.exec(t.Context(), "DROP SCHEMA "+s.schema+" CASCADE")
		if err != nil && !strings.Contains(err.Error(), "deadlock") {
			t.Fatal(err)
		}
		return err == nil
	})
}

// dump dumps the schema as it is.
func (s *servers) dump(t *testing.T) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "dump.sql")
	out, err := exec.CommandContext(t.Context(), tool(t, "pg_dump"), "--schema="+s.schema, "--file="+file, s.dsn).CombinedOutput()
	if err != nil {
		t.Fatalf("pg_dump: %v: %s", err, out)
	}
	return file
}

// restore puts a dump in the schema's place, in one transaction.
func (s *servers) restore(t *testing.T, dump string) {
	t.Helper()
	var out []byte
	await(t, "the dump is restored", func() bool {
		cmd := exec.CommandContext(t.Context(), tool(t, "psql"), "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1",
			"--command=DROP SCHEMA "+s.schema+" CASCADE", "--file="+dump, s.dsn)
		var err error
		out, err = cmd.CombinedOutput()
		if err != nil && !bytes.Contains(out, []byte("deadlock")) { // with workers who lock tables in another order
			t.Fatalf("psql: %v: %s", err, out)
		}
		return err == nil
	})
}

// tool returns the path of a program of PostgreSQL.
func tool(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	must(t, err)
	switch {
	case len(found) > 0:
		return found[len(found)-1]
	case os.Getenv("CI") == "true":
		t.Fatalf("no %s: install PostgreSQL's client", name)
	}
	t.Skipf("NOT TESTED, no %s: install PostgreSQL's client", name)
	return ""
}

// A backup is older than the journal. What it lacks comes from there.
func TestADumpOfAMomentInMidRunIsRestored(t *testing.T) {
	for name, c := range map[string]struct {
		stop bool // the workers, before it is restored
		all  bool // is handled by then
	}{
		"when all was handled and the workers were stopped": {stop: true, all: true},
		"in mid-run, under workers that go on":              {},
	} {
		t.Run(name, func(t *testing.T) {
			o, rng := shipped(t), newRand(t)
			b := newBusy(t, rng.Uint64(), 3*time.Second)
			b.reach(t, 1+rng.Int64N(messages/3))
			began := b.journal(t).count()
			dump := b.dump(t)
			if b.reach(t, messages/2+rng.Int64N(messages/4)); c.all {
				b.fed()
				b.settle(t)
			}
			if c.stop {
				for _, w := range b.workers {
					w.stop(t)
				}
			}
			before := b.journal(t)
			b.restore(t, dump)
			t.Logf("dumped after decision %d, restored after %d", began, before.count())
			if c.stop {
				b.workers = b.servers.workers(t, 2)
			}
			b.fed()
			b.wantWhole(t, o)
			b.journal(t).wantKept(t, before)
			for _, w := range b.workers {
				w.stop(t)
			}
		})
	}
}

// Nothing comes, so nothing fails: a worker has to look.
func TestAnIdleWorkerNoticesThatItsStoreIsAnother(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, s *servers, old string){
		"dropped": func(t *testing.T, s *servers, _ string) {
			s.drop(t)
			s.worker(t) // makes it anew
		},
		"restored": func(t *testing.T, s *servers, old string) { s.restore(t, old) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, rows := newServers(t, 4), get(t, transactions)
			s.worker(t)
			sender := s.sender(t)
			must(t, sender.send(t.Context(), rows[:someRows]))
			s.settle(t)
			old := s.dump(t)
			must(t, sender.send(t.Context(), rows[someRows:2*someRows]))
			s.settle(t)
			before, hash := s.journal(t), s.hash(t)
			harm(t, s, old)
			s.settle(t)
			if got := s.hash(t); got != hash {
				t.Errorf("state hash %s, was %s", got, hash)
			}
			after := s.journal(t)
			after.wantKept(t, before)
			after.wantOnce(t, rows[:2*someRows])
		})
	}
}
