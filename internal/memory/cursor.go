package memory

import (
	"context"

	"github.com/dejalog/deja"
)

// cursor says whose it is, and of which partition; the position has no offset.
type cursor struct {
	reader string
	at     deja.Position
}

// Cursor implements [driver.Cursors].
func (l *Log) Cursor(ctx context.Context, reader, topic string, partition int32) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.partition(ctx, topic, partition); err != nil {
		return 0, err
	}
	return l.goOn[cursor{reader, deja.Position{Topic: topic, Partition: partition}}], nil
}

// SetCursor implements [driver.Cursors].
func (l *Log) SetCursor(ctx context.Context, reader, topic string, partition int32, offset int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.partition(ctx, topic, partition)
	if err == nil {
		l.goOn[cursor{reader, deja.Position{Topic: topic, Partition: partition}}] = offset
	}
	return err
}
