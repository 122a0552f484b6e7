package sqlite

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// log is the log in a database. A topic is a table, and has one partition.
type log struct {
	db     *DB
	closed atomic.Bool
}

var (
	_ driver.Log      = (*log)(nil)
	_ driver.Importer = (*log)(nil)
)

const (
	fetchBytes = 4 << 20                // of one Fetch
	pollEvery  = 100 * time.Millisecond // where another process appends
)

// Topic returns a topic's identity. The cluster is the file.
func (l *log) Topic(ctx context.Context, name string) (driver.Topic, error) {
	t, err := l.partition(ctx, name, 0)
	if err != nil {
		return driver.Topic{}, err
	}
	return driver.Topic{Name: name, Cluster: l.db.id, ID: t.id, Partitions: 1, MaxRecord: maxRecord}, nil
}

// Fetch returns records of at most 4 MiB together, or one. In a database that is open for reading it looks for new
// records ten times a second.
func (l *log) Fetch(ctx context.Context, from deja.Position, limit int) ([]driver.Record, error) {
	t, err := l.partition(ctx, from.Topic, from.Partition)
	if err != nil {
		return nil, err
	}
	for {
		// Asked for before we look: an append in between closes it, and we look again.
		wake := t.waiter()
		rs, err := l.fetch(ctx, t, from, max(limit, 1))
		if err != nil || len(rs) > 0 {
			return rs, err
		}
		if err := l.wait(ctx, wake); err != nil {
			return nil, err
		}
	}
}

// wait returns nil when it is time to look again.
func (l *log) wait(ctx context.Context, wake <-chan struct{}) error {
	var poll <-chan time.Time
	if l.db.conn == nil {
		timer := time.NewTimer(pollEvery)
		defer timer.Stop()
		poll = timer.C
	}
	select {
	case <-wake:
	case <-poll:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.db.closing:
		return ErrClosed
	case <-l.db.halting:
		return l.db.usable()
	}
	return nil
}

// fetch returns what there is from a position on; nothing at the end.
func (l *log) fetch(ctx context.Context, t *topic, from deja.Position, limit int) (rs []driver.Record, err error) {
	err = l.db.read(ctx, func(c *sqlite.Conn) error {
		if rs, err = t.read(c, from.Offset, limit); err != nil || len(rs) > 0 && rs[0].Offset == from.Offset {
			return err
		}
		first, end, err := t.bounds(c)
		switch {
		case err != nil:
			return err
		case from.Offset < first:
			return fmt.Errorf("fetch %s: %w: its first record is %d", from, driver.ErrTrimmed, first)
		case from.Offset > end:
			return fmt.Errorf("fetch %s: %w: its end is %d", from, driver.ErrBeyondEnd, end)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rs, nil
}

func (t *topic) read(c *sqlite.Conn, from int64, limit int) ([]driver.Record, error) {
	st, err := c.Prepare(t.fetch)
	if err != nil {
		return nil, err
	}
	st.BindInt64(1, from)
	st.BindInt64(2, int64(limit))
	var (
		values blobs
		rs     []driver.Record
		sum    int
	)
	for sum < fetchBytes {
		more, err := st.Step()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		size := st.ColumnLen(2)
		if sum += size; sum > fetchBytes && len(rs) > 0 {
			break
		}
		rs = append(rs, driver.Record{Offset: st.ColumnInt64(0), Time: timeOf(st.ColumnInt64(1)), Value: values.column(st, 2)})
	}
	return rs, st.Reset()
}

// Bounds returns the offsets of the first record and after the last.
func (l *log) Bounds(ctx context.Context, name string, partition int32) (first, end int64, err error) {
	t, err := l.partition(ctx, name, partition)
	if err != nil {
		return 0, 0, err
	}
	err = l.db.read(ctx, func(c *sqlite.Conn) error {
		first, end, err = t.bounds(c)
		return err
	})
	return first, end, err
}

func (t *topic) bounds(c *sqlite.Conn) (first, end int64, err error) {
	first, err = queryInt(c, t.first)
	if err != nil {
		return 0, 0, err
	}
	end, _, err = t.end(c)
	return first, end, err
}

// partition returns a topic of which there must be that partition.
func (l *log) partition(ctx context.Context, name string, partition int32) (*topic, error) {
	if l.closed.Load() {
		return nil, ErrClosed
	}
	if err := l.db.usable(); err != nil {
		return nil, err
	}
	if partition != 0 {
		return nil, fmt.Errorf("topic %s has no partition %d: an embedded log's have one, 0", name, partition)
	}
	return l.db.topic(ctx, name)
}

// Close ends the use of this log; what it refers to lives as long as its [DB].
func (l *log) Close() error {
	l.closed.Store(true)
	return nil
}
