package sqlite_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/drivertest"
	"github.com/dejalog/deja/sqlite"
)

// The suite runs on topics of one partition, made at first use, and on topics of three, with segments of the ledger so
// small that most cases seal some.
func TestConformance(t *testing.T) {
	t.Run("one partition", func(t *testing.T) { drivertest.Run(t, harness(1, 1_000_000)) })
	t.Run("three partitions", func(t *testing.T) { drivertest.Run(t, harness(3, 2)) })
}

// harness makes topics of so many partitions, and segments of so many rows.
func harness(partitions int32, segment int64) drivertest.Harness {
	h := drivertest.Harness{
		Open: func(t testing.TB) (driver.Log, driver.Store) {
			db := open(t, newPath(t))
			db.SealAt(segment)
			return db.Log(), db.Store()
		},
		Reopen: func(t testing.TB, _ driver.Log, store driver.Store) (driver.Log, driver.Store) {
			db := afterCrash(t, sqlite.Of(store))
			db.SealAt(segment)
			return db.Log(), db.Store()
		},
		Backup: func(t testing.TB, store driver.Store) func(driver.Store) {
			must(t, sqlite.Of(store).Backup())
			return func(now driver.Store) { must(t, sqlite.Of(now).Restore()) }
		},
		Copy: func(t testing.TB, _ driver.Log, store driver.Store) (driver.Log, driver.Store) {
			db := sqlite.Of(store)
			must(t, db.Close())
			to := newPath(t)
			copyFile(t, db.Path(), to)
			must(t, sqlite.Adopt(t.Context(), to))
			db = open(t, to)
			db.SealAt(segment)
			return db.Log(), db.Store()
		},
		ReadOnly: func(t testing.TB, _ driver.Log, store driver.Store) driver.Log {
			db, err := sqlite.OpenReadOnly(t.Context(), sqlite.Of(store).Path())
			must(t, err)
			t.Cleanup(func() { must(t, db.Close()) })
			return db.Log()
		},
		Roll:      func(t testing.TB, store driver.Store) { must(t, sqlite.Of(store).Roll()) },
		Interrupt: func(_ testing.TB, store driver.Store, _ driver.Tx) { sqlite.Of(store).RollBack() },
		SQL:       true,
	}
	if partitions > 1 {
		h.Create = func(t testing.TB, log driver.Log, topic string) {
			must(t, log.(driver.Importer).CreateTopic(t.Context(), topic, partitions))
		}
	}
	return h
}

// afterCrash opens what the death of the process would leave of a database: its files, as they are.
func afterCrash(t testing.TB, db *sqlite.DB) *sqlite.DB {
	t.Helper()
	to := newPath(t)
	for _, suffix := range []string{"", "-wal", ".lock"} {
		if _, err := os.Stat(db.Path() + suffix); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		copyFile(t, db.Path()+suffix, to+suffix)
	}
	return open(t, to)
}
