package memory

import (
	"fmt"
	"maps"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// keepLogged is how many records a partition keeps that are logged, in case the log loses them after all.
const keepLogged = 100_000

// tables is all that a store holds. What the values refer to is never changed, so that a clone shares it.
type tables struct {
	inbox, journal driver.Topic // bound at first use
	progress       map[int32]progressRow
	ledger         map[deja.ID]driver.Entry
	states         map[deja.Stream]driver.State
	parked         map[place]driver.Parked
	repeats        map[repeatKey]driver.Repeat
	records        map[int32][]driver.JournalRecord // in order of N
	executed       []Statement
}

// progressRow is a partition's lease and progress.
type progressRow struct {
	driver.Progress
	epoch  int64
	nonce  [16]byte
	logged driver.Logged
}

type place struct {
	partition int32
	offset    int64
}

type repeatKey struct {
	key      deja.ID
	conflict bool
}

func newTables() *tables {
	return &tables{
		progress: map[int32]progressRow{},
		ledger:   map[deja.ID]driver.Entry{},
		states:   map[deja.Stream]driver.State{},
		parked:   map[place]driver.Parked{},
		repeats:  map[repeatKey]driver.Repeat{},
		records:  map[int32][]driver.JournalRecord{},
	}
}

func (ts *tables) clone() *tables {
	c := *ts
	c.progress = maps.Clone(ts.progress)
	c.ledger = maps.Clone(ts.ledger)
	c.states = maps.Clone(ts.states)
	c.parked = maps.Clone(ts.parked)
	c.repeats = maps.Clone(ts.repeats)
	c.records = maps.Clone(ts.records)
	for p, rs := range c.records {
		c.records[p] = slices.Clone(rs)
	}
	c.executed = slices.Clone(ts.executed)
	return &c
}

// bind ties the store to a service's topics, or refuses others than those it is tied to. A topic's largest record may
// change.
func (ts *tables) bind(a driver.Assignment) error {
	if ts.inbox == (driver.Topic{}) {
		ts.inbox, ts.journal = a.Inbox, a.Journal
	}
	if !sameTopic(ts.inbox, a.Inbox) || !sameTopic(ts.journal, a.Journal) {
		return fmt.Errorf("bound to %+v and %+v, given %+v and %+v: %w", ts.inbox, ts.journal, a.Inbox, a.Journal, driver.ErrIdentity)
	}
	return nil
}

func sameTopic(a, b driver.Topic) bool {
	a.MaxRecord, b.MaxRecord = 0, 0
	return a == b
}

func (ts *tables) row(partition int32) progressRow { return ts.progress[partition] }

func (r progressRow) holds(l driver.Lease) bool { return r.epoch == l.Epoch && r.nonce == l.Nonce }

// at reports whether the partition is exactly where p says. Anything less, such as position <= p's, would take a
// store that went back for one that did not.
func (r progressRow) at(p driver.Progress) bool {
	return r.Position == p.Position && r.N == p.N && r.Chain == p.Chain
}

// check returns an error if the ledger does not take the entries: each key is new, or waits for its decision.
func (ts *tables) check(batches []driver.Batch) error {
	fresh := map[deja.ID]deja.Status{}
	for _, b := range batches {
		for _, e := range b.Ledger {
			status, ok := fresh[e.Key]
			if !ok {
				status = ts.ledger[e.Key].Status
			}
			if status != 0 && status != deja.Parked {
				return fmt.Errorf("ledger: key %s is settled already, as %s", e.Key, status)
			}
			fresh[e.Key] = e.Status
		}
	}
	return nil
}

// apply writes what was checked; it cannot fail.
func (ts *tables) apply(b driver.Batch) {
	for _, e := range b.Ledger {
		ts.ledger[e.Key] = e
	}
	for _, st := range b.States {
		ts.states[st.Stream] = st
	}
	for _, p := range b.Parked {
		ts.parked[place{p.Partition, p.Offset}] = p
	}
	for _, p := range b.Unparked { // after the new ones: an adopted batch may hold both for one message
		delete(ts.parked, place{p.Partition, p.Offset})
	}
	for _, r := range b.Repeats {
		ts.count(r)
	}
}

func (ts *tables) count(r driver.Repeat) {
	key := repeatKey{r.Key, r.Conflict}
	if old, ok := ts.repeats[key]; ok {
		r.Partition = old.Partition
		r.Count += old.Count
		r.First = min(r.First, old.First)
		r.Last = max(r.Last, old.Last)
	}
	ts.repeats[key] = r
}

// reset forgets what a partition's journal can give back.
func (ts *tables) reset(partition int32) {
	maps.DeleteFunc(ts.ledger, func(_ deja.ID, e driver.Entry) bool { return e.Partition == partition })
	maps.DeleteFunc(ts.states, func(_ deja.Stream, st driver.State) bool { return st.Partition == partition })
	maps.DeleteFunc(ts.parked, func(at place, _ driver.Parked) bool { return at.partition == partition })
	maps.DeleteFunc(ts.repeats, func(_ repeatKey, r driver.Repeat) bool { return r.Partition == partition })
	ts.executed = slices.DeleteFunc(ts.executed, func(s Statement) bool { return s.Partition == partition })
	row := ts.row(partition)
	row.Progress = driver.Progress{Incarnation: row.Incarnation}
	ts.progress[partition] = row
}
