package bench_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	zombie "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	banking "github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/orders"
	"github.com/dejalog/deja/examples/transfers/receipt"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

const (
	transfers = 10_000 // under load
	alone     = 200    // one after the other
	ahead     = 4 * chunk
)

// bank is both services of the transfers example over one file, and the provider of its receipts.
type bank struct {
	db       *sqlite.DB
	provider *receipt.Provider
	services []*deja.Service
	stores   []driver.Store
	clients  []deja.Client
	stop     context.CancelFunc
	done     []chan error
}

// openBank opens a fresh bank in which all is there that orders rely on.
func openBank(ctx context.Context, b *testing.B, plan orders.Plan) *bank {
	b.Helper()
	dir := b.TempDir()
	db, err := sqlite.Open(ctx, filepath.Join(dir, "bank.db"))
	check(b, err)
	p, err := receipt.Open(filepath.Join(dir, "receipts"), receipt.Faults{})
	check(b, err)
	k := &bank{
		db: db, provider: p, services: []*deja.Service{banking.Service(), ledger.Service()},
		stores: []driver.Store{db.StoreOf(banking.Name), db.StoreOf(ledger.Name)},
	}
	ctx, k.stop = context.WithCancel(ctx)
	for i, cfg := range []engine.Config{{Peers: banking.Peers(), Effects: []deja.Performer{receipt.Performer(p)}}, {}} {
		cfg.Service, cfg.Log, cfg.Store, cfg.Logger = k.services[i], db.Log(), k.stores[i], slog.New(slog.DiscardHandler)
		eng, err := engine.New(cfg)
		check(b, err)
		done := make(chan error, 1)
		go func() { done <- eng.Run(ctx) }()
		k.clients, k.done = append(k.clients, eng.Client()), append(k.done, done)
	}
	_, err = k.clients[0].Send(ctx, plan.Deposits()...)
	check(b, err)
	for _, r := range plan.Stops() {
		_, err := k.clients[1].Do(ctx, r)
		check(b, err)
	}
	k.quiet(ctx, b)
	return k
}

// behind returns how many messages the accounts have not handled.
func (k *bank) behind(ctx context.Context, b *testing.B) int64 {
	at, err := k.stores[0].Progress(ctx, 0)
	check(b, err)
	_, end, err := k.db.Log().Bounds(ctx, banking.Name+".inbox", 0)
	check(b, err)
	return end - at.Position
}

// quiet waits until no transfer waits for anything, nor an effect for its result.
func (k *bank) quiet(ctx context.Context, b *testing.B) {
	b.Helper()
	for {
		if k.behind(ctx, b) == 0 {
			open, err := k.stores[0].Open(ctx, 0, deja.Stream{}, 1)
			check(b, err)
			if len(open) == 0 {
				return
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// load makes all transfers of a plan.
func (k *bank) load(ctx context.Context, b *testing.B, plan orders.Plan) {
	b.Helper()
	var batch []deja.Request
	for o := range plan.Orders(0) {
		if batch = append(batch, plan.Request(o)); len(batch) < chunk && o.Number < plan.Transfers-1 {
			continue
		}
		for k.behind(ctx, b) > ahead {
			time.Sleep(2 * time.Millisecond)
		}
		_, err := k.clients[0].Send(ctx, batch...)
		check(b, err)
		batch = batch[:0]
	}
	k.quiet(ctx, b)
}

func (k *bank) close(b *testing.B) {
	b.Helper()
	k.stop()
	for _, done := range k.done {
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.Fatal(err)
		}
	}
	check(b, k.provider.Close())
	check(b, k.db.Close())
}

// BenchmarkTransfers measures transfers between two services over one file, from the first order to the last end with its
// receipt; in the same run the same rows inserted raw, as in [BenchmarkEmbedded]; and transfers one after the other.
func BenchmarkTransfers(b *testing.B) {
	var ours, raw, used time.Duration
	var took []time.Duration
	n := transfers
	if testing.Short() {
		n = chunk
	}
	ctx := context.Background()
	for b.Loop() {
		plan := orders.Plan{Transfers: n, Seed: 1, Began: time.Now()}
		k := openBank(ctx, b, plan)
		before, began := cpu(b), time.Now()
		k.load(ctx, b, plan)
		ours, used = ours+time.Since(began), used+cpu(b)-before
		raw += k.insertRaw(ctx, b)
		took = append(took, k.alone(ctx, b)...)
		k.close(b)
	}
	slices.Sort(took)
	all := float64(b.N * n)
	b.ReportMetric(all/ours.Seconds(), "transfers/s")
	b.ReportMetric(all/raw.Seconds(), "raw-transfers/s")
	b.ReportMetric(ours.Seconds()/raw.Seconds(), "times-raw")
	b.ReportMetric(used.Seconds()*1e6/all, "cpu-µs/transfer")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "alone-p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "alone-p99-ms")
	b.ReportMetric(0, "ns/op")
}

// alone makes transfers one after the other, and returns how long each took from the order to its end.
func (k *bank) alone(ctx context.Context, b *testing.B) []time.Duration {
	b.Helper()
	took := make([]time.Duration, 0, alone)
	for o := range (orders.Plan{Transfers: alone, Seed: 2, Began: time.Now()}).Orders(0) {
		began := time.Now()
		_, err := k.clients[0].Do(ctx, deja.Request{Key: "alone-" + o.Key, Command: o.Start, Until: deja.AtEnd()})
		check(b, err)
		took = append(took, time.Since(began))
	}
	return took
}

// A row is what a decision of a service has written.
type row struct {
	inbox, journal []byte
	entry          driver.Entry
	state          driver.State
}

// rows returns what a service has written for its decisions, in order.
func (k *bank) rows(ctx context.Context, b *testing.B, i int) []row {
	b.Helper()
	src, err := replay.Open(ctx, replay.Config{Service: k.services[i], Log: k.db.Log(), Store: k.stores[i]})
	check(b, err)
	states := map[deja.Stream]driver.State{}
	check(b, replay.EachState(ctx, k.stores[i], func(s driver.State) error { states[s.Stream] = s; return nil }))
	var all []row
	for e, err := range src.Decisions(ctx, 0, 1) {
		check(b, err)
		recs, err := k.db.Log().Fetch(ctx, e.Cause.Position, 1)
		check(b, err)
		all = append(all, row{
			inbox: recs[0].Value, journal: e.Raw, state: states[e.Cause.Stream],
			entry: driver.Entry{Key: e.Cause.ID, Hash: e.Hash, Offset: e.Cause.Position.Offset, N: e.N, Status: e.Decided.Status},
		})
	}
	return all
}

// insertRaw inserts the rows of a finished run into a database without deja, each service's in tables of its own, and
// returns the time it took.
func (k *bank) insertRaw(ctx context.Context, b *testing.B) time.Duration {
	b.Helper()
	c, err := zombie.OpenConn(filepath.Join(b.TempDir(), "raw.db"), zombie.OpenReadWrite, zombie.OpenCreate, zombie.OpenWAL)
	check(b, err)
	defer func() { check(b, c.Close()) }()
	for _, pragma := range []string{"synchronous = FULL", "wal_autocheckpoint = 20000", "cache_size = -65536"} {
		check(b, sqlitex.ExecuteTransient(c, "PRAGMA "+pragma, nil))
	}
	var took time.Duration
	for i, s := range k.services {
		check(b, sqlitex.ExecuteScript(c, `
			CREATE TABLE inbox_`+s.Name+` (offset INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT;
			CREATE TABLE journal_`+s.Name+` (offset INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT;
			CREATE TABLE ledger_`+s.Name+` (key BLOB PRIMARY KEY, hash BLOB NOT NULL, offset INTEGER NOT NULL, n INTEGER NOT NULL, status INTEGER NOT NULL) STRICT, WITHOUT ROWID;
			CREATE TABLE states_`+s.Name+` (aggregate TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL, position INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (aggregate, key)) STRICT, WITHOUT ROWID;`, nil))
		rows := k.rows(ctx, b, i)
		began := time.Now()
		for part := range slices.Chunk(rows, chunk) {
			transact(b, c, func() {
				for _, r := range part {
					insert(b, c, `INSERT INTO inbox_`+s.Name+` VALUES (?, ?)`, r.entry.Offset, r.inbox)
				}
			})
			transact(b, c, func() {
				sorted := slices.SortedFunc(slices.Values(part), func(x, y row) int { return slices.Compare(x.entry.Key[:], y.entry.Key[:]) })
				for _, r := range sorted {
					insert(b, c, `INSERT INTO ledger_`+s.Name+` VALUES (?, ?, ?, ?, ?)`, r.entry.Key[:], r.entry.Hash[:], r.entry.Offset, r.entry.N, int64(r.entry.Status))
				}
				for _, r := range part {
					insert(b, c, `INSERT INTO journal_`+s.Name+` VALUES (?, ?)`, r.entry.N, r.journal)
					insert(b, c, `INSERT OR REPLACE INTO states_`+s.Name+` VALUES (?, ?, ?, ?, ?, ?)`, r.state.Stream.Aggregate, r.state.Stream.Key, r.state.Version, r.state.Data, r.state.Position, r.state.N)
				}
			})
		}
		took += time.Since(began)
	}
	return took
}
