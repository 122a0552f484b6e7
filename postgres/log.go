package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// log is the log in a schema.
type log struct {
	db     *DB
	closed atomic.Bool
}

var (
	_ driver.Log      = (*log)(nil)
	_ driver.Importer = (*log)(nil)
	_ driver.Cursors  = (*log)(nil)
)

// usable returns why nothing can be done any more.
func (l *log) usable() error {
	if l.closed.Load() {
		return ErrClosed
	}
	return l.db.usable()
}

// topic returns a topic of which there must be that partition.
func (l *log) topic(ctx context.Context, name string, partition int32) (*topic, error) {
	if err := l.usable(); err != nil {
		return nil, err
	}
	t, err := l.db.topic(ctx, name, l.db.config.partitions)
	if err == nil {
		err = t.has(partition)
	}
	return t, err
}

// Topic returns a topic's identity. The cluster is the schema in its database cluster: neither a copy of the schema nor one
// restored elsewhere is the same.
func (l *log) Topic(ctx context.Context, name string) (driver.Topic, error) {
	t, err := l.topic(ctx, name, 0)
	if err != nil {
		return driver.Topic{}, err
	}
	return driver.Topic{Name: name, Cluster: l.db.cluster, ID: t.id, Partitions: t.partitions, MaxRecord: maxRecord}, nil
}

// CreateTopic makes a topic of so many partitions.
func (l *log) CreateTopic(ctx context.Context, name string, partitions int32) error {
	if err := errors.Join(l.usable(), l.db.writable()); err != nil {
		return err
	}
	if partitions < 1 || partitions > maxPartitions {
		return fmt.Errorf("create topic %s of %d partitions: want 1 to %d", name, partitions, maxPartitions)
	}
	t, err := l.db.topic(ctx, name, partitions)
	if err == nil && t.partitions != partitions {
		err = fmt.Errorf("%w: topic %s has %d, not %d", driver.ErrPartitions, name, t.partitions, partitions)
	}
	return err
}

// selectLog bounds an answer's bytes, but for the first record.
const selectLog = `SELECT off, time, key, headers, value FROM (
		SELECT *, sum(octet_length(value)) OVER (ORDER BY off) - octet_length(value) AS before
		FROM (SELECT * FROM %s WHERE partition = $1 AND off >= $2 ORDER BY off LIMIT $3) r
	) r WHERE before < $4 ORDER BY off`

// selectBounds gives the first offset and the one after the last.
const selectBounds = `SELECT coalesce((SELECT off FROM %s WHERE partition = $2 ORDER BY off LIMIT 1), next), next
	FROM deja_ends WHERE topic = $1 AND partition = $2`

// Fetch returns records of about 4 MiB together, or one. Records become visible in the order of their offsets, since a
// partition's row in deja_ends is locked from before an offset is given until the commit.
func (l *log) Fetch(ctx context.Context, from deja.Position, limit int) ([]driver.Record, error) {
	t, err := l.topic(ctx, from.Topic, from.Partition)
	if err != nil {
		return nil, err
	}
	for {
		// Asked for before we look: an append in between closes it, and we look again.
		wake := l.db.listener.waiter(l.db, t.k, from.Partition)
		rs, err := l.fetch(ctx, t, from, max(limit, 1))
		if err != nil || len(rs) > 0 {
			return rs, err
		}
		if err := l.db.listener.wait(ctx, l.db, wake); err != nil {
			return nil, err
		}
		if err := l.usable(); err != nil {
			return nil, err
		}
	}
}

// fetch returns what there is from a position on; nothing at the end.
func (l *log) fetch(ctx context.Context, t *topic, from deja.Position, limit int) (rs []driver.Record, err error) {
	err = each(ctx, l.db.pool, func(r pgx.Rows) error {
		var (
			at           int64
			key, headers []byte
		)
		rec := driver.Record{Partition: from.Partition}
		if err := r.Scan(&rec.Offset, &at, &key, &headers, &rec.Value); err != nil {
			return err
		}
		rec.Time, rec.Key = timeOf(at), string(key)
		rec.Headers, err = unpackHeaders(headers)
		rs = append(rs, rec)
		return err
	}, fmt.Sprintf(selectLog, t.table()), from.Partition, from.Offset, limit, fetchBytes)
	if err != nil {
		return nil, l.db.lost(t, err)
	}
	if len(rs) > 0 && rs[0].Offset == from.Offset {
		return rs, nil
	}
	first, end, err := l.db.bounds(ctx, t, from.Partition)
	switch {
	case err != nil:
		return nil, err
	case from.Offset < first:
		return nil, fmt.Errorf("fetch %s: %w: its first record is %d", from, driver.ErrTrimmed, first)
	case from.Offset > end:
		return nil, fmt.Errorf("fetch %s: %w: its end is %d", from, driver.ErrBeyondEnd, end)
	}
	return rs, nil
}

// Bounds returns the offsets of the first record and after the last.
func (l *log) Bounds(ctx context.Context, name string, partition int32) (first, end int64, err error) {
	t, err := l.topic(ctx, name, partition)
	if err != nil {
		return 0, 0, err
	}
	return l.db.bounds(ctx, t, partition)
}

func (db *DB) bounds(ctx context.Context, t *topic, partition int32) (first, end int64, err error) {
	err = db.pool.QueryRow(ctx, fmt.Sprintf(selectBounds, t.table()), t.k, partition).Scan(&first, &end)
	return first, end, db.lost(t, err)
}

// lost explains the error of a topic whose table or row is not there any more.
func (db *DB) lost(t *topic, err error) error {
	if code(err) == codeUndefinedTable || errors.Is(err, pgx.ErrNoRows) {
		db.topics.forget(t.name)
		return fmt.Errorf("%w: topic %s (%s) is not in schema %s any more: %w", driver.ErrRecreated, t.name, t.id, db.config.schema, err)
	}
	return err
}

// Cursor returns a reader's offset.
func (l *log) Cursor(ctx context.Context, reader, topic string, partition int32) (offset int64, err error) {
	if err := l.usable(); err != nil {
		return 0, err
	}
	err = l.db.pool.QueryRow(ctx, "SELECT off FROM deja_cursors WHERE reader = $1 AND topic = $2 AND partition = $3",
		reader, topic, partition).Scan(&offset)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return offset, err
}

// SetCursor sets a reader's offset.
func (l *log) SetCursor(ctx context.Context, reader, topic string, partition int32, offset int64) error {
	if err := errors.Join(l.usable(), l.db.writable()); err != nil {
		return err
	}
	_, err := l.db.pool.Exec(ctx, `INSERT INTO deja_cursors VALUES ($1, $2, $3, $4)
		ON CONFLICT (reader, topic, partition) DO UPDATE SET off = excluded.off`, reader, topic, partition, offset)
	return err
}

// Close ends the use of this log; its connections live as long as its [DB].
func (l *log) Close() error {
	l.closed.Store(true)
	return nil
}
