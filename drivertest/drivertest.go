// Package drivertest is the contracts of package driver as tests: one suite that every log and every store must pass,
// here and at third parties'. It knows the interfaces alone, and what a driver cannot do it does not ask for.
//
// It suits embedded engines and servers alike. Each case works on a log and a store of its own, which [Harness].Open
// makes, and on topics of names that were never used before, so cases do not see each other and may share a server. A
// case makes about a hundred calls, few of them of thousands of rows; none measures time, but a few wait for leases of
// up to a second to run out. Offsets may have gaps anywhere. One answer of Fetch or Unlogged must stay below 16 MiB, but for a
// single record.
package drivertest

import (
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// A Harness gives the suite the driver under test. Only Open is required; each further function that is there adds
// cases. They fail t when they cannot do what they are asked for.
type Harness struct {
	// Open returns a log and a store that nothing was written to: a server's may share it with other cases, as a schema
	// of its own. Either may be nil, in all calls, and then is not tested. The suite closes them.
	Open func(t testing.TB) (driver.Log, driver.Store)

	// Create creates a topic, for logs that do not do so at first use, of as many partitions as the harness likes;
	// all its topics have as many, and three are good. No name is asked for twice.
	Create func(t testing.TB, log driver.Log, topic string)

	// Reopen returns log and store as another process finds them after the death of the one that had those given:
	// all that was committed, nothing else. What the old process had open is gone: a server's harness cuts its
	// connections. Those given are not used again, nor closed by the suite.
	Reopen func(t testing.TB, log driver.Log, store driver.Store) (driver.Log, driver.Store)

	// Backup returns a function that puts the store, which may have been opened anew since, back to where it is now,
	// while it is open.
	Backup func(t testing.TB, store driver.Store) (restore func(driver.Store))

	// Tells says that the store notices when that function has put it back.
	Tells bool

	// Copy returns a copy of log and store that was adopted as one of its own, for engines whose files somebody may
	// copy. Those given are not used again, nor closed by the suite.
	Copy func(t testing.TB, log driver.Log, store driver.Store) (driver.Log, driver.Store)

	// ReadOnly returns the same log, open beside the one given for reading only. The suite closes it.
	ReadOnly func(t testing.TB, log driver.Log, store driver.Store) driver.Log

	// Roll makes the store begin a new segment of its ledger, as it does by itself when one is full. Without it the
	// cases about segments run on the one that there is.
	Roll func(t testing.TB, store driver.Store)

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
	log, store, reopen, backup, copied, absent, interrupt, trim, sql bool
	importer, cursors, joint, apart, shared, tells                   bool
	partitions                                                       int32
}

// Run runs the suite, each case on a log and a store of its own. A failure prints the rule that was broken.
func Run(t *testing.T, h Harness) {
	t.Helper()
	missing := learn(t, h)
	for _, cases := range [][]testCase{
		logCases, fetchCases, cursorCases, leaseCases, ownerCases, sharedCases, fenceCases, commitCases, ledgerCases, markCases,
		stateCases, openCases, recordCases, sqlCases, crashCases, workerCases, modelCases,
	} {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("the rule: %s", c.rule)
					}
				})
				if what := missing(c.needs); what != "" {
					t.Skipf("the driver has no %s", what)
				}
				c.run(open(t, h))
			})
		}
	}
}

// learn opens the driver once, to see what it can do: a case that it cannot run opens nothing. The function returned
// names what is missing of a case's needs.
func learn(t *testing.T, h Harness) (missing func(needs) string) {
	t.Helper()
	b := connect(t, h)
	defer b.close()
	topic := b.topic("drivertest-" + deja.NewID().String() + ".inbox")
	_, importer := b.log.(driver.Importer)
	_, cursors := b.log.(driver.Cursors)
	_, shared := b.store.(driver.Shared)
	joint := b.joint()
	return func(n needs) string {
		for _, m := range []struct {
			name        string
			needed, has bool
		}{
			{"log", n.log, b.log != nil},
			{"store", n.store, b.store != nil},
			{"Reopen", n.reopen, h.Reopen != nil},
			{"Backup", n.backup, h.Backup != nil},
			{"Copy", n.copied, h.Copy != nil},
			{"sign of having been put back", n.tells, h.Tells},
			{"ReadOnly, nor Create", n.absent, h.ReadOnly != nil || h.Create != nil},
			{"Interrupt", n.interrupt, h.Interrupt != nil},
			{"Trim", n.trim, h.Trim != nil},
			{"SQL", n.sql, h.SQL},
			{"Import", n.importer, importer},
			{"Cursors", n.cursors, cursors},
			{"joint log and store", n.joint, joint},
			{"store apart from its log", n.apart, !joint},
			{"store that several processes share", n.shared, shared},
			{"second partition", n.partitions > 1, topic.Partitions >= n.partitions},
		} {
			if m.needed && !m.has {
				return m.name
			}
		}
		return ""
	}
}
