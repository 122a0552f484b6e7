package fault

import (
	"context"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// Log wraps a log. The wrapped one is a [driver.Importer], and keeps [driver.Cursors], if and only if l is and does.
func (in *Injector) Log(l driver.Log) driver.Log {
	w := &log{in, l}
	im, imports := l.(driver.Importer)
	cs, keeps := l.(driver.Cursors)
	switch {
	case imports && keeps:
		return struct {
			importLog
			cursors
		}{importLog{w, im}, cursors{in, cs}}
	case imports:
		return importLog{w, im}
	case keeps:
		return struct {
			*log
			cursors
		}{w, cursors{in, cs}}
	}
	return w
}

type log struct {
	in    *Injector
	inner driver.Log
}

// unwrap returns the log inside, or the log itself.
func unwrap(l driver.Log) driver.Log {
	if w, ok := l.(interface{ wrapped() driver.Log }); ok {
		return w.wrapped()
	}
	return l
}

func (l *log) wrapped() driver.Log { return l.inner }

func (l *log) Topic(ctx context.Context, name string) (driver.Topic, error) {
	return do(l.in, Step{"log.Topic", name, true}, func() (driver.Topic, error) { return l.inner.Topic(ctx, name) })
}

func (l *log) Append(ctx context.Context, topic string, rs []driver.Record) ([]deja.Position, error) {
	return do(l.in, Step{"log.Append", topic, false}, func() ([]deja.Position, error) { return l.inner.Append(ctx, topic, rs) })
}

// Fetch may wait for long: the crash wakes it.
func (l *log) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	return do(l.in, Step{"log.Fetch", place(from.Topic, from.Partition), true}, func() ([]driver.Record, error) {
		ctx, done := l.in.bounded(ctx)
		defer done()
		return l.inner.Fetch(ctx, from, max)
	})
}

func (l *log) Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error) {
	b, err := do(l.in, Step{"log.Bounds", place(topic, partition), true}, func() (b [2]int64, err error) {
		b[0], b[1], err = l.inner.Bounds(ctx, topic, partition)
		return b, err
	})
	return b[0], b[1], err
}

// Close is no step. It closes the log inside only while the process lives: who restarts goes on with it.
func (l *log) Close() error {
	if l.in.Crashed() {
		return nil
	}
	return l.inner.Close()
}

type importLog struct {
	*log
	importer driver.Importer
}

func (l importLog) CreateTopic(ctx context.Context, topic string, partitions int32) error {
	_, err := do(l.in, Step{"log.CreateTopic", topic, false}, nothing(func() error { return l.importer.CreateTopic(ctx, topic, partitions) }))
	return err
}

func (l importLog) Import(ctx context.Context, topic string, rs []driver.Record) error {
	_, err := do(l.in, Step{"log.Import", topic, false}, nothing(func() error { return l.importer.Import(ctx, topic, rs) }))
	return err
}

// cursors are the log's, for those who read it and work on no store.
type cursors struct {
	in   *Injector
	kept driver.Cursors
}

func (c cursors) Cursor(ctx context.Context, reader, topic string, partition int32) (int64, error) {
	return do(c.in, Step{"log.Cursor", place(topic, partition), true}, func() (int64, error) {
		return c.kept.Cursor(ctx, reader, topic, partition)
	})
}

func (c cursors) SetCursor(ctx context.Context, reader, topic string, partition int32, offset int64) error {
	_, err := do(c.in, Step{"log.SetCursor", place(topic, partition), false}, nothing(func() error {
		return c.kept.SetCursor(ctx, reader, topic, partition, offset)
	}))
	return err
}
