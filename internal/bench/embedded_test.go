// Package bench_test measures deja on its embedded database, beside what the database itself can do in the same run.
//
//	go test -run '^$' -bench . -benchtime 3x ./internal/bench
package bench_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	zombie "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

const (
	messages = 50_000 // of one run
	accounts = 10_000
	chunk    = 1_000 // messages a call of Send, and rows a transaction of the raw inserts
)

// A service like the one the peers were measured with: balances of 10,000 accounts, messages of about 110 bytes.
type account struct {
	Balance int64  `json:"balance"`
	Last    string `json:"last"`
}

type (
	deposit struct {
		Account string `json:"account"`
		Amount  int64  `json:"amount"`
		Ref     string `json:"ref"`
		Text    string `json:"text"`
	}
	deposited struct {
		Amount int64  `json:"amount"`
		Ref    string `json:"ref"`
		Text   string `json:"text"`
	}
)

func (deposit) CommandType() string { return "account.deposit" }
func (deposited) EventType() string { return "account.deposited" }

func service(projection bool) *deja.Service {
	svc := &deja.Service{Name: "bench", Aggregates: []deja.AnyAggregate{deja.NewAggregate("account",
		deja.Handle(func(_ account, d *deja.Decision, c deposit) error {
			d.Record(deposited{c.Amount, c.Ref, c.Text})
			return nil
		}),
		deja.Apply(func(a *account, e deposited) { a.Balance, a.Last = a.Balance+e.Amount, e.Ref }),
	)}}
	if projection {
		svc.Projections = []*deja.Projection{deja.NewProjection("statement",
			deja.Table("statement", `CREATE TABLE statement (account TEXT NOT NULL, version BIGINT NOT NULL, amount BIGINT NOT NULL, PRIMARY KEY (account, version))`),
			deja.Project(func(tx deja.Tx, m *deja.Envelope, e deposited) error {
				tx.Queue(`INSERT INTO statement (account, version, amount) VALUES ($1, $2, $3)`, m.Stream.Key, m.Version, e.Amount)
				return nil
			}))}
	}
	return svc
}

func request(i int, id deja.ID) deja.Request {
	key := fmt.Sprintf("%d", i*7919%accounts)
	return deja.Request{ID: id, Key: key, Command: deposit{key, int64(i%1000 + 1), fmt.Sprintf("ref-%d", i), "a payment of some kind"}}
}

// v4 returns a random UUID, as most clients send.
func v4() (id deja.ID) {
	_, _ = rand.Read(id[:])
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// run takes messages through a fresh database, and returns it and the time from the first append to the last commit.
func run(b *testing.B, projection bool, newID func() deja.ID) (*sqlite.DB, time.Duration) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	db, err := sqlite.Open(ctx, filepath.Join(b.TempDir(), "bench.db"))
	check(b, err)
	eng, err := engine.New(engine.Config{Service: service(projection), Log: db.Log(), Store: db.Store(), Logger: slog.New(slog.DiscardHandler)})
	check(b, err)
	done := make(chan error, 1)
	go func() { done <- eng.Run(ctx) }()
	began := time.Now()
	batch := make([]deja.Request, 0, chunk)
	for i := range messages {
		if batch = append(batch, request(i, newID())); len(batch) == chunk {
			_, err := eng.Client().Send(ctx, batch...)
			check(b, err)
			batch = batch[:0]
		}
	}
	for {
		at, err := db.Store().Progress(ctx, 0)
		check(b, err)
		if at.Position == messages {
			break
		}
		time.Sleep(time.Millisecond)
	}
	took := time.Since(began)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		b.Fatal(err)
	}
	return db, took
}

// BenchmarkEmbedded measures append → decide → commit, with journal, ledger and state, fsync on; and in the same run the
// same rows inserted raw through the same driver, as many a transaction, with the same settings.
func BenchmarkEmbedded(b *testing.B) {
	for _, c := range []struct {
		name       string
		projection bool
		id         func() deja.ID
	}{{"v7", false, deja.NewID}, {"v7-projection", true, deja.NewID}, {"v4", false, v4}, {"v4-projection", true, v4}} {
		b.Run(c.name, func(b *testing.B) {
			var ours, raw, used time.Duration
			var size int64
			for b.Loop() {
				before := cpu(b)
				db, took := run(b, c.projection, c.id)
				used += cpu(b) - before
				ours += took
				raw += insertRaw(b, db, c.projection)
				check(b, db.Close())
				size = fileSize(b, db.Path())
			}
			n := float64(b.N) * messages
			b.ReportMetric(n/ours.Seconds(), "messages/s")
			b.ReportMetric(n/raw.Seconds(), "raw-messages/s")
			b.ReportMetric(used.Seconds()*1e6/n, "cpu-µs/message")
			b.ReportMetric(ours.Seconds()/raw.Seconds(), "times-raw")
			b.ReportMetric(float64(size)/messages, "bytes/message")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// insertRaw inserts the rows of a finished run into a database without deja, and returns the time it took.
func insertRaw(b *testing.B, db *sqlite.DB, projection bool) time.Duration {
	b.Helper()
	ctx := context.Background()
	inbox := fetchAll(b, db, "bench.inbox")
	journal := fetchAll(b, db, "bench.journal")
	entries, err := db.Store().Find(ctx, deja.ID{}, deja.ID(slices.Repeat([]byte{0xff}, 16)), messages)
	check(b, err)
	slices.SortFunc(entries, func(x, y driver.Entry) int { return int(x.N - y.N) })
	states := map[string]driver.State{}
	check(b, replay.EachState(ctx, db.Store(), func(s driver.State) error { states[s.Stream.Key] = s; return nil }))

	c, err := zombie.OpenConn(filepath.Join(b.TempDir(), "raw.db"), zombie.OpenReadWrite, zombie.OpenCreate, zombie.OpenWAL)
	check(b, err)
	defer func() { check(b, c.Close()) }()
	for _, pragma := range []string{"synchronous = FULL", "wal_autocheckpoint = 20000", "cache_size = -65536"} {
		check(b, sqlitex.ExecuteTransient(c, "PRAGMA "+pragma, nil))
	}
	check(b, sqlitex.ExecuteScript(c, `
		CREATE TABLE inbox (offset INTEGER PRIMARY KEY, time INTEGER NOT NULL, value BLOB NOT NULL) STRICT;
		CREATE TABLE journal (offset INTEGER PRIMARY KEY, time INTEGER NOT NULL, value BLOB NOT NULL) STRICT;
		CREATE TABLE ledger (key BLOB PRIMARY KEY, hash BLOB NOT NULL, offset INTEGER NOT NULL, n INTEGER NOT NULL, status INTEGER NOT NULL) STRICT, WITHOUT ROWID;
		CREATE TABLE states (tenant TEXT NOT NULL, aggregate TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL, position INTEGER NOT NULL, n INTEGER NOT NULL, parked INTEGER NOT NULL, PRIMARY KEY (tenant, aggregate, key)) STRICT, WITHOUT ROWID;
		CREATE TABLE statement (account TEXT NOT NULL, version BIGINT NOT NULL, amount BIGINT NOT NULL, PRIMARY KEY (account, version));`, nil))
	began := time.Now()
	for from := 0; from < messages; from += chunk {
		to := from + chunk
		transact(b, c, func() {
			for _, r := range inbox[from:to] {
				insert(b, c, `INSERT INTO inbox VALUES (?, ?, ?)`, r.Offset, r.Time.UnixMicro(), r.Value)
			}
		})
		transact(b, c, func() {
			batch := slices.Clone(entries[from:to])
			slices.SortFunc(batch, func(x, y driver.Entry) int { return slices.Compare(x.Key[:], y.Key[:]) })
			for _, e := range batch {
				insert(b, c, `INSERT INTO ledger VALUES (?, ?, ?, ?, ?)`, e.Key[:], e.Hash[:], e.Offset, e.N, int64(e.Status))
			}
			for i, r := range journal[from:to] {
				insert(b, c, `INSERT INTO journal VALUES (?, ?, ?)`, r.Offset, r.Time.UnixMicro(), r.Value)
				key := fmt.Sprintf("%d", (from+i)*7919%accounts)
				s := states[key]
				insert(b, c, `INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?)`, "", "account", key, s.Version, s.Data, s.Position, s.N, int64(0))
				if projection {
					insert(b, c, `INSERT INTO statement VALUES (?, ?, ?)`, key, int64((from+i)/accounts+1), int64(i))
				}
			}
		})
	}
	return time.Since(began)
}

func transact(b *testing.B, c *zombie.Conn, fn func()) {
	b.Helper()
	check(b, sqlitex.Execute(c, "BEGIN IMMEDIATE", nil))
	fn()
	check(b, sqlitex.Execute(c, "COMMIT", nil))
}

func insert(b *testing.B, c *zombie.Conn, sql string, args ...any) {
	st, err := c.Prepare(sql)
	check(b, err)
	for i, a := range args {
		switch a := a.(type) {
		case int64:
			st.BindInt64(i+1, a)
		case string:
			st.BindText(i+1, a)
		case []byte:
			st.BindBytes(i+1, a)
		}
	}
	_, err = st.Step()
	check(b, err)
	check(b, st.Reset())
}

func fetchAll(b *testing.B, db *sqlite.DB, topic string) []driver.Record {
	b.Helper()
	var all []driver.Record
	for len(all) < messages {
		recs, err := db.Log().Fetch(context.Background(), deja.Position{Topic: topic, Offset: int64(len(all))}, messages)
		check(b, err)
		all = append(all, recs...)
	}
	return all
}

// BenchmarkReplay measures folding a journal into memory, JSON payloads and the chain's check included.
func BenchmarkReplay(b *testing.B) {
	db, _ := run(b, false, deja.NewID)
	defer func() { check(b, db.Close()) }()
	src, err := replay.Open(context.Background(), replay.Config{Service: service(false), Log: db.Log(), Store: db.Store()})
	check(b, err)
	b.ReportAllocs()
	used := cpu(b)
	b.ResetTimer()
	for b.Loop() {
		past, err := src.Fold(context.Background(), replay.Options{})
		check(b, err)
		if past.Messages != messages {
			b.Fatalf("folded %d messages", past.Messages)
		}
	}
	b.ReportMetric(float64(b.N)*messages/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric((cpu(b)-used).Seconds()*1e6/messages/float64(b.N), "cpu-µs/message")
}

// cpu returns the processor time that the process has used: it says more than the clock on a machine that is shared.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	check(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDo measures Do on an idle service, and in the same run one fsync of the machine.
func BenchmarkDo(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	dir := b.TempDir()
	db, err := sqlite.Open(ctx, filepath.Join(dir, "do.db"))
	check(b, err)
	eng, err := engine.New(engine.Config{Service: service(false), Log: db.Log(), Store: db.Store()})
	check(b, err)
	done := make(chan error, 1)
	go func() { done <- eng.Run(ctx) }()
	f, err := os.Create(filepath.Join(dir, "fsync"))
	check(b, err)
	var do, fsync []time.Duration
	page := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		_, err := eng.Client().Do(ctx, request(i, deja.NewID()))
		check(b, err)
		do = append(do, time.Since(began))
		began = time.Now()
		_, err = f.Write(page)
		check(b, err)
		check(b, f.Sync())
		fsync = append(fsync, time.Since(began))
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		b.Fatal(err)
	}
	check(b, f.Close())
	check(b, db.Close())
	slices.Sort(do)
	slices.Sort(fsync)
	b.ReportMetric(float64(do[len(do)/2].Microseconds()), "do-p50-µs")
	b.ReportMetric(float64(do[len(do)*99/100].Microseconds()), "do-p99-µs")
	b.ReportMetric(float64(fsync[len(fsync)/2].Microseconds()), "fsync-p50-µs")
	b.ReportMetric(float64(do[len(do)/2])/float64(fsync[len(fsync)/2]), "times-fsync")
	b.ReportMetric(0, "ns/op")
}

func fileSize(b *testing.B, path string) int64 {
	b.Helper()
	info, err := os.Stat(path)
	check(b, err)
	return info.Size()
}

func check(tb testing.TB, err error) {
	if err != nil {
		tb.Helper()
		tb.Fatal(err)
	}
}
