package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/drivertest"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/postgres"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// newSchema returns a name that is in nobody's use, and removes the schema with the test.
func newSchema(t testing.TB) string {
	t.Helper()
	dsn := testenv.Postgres(t)
	name := testenv.Unique("test")
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), dsn)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close(context.Background()) }()
		drop := "SET client_min_messages = warning; DROP SCHEMA IF EXISTS " + name + ", " + name + "_saved CASCADE"
		if _, err := conn.Exec(context.Background(), drop); err != nil {
			t.Error(err)
		}
	})
	return name
}

func open(t testing.TB, schema string, opts ...postgres.Option) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), testenv.Postgres(t), append([]postgres.Option{postgres.Schema(schema)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, db.Close()) })
	return db
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func harness(joint bool, opts ...postgres.Option) drivertest.Harness {
	h := drivertest.Harness{
		Reopen: func(t testing.TB, _ driver.Log, store driver.Store) (driver.Log, driver.Store) {
			old := postgres.Of(store)
			old.Abandon()
			db := open(t, old.SchemaName(), opts...)
			return db.Log(), db.Store()
		},
		Tells: true,
		Backup: func(t testing.TB, store driver.Store) func(driver.Store) {
			restore := postgres.Of(store).Backup(t)
			return func(now driver.Store) { restore(t, postgres.Of(now)) }
		},
		Roll:      func(t testing.TB, store driver.Store) { postgres.Of(store).Roll(t) },
		Interrupt: func(t testing.TB, store driver.Store, tx driver.Tx) { postgres.Of(store).Interrupt(t, tx) },
		SQL:       true,
	}
	if joint {
		h.Open = func(t testing.TB) (driver.Log, driver.Store) {
			db := open(t, newSchema(t), opts...)
			return db.Log(), db.Store()
		}
		h.Copy = func(t testing.TB, _ driver.Log, store driver.Store) (driver.Log, driver.Store) {
			old := postgres.Of(store)
			old.Abandon()
			must(t, postgres.Adopt(t.Context(), testenv.Postgres(t), postgres.Schema(old.SchemaName())))
			db := open(t, old.SchemaName(), opts...)
			return db.Log(), db.Store()
		}
		h.ReadOnly = func(t testing.TB, _ driver.Log, store driver.Store) driver.Log {
			db, err := postgres.OpenReadOnly(t.Context(), testenv.Postgres(t), postgres.Schema(postgres.Of(store).SchemaName()))
			must(t, err)
			t.Cleanup(func() { must(t, db.Close()) })
			return db.Log()
		}
		h.Trim = func(t testing.TB, l driver.Log, topic string, partition int32, first int64) {
			postgres.OfLog(l).Trim(t, topic, partition, first)
		}
		return h
	}
	h.Open = func(t testing.TB) (driver.Log, driver.Store) { return nil, open(t, newSchema(t), opts...).Store() }
	reopen := h.Reopen
	h.Reopen = func(t testing.TB, l driver.Log, store driver.Store) (driver.Log, driver.Store) {
		_, s := reopen(t, nil, store)
		return l, s
	}
	return h
}

func TestConformanceApart(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, harness(false))
}

func TestConformanceJoint(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, harness(true))
}

// Each transaction but the first few finds the ledger's segment full.
func TestConformanceOfSmallSegments(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, harness(false, postgres.SegmentRows(1)))
}
