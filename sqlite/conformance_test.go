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

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		Open: func(t testing.TB) (driver.Log, driver.Store) {
			db := open(t, newPath(t))
			return db.Log(), db.Store()
		},
		Reopen: func(t testing.TB, _ driver.Log, store driver.Store) (driver.Log, driver.Store) {
			db := afterCrash(t, sqlite.Of(store))
			return db.Log(), db.Store()
		},
		Backup: func(t testing.TB, store driver.Store) func(driver.Store) {
			must(t, copyStore(sqlite.Of(store), "", "saved_"))
			return func(now driver.Store) { must(t, copyStore(sqlite.Of(now), "saved_", "")) }
		},
		Interrupt: func(_ testing.TB, store driver.Store, _ driver.Tx) { sqlite.Of(store).RollBack() },
		SQL:       true,
	})
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

// copyStore copies the tables of the store, but not those of the log: it goes back, its journal does not.
func copyStore(db *sqlite.DB, from, to string) error {
	if from == "" {
		for _, table := range sqlite.StoreTables {
			if err := db.Exec("CREATE TABLE IF NOT EXISTS " + to + table + " AS SELECT * FROM " + table + " WHERE 0"); err != nil {
				return err
			}
		}
	}
	err := db.Exec("BEGIN IMMEDIATE")
	for _, table := range sqlite.StoreTables {
		if err == nil {
			err = db.Exec("DELETE FROM " + to + table)
		}
		if err == nil {
			err = db.Exec("INSERT INTO " + to + table + " SELECT * FROM " + from + table)
		}
	}
	if err == nil {
		err = db.Exec("COMMIT")
	}
	return err
}
