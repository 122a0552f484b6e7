package sqlite

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/dejalog/deja/driver"
)

// write writes a batch's tables, each in the order of its keys: neighbours share pages.
func (t *tx) write(b *driver.Batch) error {
	if !b.Logged {
		if err := t.writeJournal(b.Records); err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
	}
	if err := t.writeLedger(b.Ledger, b.Asked); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	if err := t.writeStates(b.States); err != nil {
		return fmt.Errorf("write states: %w", err)
	}
	if err := t.writeParked(b.Parked, b.Unparked); err != nil {
		return fmt.Errorf("write parked messages: %w", err)
	}
	if err := t.writeRepeats(b.Repeats); err != nil {
		return fmt.Errorf("write repeats: %w", err)
	}
	return nil
}

func (t *tx) writeJournal(rs []driver.JournalRecord) error {
	if len(rs) == 0 {
		return nil
	}
	if t.journal == nil {
		topic := t.db.topics.get(t.lease.Journal.Name)
		if topic == nil || topic.id != t.lease.Journal.ID {
			return fmt.Errorf("%w: no topic %q of that id", driver.ErrIdentity, t.lease.Journal.Name)
		}
		p, err := topic.partition(t.lease.Partition)
		if err != nil {
			return err
		}
		w, err := p.writer(t.conn.Conn)
		if err != nil {
			return err
		}
		t.journal, t.writer = p, w
	}
	for i := range rs {
		if n := len(rs[i].Value); n > maxRecord {
			return fmt.Errorf("record of decision %d has %d bytes, at most %d fit: %w", rs[i].N, n, maxRecord, driver.ErrTooLarge)
		}
		if err := t.writer.append(rs[i].Value); err != nil {
			return err
		}
	}
	return nil
}

const insertState = `INSERT INTO deja_states (tenant, aggregate, key, partition, version, data, position, n, parked, open, due)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
	ON CONFLICT (tenant, aggregate, key) DO UPDATE SET partition = excluded.partition, version = excluded.version, data = excluded.data,
	position = excluded.position, n = excluded.n, parked = excluded.parked, open = excluded.open, due = excluded.due`

func (t *tx) writeStates(ss []driver.State) error {
	if len(ss) == 0 {
		return nil
	}
	st, err := t.conn.Prepare(insertState)
	if err != nil {
		return err
	}
	for _, i := range t.db.order(len(ss), func(i, j int32) int { return ss[i].Stream.Compare(ss[j].Stream) }) {
		s := &ss[i]
		st.BindText(1, s.Stream.Tenant)
		st.BindText(2, s.Stream.Aggregate)
		st.BindText(3, s.Stream.Key)
		st.BindInt64(4, int64(s.Partition))
		st.BindInt64(5, s.Version)
		st.BindBytes(6, s.Data)
		st.BindInt64(7, s.Position)
		st.BindInt64(8, s.N)
		st.BindInt64(9, s.Parked)
		st.BindNull(10)
		if len(s.Open) > 0 {
			st.BindBytes(10, s.Open)
		}
		st.BindNull(11)
		if !s.Due.IsZero() {
			st.BindInt64(11, micros(s.Due))
		}
		if err := run(st); err != nil {
			return err
		}
	}
	return nil
}

// writeParked inserts before it deletes: an adopted batch may hold both for one message.
func (t *tx) writeParked(parked, unparked []driver.Parked) error {
	for i := range parked {
		p := &parked[i]
		if err := t.conn.exec("INSERT INTO deja_parked (partition, offset, tenant, aggregate, key, id, n) VALUES (?, ?, ?, ?, ?, ?, ?)",
			p.Partition, p.Offset, p.Stream.Tenant, p.Stream.Aggregate, p.Stream.Key, p.Key[:], p.N); err != nil {
			return err
		}
	}
	for i := range unparked {
		p := &unparked[i]
		if err := t.conn.exec("DELETE FROM deja_parked WHERE partition = ? AND offset = ?", p.Partition, p.Offset); err != nil {
			return err
		}
	}
	return nil
}

const insertRepeat = `INSERT INTO deja_repeats (key, conflict, partition, count, first, last) VALUES (?, ?, ?, ?, ?, ?)
	ON CONFLICT (key, conflict) DO UPDATE SET count = count + excluded.count,
	first = min(first, excluded.first), last = max(last, excluded.last)`

func (t *tx) writeRepeats(rs []driver.Repeat) error {
	for _, i := range t.db.order(len(rs), func(i, j int32) int { return bytes.Compare(rs[i].Key[:], rs[j].Key[:]) }) {
		r := &rs[i]
		if err := t.conn.exec(insertRepeat, r.Key[:], r.Conflict, r.Partition, r.Count, r.First, r.Last); err != nil {
			return err
		}
	}
	return nil
}

// order returns the numbers below n in an order, equal ones as they came. It is valid until the next call by the
// gate's holder.
func (db *DB) order(n int, compare func(i, j int32) int) []int32 {
	db.scratch = db.scratch[:0]
	for i := range n {
		db.scratch = append(db.scratch, int32(i))
	}
	slices.SortStableFunc(db.scratch, compare)
	return db.scratch
}
