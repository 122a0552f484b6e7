package memory_test

import (
	"testing"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/drivertest"
	"github.com/dejalog/deja/internal/memory"
)

func TestConformance(t *testing.T) {
	for name, joint := range map[string]bool{"apart": false, "joint": true} {
		t.Run(name, func(t *testing.T) { drivertest.Run(t, harness(joint)) })
	}
}

// harness opens logs and stores of three partitions. A reopened one is a copy of what the old one had committed.
func harness(joint bool) drivertest.Harness {
	with := func(s *memory.Store, l *memory.Log) *memory.Store {
		if !joint {
			return s
		}
		return s.Snapshot(memory.Joint(l))
	}
	return drivertest.Harness{
		Open: func(testing.TB) (driver.Log, driver.Store) {
			l := memory.NewLog(memory.LogConfig{Partitions: 3})
			return l, with(memory.NewStore(), l)
		},
		Reopen: func(_ testing.TB, log driver.Log, store driver.Store) (driver.Log, driver.Store) {
			l := log.(*memory.Log).Clone()
			return l, with(store.(*memory.Store).Snapshot(), l)
		},
		Tells: true,
		Backup: func(_ testing.TB, store driver.Store) func(driver.Store) {
			backup := store.(*memory.Store).Snapshot()
			return func(store driver.Store) { store.(*memory.Store).Restore(backup) }
		},
		Copy: func(_ testing.TB, log driver.Log, store driver.Store) (driver.Log, driver.Store) {
			l := log.(*memory.Log).Clone()
			return l, with(store.(*memory.Store).Adopted(), l)
		},
		ReadOnly:  func(_ testing.TB, log driver.Log, _ driver.Store) driver.Log { return log.(*memory.Log).ReadOnly() },
		Interrupt: func(_ testing.TB, store driver.Store, _ driver.Tx) { store.(*memory.Store).LoseTransactions() },
		Trim: func(_ testing.TB, log driver.Log, topic string, partition int32, first int64) {
			log.(*memory.Log).Trim(topic, partition, first)
		},
	}
}
