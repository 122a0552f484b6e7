package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/dejalog/deja/driver"
)

// rows is what a core transaction is to write, in memory of its own.
type rows struct {
	count    int // of journal records that are new
	entries  []driver.Entry
	asked    int64
	states   []driver.State
	parked   []driver.Parked
	unparked []driver.Parked
	repeats  []driver.Repeat
	records  []records
}

// records are a batch's journal records, packed.
type records struct {
	first, last int64
	adopted     bool
	packed      []byte
}

// add notes a batch.
func (r *rows) add(b *driver.Batch) error {
	if len(b.Records) > 0 {
		for i := range b.Records {
			if n := len(b.Records[i].Value); n > maxRecord {
				return fmt.Errorf("record of decision %d has %d bytes, at most %d fit: %w", b.Records[i].N, n, maxRecord, driver.ErrTooLarge)
			}
		}
		r.records = append(r.records, records{b.Records[0].N, b.Records[len(b.Records)-1].N, b.Logged, pack(b.Records)})
		if !b.Logged {
			r.count += len(b.Records)
		}
	}
	if len(b.Ledger) > 0 {
		if len(r.entries) == 0 || b.Asked < r.asked {
			r.asked = b.Asked
		}
		r.entries = append(r.entries, b.Ledger...)
	}
	r.addStates(b.States)
	r.parked = append(r.parked, b.Parked...)
	r.unparked = append(r.unparked, b.Unparked...)
	r.repeats = append(r.repeats, b.Repeats...)
	return nil
}

// addStates copies states with their bytes, which go into one piece of memory.
func (r *rows) addStates(ss []driver.State) {
	size := 0
	for i := range ss {
		size += len(ss[i].Data) + len(ss[i].Open)
	}
	data := make([]byte, 0, size)
	r.states = slices.Grow(r.states, len(ss))
	own := func(b []byte) []byte {
		at := len(data)
		data = append(data, b...)
		return data[at:len(data):len(data)]
	}
	for _, s := range ss {
		s.Data, s.Open = own(s.Data), own(s.Open)
		r.states = append(r.states, s)
	}
}

// last sorts rows by their keys, and of equal ones leaves the last.
func last[T any](rs []T, compare func(a, b T) int) []T {
	slices.SortStableFunc(rs, compare)
	n := 0
	for i := range rs {
		if i+1 < len(rs) && compare(rs[i], rs[i+1]) == 0 {
			continue
		}
		rs[n] = rs[i]
		n++
	}
	return rs[:n]
}

// queue adds the statements for all but the ledger, one for each table.
func (r *rows) queue(ctx context.Context, t *tx, b *batch) error {
	r.queueStates(b)
	for i := range r.records {
		if !t.joint {
			r.records[i].queue(b, t.lease.Partition)
		} else if err := t.queueJournal(ctx, b, &r.records[i]); err != nil {
			return err
		}
	}
	r.queueParked(b)
	r.queueRepeats(b)
	return nil
}

const insertStates = `INSERT INTO deja_states AS s (tenant, aggregate, key, partition, version, data, position, n, parked, open, due)
	SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::bytea[], $7::bigint[], $8::bigint[], $9::bigint[],
		$10::bytea[], $11::bigint[])
	ON CONFLICT (tenant, aggregate, key) DO UPDATE SET partition = excluded.partition, version = excluded.version, data = excluded.data,
	position = excluded.position, n = excluded.n, parked = excluded.parked, open = excluded.open, due = excluded.due`

func (r *rows) queueStates(b *batch) {
	ss := last(r.states, func(a, b driver.State) int { return a.Stream.Compare(b.Stream) })
	if len(ss) == 0 {
		return
	}
	c := newStreamColumns(len(ss))
	var (
		partitions                   = make([]int32, len(ss))
		versions, positions, ns, prk = make([]int64, len(ss)), make([]int64, len(ss)), make([]int64, len(ss)), make([]int64, len(ss))
		data, open                   = make([][]byte, len(ss)), make([][]byte, len(ss))
		due                          = make([]*int64, len(ss))
	)
	for i := range ss {
		c.add(ss[i].Stream)
		partitions[i], versions[i], data[i] = ss[i].Partition, ss[i].Version, ss[i].Data
		positions[i], ns[i], prk[i] = ss[i].Position, ss[i].N, ss[i].Parked
		if len(ss[i].Open) > 0 {
			open[i] = ss[i].Open // else NULL, as due
		}
		if !ss[i].Due.IsZero() {
			due[i] = new(micros(ss[i].Due))
		}
	}
	b.exec(insertStates, c.tenants, c.aggregates, c.keys, partitions, versions, data, positions, ns, prk, open, due)
}

// queueParked inserts before it deletes: an adopted batch may hold both for one message.
func (r *rows) queueParked(b *batch) {
	if len(r.parked) > 0 {
		c := newStreamColumns(len(r.parked))
		var (
			partitions []int32
			offs, ns   []int64
			ids        [][16]byte
		)
		for _, p := range r.parked {
			c.add(p.Stream)
			partitions, offs, ns, ids = append(partitions, p.Partition), append(offs, p.Offset), append(ns, p.N), append(ids, p.Key)
		}
		b.exec(`INSERT INTO deja_parked (partition, off, tenant, aggregate, key, id, n)
			SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::bigint[])`,
			partitions, offs, c.tenants, c.aggregates, c.keys, ids, ns)
	}
	if len(r.unparked) > 0 {
		var (
			partitions []int32
			offs       []int64
		)
		for _, p := range r.unparked {
			partitions, offs = append(partitions, p.Partition), append(offs, p.Offset)
		}
		b.exec(`DELETE FROM deja_parked p USING unnest($1::int[], $2::bigint[]) AS u (partition, off)
			WHERE p.partition = u.partition AND p.off = u.off`, partitions, offs)
	}
}

func compareRepeats(a, b driver.Repeat) int {
	kind := func(r driver.Repeat) int {
		if r.Conflict {
			return 1
		}
		return 0
	}
	return cmp.Or(compareIDs(a.Key, b.Key), cmp.Compare(kind(a), kind(b)))
}

// queueRepeats adds up what is counted of one key first: a statement changes a row once.
func (r *rows) queueRepeats(b *batch) {
	if len(r.repeats) == 0 {
		return
	}
	slices.SortStableFunc(r.repeats, compareRepeats)
	var (
		keys                 [][16]byte
		conflicts            []bool
		partitions           []int32
		counts, firsts, ends []int64
	)
	for i, c := range r.repeats {
		if j := len(keys) - 1; i > 0 && compareRepeats(r.repeats[i-1], c) == 0 {
			counts[j] += c.Count
			firsts[j], ends[j] = min(firsts[j], c.First), max(ends[j], c.Last)
			continue
		}
		keys, conflicts, partitions = append(keys, c.Key), append(conflicts, c.Conflict), append(partitions, c.Partition)
		counts, firsts, ends = append(counts, c.Count), append(firsts, c.First), append(ends, c.Last)
	}
	b.exec(`INSERT INTO deja_repeats AS r (key, conflict, partition, count, first, last)
		SELECT * FROM unnest($1::uuid[], $2::bool[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[])
		ON CONFLICT (key, conflict) DO UPDATE SET count = r.count + excluded.count,
		first = least(r.first, excluded.first), last = greatest(r.last, excluded.last)`,
		keys, conflicts, partitions, counts, firsts, ends)
}
