package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// The end of a partition is a row of deja_ends. Who appends locks it, in order of partitions, before it takes offsets
// from it, and holds it until the commit: offsets are dense, and appear in order, however slow a writer is or if it
// rolls back. Times are taken under the same lock and never go back.
const (
	lockEnds = `SELECT partition FROM deja_ends WHERE topic = $1 AND partition = ANY($2::int[]) ORDER BY partition FOR UPDATE`

	// appendLog needs the rows locked already, by a statement of its own, so that it sees where the log ends now.
	appendLog = `WITH r AS (
		SELECT * FROM unnest($2::int[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bytea[]) AS r (partition, i, key, headers, value)
	), e AS (
		UPDATE deja_ends e SET next = e.next + c.n, time = greatest(e.time, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
		FROM (SELECT partition, count(*) AS n FROM r GROUP BY partition) c WHERE e.topic = $1 AND e.partition = c.partition
		RETURNING e.partition, e.next - c.n AS base, e.time
	), w AS (
		INSERT INTO %s (partition, off, time, key, headers, value)
		SELECT r.partition, e.base + r.i, e.time, r.key, r.headers, r.value FROM r JOIN e USING (partition)
	) SELECT partition, base FROM e`
)

// columns are records as arrays.
type columns struct {
	partitions []int32
	nth        []int64 // of its partition in the call
	keys       [][]byte
	headers    [][]byte
	values     [][]byte
	counts     map[int32]int64
}

func newColumns(n int) *columns {
	return &columns{
		make([]int32, 0, n), make([]int64, 0, n), make([][]byte, 0, n), make([][]byte, 0, n), make([][]byte, 0, n), map[int32]int64{},
	}
}

func (c *columns) add(r *driver.Record) {
	c.partitions = append(c.partitions, r.Partition)
	c.nth = append(c.nth, c.counts[r.Partition])
	c.counts[r.Partition]++
	c.keys = append(c.keys, []byte(r.Key))
	c.headers = append(c.headers, packHeaders(r.Headers))
	value := r.Value
	if value == nil {
		value = []byte{}
	}
	c.values = append(c.values, value)
}

// queue adds the statements that append to a topic; base is told where each partition's records begin.
func (c *columns) queue(b *batch, t *topic, base func(partition int32, offset int64)) {
	b.exec(lockEnds, t.k, slices.Sorted(maps.Keys(c.counts)))
	b.rows(func(r pgx.Rows) error {
		var (
			p  int32
			at int64
		)
		err := r.Scan(&p, &at)
		base(p, at)
		return err
	}, fmt.Sprintf(appendLog, t.table()), t.k, c.partitions, c.nth, c.keys, c.headers, c.values)
}

// checkRecords refuses what cannot be appended before anything is.
func (t *topic) checkRecords(rs []driver.Record) error {
	for i := range rs {
		if err := t.has(rs[i].Partition); err != nil {
			return err
		}
		if n := len(rs[i].Value); n > maxRecord {
			return fmt.Errorf("record %d of the call has %d bytes, at most %d fit: %w", i, n, maxRecord, driver.ErrTooLarge)
		}
	}
	return nil
}

// Append appends all records of a call or none.
func (l *log) Append(ctx context.Context, name string, rs []driver.Record) ([]deja.Position, error) {
	if err := errors.Join(l.usable(), l.db.writable()); err != nil {
		return nil, fmt.Errorf("append to %s: %w", name, err)
	}
	t, err := l.topic(ctx, name, 0)
	if err == nil {
		err = t.checkRecords(rs)
	}
	if err != nil {
		return nil, fmt.Errorf("append to %s: %w", name, err)
	}
	if len(rs) == 0 {
		return nil, nil
	}
	c := newColumns(len(rs))
	for i := range rs {
		c.add(&rs[i])
	}
	bases := map[int32]int64{}
	var b batch
	c.queue(&b, t, func(p int32, at int64) { bases[p] = at })
	for p := range c.counts {
		b.exec("SELECT pg_notify($1, $2)", l.db.channel, notice(t.k, p))
	}
	_, err = send(ctx, l.db.pool, &b)
	if err == nil && len(bases) != len(c.counts) {
		err = l.db.lost(t, pgx.ErrNoRows)
	}
	if err != nil {
		return nil, fmt.Errorf("append to %s: %w", name, l.db.lost(t, err))
	}
	ps := make([]deja.Position, len(rs))
	for i := range rs {
		ps[i] = deja.Position{Topic: name, Partition: rs[i].Partition, Offset: bases[rs[i].Partition] + c.nth[i]}
	}
	for p := range c.counts {
		l.db.listener.notify(t.k, p)
	}
	return ps, nil
}

// queueJournal adds the statements that append a batch's records to the journal of a joint log.
func (t *tx) queueJournal(ctx context.Context, b *batch, r *records) error {
	if r.adopted {
		return nil
	}
	topic, err := t.db.findTopic(ctx, t.conn, t.lease.Journal.Name)
	if err != nil {
		return err
	}
	if topic.id != t.lease.Journal.ID {
		return fmt.Errorf("%w: no topic %q of id %s", driver.ErrRecreated, t.lease.Journal.Name, t.lease.Journal.ID)
	}
	rs, err := unpack(nil, r.packed, r.first, r.last)
	if err != nil {
		return err
	}
	c := newColumns(len(rs))
	for i := range rs {
		c.add(&driver.Record{Partition: t.lease.Partition, Value: rs[i].Value})
	}
	c.queue(b, topic, func(int32, int64) {})
	b.exec("SELECT pg_notify($1, $2)", t.db.channel, notice(topic.k, t.lease.Partition))
	return nil
}

// Import appends records with their offsets and times, all or none; the offsets go on from the partition's end upward.
func (l *log) Import(ctx context.Context, name string, rs []driver.Record) error {
	err := l.importRecords(ctx, name, rs)
	if err != nil {
		return fmt.Errorf("import to %s: %w", name, err)
	}
	return nil
}

func (l *log) importRecords(ctx context.Context, name string, rs []driver.Record) error {
	if err := errors.Join(l.usable(), l.db.writable()); err != nil {
		return err
	}
	t, err := l.topic(ctx, name, 0)
	if err == nil {
		err = t.checkRecords(rs)
	}
	if err != nil || len(rs) == 0 {
		return err
	}
	c := newColumns(len(rs))
	var offs, times []int64
	for i := range rs {
		c.add(&rs[i])
		offs, times = append(offs, rs[i].Offset), append(times, micros(rs[i].Time))
	}
	err = l.db.transact(ctx, func(tx pgx.Tx) error {
		next := map[int32]int64{}
		err := each(ctx, tx, func(r pgx.Rows) error {
			var (
				p  int32
				at int64
			)
			err := r.Scan(&p, &at)
			next[p] = at
			return err
		}, "SELECT partition, next FROM deja_ends WHERE topic = $1 AND partition = ANY($2::int[]) ORDER BY partition FOR UPDATE",
			t.k, slices.Sorted(maps.Keys(c.counts)))
		if err != nil {
			return err
		}
		for i := range rs {
			p := rs[i].Partition
			if rs[i].Offset < next[p] {
				return fmt.Errorf("record %d of the call has offset %d, but partition %d goes on at %d", i, rs[i].Offset, p, next[p])
			}
			next[p] = rs[i].Offset + 1
		}
		_, err = tx.Exec(ctx, fmt.Sprintf(`WITH r AS (
				SELECT * FROM unnest($2::int[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[], $7::bytea[])
					AS r (partition, off, time, key, headers, value)
			), e AS (
				UPDATE deja_ends e SET next = c.next, time = greatest(e.time, c.time)
				FROM (SELECT partition, max(off) + 1 AS next, max(time) AS time FROM r GROUP BY partition) c
				WHERE e.topic = $1 AND e.partition = c.partition
			) INSERT INTO %s (partition, off, time, key, headers, value) SELECT partition, off, time, key, headers, value FROM r`, t.table()),
			t.k, c.partitions, offs, times, c.keys, c.headers, c.values)
		return err
	})
	if err != nil {
		return l.db.lost(t, err)
	}
	for p := range c.counts {
		l.db.listener.notify(t.k, p)
	}
	return nil
}

// packHeaders returns headers as { name-length:uvarint name value-length:uvarint value }; nil for none.
func packHeaders(hs []driver.Header) (b []byte) {
	for _, h := range hs {
		b = binary.AppendUvarint(b, uint64(len(h.Name)))
		b = append(b, h.Name...)
		b = binary.AppendUvarint(b, uint64(len(h.Value)))
		b = append(b, h.Value...)
	}
	return b
}

var errHeaders = errors.New("a record's headers are damaged")

func unpackHeaders(b []byte) (hs []driver.Header, err error) {
	next := func() (v []byte, ok bool) {
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			return nil, false
		}
		v, b = b[used:used+int(n):used+int(n)], b[used+int(n):]
		return v, true
	}
	for len(b) > 0 {
		name, ok := next()
		if !ok {
			return nil, errHeaders
		}
		value, ok := next()
		if !ok {
			return nil, errHeaders
		}
		hs = append(hs, driver.Header{Name: string(name), Value: value})
	}
	return hs, nil
}
