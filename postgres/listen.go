package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	pollEvery     = time.Second            // who waits looks again as often, in case a notice was lost
	pollUnheard   = 100 * time.Millisecond // and as often while nobody listens
	listenAgain   = 500 * time.Millisecond
	listenTimeout = 5 * time.Second
)

// A place is a partition of a topic.
type place struct{ topic, partition int32 }

func notice(topic, partition int32) string { return fmt.Sprintf("%d/%d", topic, partition) }

// listener wakes those who wait for records. Of what other processes append it hears through one connection, which is
// made when somebody waits for the first time.
type listener struct {
	mu      sync.Mutex
	waiting map[place]chan struct{}
	started bool
	heard   bool // the connection listens
}

// waiter returns a channel that the next append to a place closes.
func (l *listener) waiter(db *DB, topic, partition int32) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started {
		l.started = true
		db.background(func(ctx context.Context) { l.run(ctx, db) })
	}
	at := place{topic, partition}
	if l.waiting == nil {
		l.waiting = map[place]chan struct{}{}
	}
	if l.waiting[at] == nil {
		l.waiting[at] = make(chan struct{})
	}
	return l.waiting[at]
}

// notify wakes those who wait for a place.
func (l *listener) notify(topic, partition int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := place{topic, partition}
	if ch := l.waiting[at]; ch != nil {
		close(ch)
		delete(l.waiting, at)
	}
}

// wake wakes those who wait for a topic's partition in this process.
func (db *DB) wake(name string, partition int32) {
	if t := db.topics.get(name); t != nil {
		db.listener.notify(t.k, partition)
	}
}

// hear notes whether the connection listens, and wakes everybody: what came before it did was not heard.
func (l *listener) hear(heard bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = heard
	for at, ch := range l.waiting {
		close(ch)
		delete(l.waiting, at)
	}
}

// wait returns nil when it is time to look again.
func (l *listener) wait(ctx context.Context, db *DB, wake <-chan struct{}) error {
	l.mu.Lock()
	every := pollUnheard
	if l.heard {
		every = pollEvery
	}
	l.mu.Unlock()
	timer := time.NewTimer(every)
	defer timer.Stop()
	select {
	case <-wake:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-db.life.Done():
		return ErrClosed
	}
	return nil
}

// run listens until ctx ends, on a new connection whenever one is lost.
func (l *listener) run(ctx context.Context, db *DB) {
	for ctx.Err() == nil {
		if err := l.listen(ctx, db); err != nil && ctx.Err() == nil {
			db.config.logger.DebugContext(ctx, "listening for appended records was interrupted", "error", err)
		}
		_ = sleep(ctx, listenAgain)
	}
}

func (l *listener) listen(ctx context.Context, db *DB) error {
	config := db.pool.Config().ConnConfig
	connecting, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(connecting, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(connecting, "LISTEN "+pgx.Identifier{db.channel}.Sanitize()); err != nil {
		return err
	}
	l.hear(true)
	defer l.hear(false)
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		var at place
		if _, err := fmt.Sscanf(n.Payload, "%d/%d", &at.topic, &at.partition); err == nil {
			l.notify(at.topic, at.partition)
		}
	}
}
