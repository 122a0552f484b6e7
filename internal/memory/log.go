// Package memory is a log and a store that live in memory, two separate things as Kafka and a database are. Tests and
// simulations run on them; nothing is durable, and a copy of either stands for what would be found on disk.
package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// ErrClosed is returned by every call after Close.
var ErrClosed = errors.New("closed")

const (
	defaultMaxRecord = 1 << 20
	answerBytes      = 4 << 20 // bounds the bytes of one answer
)

// LogConfig says how a log is made. The zero value is good.
type LogConfig struct {
	Partitions int32            // of a topic made at first use; default 1
	Now        func() time.Time // the log's clock; default time.Now. It is called under the log's lock
	MaxRecord  int              // largest value in bytes; default 1 MiB
}

// Log is a log in memory. It creates a topic at first use.
type Log struct {
	config  LogConfig
	cluster string

	mu     sync.Mutex
	topics map[string]*topic
	goOn   map[cursor]int64
	closed bool
}

var (
	_ driver.Log      = (*Log)(nil)
	_ driver.Importer = (*Log)(nil)
	_ driver.Cursors  = (*Log)(nil)
)

type topic struct {
	driver.Topic
	partitions []partition
}

// partition holds records in order of offset, with gaps where they were imported so. Their bytes are never changed,
// so that copies of a log share them.
type partition struct {
	records []driver.Record
	end     int64
	last    time.Time     // append times never go back
	changed chan struct{} // closed when there is something new to see; nil while nobody waits
}

// clusters numbers the logs of a process: two of them are never taken for one.
var clusters atomic.Int64

// NewLog returns an empty log.
func NewLog(c LogConfig) *Log {
	c.Partitions = cmp.Or(c.Partitions, 1)
	c.MaxRecord = cmp.Or(c.MaxRecord, defaultMaxRecord)
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Log{
		config:  c,
		cluster: "memory-" + strconv.FormatInt(clusters.Add(1), 10),
		topics:  map[string]*topic{},
		goOn:    map[cursor]int64{},
	}
}

// CreateTopic implements [driver.Importer].
func (l *Log) CreateTopic(ctx context.Context, name string, partitions int32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, err := l.topicOf(ctx, name, partitions)
	if err == nil && t.Partitions != partitions {
		err = fmt.Errorf("create topic %s of %d partitions: it has %d: %w", name, partitions, t.Partitions, driver.ErrPartitions)
	}
	return err
}

// Topic implements [driver.Log].
func (l *Log) Topic(ctx context.Context, name string) (driver.Topic, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, err := l.topic(ctx, name)
	if err != nil {
		return driver.Topic{}, err
	}
	return t.Topic, nil
}

// Append implements [driver.Log]. An invalid record fails the call before anything is appended.
func (l *Log) Append(ctx context.Context, name string, rs []driver.Record) ([]deja.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, err := l.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := t.check(rs); err != nil {
		return nil, fmt.Errorf("append to %s: %w", name, err)
	}
	return t.append(rs, l.config.Now()), nil
}

// Bounds implements [driver.Log].
func (l *Log) Bounds(ctx context.Context, name string, number int32) (first, end int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.partition(ctx, name, number)
	if err != nil {
		return 0, 0, err
	}
	return p.first(), p.end, nil
}

// Close implements [driver.Log]. It wakes those who wait; copies of the log stay open.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, t := range l.topics {
		for i := range t.partitions {
			t.partitions[i].wake()
		}
	}
	return nil
}

// topic returns a topic, made where it is missing. The caller holds the lock.
func (l *Log) topic(ctx context.Context, name string) (*topic, error) {
	return l.topicOf(ctx, name, l.config.Partitions)
}

// topicOf is topic with the number of partitions that a new one gets.
func (l *Log) topicOf(ctx context.Context, name string, partitions int32) (*topic, error) {
	if l.closed {
		return nil, fmt.Errorf("log: %w", ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, ok := l.topics[name]
	if !ok {
		t = &topic{
			Topic: driver.Topic{
				Name:       name,
				Cluster:    l.cluster,
				ID:         strconv.Itoa(len(l.topics) + 1), // topics are never deleted
				Partitions: partitions,
				MaxRecord:  l.config.MaxRecord,
			},
			partitions: make([]partition, partitions),
		}
		l.topics[name] = t
	}
	return t, nil
}

func (l *Log) partition(ctx context.Context, name string, number int32) (*partition, error) {
	t, err := l.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	return t.partition(number)
}

func (t *topic) partition(number int32) (*partition, error) {
	if number < 0 || number >= t.Partitions {
		return nil, fmt.Errorf("topic %s has %d partitions, and no partition %d", t.Name, t.Partitions, number)
	}
	return &t.partitions[number], nil
}

func (t *topic) check(rs []driver.Record) error {
	for _, r := range rs {
		if _, err := t.partition(r.Partition); err != nil {
			return err
		}
		if len(r.Value) > t.MaxRecord {
			return fmt.Errorf("%d bytes where %d are allowed: %w", len(r.Value), t.MaxRecord, driver.ErrTooLarge)
		}
	}
	return nil
}

// append appends checked records.
func (t *topic) append(rs []driver.Record, now time.Time) []deja.Position {
	now = now.UTC().Truncate(time.Microsecond)
	ps := make([]deja.Position, len(rs))
	for i, r := range rs {
		p := &t.partitions[r.Partition]
		r.Offset = p.end
		r.Time = now
		if now.Before(p.last) {
			r.Time = p.last
		}
		p.put(r)
		ps[i] = deja.Position{Topic: t.Name, Partition: r.Partition, Offset: r.Offset}
	}
	return ps
}

func (p *partition) first() int64 {
	if len(p.records) == 0 {
		return p.end
	}
	return p.records[0].Offset
}

func (p *partition) put(r driver.Record) {
	p.records = append(p.records, ownRecord(r))
	p.end = r.Offset + 1
	p.last = r.Time
	p.wake()
}

func (p *partition) wake() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// wait returns what is closed at the next change.
func (p *partition) wait() <-chan struct{} {
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed
}
