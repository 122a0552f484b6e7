package memory

import (
	"maps"
	"slices"
)

// Snapshot returns an open copy of what is committed, whether the store is closed or not: a backup, or what a process
// that died has left behind. A joint store's copy is joint with the same log, unless an option says otherwise.
func (s *Store) Snapshot(options ...StoreOption) *Store {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := &Store{
		joint: s.joint, nonce: s.nonce, now: s.now, forgetful: s.forgetful, life: s.life,
		tables: s.tables.clone(), open: map[int32]*Tx{},
	}
	for _, o := range options {
		o(c)
	}
	return c
}

// Adopted returns a snapshot that knows that it is a copy: its leases say so, until a new incarnation has begun.
func (s *Store) Adopted() *Store {
	c := s.Snapshot()
	for p, row := range c.tables.progress {
		row.copied = true
		c.tables.progress[p] = row
	}
	return c
}

// Restore puts the store back to where another one is, while it is in use: progress, epochs, ledger, states, all
// together, as a restored backup or a fail-over to a standby that lags does. Open transactions are lost. A joint
// store's log stays as it is.
func (s *Store) Restore(from *Store) {
	from.mu.RLock()
	ts := from.tables.clone()
	from.mu.RUnlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseAll()
	if s.life++; s.forgetful {
		s.life = ts.life
	}
	s.tables = ts
}

// wentBack reports whether the store was put back, and not acquired since. The lock is held.
func (s *Store) wentBack() bool { return s.tables.life != s.life }

// comeBack fences all leases of a store that was put back: none of them knows what it has lost.
func (s *Store) comeBack() {
	if !s.wentBack() {
		return
	}
	s.tables.life = s.life
	for _, p := range slices.Sorted(maps.Keys(s.tables.progress)) {
		row := s.tables.row(p)
		row.epoch++
		row.nonce, row.ready, row.copied = s.nonce(), false, true
		s.tables.progress[p] = row
	}
}

// LoseTransactions rolls open transactions back without telling those who hold them, as an engine does by itself when
// its disk is full.
func (s *Store) LoseTransactions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseAll()
}
