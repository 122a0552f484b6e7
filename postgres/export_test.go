package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// Of returns the database that a store is in.
func Of(s driver.Store) *DB { return s.(*store).db }

// OfLog returns the database that a log is in.
func OfLog(l driver.Log) *DB { return l.(*log).db }

// Exec runs statements as somebody who tampers with the schema would.
func (db *DB) Exec(tb testing.TB, sql string) {
	tb.Helper()
	if _, err := db.pool.Exec(context.Background(), sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// Int returns what a query gives.
func (db *DB) Int(tb testing.TB, sql string, args ...any) (n int64) {
	tb.Helper()
	if err := db.pool.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return n
}

// Abandon closes a database as the death of the process does: what is open is rolled back by the server.
func (db *DB) Abandon() {
	db.end()
	db.running.Wait()
	go db.pool.Close() // waits for connections that nobody will give back
}

// Interrupt ends the session that a transaction is on, which is begun for it if it was not.
func (db *DB) Interrupt(tb testing.TB, of driver.Tx) {
	tb.Helper()
	t := of.(*tx)
	if err := t.sql.flush(context.Background()); err != nil {
		tb.Fatal(err)
	}
	db.Int(tb, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND pg_terminate_backend($1::int8::int, 5000)", int64(t.conn.Conn().PgConn().PID()))
}

// Trim removes records as retention would.
func (db *DB) Trim(tb testing.TB, name string, partition int32, first int64) {
	tb.Helper()
	table := db.topics.get(name).table()
	db.Exec(tb, fmt.Sprintf("ALTER TABLE %[1]s DISABLE TRIGGER deja_append_only; DELETE FROM %[1]s WHERE partition = %d AND off < %d;"+
		"ALTER TABLE %[1]s ENABLE TRIGGER deja_append_only", table, partition, first))
}

// storeTables are the store's tables but for the segments of its ledger.
var storeTables = []string{
	"deja_leases", "deja_binding", "deja_segments", "deja_catalog", "deja_states", "deja_parked", "deja_repeats", "deja_records",
}

// Backup copies the store's tables, but not those of the log, and returns what puts them back.
func (db *DB) Backup(tb testing.TB) (restore func(testing.TB, *DB)) {
	tb.Helper()
	saved := pgx.Identifier{db.config.schema + "_saved"}.Sanitize()
	var segments []string
	err := db.transact(tb.Context(), func(tx pgx.Tx) error {
		_, err := tx.Exec(tb.Context(), "LOCK TABLE deja_segments IN EXCLUSIVE MODE; DROP SCHEMA IF EXISTS "+saved+" CASCADE; CREATE SCHEMA "+saved)
		if err != nil {
			return err
		}
		rows, err := tx.Query(tb.Context(), "SELECT 'deja_ledger_' || n FROM deja_segments")
		if err != nil {
			return err
		}
		if segments, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		}
		for _, t := range append(append([]string{}, storeTables...), segments...) {
			if _, err := tx.Exec(tb.Context(), fmt.Sprintf("CREATE TABLE %s.%s AS TABLE %[2]s", saved, t)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return func(tb testing.TB, now *DB) {
		tb.Helper()
		sql := "BEGIN; LOCK TABLE deja_segments IN ACCESS EXCLUSIVE MODE;" +
			"DO $$ DECLARE t text; BEGIN FOR t IN SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'" +
			" AND relname LIKE 'deja\\_ledger\\_%' LOOP EXECUTE 'DROP TABLE ' || t; END LOOP; END $$;"
		for _, t := range storeTables {
			sql += fmt.Sprintf("TRUNCATE %s; INSERT INTO %[1]s SELECT * FROM %s.%[1]s;", t, saved)
		}
		for _, t := range segments {
			sql += fmt.Sprintf("CREATE TABLE %s AS TABLE %s.%[1]s; ALTER TABLE %[1]s ADD PRIMARY KEY (key);", t, saved)
		}
		now.Exec(tb, sql+"COMMIT")
	}
}

// SchemaName returns the schema's name.
func (db *DB) SchemaName() string { return db.config.schema }

// Roll seals the ledger's newest segment.
func (db *DB) Roll(tb testing.TB) {
	tb.Helper()
	if err := db.seal(tb.Context(), db.Int(tb, "SELECT newest FROM deja_catalog")); err != nil {
		tb.Fatal(err)
	}
}

// MigrateFurther takes a step that this program does not know yet.
func (db *DB) MigrateFurther(ctx context.Context, step string) error {
	return db.migrate(ctx, append(append([]string{}, migrations...), step))
}

// TryExec runs statements.
func (db *DB) TryExec(sql string) error {
	_, err := db.pool.Exec(context.Background(), sql)
	return err
}

// CutAll ends all sessions of the pool.
func (db *DB) CutAll(tb testing.TB) {
	tb.Helper()
	conn, err := pgx.ConnectConfig(tb.Context(), db.pool.Config().ConnConfig)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var pids []int32
	for _, c := range db.pool.AcquireAllIdle(tb.Context()) {
		pids = append(pids, int32(c.Conn().PgConn().PID()))
		c.Release()
	}
	if _, err := conn.Exec(tb.Context(), "SELECT pg_terminate_backend(p, 5000) FROM unnest($1::int[]) p", pids); err != nil {
		tb.Fatal(err)
	}
}

// AppendSlowly appends in a transaction that stays open for a while, and is rolled back in the end or not.
func (db *DB) AppendSlowly(ctx context.Context, name string, rs []driver.Record, rollBack bool) error {
	t, err := db.findTopic(ctx, db.pool, name)
	if err != nil {
		return err
	}
	c := newColumns(len(rs))
	for i := range rs {
		c.add(&rs[i])
	}
	tx, err := db.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	var b batch
	c.queue(&b, t, func(int32, int64) {})
	if _, err := send(ctx, tx, &b); err != nil {
		return err
	}
	if err := sleep(ctx, 5*time.Millisecond); err != nil || rollBack {
		return err
	}
	return tx.Commit(ctx)
}

// TryRoll seals the ledger's newest segment, if nobody is in the way.
func (db *DB) TryRoll(ctx context.Context) {
	var n int64
	if err := db.pool.QueryRow(ctx, "SELECT newest FROM deja_catalog").Scan(&n); err == nil {
		_ = db.seal(ctx, n)
	}
}

// MakeFilters makes what filters are missing.
func (db *DB) MakeFilters(tb testing.TB) {
	tb.Helper()
	if _, err := db.loadCatalog(tb.Context(), db.pool); err != nil {
		tb.Fatal(err)
	}
	if err := db.completeFilters(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// Plan returns how a look-up in the first segment is run, under a plan for any arguments.
func (db *DB) Plan(tb testing.TB) string {
	tb.Helper()
	rows, err := db.pool.Query(tb.Context(), "EXPLAIN "+fmt.Sprintf(lookupEntries, 1, 1), [][16]byte{{1}, {2}, {3}})
	if err != nil {
		tb.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// FreezeInCommit does all of a commit but the last: it leaves the transaction holding the rows that it wrote, and the lease's
// row too if told so. What it returns goes on from there.
func (db *DB) FreezeInCommit(
	tb testing.TB, l driver.Lease, from driver.Progress, b *driver.Batch, to driver.Progress, advanced bool,
) (wake func() error, err error) {
	tb.Helper()
	ctx := context.Background()
	begun, err := db.Store().Begin(ctx, l)
	if err != nil {
		return nil, err
	}
	t := begun.(*tx)
	if err := errors.Join(t.Write(ctx, b), t.Advance(ctx, from, to), t.begin(ctx)); err != nil {
		return nil, err
	}
	var rest batch
	if err := errors.Join(t.writeLedger(ctx, &rest), t.rows.queue(ctx, t, &rest)); err != nil {
		return nil, err
	}
	if advanced {
		t.queueAdvance(&rest)
	}
	if _, err := send(ctx, t.conn, &rest); err != nil {
		return nil, err
	}
	return func() error {
		var last batch
		if !advanced {
			t.queueAdvance(&last)
		}
		last.exec("COMMIT")
		_, err := send(ctx, t.conn, &last)
		t.end()
		return err
	}, nil
}

// Fill makes a segment of old entries, the fastest way there is, seals it, and returns some of their keys.
func (db *DB) Fill(tb testing.TB, version int, from, rows int64) (some []deja.ID) {
	tb.Helper()
	n := db.Int(tb, "SELECT newest FROM deja_catalog")
	key := "gen_random_uuid()"
	if version == 7 {
		key = "(lpad(to_hex(1700000000000 + i / 1000), 12, '0') || '7' || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid"
	}
	db.Exec(tb, fmt.Sprintf(`SET statement_timeout = 0; ALTER TABLE deja_ledger_%[1]d DROP CONSTRAINT deja_ledger_%[1]d_pkey;
		INSERT INTO deja_ledger_%[1]d SELECT %[2]s, i, i, 0, 1, decode(repeat('ab', 32), 'hex') FROM generate_series(%[3]d, %[4]d) AS i;
		ALTER TABLE deja_ledger_%[1]d ADD PRIMARY KEY (key); RESET statement_timeout`, n, key, from+1, from+rows))
	db.Exec(tb, fmt.Sprintf("VACUUM (FREEZE, ANALYZE) deja_ledger_%d", n)) // or it would be done while something is measured
	db.Roll(tb)
	all, err := db.pool.Query(tb.Context(), fmt.Sprintf("SELECT key FROM deja_ledger_%d WHERE off %% greatest(%d / 1000, 1) = 0", n, rows))
	if err != nil {
		tb.Fatal(err)
	}
	keys, err := pgx.CollectRows(all, pgx.RowTo[[16]byte])
	if err != nil {
		tb.Fatal(err)
	}
	for _, k := range keys {
		some = append(some, k)
	}
	return some
}
