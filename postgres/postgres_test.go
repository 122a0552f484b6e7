package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/postgres"
)

var quiet = postgres.Logger(slog.New(slog.DiscardHandler))

// assignment is a partition of two topics that no log has.
func assignment(partition int32, tables ...deja.TableDef) driver.Assignment {
	topic := func(name string) driver.Topic {
		return driver.Topic{Name: name, Cluster: "none", ID: name, Partitions: 4, MaxRecord: 1 << 20}
	}
	return driver.Assignment{Inbox: topic("test.inbox"), Journal: topic("test.journal"), Partition: partition, Tables: tables}
}

// worker holds a lease, and knows where it is.
type worker struct {
	t     testing.TB
	store driver.Store
	lease driver.Lease
	at    driver.Progress
}

func acquire(t testing.TB, s driver.Store, a driver.Assignment) *worker {
	t.Helper()
	l, err := s.Acquire(t.Context(), a)
	must(t, err)
	return &worker{t, s, l, l.Progress}
}

// batch returns decisions of new messages with some keys, and where the partition is then.
func (w *worker) batch(asked int64, keys ...deja.ID) (*driver.Batch, driver.Progress) {
	b, to := &driver.Batch{Asked: asked}, w.at
	for _, k := range keys {
		to.N++
		b.Ledger = append(b.Ledger, driver.Entry{Key: k, Partition: w.lease.Partition, Offset: to.Position, N: to.N, Status: deja.Applied})
		b.Records = append(b.Records, driver.JournalRecord{N: to.N, Value: fmt.Appendf(nil, "record %d", to.N)})
		b.States = append(b.States, driver.State{
			Stream:    deja.Stream{Aggregate: "account", Key: fmt.Sprintf("%d-%d", w.lease.Partition, to.N%50)},
			Partition: w.lease.Partition, Version: to.N, Data: []byte(`{}`), Position: to.Position, N: to.N,
		})
		to.Position++
	}
	to.Chain[0]++
	return b, to
}

// try commits decisions, and goes on behind them.
func (w *worker) try(b *driver.Batch, to driver.Progress, project ...func(deja.Tx)) error {
	tx, err := w.store.Begin(w.t.Context(), w.lease)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(w.t.Context()) }()
	err = tx.Write(w.t.Context(), b)
	for _, p := range project {
		p(tx.SQL())
	}
	if err == nil {
		err = tx.Advance(w.t.Context(), w.at, to)
	}
	if err == nil {
		err = tx.Commit(w.t.Context())
	}
	if err == nil {
		w.at = to
	}
	return err
}

func newIDs(n int) []deja.ID {
	ids := make([]deja.ID, n)
	for i := range ids {
		ids[i] = deja.NewID()
	}
	return ids
}

func want(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got error %v, want %v", err, target)
	}
}

func TestOptionsInTheDSN(t *testing.T) {
	schema := newSchema(t)
	dsn := testenv.Postgres(t) + "&schema=" + schema + "&partitions=7&lock_timeout=1234ms"
	db, err := postgres.Open(t.Context(), dsn)
	must(t, err)
	defer db.Close()
	topic, err := db.Log().Topic(t.Context(), "a")
	must(t, err)
	if topic.Partitions != 7 || db.SchemaName() != schema {
		t.Errorf("schema %s, %d partitions", db.SchemaName(), topic.Partitions)
	}
	for name, value := range map[string]string{
		"lock_timeout": "1234ms", "idle_in_transaction_session_timeout": "2500ms", "statement_timeout": "1min", "search_path": schema,
		"application_name": "deja", "tcp_user_timeout": "10000",
	} {
		if n := db.Int(t, "SELECT count(*) FROM (SELECT current_setting($1) v) s WHERE v = $2", name, value); n != 1 {
			t.Errorf("%s is not %s", name, value)
		}
	}
	for _, bad := range []string{"&schema=a-b", "&schema=pg_a", "&partitions=x", "&partitions=0"} {
		if _, err := postgres.Open(t.Context(), testenv.Postgres(t)+bad); err == nil {
			t.Errorf("opened with %s", bad)
		}
	}
}

func TestReadOnly(t *testing.T) {
	schema := newSchema(t)
	dsn := testenv.Postgres(t)
	_, err := postgres.OpenReadOnly(t.Context(), dsn, postgres.Schema(schema))
	want(t, err, postgres.ErrNoStore)
	db := open(t, schema)
	w := acquire(t, db.Store(), assignment(0))
	ids := newIDs(3)
	must(t, w.try(w.batch(0, ids...)))
	looking, err := postgres.OpenReadOnly(t.Context(), dsn, postgres.Schema(schema))
	must(t, err)
	defer looking.Close()
	if es, _, err := looking.Store().Lookup(t.Context(), ids); len(es) != 3 || err != nil {
		t.Errorf("%d entries, error %v", len(es), err)
	}
	_, err = looking.Store().Acquire(t.Context(), assignment(0))
	want(t, err, postgres.ErrReadOnly)
	_, err = looking.Store().Begin(t.Context(), w.lease)
	want(t, err, postgres.ErrReadOnly)
	_, err = looking.Log().Append(t.Context(), "a", []driver.Record{{}})
	want(t, err, driver.ErrUnusable)
	_, err = looking.Log().Topic(t.Context(), "a")
	want(t, err, driver.ErrNotFound)
}

// Many processes open a schema that is not there, or that is of the version before, at the same time.
func TestOpenersAtOnce(t *testing.T) {
	schema := newSchema(t)
	dsn := testenv.Postgres(t)
	both := func(open func() error) {
		t.Helper()
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if err := open(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	both(func() error {
		db, err := postgres.Open(t.Context(), dsn, postgres.Schema(schema))
		if err != nil {
			return err
		}
		return db.Close()
	})
	db := open(t, schema)
	w := acquire(t, db.Store(), assignment(0))
	ids := newIDs(3)
	must(t, w.try(w.batch(0, ids...)))
	v := db.Int(t, "SELECT version FROM deja_meta")
	both(func() error { return db.MigrateFurther(t.Context(), "CREATE TABLE deja_further (n int)") })
	if now := db.Int(t, "SELECT version FROM deja_meta"); now != v+1 {
		t.Fatalf("version %d after %d", now, v)
	}
	if n := db.Int(t, "SELECT count(*) FROM deja_further"); n != 0 {
		t.Errorf("%d rows", n)
	}
	if es, _, err := db.Store().Lookup(t.Context(), ids); len(es) != 3 || err != nil {
		t.Errorf("%d entries after migrating, error %v", len(es), err)
	}

	_, err := postgres.Open(t.Context(), dsn, postgres.Schema(schema))
	want(t, err, postgres.ErrNewer)
	_, err = postgres.OpenReadOnly(t.Context(), dsn, postgres.Schema(schema))
	want(t, err, postgres.ErrNewer)
	db.Exec(t, "UPDATE deja_meta SET version = 0")
	_, err = postgres.OpenReadOnly(t.Context(), dsn, postgres.Schema(schema))
	if err == nil {
		t.Error("opened a schema of an older version")
	}
	db.Exec(t, fmt.Sprintf("UPDATE deja_meta SET version = %d", v))
}

// Version 1 of the schema has states that do not say what their streams wait for.
func TestOlderVersion(t *testing.T) {
	db := open(t, newSchema(t))
	w := acquire(t, db.Store(), assignment(0))
	b, to := w.batch(0, newIDs(2)...)
	to.Fold = "0123456789abcdef"
	must(t, w.try(b, to))
	db.Exec(t, "ALTER TABLE deja_states DROP open, DROP due; UPDATE deja_meta SET version = 1")

	_, err := postgres.OpenReadOnly(t.Context(), testenv.Postgres(t), postgres.Schema(db.SchemaName()))
	want(t, err, postgres.ErrOlder)
	now := open(t, db.SchemaName())
	p, err := now.Store().Progress(t.Context(), 0)
	must(t, err)
	if p.Fold == to.Fold || p.N != to.N {
		t.Fatalf("it is not to be folded anew: %+v", p)
	}
	w = acquire(t, now.Store(), assignment(0))
	b, to = w.batch(0, newIDs(1)...)
	b.States[0].Open, b.States[0].Due = []byte("timer"), time.UnixMicro(1).UTC()
	must(t, w.try(b, to))
	for _, read := range []func() ([]driver.State, error){
		func() ([]driver.State, error) { return now.Store().Open(t.Context(), 0, deja.Stream{}, 9) },
		func() ([]driver.State, error) {
			return now.Store().Due(t.Context(), 0, b.States[0].Due, driver.State{}, 9)
		},
	} {
		got, err := read()
		must(t, err)
		if len(got) != 1 || string(got[0].Open) != "timer" || got[0].Stream != b.States[0].Stream {
			t.Fatalf("got %+v", got)
		}
	}
}

// A step that fails leaves the version that was.
func TestMigrationFails(t *testing.T) {
	db := open(t, newSchema(t))
	v := db.Int(t, "SELECT version FROM deja_meta")
	if err := db.MigrateFurther(t.Context(), "CREATE TABLE deja_further (n int); SELECT 1 / 0"); err == nil {
		t.Fatal("migrated")
	}
	if now := db.Int(t, "SELECT version FROM deja_meta"); now != v {
		t.Errorf("version %d after %d", now, v)
	}
	if n := db.Int(t, "SELECT count(*) FROM pg_class WHERE relname = 'deja_further' AND relnamespace = current_schema()::regnamespace"); n != 0 {
		t.Error("the failed step left something")
	}
}

// All connections of the store are cut: calls fail, or not, and then go on.
func TestLostConnections(t *testing.T) {
	db := open(t, newSchema(t))
	w := acquire(t, db.Store(), assignment(0))
	for range 5 {
		must(t, w.try(w.batch(0, newIDs(2)...)))
		db.CutAll(t)
		for try := 0; ; try++ {
			l, err := db.Store().Acquire(t.Context(), assignment(0))
			if err == nil {
				if l.Progress.N != w.at.N {
					t.Fatalf("at %d, want %d", l.Progress.N, w.at.N)
				}
				w.lease = l
				break
			}
			if try > 20 {
				t.Fatal(err)
			}
		}
	}
}

func TestTablesAreGuarded(t *testing.T) {
	db := open(t, newSchema(t))
	good := deja.TableDef{
		Name: "Good", DDL: "-- a comment\nCREATE TABLE good (k text PRIMARY KEY, at timestamptz, v bigint); CREATE INDEX ON good (v)",
	}
	for name, ddl := range map[string]string{
		"deja_states": "CREATE TABLE deja_states (a int)",
		"a-b":         `CREATE TABLE "a-b" (a int)`,
		"other":       "CREATE TABLE another (a int)",
		"more":        "CREATE TABLE more (a int); DROP TABLE deja_states",
		"insert":      "CREATE TABLE insert (a int); INSERT INTO insert VALUES (1)",
		"volatile":    "CREATE TABLE volatile (a timestamptz DEFAULT now())",
		"serial":      "CREATE TABLE serial (a bigserial)",
		"broken":      "CREATE TABLE broken (",
	} {
		_, err := db.Store().Acquire(t.Context(), assignment(0, good, deja.TableDef{Name: name, DDL: ddl}))
		if !errors.Is(err, driver.ErrUnusable) {
			t.Errorf("%s: error %v", ddl, err)
		}
	}
	w := acquire(t, db.Store(), assignment(0, good))
	for _, sql := range []string{
		"UPDATE deja_states SET data = ''", `DELETE FROM "deja_leases"`, "DROP TABLE good", "COMMIT", "SET search_path = public",
		"SELECT set_config('search_path', 'public', false)", "INSERT INTO good VALUES ('a', now())", "TRUNCATE good",
		"SELECT 1; SELECT 2", "INSERT INTO good (k) VALUES (random()::text)",
	} {
		b, to := w.batch(0, deja.NewID())
		if err := w.try(b, to, func(tx deja.Tx) { tx.Queue(sql) }); err == nil || errors.Is(err, driver.ErrFenced) {
			t.Errorf("%s: error %v", sql, err)
		}
	}
}

func TestProjectionTypes(t *testing.T) {
	db := open(t, newSchema(t))
	w := acquire(t, db.Store(), assignment(0, deja.TableDef{
		Name: "types", DDL: `CREATE TABLE types (
			a text, b timestamptz, c timestamp, d date, e bytea, f double precision, g boolean, h jsonb, i bigint, j int
		)`,
	}))
	at := time.Date(2024, 5, 6, 7, 8, 9, 123456000, time.FixedZone("x", 7200))
	b, to := w.batch(0, deja.NewID())
	must(t, w.try(b, to, func(tx deja.Tx) {
		tx.Queue("INSERT INTO types VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
			at, at, at, at, []byte{0, 255}, 1.5, true, `{"a": 1}`, int64(1)<<60, 7)
		tx.Queue("INSERT INTO types (a, e) VALUES ($1, $2)", "nulls", nil)
		for r, err := range tx.Rows("SELECT a, b, c, d, e, f, g, h, i, j FROM types WHERE f IS NOT NULL") {
			must(t, err)
			var (
				a, b, c, d time.Time
				e          []byte
				f          float64
				g          bool
				h          string
				i, j       int64
			)
			must(t, r.Scan(&a, &b, &c, &d, &e, &f, &g, &h, &i, &j))
			if !a.Equal(at) || !b.Equal(at) || !c.Equal(at) || b.Location() != time.UTC || d.Format(time.DateOnly) != "2024-05-06" {
				t.Errorf("times %s, %s, %s, %s", a, b, c, d)
			}
			if !slices.Equal(e, []byte{0, 255}) || f != 1.5 || !g || h != `{"a": 1}` || i != 1<<60 || j != 7 {
				t.Errorf("%v %v %v %v %v %v", e, f, g, h, i, j)
			}
			if r.Scan(&a) == nil || r.Scan(new(int32), &b, &c, &d, &e, &f, &g, &h, &i, &j) == nil {
				t.Error("scanned into what does not fit")
			}
		}
		for r, err := range tx.Rows("SELECT b, e FROM types WHERE f IS NULL") {
			must(t, err)
			var (
				at time.Time
				e  = []byte{1}
			)
			if err := r.Scan(&at, &e); err == nil {
				t.Error("scanned null into a time")
			}
			var ignored []byte
			must(t, r.Scan(&ignored, &e))
			if e != nil {
				t.Errorf("null gave %v", e)
			}
		}
	}))
}

// What a projection does with the transaction of the engine's driver commits with the rest, or not at all.
func TestPgxTx(t *testing.T) {
	db := open(t, newSchema(t))
	w := acquire(t, db.Store(), assignment(0, deja.TableDef{Name: "rows", DDL: "CREATE TABLE rows (k text)"}))
	fill := func(tx deja.Tx) {
		tx.Queue("INSERT INTO rows VALUES ('queued')")
		inner, ok := postgres.Tx(tx)
		if !ok {
			t.Fatal("no pgx.Tx")
		}
		if n, err := inner.CopyFrom(t.Context(), pgx.Identifier{"rows"}, []string{"k"}, pgx.CopyFromRows([][]any{{"a"}, {"b"}})); n != 2 || err != nil {
			t.Fatalf("copied %d, error %v", n, err)
		}
		if inner.Commit(t.Context()) == nil || inner.Rollback(t.Context()) == nil {
			t.Error("a projection ended the core transaction")
		}
		var n int
		must(t, inner.QueryRow(t.Context(), "SELECT count(*) FROM rows").Scan(&n))
		if n != 3 {
			t.Errorf("%d rows in the transaction", n)
		}
	}
	b, to := w.batch(0, deja.NewID())
	wrong := *w
	wrong.at.Position++
	want(t, wrong.try(b, to, fill), driver.ErrFenced)
	must(t, w.try(b, to, fill))
	if n := db.Int(t, "SELECT count(*) FROM rows"); n != 3 {
		t.Errorf("%d rows", n)
	}
	if _, ok := postgres.Tx(nil); ok {
		t.Error("a pgx.Tx of nothing")
	}
}

func TestKeptRecordsAreTrimmed(t *testing.T) {
	db := open(t, newSchema(t), postgres.Keep(20, 0))
	w := acquire(t, db.Store(), assignment(0))
	for range 10 {
		must(t, w.try(w.batch(0, newIDs(5)...)))
	}
	logged := func(n int64) {
		t.Helper()
		must(t, db.Store().Logged(t.Context(), w.lease, driver.Logged{N: n, Offset: n}))
	}
	first := func() int64 {
		t.Helper()
		rs, err := db.Store().Unlogged(t.Context(), 0, 0, 1)
		must(t, err)
		return rs[0].N
	}
	logged(10)
	if n := first(); n != 1 {
		t.Errorf("the first is %d", n)
	}
	logged(47)
	if n := first(); n != 26 { // up to 27 may go; the row that has it holds 28 to 30 too
		t.Errorf("the first is %d", n)
	}
	rs, err := db.Store().Unlogged(t.Context(), 0, 0, 1000)
	must(t, err)
	for i, r := range rs {
		if r.N != int64(26+i) || string(r.Value) != fmt.Sprintf("record %d", r.N) {
			t.Errorf("record %d is %d: %s", i, r.N, r.Value)
		}
	}
}

// Adopted records replace those of the same numbers, new decisions all from theirs on.
func TestKeptRecordsAreReplaced(t *testing.T) {
	db := open(t, newSchema(t))
	w := acquire(t, db.Store(), assignment(0))
	write := func(adopted bool, what string, first, last int64) {
		t.Helper()
		b, to := &driver.Batch{Logged: adopted}, w.at
		for n := first; n <= last; n++ {
			b.Records = append(b.Records, driver.JournalRecord{N: n, Value: []byte(what)})
		}
		to.N, to.Position = last, to.Position+1
		must(t, w.try(b, to))
	}
	check := func(want string) {
		t.Helper()
		rs, err := db.Store().Unlogged(t.Context(), 0, 0, 1000)
		must(t, err)
		got := ""
		for i, r := range rs {
			if r.N != int64(i+1) {
				t.Fatalf("record %d after %d", r.N, i)
			}
			got += string(r.Value)
		}
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	write(false, "a", 1, 9)
	check("aaaaaaaaa")
	write(true, "b", 4, 6)
	check("aaabbbaaa")
	write(true, "c", 1, 5)
	check("cccccbaaa")
	write(true, "d", 5, 8)
	check("ccccdddda")
	write(false, "e", 7, 8)
	check("ccccddee")
	write(true, "f", 1, 8)
	check("ffffffff")
	for after := range int64(9) {
		rs, err := db.Store().Unlogged(t.Context(), 0, after, 3)
		must(t, err)
		if len(rs) != int(min(3, 8-after)) {
			t.Errorf("%d records after %d", len(rs), after)
		}
	}
}

// encoder makes a record of each request's id.
type encoder struct{ topic string }

func (e encoder) Encode(rs ...deja.Request) (topic string, recs []driver.Record, ids []deja.ID, err error) {
	for _, r := range rs {
		recs = append(recs, driver.Record{Key: r.Key, Value: r.ID[:], Headers: []driver.Header{{Name: "h", Value: []byte(r.Key)}}})
		ids = append(ids, r.ID)
	}
	return e.topic, recs, ids, nil
}

// Writers of their own transactions are slow, or roll back. What committed goes out, each message once, and nothing else.
func TestSendTx(t *testing.T) {
	db := open(t, newSchema(t))
	conn := connect(t)
	send := func(tx pgx.Tx, keys ...string) []deja.ID {
		t.Helper()
		var rs []deja.Request
		for _, k := range keys {
			rs = append(rs, deja.Request{ID: deja.NewID(), Key: k})
		}
		ids, err := db.SendTx(t.Context(), tx, encoder{"test.inbox"}, rs...)
		must(t, err)
		return ids
	}
	begin := func() pgx.Tx {
		t.Helper()
		tx, err := connect(t).Begin(t.Context())
		must(t, err)
		return tx
	}
	out := db.Store().(driver.Outbox)
	taken := func(want ...deja.ID) {
		t.Helper()
		var got []deja.ID
		for len(got) < len(want) {
			msgs, err := out.Outgoing(t.Context(), 2)
			must(t, err)
			var ids []int64
			for _, m := range msgs {
				if m.Topic != "test.inbox" || len(m.Record.Headers) != 1 || string(m.Record.Headers[0].Value) != m.Record.Key {
					t.Errorf("message %+v", m)
				}
				got, ids = append(got, deja.ID(m.Record.Value)), append(ids, m.ID)
			}
			must(t, out.Sent(t.Context(), ids))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		defer cancel()
		if msgs, err := out.Outgoing(ctx, 10); len(msgs) > 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("then %v, error %v", msgs, err)
		}
	}
	slow, lost := begin(), begin()
	first := send(slow, "a", "b")
	send(lost, "never")
	quick, err := conn.Begin(t.Context())
	must(t, err)
	second := send(quick, "c", "d", "e")
	must(t, quick.Commit(t.Context()))
	taken(second...)
	must(t, lost.Rollback(t.Context()))
	first = append(first, send(slow, "f")...)
	must(t, slow.Commit(t.Context()))
	taken(first...)
}

// connect returns a connection of the user's own.
func connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), testenv.Postgres(t))
	must(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// Readers of a log never see a gap, whatever the writers do: some are slow, some roll back, some are killed.
func TestLogWithoutGaps(t *testing.T) {
	schema := newSchema(t)
	db := open(t, schema, postgres.Partitions(2))
	reading := open(t, schema)
	topic, err := db.Log().Topic(t.Context(), "t")
	must(t, err)
	const writers, each = 6, 30
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				rs := []driver.Record{{Partition: int32(w % 2), Value: fmt.Appendf(nil, "%d-%d", w, i)}, {Partition: int32(1 - w%2), Value: []byte("other")}}
				if i%5 == w%5 {
					if err := db.AppendSlowly(t.Context(), topic.Name, rs, i%2 == 0); err != nil {
						t.Error(err)
					}
					continue
				}
				if _, err := db.Log().Append(t.Context(), topic.Name, rs); err != nil {
					t.Error(err)
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for p := range int32(2) {
		readers.Go(func() {
			var next int64
			var last time.Time
			for {
				rs, err := reading.Log().Fetch(ctx, deja.Position{Topic: topic.Name, Partition: p, Offset: next}, 10)
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range rs {
					if r.Offset != next || r.Time.Before(last) {
						t.Errorf("offset %d at %s, want %d, not before %s", r.Offset, r.Time, next, last)
						return
					}
					next, last = next+1, r.Time
				}
			}
		})
	}
	all.Wait()
	cancel()
	readers.Wait()
	for p := range int32(2) {
		_, end, err := db.Log().Bounds(t.Context(), topic.Name, p)
		must(t, err)
		if n := db.Int(t, fmt.Sprintf("SELECT count(*) FROM deja_log_1 WHERE partition = %d", p)); n != end {
			t.Errorf("%d records and end %d", n, end)
		}
	}
	for _, sql := range []string{"UPDATE deja_log_1 SET value = ''", "DELETE FROM deja_log_1", "TRUNCATE deja_log_1"} {
		if err := db.TryExec(sql); err == nil {
			t.Errorf("%s changed the log", sql)
		}
	}
}
