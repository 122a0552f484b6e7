package memory

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// ReadOnly returns the log as one who may only read it sees it: what is appended to the log itself shows, and there is
// no other way to. Closing it leaves the log open.
func (l *Log) ReadOnly() driver.Log { return readOnly{l} }

type readOnly struct{ log *Log }

func (r readOnly) Topic(ctx context.Context, name string) (driver.Topic, error) {
	r.log.mu.Lock()
	_, ok := r.log.topics[name]
	r.log.mu.Unlock()
	if !ok {
		return driver.Topic{}, fmt.Errorf("topic %s: %w", name, driver.ErrNotFound)
	}
	return r.log.Topic(ctx, name) // topics are never deleted
}

func (readOnly) Append(_ context.Context, topic string, _ []driver.Record) ([]deja.Position, error) {
	return nil, fmt.Errorf("append to %s, which is open for reading only: it %w for writing", topic, driver.ErrUnusable)
}

func (r readOnly) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	if _, err := r.Topic(ctx, from.Topic); err != nil {
		return nil, err
	}
	return r.log.Fetch(ctx, from, max)
}

func (r readOnly) Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error) {
	if _, err := r.Topic(ctx, topic); err != nil {
		return 0, 0, err
	}
	return r.log.Bounds(ctx, topic, partition)
}

func (readOnly) Close() error { return nil }
