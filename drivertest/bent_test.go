package drivertest_test

import (
	"bytes"
	"context"
	"maps"
	"sync"
	"time"

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
	only    string // the call that lease is for; "" is all

	tell    func(ls []driver.Lease) []driver.Lease
	attempt func(s *bentStore, l driver.Lease, offset, careful int64) (int64, error)
	release func(s *bentStore, l driver.Lease) error
	ready   func(s *bentStore, l driver.Lease) ([]int32, error)
	reset   func(s *bentStore, l driver.Lease) error
	beat    func(s *bentStore, m driver.Member, ttl time.Duration) (driver.Crew, error)
	leave   func(s *bentStore, member deja.ID) error
	find    func(s *bentStore, lo, hi deja.ID, max int) ([]driver.Entry, error)

	mu     sync.Mutex
	newest map[int32]driver.Lease
	sealed map[deja.ID]bool // the keys of all segments of the ledger but the newest
	rolls  int64
}

func newBentStore(s *memory.Store) *bentStore {
	return &bentStore{Store: s, newest: map[int32]driver.Lease{}, sealed: map[deja.ID]bool{}}
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

// bentLease returns the lease that a call is made under.
func (s *bentStore) bentLease(call string, l driver.Lease) driver.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease != nil && (s.only == "" || s.only == call) {
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

func (s *bentStore) Leases(ctx context.Context) ([]driver.Lease, error) {
	ls, err := s.Store.Leases(ctx)
	if s.tell != nil {
		ls = s.tell(ls)
	}
	return ls, err
}

func (s *bentStore) Logged(ctx context.Context, l driver.Lease, to driver.Logged) error {
	return s.Store.Logged(ctx, s.bentLease("Logged", l), to)
}

func (s *bentStore) Attempt(ctx context.Context, l driver.Lease, offset, careful int64) (int64, error) {
	l = s.bentLease("Attempt", l)
	if s.attempt != nil {
		return s.attempt(s, l, offset, careful)
	}
	return s.Store.Attempt(ctx, l, offset, careful)
}

func (s *bentStore) Release(ctx context.Context, l driver.Lease) error {
	l = s.bentLease("Release", l)
	if s.release != nil {
		return s.release(s, l)
	}
	return s.Store.Release(ctx, l)
}

func (s *bentStore) Ready(ctx context.Context, l driver.Lease) ([]int32, error) {
	l = s.bentLease("Ready", l)
	if s.ready != nil {
		return s.ready(s, l)
	}
	return s.Store.Ready(ctx, l)
}

func (s *bentStore) Reset(ctx context.Context, l driver.Lease) error {
	l = s.bentLease("Reset", l)
	if s.reset != nil {
		return s.reset(s, l)
	}
	return s.Store.Reset(ctx, l)
}

func (s *bentStore) Beat(ctx context.Context, m driver.Member, ttl time.Duration) (driver.Crew, error) {
	if s.beat != nil {
		return s.beat(s, m, ttl)
	}
	return s.Store.Beat(ctx, m, ttl)
}

func (s *bentStore) Leave(ctx context.Context, member deja.ID) error {
	if s.leave != nil {
		return s.leave(s, member)
	}
	return s.Store.Leave(ctx, member)
}

func (s *bentStore) Find(ctx context.Context, lo, hi deja.ID, max int) ([]driver.Entry, error) {
	if s.find != nil {
		return s.find(s, lo, hi, max)
	}
	return s.Store.Find(ctx, lo, hi, max)
}

// Lookup gives the number of the newest segment for a mark.
func (s *bentStore) Lookup(ctx context.Context, keys []deja.ID) ([]driver.Entry, int64, error) {
	es, _, err := s.Store.Lookup(ctx, keys)
	return es, s.rolls, err
}

// Roll begins a segment of the ledger, as stores do that have them.
func (s *bentStore) Roll() {
	s.rolls++
	es, _ := s.Store.Find(background, deja.ID{}, deja.ID(bytes.Repeat([]byte{0xff}, 16)), 1_000_000)
	for _, e := range es {
		s.sealed[e.Key] = true
	}
}

func (s *bentStore) Begin(ctx context.Context, l driver.Lease) (driver.Tx, error) {
	l = s.bentLease("Begin", l)
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
