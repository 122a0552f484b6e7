package kafka

import "context"

// Queued returns how many calls of Append wait to be put into a batch for a partition.
func Queued(ctx context.Context, l *Log, topic string, partition int32) (int, error) {
	t, err := l.topic(ctx, topic)
	if err != nil {
		return 0, err
	}
	a := &t.parts[partition].appender
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.queue), nil
}
