package memory

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/dejalog/deja/driver"
)

// Store is a store in memory. Its transactions run one at a time per partition.
type Store struct {
	joint *Log
	nonce func() [16]byte

	mu     sync.RWMutex
	tables *tables
	open   map[int32]*Tx // the transaction of each partition; being it is the token that Advance asks for
	closed bool
}

var (
	_ driver.Store = (*Store)(nil)
	_ driver.Joint = (*Store)(nil)
)

// A StoreOption changes how a store is made.
type StoreOption func(*Store)

// Joint makes the store one database with a log: a commit appends its records to the log's journal.
func Joint(l *Log) StoreOption { return func(s *Store) { s.joint = l } }

// Nonces replaces the random source of the leases' nonces, so that a simulation can be repeated. No two may be equal.
// It is called under the store's lock.
func Nonces(next func() [16]byte) StoreOption { return func(s *Store) { s.nonce = next } }

// NewStore returns an empty store, joint with no log.
func NewStore(options ...StoreOption) *Store {
	s := &Store{nonce: randomNonce, tables: newTables(), open: map[int32]*Tx{}}
	for _, o := range options {
		o(s)
	}
	return s
}

func randomNonce() (n [16]byte) {
	_, _ = rand.Read(n[:]) // never fails
	return n
}

// Joint implements [driver.Joint].
func (s *Store) Joint(l driver.Log) bool { return s.joint != nil && l == driver.Log(s.joint) }

// Acquire implements [driver.Store]. A transaction that is open in the partition is lost at once.
func (s *Store) Acquire(ctx context.Context, a driver.Assignment) (driver.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return driver.Lease{}, err
	}
	if a.Partition < 0 || a.Partition >= a.Inbox.Partitions {
		return driver.Lease{}, fmt.Errorf("acquire: topic %s has %d partitions, and no partition %d", a.Inbox.Name, a.Inbox.Partitions, a.Partition)
	}
	if err := s.tables.bind(a); err != nil {
		return driver.Lease{}, fmt.Errorf("acquire: %w", err)
	}
	s.lose(a.Partition)
	row := s.tables.row(a.Partition)
	row.epoch++
	row.nonce = s.nonce()
	s.tables.progress[a.Partition] = row
	return driver.Lease{Assignment: a, Epoch: row.epoch, Nonce: row.nonce, Progress: row.Progress, Logged: row.logged}, nil
}

// Unlogged implements [driver.Store]. A joint store keeps no records.
func (s *Store) Unlogged(ctx context.Context, partition int32, after int64, max int) ([]driver.JournalRecord, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	return s.tables.kept(partition, after, max), nil
}

// Logged implements [driver.Store]. A mark behind the one that is kept changes nothing.
func (s *Store) Logged(ctx context.Context, l driver.Lease, to driver.Logged) error {
	return s.fenced(ctx, l, func() { s.tables.mark(l.Partition, to) })
}

// Reset implements [driver.Store]. Kept records and how far they are logged stay.
func (s *Store) Reset(ctx context.Context, l driver.Lease) error {
	return s.fenced(ctx, l, func() {
		s.lose(l.Partition)
		s.tables.reset(l.Partition)
	})
}

// fenced does something under a lease that is the newest.
func (s *Store) fenced(ctx context.Context, l driver.Lease, do func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	if !s.tables.row(l.Partition).holds(l) {
		return driver.ErrFenced
	}
	do()
	return nil
}

// Close implements [driver.Store]. Open transactions are lost; copies of the store stay open.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.loseAll()
	return nil
}

func (s *Store) usable(ctx context.Context) error {
	if s.closed {
		return fmt.Errorf("store: %w", ErrClosed)
	}
	return ctx.Err()
}

// lose rolls a partition's transaction back behind its owner's back.
func (s *Store) lose(partition int32) {
	if tx := s.open[partition]; tx != nil {
		delete(s.open, partition)
		close(tx.gone)
	}
}

func (s *Store) loseAll() {
	for partition := range s.open {
		s.lose(partition)
	}
}
