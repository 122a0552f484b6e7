package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/dejalog/deja/driver"
)

// Import implements [driver.Importer]. A record that is not above the partition's end fails the call before anything
// is appended.
func (l *Log) Import(ctx context.Context, name string, rs []driver.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, err := l.topic(ctx, name)
	if err == nil {
		err = t.check(rs)
	}
	if err != nil {
		return fmt.Errorf("import to %s: %w", name, err)
	}
	ends := map[int32]int64{}
	for _, r := range rs {
		end := max(ends[r.Partition], t.partitions[r.Partition].end)
		if r.Offset < end {
			return fmt.Errorf("import to %s: offset %d in partition %d, which has reached %d", name, r.Offset, r.Partition, end)
		}
		ends[r.Partition] = r.Offset + 1
	}
	for _, r := range rs {
		t.partitions[r.Partition].put(r)
	}
	return nil
}

// Truncate loses the records from end on, as a log does that elects a replica which lags: the offsets are given
// again, to other records. It panics where there is no such partition.
func (l *Log) Truncate(name string, number int32, end int64) {
	l.change(name, number, func(p *partition) {
		p.records = slices.Clip(p.records[:p.search(end)])
		p.end = min(p.end, end)
	})
}

// Trim loses the records below first, as retention does. It panics where there is no such partition.
func (l *Log) Trim(name string, number int32, first int64) {
	l.change(name, number, func(p *partition) { p.records = p.records[p.search(first):] })
}

func (l *Log) change(name string, number int32, do func(*partition)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.partition(context.Background(), name, number)
	if err != nil {
		panic(err)
	}
	do(p)
	p.wake()
}

// Clone returns an open copy of the log, closed or not, with the same identity: what would be found on its disk.
func (l *Log) Clone() *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &Log{config: l.config, cluster: l.cluster, topics: maps.Clone(l.topics), goOn: maps.Clone(l.goOn)}
	for name, t := range c.topics {
		t := &topic{Topic: t.Topic, partitions: slices.Clone(t.partitions)}
		for i := range t.partitions {
			p := &t.partitions[i]
			p.records = slices.Clip(p.records) // the copy's next record goes elsewhere than the original's
			p.changed = nil
		}
		c.topics[name] = t
	}
	return c
}
