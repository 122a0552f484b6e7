package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja/driver"
)

// Journal records are kept packed, those of a batch in one row. The form:
//
//	packed = version:1 byte, 1 { n-before:uvarint length:uvarint value }
//
// n-before is the record's number less the one before it in the row, zero before the first. A row counts for the numbers
// from its first to its last alone, though it may have more: rows that are written later take numbers away from it.
const packingVersion = 1

var errPacking = errors.New("kept records are damaged")

func pack(rs []driver.JournalRecord) []byte {
	size := 1
	for i := range rs {
		size += 2*binary.MaxVarintLen32 + len(rs[i].Value)
	}
	b := make([]byte, 1, size)
	b[0] = packingVersion
	var before int64
	for i := range rs {
		b = binary.AppendUvarint(b, uint64(rs[i].N-before))
		b = binary.AppendUvarint(b, uint64(len(rs[i].Value)))
		b = append(b, rs[i].Value...)
		before = rs[i].N
	}
	return b
}

// unpack appends the records of a row that are numbered from first to last.
func unpack(to []driver.JournalRecord, b []byte, first, last int64) ([]driver.JournalRecord, error) {
	if len(b) == 0 || b[0] != packingVersion {
		return nil, fmt.Errorf("%w: no known version", errPacking)
	}
	b = b[1:]
	var n int64
	for len(b) > 0 {
		step, used := binary.Uvarint(b)
		if used <= 0 {
			return nil, errPacking
		}
		b = b[used:]
		size, used := binary.Uvarint(b)
		if used <= 0 || size > uint64(len(b)-used) {
			return nil, errPacking
		}
		value := b[used : used+int(size) : used+int(size)]
		b = b[used+int(size):]
		if n += int64(step); n >= first && n <= last {
			to = append(to, driver.JournalRecord{N: n, Value: value})
		}
	}
	return to, nil
}

// queue adds the statement that keeps records of a partition. Those adopted from the journal replace those of the same
// numbers; a new decision's replace all from its number on, which are of a history that is no more.
func (r *records) queue(b *batch, partition int32) {
	until := r.last
	if !r.adopted {
		until = math.MaxInt64 - 1
	}
	b.exec(`WITH old AS (
			DELETE FROM deja_records WHERE partition = $1::int AND last >= $2::bigint AND first <= $3::bigint
			RETURNING first, last, at, packed
		)
		INSERT INTO deja_records (partition, first, last, at, packed)
		SELECT $1::int, first, $2::bigint - 1, at, packed FROM old WHERE first < $2
		UNION ALL SELECT $1::int, $3::bigint + 1, last, at, packed FROM old WHERE last > $3
		UNION ALL SELECT $1::int, $2::bigint, $4::bigint, clock_timestamp(), $5::bytea`, partition, r.first, until, r.last, r.packed)
}

const fetchBytes = 4 << 20 // of one answer

// selectRecords bounds an answer's bytes, but for the first row.
const selectRecords = `SELECT first, last, packed FROM (
		SELECT *, sum(octet_length(packed)) OVER (ORDER BY last) - octet_length(packed) AS before
		FROM (SELECT * FROM deja_records WHERE partition = $1 AND last > $2 ORDER BY last LIMIT $3) r
	) r WHERE before < $4 ORDER BY last`

// Unlogged returns kept records of about 4 MiB together. A joint store has none.
func (s *store) Unlogged(ctx context.Context, partition int32, after int64, limit int) (rs []driver.JournalRecord, err error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, ctx.Err()
	}
	err = each(ctx, s.db.pool, func(r pgx.Rows) (err error) {
		var (
			first, last int64
			packed      []byte
		)
		if err := r.Scan(&first, &last, &packed); err != nil || len(rs) >= limit {
			return err
		}
		rs, err = unpack(rs, packed, max(first, after+1), last)
		return err
	}, selectRecords, partition, after, min(limit, 1000), fetchBytes)
	if err != nil {
		return nil, fmt.Errorf("kept records: %w", err)
	}
	return rs[:min(len(rs), limit)], nil
}

// trimEvery is how many records are logged between two removals.
const trimEvery = 10_000

// trimmed is up to which number a partition's kept records were looked at.
type trimmed struct {
	mu sync.Mutex
	at map[int32]int64
}

func (t *trimmed) due(partition int32, n int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.at[partition]; ok && n >= last && n < last+trimEvery {
		return false
	}
	if t.at == nil {
		t.at = map[int32]int64{}
	}
	t.at[partition] = n
	return true
}

// trim removes records that have been in the journal for long enough.
func (db *DB) trim(ctx context.Context, partition int32, logged int64) error {
	if logged <= db.config.keep || !db.trimmed.due(partition, logged) {
		return nil
	}
	_, err := db.pool.Exec(ctx, `DELETE FROM deja_records WHERE partition = $1 AND last <= $2
		AND at < clock_timestamp() - $3 * interval '1 microsecond'`, partition, logged-db.config.keep, db.config.keepFor.Microseconds())
	if err != nil {
		return fmt.Errorf("remove kept records: %w", err)
	}
	return nil
}
