package sqlite_test

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"testing"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/drivertest"
	"github.com/dejalog/deja/sqlite"
)

// The suite runs on topics of one partition, made at first use, and on topics of three, with segments of the ledger so
// small that most cases seal some.
func TestConformance(t *testing.T) {
	t.Run("one partition", func(t *testing.T) { drivertest.Run(t, setting{partitions: 1, segment: 1_000_000}.harness()) })
	t.Run("three partitions", func(t *testing.T) { drivertest.Run(t, setting{partitions: 3, segment: 2}.harness()) })
}

// Each store of a file is as good as one alone, however busy another is. What is short has random calls only: the suite
// beside a neighbour takes the race detector minutes.
func TestConformanceBesideAnotherStore(t *testing.T) {
	for name, s := range map[string]setting{
		"of services":    {partitions: 3, segment: 20, service: "eu-west.shop_2", neighbour: "eu-west.shop_20"},
		"without a name": {partitions: 1, segment: 20, neighbour: "lease"},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() {
				drivertest.RunModel(t, s.harness())
				return
			}
			drivertest.Run(t, s.harness())
		})
	}
}

// A setting is what the suite runs in.
type setting struct {
	partitions int32  // of topics
	segment    int64  // rows of a segment of the ledger
	service    string // whose store is tested; "" is the store without a name
	neighbour  string // whose store is busy beside it; "" is nobody's
}

func (s setting) harness() drivertest.Harness {
	var busy sync.Map // the neighbour in each database
	leave := func(db *sqlite.DB) *neighbour {
		if n, ok := busy.LoadAndDelete(db); ok {
			n.(*neighbour).leave()
			return n.(*neighbour)
		}
		return nil
	}
	use := func(t testing.TB, db *sqlite.DB, before *neighbour) (driver.Log, driver.Store) {
		db.SealAt(s.segment)
		if s.neighbour != "" {
			busy.Store(db, moveIn(t, db, s.neighbour, before))
			t.Cleanup(func() { leave(db) })
		}
		if s.service == "" {
			return db.Log(), db.Store()
		}
		return db.Log(), db.StoreOf(s.service)
	}
	h := drivertest.Harness{
		Open: func(t testing.TB) (driver.Log, driver.Store) {
			return use(t, open(t, newPath(t)), nil)
		},
		Reopen: func(t testing.TB, _ driver.Log, store driver.Store) (driver.Log, driver.Store) {
			before := leave(sqlite.Of(store))
			return use(t, afterCrash(t, sqlite.Of(store)), before)
		},
		Backup: func(t testing.TB, store driver.Store) func(driver.Store) {
			must(t, sqlite.Backup(store))
			return func(now driver.Store) { must(t, sqlite.Restore(now)) }
		},
		Copy: func(t testing.TB, _ driver.Log, store driver.Store) (driver.Log, driver.Store) {
			db := sqlite.Of(store)
			before := leave(db)
			must(t, db.Close())
			to := newPath(t)
			copyFile(t, db.Path(), to)
			must(t, sqlite.Adopt(t.Context(), to))
			if before != nil {
				before.adopted = true
			}
			return use(t, open(t, to), before)
		},
		ReadOnly: func(t testing.TB, _ driver.Log, store driver.Store) driver.Log {
			db, err := sqlite.OpenReadOnly(t.Context(), sqlite.Of(store).Path())
			must(t, err)
			t.Cleanup(func() { must(t, db.Close()) })
			return db.Log()
		},
		Roll:      func(t testing.TB, store driver.Store) { must(t, sqlite.Roll(store)) },
		Interrupt: func(_ testing.TB, store driver.Store, _ driver.Tx) { sqlite.Of(store).RollBack() },
		SQL:       true,
	}
	if s.partitions > 1 {
		h.Create = func(t testing.TB, log driver.Log, topic string) {
			must(t, log.(driver.Importer).CreateTopic(t.Context(), topic, s.partitions))
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
