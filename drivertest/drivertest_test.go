package drivertest_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/drivertest"
	"github.com/dejalog/deja/internal/memory"
)

// brokenEnv names the broken driver that a child process of the test runs the suite on.
const brokenEnv = "DRIVERTEST_BROKEN"

func TestMain(m *testing.M) {
	drivertest.LoseSoon()
	os.Exit(m.Run())
}

// TestBrokenDriversAreCaught breaks one rule at a time: a suite that lets the driver pass does not hold the rule. Each
// runs in a process of its own, since a failure of the suite is one of its test.
func TestBrokenDriversAreCaught(t *testing.T) {
	t.Parallel()
	for _, v := range brokenDrivers {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			pattern := "^TestBrokenDriver$/^" + strings.ReplaceAll(v.caughtBy, " ", "_") + "$"
			run := exec.CommandContext(t.Context(), os.Args[0], "-test.run", pattern, "-test.v", "-test.timeout=60s")
			run.Env = append(os.Environ(), brokenEnv+"="+v.name)
			out, err := run.CombinedOutput()
			if err == nil {
				t.Fatalf("a driver passed that is broken: %s\n%s", v.name, out)
			}
			if !strings.Contains(string(out), "the rule: ") {
				t.Fatalf("it failed and printed no rule: %v\n%s", err, out)
			}
		})
	}
}

// TestBrokenDriver is what the child process runs.
func TestBrokenDriver(t *testing.T) {
	name := os.Getenv(brokenEnv)
	if name == "" {
		t.Skip("run by TestBrokenDriversAreCaught")
	}
	for _, v := range brokenDrivers {
		if v.name == name {
			drivertest.Run(t, v.harness())
		}
	}
}

// TestUnbrokenDriverPasses shows that it is the breaking that is caught, not the wrapping.
func TestUnbrokenDriverPasses(t *testing.T) {
	b := broken{
		log:   func(l *memory.Log) driver.Log { return &bentLog{Log: l} },
		store: func(s *memory.Store) driver.Store { return newBentStore(s) },
	}
	drivertest.Run(t, b.harness())
}

// TestLogAlone shows that a harness may lack all that is optional, the store included.
func TestLogAlone(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		Open: func(testing.TB) (driver.Log, driver.Store) { return memory.NewLog(memory.LogConfig{}), nil },
	})
}

// TestStoreAlone shows it of the log.
func TestStoreAlone(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		Open: func(testing.TB) (driver.Log, driver.Store) { return nil, memory.NewStore() },
	})
}

// broken is a driver that breaks a rule, and the case that must notice.
type broken struct {
	name     string
	caughtBy string
	log      func(*memory.Log) driver.Log
	store    func(*memory.Store) driver.Store
	forgets  bool // what is opened anew is empty
}

func (b broken) harness() drivertest.Harness {
	wrap := func(l *memory.Log, s *memory.Store) (driver.Log, driver.Store) {
		log, store := driver.Log(l), driver.Store(s)
		if b.log != nil {
			log = b.log(l)
		}
		if b.store != nil {
			store = b.store(s)
		}
		return log, store
	}
	fresh := func() (driver.Log, driver.Store) {
		return wrap(memory.NewLog(memory.LogConfig{Partitions: 2}), memory.NewStore())
	}
	return drivertest.Harness{
		Open: func(testing.TB) (driver.Log, driver.Store) { return fresh() },
		Reopen: func(_ testing.TB, log driver.Log, store driver.Store) (driver.Log, driver.Store) {
			if b.forgets {
				return fresh()
			}
			return wrap(log.(interface{ Clone() *memory.Log }).Clone(), store.(snapshotter).Snapshot())
		},
		Tells: true,
		Backup: func(_ testing.TB, store driver.Store) func(driver.Store) {
			backup := store.(snapshotter).Snapshot()
			return func(store driver.Store) { store.(snapshotter).Restore(backup) }
		},
		Copy: func(_ testing.TB, log driver.Log, store driver.Store) (driver.Log, driver.Store) {
			return wrap(log.(interface{ Clone() *memory.Log }).Clone(), store.(snapshotter).Adopted())
		},
		ReadOnly: func(_ testing.TB, log driver.Log, _ driver.Store) driver.Log {
			return log.(interface{ ReadOnly() driver.Log }).ReadOnly()
		},
		Roll: func(_ testing.TB, store driver.Store) {
			if s, ok := store.(interface{ Roll() }); ok {
				s.Roll()
			}
		},
		Interrupt: func(_ testing.TB, store driver.Store, _ driver.Tx) { store.(snapshotter).LoseTransactions() },
		Trim: func(_ testing.TB, log driver.Log, topic string, partition int32, first int64) {
			log.(interface{ Trim(string, int32, int64) }).Trim(topic, partition, first)
		},
	}
}

// snapshotter is what wrappers inherit from the store inside.
type snapshotter interface {
	Snapshot(...memory.StoreOption) *memory.Store
	Adopted() *memory.Store
	Restore(*memory.Store)
	LoseTransactions()
}

var background = context.Background()
