package sqlite

import (
	"context"
	"fmt"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// log is the log in a database. Each partition of a topic is a table.
type log struct {
	db     *DB
	once   sync.Once
	closed chan struct{} // closed by Close
}

func newLog(db *DB) *log { return &log{db: db, closed: make(chan struct{})} }

var (
	_ driver.Log      = (*log)(nil)
	_ driver.Importer = (*log)(nil)
	_ driver.Cursors  = (*log)(nil)
)

const (
	fetchBytes = 4 << 20                // of one Fetch
	pollEvery  = 100 * time.Millisecond // where another process appends
)

// Topic returns a topic's identity. The cluster is the file.
func (l *log) Topic(ctx context.Context, name string) (driver.Topic, error) {
	t, err := l.topic(ctx, name)
	if err != nil {
		return driver.Topic{}, err
	}
	return driver.Topic{Name: name, Cluster: l.db.id, ID: t.id, Partitions: int32(len(t.partitions)), MaxRecord: maxRecord}, nil
}

// Fetch returns records of at most 4 MiB together, or one. In a database that is open for reading it looks for new
// records ten times a second.
func (l *log) Fetch(ctx context.Context, from deja.Position, limit int) ([]driver.Record, error) {
	p, err := l.partition(ctx, from.Topic, from.Partition)
	if err != nil {
		return nil, err
	}
	for {
		// Asked for before we look: an append in between closes it, and we look again.
		wake := p.waiter()
		rs, err := l.fetch(ctx, p, from, max(limit, 1))
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
	case <-l.closed:
		return ErrClosed
	case <-l.db.closing:
		return ErrClosed
	case <-l.db.halting:
		return l.db.usable()
	}
	return nil
}

// fetch returns what there is from a position on; nothing at the end.
func (l *log) fetch(ctx context.Context, p *partition, from deja.Position, limit int) (rs []driver.Record, err error) {
	err = l.db.read(ctx, func(c *sqlite.Conn) error {
		if rs, err = p.read(c, from.Offset, limit); err != nil || len(rs) > 0 && rs[0].Offset == from.Offset {
			return err
		}
		first, end, err := p.bounds(c)
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

func (p *partition) read(c *sqlite.Conn, from int64, limit int) ([]driver.Record, error) {
	st, err := c.Prepare(p.fetch)
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
		rs = append(rs, driver.Record{
			Partition: p.number, Offset: st.ColumnInt64(0), Time: timeOf(st.ColumnInt64(1)), Value: values.column(st, 2),
		})
	}
	return rs, st.Reset()
}

// Bounds returns the offsets of the first record and after the last.
func (l *log) Bounds(ctx context.Context, name string, number int32) (first, end int64, err error) {
	p, err := l.partition(ctx, name, number)
	if err != nil {
		return 0, 0, err
	}
	err = l.db.read(ctx, func(c *sqlite.Conn) error {
		first, end, err = p.bounds(c)
		return err
	})
	return first, end, err
}

func (p *partition) bounds(c *sqlite.Conn) (first, end int64, err error) {
	first, err = queryInt(c, p.first)
	if err != nil {
		return 0, 0, err
	}
	end, _, err = p.end(c)
	return first, end, err
}

// partition returns a partition of a topic.
func (l *log) partition(ctx context.Context, name string, number int32) (*partition, error) {
	t, err := l.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	return t.partition(number)
}

func (l *log) topic(ctx context.Context, name string) (*topic, error) {
	if err := l.usable(); err != nil {
		return nil, err
	}
	return l.db.topic(ctx, name)
}

func (l *log) usable() error {
	select {
	case <-l.closed:
		return ErrClosed
	default:
		return l.db.usable()
	}
}

// Close ends the use of this log; what it refers to lives as long as its [DB].
func (l *log) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
