package memory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

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
	members        map[deja.ID]memberRow
	life           int // of the store, when it was last acquired
}

// progressRow is a partition's lease and progress.
type progressRow struct {
	driver.Progress
	epoch  int64
	nonce  [16]byte
	logged driver.Logged
	ready  bool
	copied bool // adopted or gone back, and no new incarnation has begun

	owner                     deja.ID
	until                     time.Time
	tried                     deja.ID // the owner that tries counted last
	tries, careful, attempted int64
	attempts                  []deja.ID // the owners that noted the offset attempted
}

// memberRow is a member, and when it is taken for dead.
type memberRow struct {
	driver.Member
	until time.Time
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
		members:  map[deja.ID]memberRow{},
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
	c.members = maps.Clone(ts.members)
	return &c
}

// bind ties the store to a service's topics, or refuses others than those it is tied to. A topic's largest record may
// change.
func (ts *tables) bind(a driver.Assignment) error {
	if ts.inbox == (driver.Topic{}) {
		ts.inbox, ts.journal = a.Inbox, a.Journal
	}
	if err := cmp.Or(otherTopic(ts.inbox, a.Inbox), otherTopic(ts.journal, a.Journal)); err != nil {
		return fmt.Errorf("bound to %+v and %+v, given %+v and %+v: %w", ts.inbox, ts.journal, a.Inbox, a.Journal, err)
	}
	return nil
}

// otherTopic says in what a topic is not the one that the store is bound to.
func otherTopic(bound, given driver.Topic) error {
	switch {
	case given.Name != bound.Name:
		return driver.ErrIdentity
	case given.Cluster != bound.Cluster:
		return driver.ErrCluster
	case given.ID != bound.ID:
		return driver.ErrRecreated
	case given.Partitions != bound.Partitions:
		return driver.ErrPartitions
	}
	return nil
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
	fresh := map[deja.ID]driver.Entry{}
	for _, b := range batches {
		for _, e := range b.Ledger {
			old, ok := fresh[e.Key]
			if !ok {
				old = ts.ledger[e.Key]
			}
			if old.Status != 0 && (old.Status != deja.Parked || old.Partition != e.Partition) {
				return fmt.Errorf("ledger: key %s is settled already, as %s", e.Key, old.Status)
			}
			fresh[e.Key] = e
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

// reset forgets what the journals can give back, and fences all but the partition's own lease.
func (ts *tables) reset(partition int32, nonce func() [16]byte) {
	clear(ts.ledger)
	clear(ts.states)
	clear(ts.parked)
	clear(ts.repeats)
	ts.executed = nil
	for _, p := range slices.Sorted(maps.Keys(ts.progress)) {
		row := ts.row(p)
		row.Progress = driver.Progress{Incarnation: row.Incarnation}
		row.ready = false
		if p != partition {
			row.epoch++
			row.nonce = nonce()
		}
		ts.progress[p] = row
	}
}

// lease returns a partition's lease as it is.
func (ts *tables) lease(partition int32, now time.Time) driver.Lease {
	row := ts.row(partition)
	return driver.Lease{
		Assignment: driver.Assignment{Inbox: ts.inbox, Journal: ts.journal, Partition: partition, Owner: row.owner},
		Epoch:      row.epoch, Nonce: row.nonce, Progress: row.Progress, Logged: row.logged,
		Copied: row.copied,
		Held:   !row.owner.IsZero() && row.until.After(now), Tries: row.tries, Careful: row.careful,
	}
}

func (ts *tables) leases(now time.Time) []driver.Lease {
	var ls []driver.Lease
	for _, p := range slices.Sorted(maps.Keys(ts.progress)) {
		ls = append(ls, ts.lease(p, now))
	}
	return ls
}

// beat joins or renews a member, and renews its leases.
func (ts *tables) beat(m driver.Member, now time.Time, ttl time.Duration) {
	m.Started = now.UTC().Truncate(time.Microsecond)
	if old, ok := ts.members[m.ID]; ok {
		m.Started = old.Started
	}
	ts.members[m.ID] = memberRow{m, now.Add(ttl)}
	for p, row := range ts.progress {
		if row.owner == m.ID {
			row.until = now.Add(ttl)
			ts.progress[p] = row
		}
	}
}

func (ts *tables) alive(now time.Time) []driver.Member {
	var ms []driver.Member
	for _, m := range ts.members {
		if m.until.After(now) {
			ms = append(ms, m.Member)
		}
	}
	slices.SortFunc(ms, func(a, b driver.Member) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return ms
}

func (ts *tables) leave(member deja.ID) {
	delete(ts.members, member)
	for p, row := range ts.progress {
		if row.owner == member {
			row.owner = deja.ID{}
			ts.progress[p] = row
		}
	}
}
