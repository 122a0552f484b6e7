package drivertest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var openCases = []testCase{
	{
		"open states in order", "Open pages what waits for something, of its partition alone, in order of tenant, aggregate and key by their bytes",
		needs{store: true},
		openInOrder,
	},
	{
		"due states in order", "Due pages what is due by a time, that time included, of its partition alone, in order of Due, then of streams",
		needs{store: true},
		dueInOrder,
	},
	{
		"open states come and go", "a row is told by Open while its Open is not empty, and by Due while its Due is set, at version 0 too",
		needs{store: true},
		openComesAndGoes,
	},
	{
		"reset of open states", "after Reset nothing waits, until it is written again",
		needs{store: true},
		resetOpen,
	},
}

// never is after every time that is due.
var never = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// compareDue is the order of Due.
func compareDue(a, b driver.State) int {
	return cmp.Or(a.Due.Compare(b.Due), a.Stream.Compare(b.Stream))
}

// holdsOpen fails the case unless the store tells what waits as the model has it.
func (b *bench) holdsOpen(m *model) {
	b.Helper()
	for p := range b.inbox.Partitions {
		waiting := states(slices.DeleteFunc(slices.Collect(maps.Values(m.states)), func(st driver.State) bool {
			return st.Partition != p || len(st.Open) == 0
		}))
		equal(b, "open states", b.openStates(p, len(waiting)), waiting)
		due := states(slices.DeleteFunc(slices.Collect(maps.Values(m.states)), func(st driver.State) bool {
			return st.Partition != p || st.Due.IsZero()
		}))
		slices.SortFunc(due, compareDue)
		equal(b, "due states", b.dueStates(p, never, len(due)), due)
		if len(due) > 0 {
			until := due[len(due)/2].Due
			due = slices.DeleteFunc(due, func(st driver.State) bool { return st.Due.After(until) })
			equal(b, "states due by "+until.String(), b.dueStates(p, until, len(due)), due)
		}
	}
}

// openStates reads what waits by pages, until there are more than enough.
func (b *bench) openStates(partition int32, enough int) []driver.State {
	b.Helper()
	return b.pages(enough, func(last driver.State) ([]driver.State, error) {
		return b.store.Open(b.ctx, partition, last.Stream, b.page)
	})
}

// dueStates does so with what is due.
func (b *bench) dueStates(partition int32, until time.Time, enough int) []driver.State {
	b.Helper()
	return b.pages(enough, func(last driver.State) ([]driver.State, error) {
		return b.store.Due(b.ctx, partition, until, last, b.page)
	})
}

func (b *bench) pages(enough int, read func(last driver.State) ([]driver.State, error)) []driver.State {
	b.Helper()
	all := []driver.State{}
	for last := (driver.State{}); ; last = all[len(all)-1] {
		sts, err := read(last)
		b.must(err)
		for _, st := range sts {
			if st.Data, st.Open = slicesOrNil(st.Data), slicesOrNil(st.Open); !st.Due.IsZero() {
				st.Due = b.utc(st.Due)
			}
			all = append(all, st)
		}
		if len(sts) < b.page || len(all) > enough {
			return all
		}
	}
}

// waitingRow returns a row at version 0 that is there for what it waits for alone.
func waitingRow(s deja.Stream, partition int32) driver.State {
	return driver.State{Stream: s, Partition: partition, N: 1, Open: fmt.Appendf(nil, "\x00%s waits", s)}
}

// write commits rows as a decision of their own.
func (w *worker) write(m *model, rows ...driver.State) {
	w.b.Helper()
	batch, to := w.story.next(w.lease.Partition, w.at)
	batch.States = rows
	w.b.must(attempt(w.b.ctx, w.b.store, w.lease, w.at, batch, to))
	m.commit(w.lease.Partition, batch, to)
	w.at = to
}

// eachPartition returns a worker for each of up to three partitions.
func (b *bench) eachPartition() (ws []*worker) {
	b.Helper()
	for p := range min(b.inbox.Partitions, 3) {
		ws = append(ws, b.worker("a", p))
	}
	return ws
}

// spread writes odd streams in no order, as rows that a function makes, some into each partition.
func (b *bench) spread(m *model, row func(i int, s deja.Stream, partition int32) driver.State) {
	b.Helper()
	ws, ss := b.eachPartition(), oddStreams()
	rows := make([][]driver.State, len(ws))
	for _, i := range rng(4).Perm(len(ss)) {
		p := i % len(ws)
		rows[p] = append(rows[p], row(i, ss[i], int32(p)))
	}
	for p, w := range ws {
		w.write(m, rows[p]...)
	}
	for _, b.page = range []int{1000, 7} {
		b.holds(m)
	}
}

func openInOrder(b *bench) {
	m := newModel()
	b.spread(m, func(i int, s deja.Stream, partition int32) driver.State {
		row := waitingRow(s, partition)
		switch i % 4 {
		case 0:
			row.Open = nil
		case 1:
			row.Version, row.Data = int64(i), []byte(`{}`)
		}
		return row
	})
	all := b.openStates(0, plenty)
	for _, after := range []deja.Stream{all[0].Stream, all[len(all)/2].Stream, {Tenant: "T"}, {Tenant: "t", Aggregate: "account", Key: "aZ"}} {
		got, err := b.store.Open(b.ctx, 0, after, 1)
		b.must(err)
		i := slices.IndexFunc(all, func(st driver.State) bool { return st.Stream.Compare(after) > 0 })
		equal(b, "the state after "+after.String(), got[0].Stream, all[i].Stream)
	}
	for _, from := range []driver.State{all[len(all)-1], {}} {
		got, err := b.store.Open(b.ctx, 0, from.Stream, 0)
		b.must(err)
		equal(b, "states of a page of none", len(got), 0)
	}
	got, err := b.store.Open(b.ctx, b.inbox.Partitions, deja.Stream{}, 10)
	b.must(err)
	equal(b, "states of a partition that is not there", len(got), 0)
}

func dueInOrder(b *bench) {
	m := newModel()
	at := []time.Time{
		time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC), time.Date(1969, 12, 31, 23, 59, 59, 999_999_000, time.UTC), time.Unix(0, 0).UTC(),
		time.Date(2024, 1, 1, 0, 0, 0, 1000, time.UTC), time.Date(2024, 1, 1, 0, 0, 0, 2000, time.UTC), never,
	}
	b.spread(m, func(i int, s deja.Stream, partition int32) driver.State {
		row := waitingRow(s, partition)
		if k := i % 7; k < len(at) { // many of each
			row.Due = at[k]
		}
		return row
	})
	for _, until := range append(at, time.Time{}, never.Add(time.Hour)) {
		want := slices.SortedFunc(maps.Values(m.states), compareDue)
		want = slices.DeleteFunc(want, func(st driver.State) bool {
			return st.Partition != 0 || st.Due.IsZero() || st.Due.After(until)
		})
		equal(b, "states due by "+until.String(), b.dueStates(0, until, len(want)), append([]driver.State{}, want...))
	}
	// After a moment that no state is due at, and a stream that is not there.
	got, err := b.store.Due(b.ctx, 0, never, driver.State{Due: at[3].Add(-time.Microsecond), Stream: deja.Stream{Tenant: "zzz"}}, 1)
	b.must(err)
	equal(b, "due after another moment", got[0].Due, at[3])
	got, err = b.store.Due(b.ctx, 0, never, driver.State{Due: never, Stream: deja.Stream{Tenant: "\U0010ffff"}}, 1)
	b.must(err)
	equal(b, "states after the last", len(got), 0)
	got, err = b.store.Due(b.ctx, 0, never, driver.State{}, 0)
	b.must(err)
	equal(b, "states of a page of none", len(got), 0)
}

func openComesAndGoes(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	one, two := deja.Stream{Aggregate: "account", Key: "1"}, deja.Stream{Aggregate: "account", Key: "2"}
	soon, late := w.story.time(1), w.story.time(1000)
	row := func(s deja.Stream, version int64, open string, due time.Time) driver.State {
		st := driver.State{Stream: s, Version: version, Open: []byte(open), Due: due, N: w.at.N + 1}
		if version > 0 {
			st.Data = []byte(`{}`)
		}
		return st
	}
	for _, rows := range [][]driver.State{
		{row(one, 0, "timer", late)},
		{row(two, 3, "effect", time.Time{})},
		{row(one, 0, "two timers", soon), row(two, 4, "effect and timer", soon)},
		{row(one, 1, "\x00", late)},
		{row(one, 2, "a reply", time.Time{}), row(two, 4, "effect and another timer", late)},
		{row(one, 2, "", time.Time{})},
		{row(two, 5, "", time.Time{})},
		{row(one, 2, "a reply", soon)},
	} {
		w.write(m, rows...)
		b.holds(m)
	}
	b.reopen()
	b.holds(m)
}

func resetOpen(b *bench) {
	m := newModel()
	ws := b.eachPartition()
	for _, w := range ws {
		st := waitingRow(w.story.stream(w.lease.Partition, 1), w.lease.Partition)
		st.Due = w.story.time(1)
		w.write(m, st)
	}
	b.holds(m)
	b.must(b.store.Reset(b.ctx, ws[0].lease))
	m.reset()
	b.holds(m)
	ws[0].at = m.progress[0]
	ws[0].write(m, waitingRow(ws[0].story.stream(0, 1), 0)) // without its timer
	b.holds(m)
}
