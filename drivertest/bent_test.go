package drivertest_test

import (
	"context"
	"maps"
	"sync"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
)

// bentLog is a log in memory that does something else where a function is set.
type bentLog struct {
	*memory.Log
	append func(l *memory.Log, topic string, rs []driver.Record) ([]deja.Position, error)
	fetch  func(ctx context.Context, l *memory.Log, from deja.Position, max int) ([]driver.Record, error)
}

func (l *bentLog) Append(ctx context.Context, topic string, rs []driver.Record) ([]deja.Position, error) {
	if l.append == nil {
		return l.Log.Append(ctx, topic, rs)
	}
	return l.append(l.Log, topic, rs)
}

func (l *bentLog) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	if l.fetch == nil {
		return l.Log.Fetch(ctx, from, max)
	}
	return l.fetch(ctx, l.Log, from, max)
}

// bentStore is a store in memory that bends what it is given where a function is set.
type bentStore struct {
	*memory.Store
	acquire func(s *bentStore, a driver.Assignment) (driver.Lease, error)
	lease   func(given, newest driver.Lease) driver.Lease
	from    func(given, now driver.Progress) driver.Progress
	batch   func(s *bentStore, b driver.Batch) driver.Batch
	tx      func(t *bentTx) driver.Tx

	mu     sync.Mutex
	newest map[int32]driver.Lease
}

func newBentStore(s *memory.Store) *bentStore {
	return &bentStore{Store: s, newest: map[int32]driver.Lease{}}
}

// bend returns a store with some functions set.
func bend(set func(*bentStore)) func(*memory.Store) driver.Store {
	return func(s *memory.Store) driver.Store {
		b := newBentStore(s)
		set(b)
		return b
	}
}

func (s *bentStore) Acquire(ctx context.Context, a driver.Assignment) (l driver.Lease, err error) {
	if s.acquire != nil {
		l, err = s.acquire(s, a)
	} else {
		l, err = s.Store.Acquire(ctx, a)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.newest[a.Partition] = l
	}
	return l, err
}

func (s *bentStore) bentLease(l driver.Lease) driver.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease != nil {
		newest := s.newest[l.Partition]
		l = s.lease(l, newest)
	}
	return l
}

func (s *bentStore) leases() map[int32]driver.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.newest)
}

func (s *bentStore) Logged(ctx context.Context, l driver.Lease, to driver.Logged) error {
	return s.Store.Logged(ctx, s.bentLease(l), to)
}

func (s *bentStore) Reset(ctx context.Context, l driver.Lease) error {
	return s.Store.Reset(ctx, s.bentLease(l))
}

func (s *bentStore) Begin(ctx context.Context, l driver.Lease) (driver.Tx, error) {
	l = s.bentLease(l)
	inner, err := s.Store.Begin(ctx, l)
	if err != nil {
		return nil, err
	}
	t := &bentTx{Tx: inner, store: s, partition: l.Partition}
	if s.tx != nil {
		return s.tx(t), nil
	}
	return t, nil
}

// bentTx is a transaction of a bent store.
type bentTx struct {
	driver.Tx
	store     *bentStore
	partition int32
}

func (t *bentTx) Write(ctx context.Context, b *driver.Batch) error {
	if t.store.batch == nil {
		return t.Tx.Write(ctx, b)
	}
	bent := t.store.batch(t.store, *b)
	return t.Tx.Write(ctx, &bent)
}

func (t *bentTx) Advance(ctx context.Context, from, to driver.Progress) error {
	if t.store.from != nil {
		now, err := t.store.Progress(ctx, t.partition)
		if err != nil {
			return err
		}
		from = t.store.from(from, now)
	}
	return t.Tx.Advance(ctx, from, to)
}
