// Package drivertest is the contracts of package driver as tests: one suite that every log and every store must pass,
// here and at third parties'. It knows the interfaces alone, and what a driver cannot do it does not ask for.
package drivertest

import (
	"testing"

	"github.com/dejalog/deja/driver"
)

// A Harness gives the suite the driver under test. Only Open is required; each further function that is there adds
// cases. They fail t when they cannot do what they are asked for.
type Harness struct {
	// Open returns a log and a store that nothing was written to. Either may be nil, and then is not tested. The suite
	// closes them.
	Open func(t testing.TB) (driver.Log, driver.Store)

	// Create creates a topic, for logs that do not do so at first use. Topics are never used by two cases.
	Create func(t testing.TB, log driver.Log, topic string)

	// Reopen returns log and store as another process finds them after the death of the one that had those given:
	// all that was committed, nothing else. Those given are not used again, nor closed by the suite.
	Reopen func(t testing.TB, log driver.Log, store driver.Store) (driver.Log, driver.Store)

	// Backup returns a function that puts the store, which may have been opened anew since, back to where it is now,
	// while it is open.
	Backup func(t testing.TB, store driver.Store) (restore func(driver.Store))

	// Interrupt makes the engine roll an open transaction back by itself, as it does when the disk is full. The driver
	// is not told.
	Interrupt func(t testing.TB, store driver.Store, tx driver.Tx)

	// Trim removes the records below an offset from a log, as retention does.
	Trim func(t testing.TB, log driver.Log, topic string, partition int32, first int64)

	// SQL says that the store's engine runs statements; the suite's own are plain SQL.
	SQL bool
}

// A testCase is a rule and how to find out whether a driver keeps it.
type testCase struct {
	name  string
	rule  string
	needs needs
	run   func(b *bench)
}

// needs is what a case cannot do without.
type needs struct {
	log, store, reopen, backup, interrupt, trim, sql, importer, joint, apart bool
	partitions                                                               int32
}

// Run runs the suite, each case on a log and a store of its own. A failure prints the rule that was broken.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, cases := range [][]testCase{
		logCases, fetchCases, leaseCases, fenceCases, commitCases, ledgerCases, stateCases, recordCases, sqlCases,
		crashCases, workerCases, modelCases,
	} {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("the rule: %s", c.rule)
					}
				})
				b := open(t, h)
				if missing := b.missing(c.needs); missing != "" {
					t.Skipf("the driver has no %s", missing)
				}
				c.run(b)
			})
		}
	}
}

// missing names what the harness does not have of n.
func (b *bench) missing(n needs) string {
	_, importer := b.log.(driver.Importer)
	for _, m := range []struct {
		name        string
		needed, has bool
	}{
		{"log", n.log, b.log != nil},
		{"store", n.store, b.store != nil},
		{"Reopen", n.reopen, b.h.Reopen != nil},
		{"Backup", n.backup, b.h.Backup != nil},
		{"Interrupt", n.interrupt, b.h.Interrupt != nil},
		{"Trim", n.trim, b.h.Trim != nil},
		{"SQL", n.sql, b.h.SQL},
		{"Import", n.importer, importer},
		{"joint log and store", n.joint, b.joint()},
		{"store apart from its log", n.apart, !b.joint()},
		{"second partition", n.partitions > 1, b.inbox.Partitions >= n.partitions},
	} {
		if m.needed && !m.has {
			return m.name
		}
	}
	return ""
}
