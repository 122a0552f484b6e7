package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// A line is what a transaction writes for one key.
type line struct {
	driver.Entry
	suspect bool // it may replace a parked message's entry, and must be looked up in all segments
}

// A found entry is one that the ledger has.
type found struct {
	driver.Entry
	segment int64
}

// lines returns the entries by key, in order. A message that was parked before is one below the position that the
// transaction starts from, or one that is unparked, or one that comes twice; looking one up that is new does no harm.
func (r *rows) lines(from int64) ([]line, error) {
	unparked := make(map[deja.ID]bool, len(r.unparked))
	for i := range r.unparked {
		unparked[r.unparked[i].Key] = true
	}
	es := r.entries
	slices.SortStableFunc(es, func(a, b driver.Entry) int { return compareIDs(a.Key, b.Key) })
	ls := make([]line, 0, len(es))
	for i := range es {
		suspect := es[i].Offset < from || unparked[es[i].Key]
		if i > 0 && es[i].Key == es[i-1].Key {
			if was := es[i-1].Status; was != deja.Parked {
				return nil, fmt.Errorf("key %s was %w in the same batch, as %s", es[i].Key, errSettled, was)
			}
			ls[len(ls)-1] = line{es[i], true}
			continue
		}
		ls = append(ls, line{es[i], suspect})
	}
	return ls, nil
}

// writeLedger writes the new entries into the newest segment, and adds to b what replaces others; a few new ones too, which saves
// a message to the server and back. In the newest segment its index refuses what is settled; those where the ledger has gone
// on since the caller looked are asked again.
func (t *tx) writeLedger(ctx context.Context, b *batch) error {
	ls, err := t.rows.lines(t.step.from.Position)
	if err != nil || len(ls) == 0 {
		return err
	}
	t.db.ledger.suspectParked(ls)
	settled, err := t.lookAgain(ctx, ls)
	if err != nil {
		return err
	}
	fresh := make([]driver.Entry, 0, len(ls))
	replaced := map[int64][]driver.Entry{}
	for i := range ls {
		was, ok := settled[ls[i].Key]
		switch {
		case !ok:
			fresh = append(fresh, ls[i].Entry)
		case was.Status == deja.Parked && was.Partition == ls[i].Partition:
			replaced[was.segment] = append(replaced[was.segment], ls[i].Entry)
		default:
			return fmt.Errorf("key %s was %w, as %s", ls[i].Key, errSettled, was.Status)
		}
	}
	if len(fresh) > copied {
		err = t.copy(ctx, fresh)
	} else if len(fresh) > 0 {
		queueInsert(b, t.catalog.newest(), fresh)
	}
	for segment, es := range replaced {
		queueReplace(b, segment, es)
	}
	return err
}

// copied is how many entries are inserted at most: more are copied, which costs the server less for each.
const copied = 64

// lookAgain returns what the ledger has of the lines that nobody has looked up as it is now.
func (t *tx) lookAgain(ctx context.Context, ls []line) (map[deja.ID]found, error) {
	var all, suspects []deja.ID
	for i := range ls {
		all = append(all, ls[i].Key)
		if ls[i].suspect {
			suspects = append(suspects, ls[i].Key)
		}
	}
	asked, newest := t.rows.asked, t.catalog.newest()
	if asked > newest { // of a time that was undone
		asked = 0
	}
	settled := map[deja.ID]found{}
	var b batch
	every, some := &question{keys: all}, &question{keys: suspects}
	t.catalog.lookup(&b, func(s *segment) *question {
		if s.n >= asked && s.n < newest {
			return every
		}
		return some
	}, func(e driver.Entry, segment int64) { settled[e.Key] = found{e, segment} })
	_, err := send(ctx, t.conn, &b)
	return settled, err
}

// entryArrays returns entries as arrays, one for each of entryColumns.
func entryArrays(es []driver.Entry) []any {
	var (
		keys       [][16]byte
		hashes     [][]byte
		partitions []int32
		offs, ns   []int64
		statuses   []int16
	)
	for i := range es {
		e := &es[i]
		keys, hashes, partitions = append(keys, e.Key), append(hashes, e.Hash[:]), append(partitions, e.Partition)
		offs, ns, statuses = append(offs, e.Offset), append(ns, e.N), append(statuses, int16(e.Status))
	}
	return []any{keys, hashes, partitions, offs, ns, statuses}
}

const unnestEntries = "unnest($1::uuid[], $2::bytea[], $3::int[], $4::bigint[], $5::bigint[], $6::smallint[])"

// queueInsert adds the statement that inserts new entries into a segment.
func queueInsert(b *batch, segment int64, es []driver.Entry) {
	b.exec(fmt.Sprintf("INSERT INTO deja_ledger_%d ("+entryColumns+") SELECT * FROM "+unnestEntries, segment), entryArrays(es)...)
}

// queueReplace adds the statement that replaces entries of parked messages where they are. All of them, or it fails.
func queueReplace(b *batch, segment int64, es []driver.Entry) {
	var one int64
	b.row([]any{&one}, fmt.Sprintf(`WITH changed AS (
		UPDATE deja_ledger_%d l SET hash = u.hash, partition = u.partition, off = u.off, n = u.n, status = u.status
		FROM `+unnestEntries+` AS u (`+entryColumns+`)
		WHERE l.key = u.key AND l.partition = u.partition AND l.status = %d RETURNING 1
	) SELECT 1 / (count(*) = $7)::int FROM changed`, segment, deja.Parked), append(entryArrays(es), len(es))...)
}

// copy copies entries into the newest segment.
func (t *tx) copy(ctx context.Context, es []driver.Entry) error {
	var c copying
	for i := range es {
		c.add(&es[i])
	}
	sql := fmt.Sprintf("COPY deja_ledger_%d ("+entryColumns+") FROM STDIN (FORMAT binary)", t.catalog.newest())
	tag, err := t.conn.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(c.finished()), sql)
	if err == nil && tag.RowsAffected() != c.rows {
		err = fmt.Errorf("copied %d of %d entries", tag.RowsAffected(), c.rows)
	}
	return err
}

// copying is the ledger's rows in the engine's binary form: https://www.postgresql.org/docs/current/sql-copy.html.
type copying struct {
	bytes []byte
	rows  int64
}

const copyHeader = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

func (c *copying) add(e *driver.Entry) {
	if c.rows == 0 {
		c.bytes = append(c.bytes, copyHeader...)
	}
	c.rows++
	b := binary.BigEndian.AppendUint16(c.bytes, 6) // columns, each with its length before it
	b = append(binary.BigEndian.AppendUint32(b, 16), e.Key[:]...)
	b = append(binary.BigEndian.AppendUint32(b, 32), e.Hash[:]...)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, 4), uint32(e.Partition))
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, 8), uint64(e.Offset))
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, 8), uint64(e.N))
	c.bytes = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(b, 2), uint16(e.Status))
}

// finished returns the bytes with their end.
func (c *copying) finished() []byte { return append(c.bytes, 0xff, 0xff) }
