package kafka

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/dejalog/deja/driver"
)

// Cursor returns what SetCursor has set. It is an offset committed for the group "deja."+reader, which has no members.
// One that was set for another topic of this name is [driver.ErrRecreated].
func (l *Log) Cursor(ctx context.Context, reader, topic string, n int32) (int64, error) {
	var at int64
	err := l.cursor(ctx, reader, topic, n, func(ctx context.Context, p *partition) error {
		found, err := l.admin.FetchOffsetsForTopics(ctx, group(reader), p.topic.real)
		if err != nil {
			return err
		}
		at = 0
		o, ok := found.Lookup(p.topic.real, p.n)
		switch {
		case !ok || o.Err == nil && o.At < 0:
			return nil
		case o.Err != nil:
			return o.Err
		case o.Metadata != "" && o.Metadata != p.topic.ID:
			return fmt.Errorf("%w: it was set for the topic with the id %s", driver.ErrRecreated, o.Metadata)
		}
		at = o.At
		return nil
	})
	return at, err
}

// SetCursor commits an offset for the group "deja."+reader. The topic's id goes with it.
func (l *Log) SetCursor(ctx context.Context, reader, topic string, n int32, offset int64) error {
	return l.cursor(ctx, reader, topic, n, func(ctx context.Context, p *partition) error {
		set := kadm.Offsets{}
		set.Add(kadm.Offset{Topic: p.topic.real, Partition: p.n, At: offset, LeaderEpoch: -1, Metadata: p.topic.ID})
		return l.admin.CommitAllOffsets(ctx, group(reader), set)
	})
}

func group(reader string) string { return "deja." + reader }

func (l *Log) cursor(ctx context.Context, reader, topic string, n int32, do func(context.Context, *partition) error) error {
	p, err := l.partition(ctx, topic, n)
	if err == nil {
		err = p.try(ctx, func(ctx context.Context, _ leader) error { return do(ctx, p) })
	}
	if err != nil {
		return fmt.Errorf("cursor of %q in %s:%d: %w", reader, topic, n, err)
	}
	return nil
}
