package sqlite_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

const (
	benchRows   = 1000
	benchStates = 500
)

var benchValue = make([]byte, 200)

// BenchmarkAppend appends 1,000 records of 200 bytes a call.
func BenchmarkAppend(b *testing.B) {
	db := open(b, newPath(b))
	rs := make([]driver.Record, benchRows)
	for i := range rs {
		rs[i].Value = benchValue
	}
	rows := 0
	for b.Loop() {
		if _, err := db.Log().Append(b.Context(), "in", rs); err != nil {
			b.Fatal(err)
		}
		rows += len(rs)
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkTx writes 1,000 ledger entries, 1,000 journal records and 500 states a transaction.
func BenchmarkTx(b *testing.B) {
	db := open(b, newPath(b))
	l := acquire(b, db)
	batch := benchBatch()
	n := 0
	for b.Loop() {
		for i := range batch.Ledger {
			n++
			batch.Ledger[i].Key = id(n)
		}
		l = step(b, db, l, batch)
	}
	b.ReportMetric(float64(n/benchRows*(2*benchRows+benchStates))/b.Elapsed().Seconds(), "rows/s")
}

func benchBatch() *driver.Batch {
	batch := &driver.Batch{
		Records: make([]driver.JournalRecord, benchRows),
		Ledger:  make([]driver.Entry, benchRows),
		States:  make([]driver.State, benchStates),
	}
	for i := range batch.Records {
		batch.Records[i].Value = benchValue
		batch.Ledger[i].Status = deja.Applied
	}
	for i := range batch.States {
		batch.States[i].Stream = deja.Stream{Aggregate: "account", Key: fmt.Sprint(1_000_000 + i)}
		batch.States[i].Data = benchValue
	}
	return batch
}

// BenchmarkLedger looks 1,000 ids up and enters those that are new, of which 1 % are old ones, in a ledger that has so many
// rows already. Its newest segment is empty at first, as is the empty ledger's: to compare them, give all the same
// number of rounds, with -benchtime 300x, say.
func BenchmarkLedger(b *testing.B) {
	for _, kind := range []string{"v7", "v4"} {
		for _, millions := range []int{0, 1, 10} {
			b.Run(fmt.Sprintf("%s/%dM", kind, millions), func(b *testing.B) {
				if testing.Short() && millions > 1 {
					b.Skip("filling it takes a minute")
				}
				benchLedger(b, kind, millions)
			})
		}
	}
}

func benchLedger(b *testing.B, kind string, millions int) {
	const segment = 1_000_000
	r := rand.New(rand.NewPCG(1, 2))
	ms := uint64(1_700_000_000_000)
	key := func() (k deja.ID) {
		binary.BigEndian.PutUint64(k[:], r.Uint64())
		binary.BigEndian.PutUint64(k[8:], r.Uint64())
		if kind == "v7" { // 100 of one millisecond
			if r.IntN(100) == 0 {
				ms++
			}
			binary.BigEndian.PutUint64(k[:], ms<<16|r.Uint64N(1<<16))
		}
		return k
	}
	db := open(b, newPath(b))
	l := acquire(b, db)
	var old []deja.ID
	keys := make([]deja.ID, segment)
	for range millions {
		for i := range keys {
			keys[i] = key()
			if r.IntN(100) == 0 {
				old = append(old, keys[i])
			}
		}
		must(b, db.Fill(keys))
	}
	// What filling has left to be written must not slow down what is measured.
	must(b, db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"))
	syscall.Sync()
	keys = keys[:benchRows]
	rows := 0
	begun := cpuTime(b)
	for b.Loop() {
		for i := range keys {
			keys[i] = key()
		}
		for i := 0; i < benchRows/100 && len(old) > 0; i++ {
			keys[i] = old[r.IntN(len(old))]
		}
		known, asked, err := db.Store().Lookup(b.Context(), keys)
		must(b, err)
		batch := &driver.Batch{Asked: asked}
		for _, k := range keys {
			if !slices.ContainsFunc(known, func(e driver.Entry) bool { return e.Key == k }) {
				batch.Ledger = append(batch.Ledger, driver.Entry{Key: k, Status: deja.Applied})
			}
		}
		l = step(b, db, l, batch)
		rows += len(keys)
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64((cpuTime(b)-begun).Microseconds())/float64(rows), "cpu-µs/row")
}

// cpuTime is what the process has used: what a busy machine disturbs less than the time that passes.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRaw inserts the same rows through the same driver into tables like ours, with nothing in between: append is
// what BenchmarkAppend writes, tx what BenchmarkTx writes.
func BenchmarkRaw(b *testing.B) {
	c, err := sqlite.OpenConn(newPath(b), sqlite.OpenReadWrite|sqlite.OpenCreate|sqlite.OpenWAL)
	must(b, err)
	defer func() { _ = c.Close() }()
	for _, sql := range []string{
		"PRAGMA synchronous = FULL", "PRAGMA cache_size = -65536", "PRAGMA wal_autocheckpoint = 20000",
		"CREATE TABLE inbox (offset INTEGER PRIMARY KEY, time INTEGER NOT NULL, value BLOB NOT NULL) STRICT",
		"CREATE TABLE journal (offset INTEGER PRIMARY KEY, time INTEGER NOT NULL, value BLOB NOT NULL) STRICT",
		"CREATE TABLE ledger (key BLOB PRIMARY KEY, hash BLOB, offset INTEGER, n INTEGER, status INTEGER) STRICT, WITHOUT ROWID",
		`CREATE TABLE states (tenant TEXT, aggregate TEXT, key TEXT, version INTEGER, data BLOB, position INTEGER, n INTEGER,
			parked INTEGER, PRIMARY KEY (tenant, aggregate, key)) STRICT, WITHOUT ROWID`,
	} {
		must(b, sqlitex.ExecuteTransient(c, sql, nil))
	}
	rows := rawRows{c: c, b: b, batch: benchBatch()}
	for _, kind := range []string{"append", "tx"} {
		b.Run(kind, func(b *testing.B) {
			rows.b = b
			for b.Loop() {
				rows.transaction(kind)
			}
			sum := benchRows * b.N
			if kind == "tx" {
				sum = (2*benchRows + benchStates) * b.N
			}
			b.ReportMetric(float64(sum)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

type rawRows struct {
	c     *sqlite.Conn
	b     *testing.B
	batch *driver.Batch
	n     int
	keys  int
}

func (r *rawRows) transaction(kind string) {
	must(r.b, sqlitex.Execute(r.c, "BEGIN IMMEDIATE", nil))
	if kind == "append" {
		r.records("INSERT INTO inbox VALUES (?, ?, ?)")
	} else {
		r.records("INSERT INTO journal VALUES (?, ?, ?)")
		r.ledger()
		r.states()
	}
	must(r.b, sqlitex.Execute(r.c, "COMMIT", nil))
}

func (r *rawRows) run(st *sqlite.Stmt) {
	if _, err := st.Step(); err != nil {
		r.b.Fatal(err)
	}
	must(r.b, st.Reset())
}

func (r *rawRows) records(sql string) {
	st := r.c.Prep(sql)
	for range benchRows {
		r.n++
		st.BindInt64(1, int64(r.n))
		st.BindInt64(2, 1_700_000_000_000_000)
		st.BindBytes(3, benchValue)
		r.run(st)
	}
}

func (r *rawRows) ledger() {
	st := r.c.Prep("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)")
	var hash [32]byte
	for range benchRows {
		r.keys++
		key := id(r.keys)
		st.BindBytes(1, key[:])
		st.BindBytes(2, hash[:])
		st.BindInt64(3, 0)
		st.BindInt64(4, 0)
		st.BindInt64(5, 1)
		r.run(st)
	}
}

func (r *rawRows) states() {
	st := r.c.Prep("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?)")
	for i := range r.batch.States {
		s := &r.batch.States[i]
		st.BindText(1, s.Stream.Tenant)
		st.BindText(2, s.Stream.Aggregate)
		st.BindText(3, s.Stream.Key)
		st.BindInt64(4, 1)
		st.BindBytes(5, s.Data)
		st.BindInt64(6, 0)
		st.BindInt64(7, 0)
		st.BindInt64(8, 0)
		r.run(st)
	}
}
