package drivertest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
)

// brokenViews are logs that break what readers, importers and operators rely on.
var brokenViews = []broken{
	{
		name: "a log makes the topics that a reader asks for", caughtBy: "topic that is not there",
		log: func(l *memory.Log) driver.Log { return obliging{l} },
	},
	{
		name: "the log keeps some headers", caughtBy: "headers",
		log: func(l *memory.Log) driver.Log {
			return &bentLog{Log: l, append: func(l *memory.Log, topic string, rs []driver.Record) ([]deja.Position, error) {
				rs = slices.Clone(rs)
				for i := range rs {
					rs[i].Headers = slices.CompactFunc(slices.Clone(rs[i].Headers), func(a, b driver.Header) bool { return a.Name == b.Name })
				}
				return l.Append(background, topic, rs)
			}}
		},
	},
	{
		name: "positions have the real name of their topic", caughtBy: "topics are apart",
		log: func(l *memory.Log) driver.Log {
			return &bentLog{Log: l, append: func(l *memory.Log, topic string, rs []driver.Record) ([]deja.Position, error) {
				ps, err := l.Append(background, topic, rs)
				for i := range ps {
					ps[i].Topic = "prod." + topic
				}
				return ps, err
			}}
		},
	},
	{
		name: "create topic takes any number of partitions", caughtBy: "create topic",
		log: func(l *memory.Log) driver.Log { return uncounted{l} },
	},
	{
		name: "create topic makes one partition", caughtBy: "create topic",
		log: func(l *memory.Log) driver.Log { return single{l} },
	},
	{
		name: "imported offsets rise over all partitions", caughtBy: "import by partition",
		log: func(l *memory.Log) driver.Log { return &monotone{Log: l} },
	},
	{
		name: "a waiting fetch survives its log", caughtBy: "fetch ends with its log",
		log: func(l *memory.Log) driver.Log {
			return &bentLog{Log: l, fetch: func(ctx context.Context, l *memory.Log, from deja.Position, max int) ([]driver.Record, error) {
				rs, err := l.Fetch(ctx, from, max)
				if errors.Is(err, memory.ErrClosed) {
					<-ctx.Done()
				}
				return rs, err
			}}
		},
	},
	{
		name: "the bytes of a fetch are not bounded", caughtBy: "fetch is bounded",
		log: func(l *memory.Log) driver.Log {
			return &bentLog{Log: l, fetch: func(ctx context.Context, l *memory.Log, from deja.Position, max int) ([]driver.Record, error) {
				var all []driver.Record
				for {
					rs, err := l.Fetch(ctx, from, max-len(all))
					if err != nil {
						return nil, err
					}
					all = append(all, rs...)
					from.Offset = rs[len(rs)-1].Offset + 1
					if _, end, _ := l.Bounds(ctx, from.Topic, from.Partition); len(all) >= max || from.Offset == end {
						return all, nil
					}
				}
			}}
		},
	},
	{
		name: "a cursor never goes back", caughtBy: "cursors",
		log: bendCursors(func(l *memory.Log, c *cursor) error {
			now, err := l.Cursor(background, c.reader, c.topic, c.partition)
			c.offset = max(c.offset, now)
			return err
		}),
	},
	{
		name: "readers share a cursor", caughtBy: "cursors",
		log: bendCursors(func(_ *memory.Log, c *cursor) error { c.reader = "all"; return nil }),
	},
	{
		name: "partitions share a cursor", caughtBy: "cursors",
		log: bendCursors(func(_ *memory.Log, c *cursor) error { c.partition = 0; return nil }),
	},
	{name: "the log forgets its cursors", caughtBy: "cursors after reopening", forgets: true},
}

type obliging struct{ *memory.Log }

func (l obliging) ReadOnly() driver.Log { return obligingView{l.Log.ReadOnly(), l.Log} }

type obligingView struct {
	driver.Log
	log *memory.Log
}

func (v obligingView) Topic(ctx context.Context, name string) (driver.Topic, error) {
	return v.log.Topic(ctx, name)
}

type uncounted struct{ *memory.Log }

func (l uncounted) CreateTopic(ctx context.Context, topic string, partitions int32) error {
	if err := l.Log.CreateTopic(ctx, topic, partitions); !errors.Is(err, driver.ErrPartitions) {
		return err
	}
	return nil
}

type single struct{ *memory.Log }

func (l single) CreateTopic(ctx context.Context, topic string, _ int32) error {
	return l.Log.CreateTopic(ctx, topic, 1)
}

type monotone struct {
	*memory.Log
	last int64
}

func (l *monotone) Import(ctx context.Context, topic string, rs []driver.Record) error {
	for _, r := range rs {
		if r.Offset < l.last {
			return fmt.Errorf("offset %d after %d", r.Offset, l.last)
		}
		l.last = r.Offset
	}
	return l.Log.Import(ctx, topic, rs)
}

type cursor struct {
	reader, topic string
	partition     int32
	offset        int64
}

// bendCursors returns a log that bends which cursor is set, and to what; and so which is read.
func bendCursors(bend func(*memory.Log, *cursor) error) func(*memory.Log) driver.Log {
	return func(l *memory.Log) driver.Log { return bentCursors{l, bend} }
}

type bentCursors struct {
	*memory.Log
	bend func(*memory.Log, *cursor) error
}

func (l bentCursors) Cursor(ctx context.Context, reader, topic string, partition int32) (int64, error) {
	c := cursor{reader: reader, topic: topic, partition: partition}
	if err := l.bend(l.Log, &c); err != nil {
		return 0, err
	}
	return l.Log.Cursor(ctx, c.reader, c.topic, c.partition)
}

func (l bentCursors) SetCursor(ctx context.Context, reader, topic string, partition int32, offset int64) error {
	c := cursor{reader, topic, partition, offset}
	if err := l.bend(l.Log, &c); err != nil {
		return err
	}
	return l.Log.SetCursor(ctx, c.reader, c.topic, c.partition, c.offset)
}
