package memory

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// Store is a store in memory. Its transactions run one at a time per partition.
type Store struct {
	joint *Log
	nonce func() [16]byte
	now   func() time.Time

	forgetful bool
	life      int // counts how often the store was put back

	mu     sync.RWMutex
	tables *tables
	open   map[int32]*Tx // the transaction of each partition; being it is the token that Advance asks for
	closed bool
}

var (
	_ driver.Store  = (*Store)(nil)
	_ driver.Joint  = (*Store)(nil)
	_ driver.Shared = (*Store)(nil)
)

// A StoreOption changes how a store is made.
type StoreOption func(*Store)

// Joint makes the store one database with a log: a commit appends its records to the log's journal.
func Joint(l *Log) StoreOption { return func(s *Store) { s.joint = l } }

// Nonces replaces the random source of the leases' nonces, so that a simulation can be repeated. No two may be equal.
// It is called under the store's lock.
func Nonces(next func() [16]byte) StoreOption { return func(s *Store) { s.nonce = next } }

// Clock replaces the clock by which leases and members run out.
func Clock(now func() time.Time) StoreOption { return func(s *Store) { s.now = now } }

// Forgetful makes a store that does not notice when it is put back.
func Forgetful() StoreOption { return func(s *Store) { s.forgetful = true } }

// NewStore returns an empty store, joint with no log.
func NewStore(options ...StoreOption) *Store {
	s := &Store{nonce: randomNonce, now: time.Now, tables: newTables(), open: map[int32]*Tx{}}
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
	s.comeBack()
	row := s.tables.row(a.Partition)
	row.epoch++
	row.nonce = s.nonce()
	if !a.Owner.IsZero() && a.Owner != row.tried {
		row.tries++
		row.tried = a.Owner
	}
	row.owner, row.until = a.Owner, s.now().Add(a.TTL)
	s.tables.progress[a.Partition] = row
	l := s.tables.lease(a.Partition, s.now())
	l.Assignment = a
	return l, nil
}

// Ready implements [driver.Store].
func (s *Store) Ready(ctx context.Context, l driver.Lease) (waiting []int32, err error) {
	err = s.fenced(ctx, l, func() {
		row := s.tables.row(l.Partition)
		row.ready = true
		s.tables.progress[l.Partition] = row
		for p := range s.tables.inbox.Partitions {
			if !s.tables.row(p).ready {
				waiting = append(waiting, p)
			}
		}
	})
	return waiting, err
}

// Attempt implements [driver.Store].
func (s *Store) Attempt(ctx context.Context, l driver.Lease, offset, careful int64) (n int64, err error) {
	err = s.fenced(ctx, l, func() {
		row := s.tables.row(l.Partition)
		if row.attempted != offset {
			row.attempted, row.attempts = offset, nil
		}
		alive := s.tables.alive(s.now())
		for _, owner := range row.attempts {
			if owner != l.Owner && !slices.ContainsFunc(alive, func(m driver.Member) bool { return m.ID == owner }) {
				n++
			}
		}
		if !slices.Contains(row.attempts, l.Owner) {
			row.attempts = append(slices.Clone(row.attempts), l.Owner)
		}
		row.careful = careful
		s.tables.progress[l.Partition] = row
	})
	return n, err
}

// Release implements [driver.Store].
func (s *Store) Release(ctx context.Context, l driver.Lease) error {
	return s.fenced(ctx, l, func() {
		s.lose(l.Partition)
		row := s.tables.row(l.Partition)
		row.epoch++
		row.nonce = s.nonce()
		row.owner, row.until, row.tries, row.tried = deja.ID{}, time.Time{}, 0, deja.ID{}
		s.tables.progress[l.Partition] = row
	})
}

// Beat implements [driver.Shared].
func (s *Store) Beat(ctx context.Context, m driver.Member, ttl time.Duration) (driver.Crew, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return driver.Crew{}, err
	}
	now := s.now()
	s.tables.beat(m, now, ttl)
	return driver.Crew{Members: s.tables.alive(now), Leases: s.tables.leases(now)}, nil
}

// Leave implements [driver.Shared].
func (s *Store) Leave(ctx context.Context, member deja.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	s.tables.leave(member)
	return nil
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
	return s.fenced(ctx, l, func() { // the leases of the others are fenced, with what they have open
		s.loseAll()
		s.tables.reset(l.Partition, s.nonce)
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
