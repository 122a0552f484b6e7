package drivertest

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// model is what a store must hold: the same tables as maps, written one batch after the other.
type model struct {
	progress map[int32]driver.Progress
	logged   map[int32]driver.Logged
	ledger   map[deja.ID]driver.Entry
	states   map[deja.Stream]driver.State
	parked   map[place]driver.Parked
	repeats  map[repeatKey]driver.Repeat
	records  map[place]string // by partition and number
	kept     map[int32]int64  // up to which number there are records
	ready    map[int32]bool
	turns    map[int32]turns
}

// turns are the owners that a partition had.
type turns struct {
	tries  int64
	last   deja.ID
	offset int64
	noted  []deja.ID // those that attempted the offset
}

type place struct {
	partition int32
	at        int64
}

type repeatKey struct {
	key      deja.ID
	conflict bool
}

func newModel() *model {
	return &model{
		progress: map[int32]driver.Progress{},
		logged:   map[int32]driver.Logged{},
		ledger:   map[deja.ID]driver.Entry{},
		states:   map[deja.Stream]driver.State{},
		parked:   map[place]driver.Parked{},
		repeats:  map[repeatKey]driver.Repeat{},
		records:  map[place]string{},
		kept:     map[int32]int64{},
		ready:    map[int32]bool{},
		turns:    map[int32]turns{},
	}
}

func (m *model) clone() *model {
	return &model{
		progress: maps.Clone(m.progress),
		logged:   maps.Clone(m.logged),
		ledger:   maps.Clone(m.ledger),
		states:   maps.Clone(m.states),
		parked:   maps.Clone(m.parked),
		repeats:  maps.Clone(m.repeats),
		records:  maps.Clone(m.records),
		kept:     maps.Clone(m.kept),
		ready:    maps.Clone(m.ready),
		turns:    maps.Clone(m.turns),
	}
}

// commit is what a committed transaction does.
func (m *model) commit(partition int32, b *driver.Batch, to driver.Progress) {
	m.progress[partition] = to
	m.fresh(partition)
	for _, r := range b.Records {
		m.records[place{partition, r.N}] = string(r.Value)
		m.kept[partition] = r.N // what came after it was of a history that is replaced
	}
	for _, e := range b.Ledger {
		m.ledger[e.Key] = e
	}
	for _, st := range b.States {
		m.states[st.Stream] = st
	}
	for _, p := range b.Parked {
		m.parked[place{p.Partition, p.Offset}] = p
	}
	for _, p := range b.Unparked {
		delete(m.parked, place{p.Partition, p.Offset})
	}
	for _, r := range b.Repeats {
		k := repeatKey{r.Key, r.Conflict}
		if old, ok := m.repeats[k]; ok {
			r = driver.Repeat{
				Key: r.Key, Partition: old.Partition, Conflict: r.Conflict,
				Count: old.Count + r.Count, First: min(old.First, r.First), Last: max(old.Last, r.Last),
			}
		}
		m.repeats[k] = r
	}
}

// acquire is what an acquisition by an owner does.
func (m *model) acquire(partition int32, owner deja.ID) {
	t := m.turns[partition]
	if owner != t.last {
		t.tries++
		t.last = owner
	}
	m.turns[partition] = t
}

// fresh is what an advance and a release do.
func (m *model) fresh(partition int32) {
	t := m.turns[partition]
	t.tries, t.last = 0, deja.ID{}
	m.turns[partition] = t
}

// attempt is what Attempt does and returns where no owner is a member.
func (m *model) attempt(partition int32, owner deja.ID, offset int64) (died int64) {
	t := m.turns[partition]
	if t.offset != offset {
		t.offset, t.noted = offset, nil
	}
	if !slices.Contains(t.noted, owner) {
		t.noted = append(slices.Clip(t.noted), owner)
	}
	m.turns[partition] = t
	return int64(len(t.noted) - 1)
}

// reset is what Reset does, under whichever lease.
func (m *model) reset() {
	for p, at := range m.progress {
		m.progress[p] = driver.Progress{Incarnation: at.Incarnation}
	}
	clear(m.ledger)
	clear(m.states)
	clear(m.parked)
	clear(m.repeats)
	clear(m.ready)
}

// holds fails the case unless the store shows exactly what the model has, through every door.
func (b *bench) holds(m *model) {
	b.Helper()
	for p := range b.inbox.Partitions {
		got, err := b.store.Progress(b.ctx, p)
		b.must(err)
		got.Time = b.utc(got.Time)
		equal(b, "progress", got, m.progress[p])
	}
	ls, err := b.store.Leases(b.ctx)
	b.must(err)
	for _, l := range ls {
		l.Progress.Time = b.utc(l.Progress.Time)
		equal(b, "progress, by Leases", l.Progress, m.progress[l.Partition])
	}
	b.holdsLedger(m)
	b.holdsStates(m)
	b.holdsOpen(m)
	b.holdsParked(m)
	b.holdsRepeats(m)
	if !b.joint() {
		b.holdsRecords(m)
	}
}

func (b *bench) holdsLedger(m *model) {
	b.Helper()
	want := slices.SortedFunc(maps.Values(m.ledger), compareEntries)
	var found []driver.Entry
	lo, hi := deja.ID{}, deja.ID(bytes.Repeat([]byte{0xff}, 16))
	for {
		es, err := b.store.Find(b.ctx, lo, hi, b.page)
		b.must(err)
		found = append(found, es...)
		if len(es) < b.page || len(found) > len(want) {
			break
		}
		lo = after(es[len(es)-1].Key)
	}
	equal(b, "ledger, by Find", found, slicesOrNil(want))

	keys := append(slices.Collect(maps.Keys(m.ledger)), deja.DeriveID("drivertest", "never written"))
	looked, _, err := b.store.Lookup(b.ctx, keys)
	b.must(err)
	slices.SortFunc(looked, compareEntries)
	equal(b, "ledger, by Lookup", slicesOrNil(looked), slicesOrNil(want))
}

func (b *bench) holdsStates(m *model) {
	b.Helper()
	want := states(slices.Collect(maps.Values(m.states)))
	var paged []driver.State
	var from deja.Stream
	for {
		sts, err := b.store.States(b.ctx, from, b.page)
		b.must(err)
		paged = append(paged, sts...)
		if len(sts) < b.page || len(paged) > len(want) {
			break
		}
		from = sts[len(sts)-1].Stream
	}
	for i, st := range paged[min(1, len(paged)):] {
		if paged[i].Stream.Compare(st.Stream) >= 0 {
			b.Fatalf("States returned %s before %s", paged[i].Stream, st.Stream)
		}
	}
	equal(b, "states, by States", states(paged), want)

	streams := append(slices.Collect(maps.Keys(m.states)), deja.Stream{Aggregate: "none", Key: "never written"})
	loaded, err := b.store.Load(b.ctx, streams)
	b.must(err)
	equal(b, "states, by Load", states(loaded), want)
}

func (b *bench) holdsParked(m *model) {
	b.Helper()
	for p := range b.inbox.Partitions {
		got, err := b.store.Parked(b.ctx, p, deja.Stream{}, 0, plenty)
		b.must(err)
		var want []driver.Parked
		for at, row := range m.parked {
			if at.partition == p {
				want = append(want, row)
			}
		}
		slices.SortFunc(want, func(a, b driver.Parked) int { return cmp.Compare(a.Offset, b.Offset) })
		equal(b, "parked messages", slicesOrNil(got), want)
	}
}

func (b *bench) holdsRepeats(m *model) {
	b.Helper()
	keys := map[deja.ID]bool{deja.DeriveID("drivertest", "never repeated"): true}
	for k := range m.repeats {
		keys[k.key] = true
	}
	for key := range keys {
		got, err := b.store.Repeats(b.ctx, key)
		b.must(err)
		slices.SortFunc(got, func(a, _ driver.Repeat) int {
			if a.Conflict {
				return 1
			}
			return -1
		})
		var want []driver.Repeat
		for _, conflict := range []bool{false, true} {
			if r, ok := m.repeats[repeatKey{key, conflict}]; ok {
				want = append(want, r)
			}
		}
		equal(b, "repeats of "+key.String(), slicesOrNil(got), want)
	}
}

// holdsRecords checks the kept records: all that are not logged, in order; of the logged ones any, but unchanged.
func (b *bench) holdsRecords(m *model) {
	b.Helper()
	for p := range b.inbox.Partitions {
		rs, err := b.store.Unlogged(b.ctx, p, 0, plenty)
		b.must(err)
		next := m.logged[p].N + 1
		for i, r := range rs {
			if i > 0 && r.N <= rs[i-1].N {
				b.Fatalf("Unlogged returned decision %d after %d", r.N, rs[i-1].N)
			}
			if want := m.records[place{p, r.N}]; string(r.Value) != want {
				b.Fatalf("kept record of decision %d: got %q, want %q", r.N, r.Value, want)
			}
			if r.N == next {
				next++
			}
		}
		if last := m.kept[p]; next <= last {
			b.Fatalf("Unlogged has no decision %d of partition %d, which is at %d and logged up to %d", next, p, last, m.logged[p].N)
		}
	}
}

// states returns the rows in order, with no bytes as nil.
func states(sts []driver.State) []driver.State {
	out := make([]driver.State, len(sts))
	for i, st := range sts {
		st.Data, st.Open = slicesOrNil(st.Data), slicesOrNil(st.Open)
		out[i] = st
	}
	slices.SortFunc(out, func(a, b driver.State) int { return a.Stream.Compare(b.Stream) })
	return out
}

func compareEntries(a, b driver.Entry) int { return bytes.Compare(a.Key[:], b.Key[:]) }

// after returns the next id.
func after(id deja.ID) deja.ID {
	for i := len(id) - 1; i >= 0; i-- {
		id[i]++
		if id[i] != 0 {
			break
		}
	}
	return id
}

func slicesOrNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}
