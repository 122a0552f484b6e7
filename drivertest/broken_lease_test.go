package drivertest_test

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
)

// brokenOwners are stores that are wrong about whose the partitions are.
var brokenOwners = []broken{
	{
		name: "leases are told in any order", caughtBy: "leases",
		store: bend(func(s *bentStore) {
			s.tell = func(ls []driver.Lease) []driver.Lease { slices.Reverse(ls); return ls }
		}),
	},
	{
		name: "leases are told that never were", caughtBy: "leases",
		store: bend(func(s *bentStore) {
			s.tell = func(ls []driver.Lease) []driver.Lease {
				if len(ls) == 1 {
					ls = append(ls, driver.Lease{Assignment: driver.Assignment{Partition: 1 - ls[0].Partition}})
				}
				return ls
			}
		}),
	},
	{
		name: "leases forget their owners", caughtBy: "leases",
		store: bend(eachLease(func(l *driver.Lease) { l.Owner = deja.ID{} })),
	},
	{
		name: "a lease is held for ever", caughtBy: "a lease runs out",
		store: bend(eachLease(func(l *driver.Lease) { l.Held = !l.Owner.IsZero() })),
	},
	{
		name: "a lease that a tool has is held", caughtBy: "a lease runs out",
		store: bend(eachLease(func(l *driver.Lease) { l.Held = l.Held || l.Owner.IsZero() })),
	},
	{
		name: "a lease that ran out is fenced", caughtBy: "a lease runs out",
		store: bend(func(s *bentStore) {
			s.lease = func(l, newest driver.Lease) driver.Lease {
				ls, _ := s.Store.Leases(background)
				if slices.ContainsFunc(ls, func(now driver.Lease) bool { return !now.Held && now.Epoch == newest.Epoch }) {
					l.Epoch--
				}
				return l
			}
		}),
	},
	{
		name: "a lease that is held is not given", caughtBy: "a lease runs out",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				ls, _ := s.Store.Leases(background)
				if slices.ContainsFunc(ls, func(l driver.Lease) bool { return l.Held && l.Owner != a.Owner }) {
					return driver.Lease{}, errors.New("held")
				}
				return s.Store.Acquire(background, a)
			}
		}),
	},
	{
		name: "tools' tries count", caughtBy: "tries",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				if a.Owner.IsZero() {
					a.Owner = deja.NewID()
				}
				return s.Store.Acquire(background, a)
			}
		}),
	},
	{
		name: "tries count further after a release", caughtBy: "tries",
		store: bend(func(s *bentStore) {
			s.release = func(s *bentStore, l driver.Lease) error {
				if err := s.Store.Release(background, l); err != nil {
					return err
				}
				l.Owner = deja.NewID()
				_, err := s.Store.Acquire(background, l.Assignment)
				return err
			}
		}),
	},
	{
		name: "an owner's further acquisitions are tries", caughtBy: "tries",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				owner := a.Owner
				if !owner.IsZero() {
					a.Owner = deja.NewID()
				}
				l, err := s.Store.Acquire(background, a)
				l.Owner = owner
				return l, err
			}
		}),
	},
	{
		name: "tries begin anew with each owner", caughtBy: "tries",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				l, err := s.Store.Acquire(background, a)
				l.Tries = min(l.Tries, 1)
				return l, err
			}
		}),
	},
	{
		name: "attempts are counted of all offsets", caughtBy: "attempts",
		store: bend(func(s *bentStore) {
			s.attempt = func(s *bentStore, l driver.Lease, _, careful int64) (int64, error) {
				return s.Store.Attempt(background, l, 5, careful)
			}
		}),
	},
	{
		name: "attempts are counted of each offset for ever", caughtBy: "attempts",
		store: bend(func(s *bentStore) {
			ever := map[int64]map[deja.ID]bool{}
			s.attempt = func(s *bentStore, l driver.Lease, offset, careful int64) (int64, error) {
				if ever[offset] == nil {
					ever[offset] = map[deja.ID]bool{}
				}
				_, err := s.Store.Attempt(background, l, offset, careful)
				ever[offset][l.Owner] = true
				return int64(len(ever[offset]) - 1), err
			}
		}),
	},
	{
		name: "an owner's own attempts count", caughtBy: "attempts",
		store: bend(func(s *bentStore) {
			var last, count int64
			s.attempt = func(s *bentStore, l driver.Lease, offset, careful int64) (int64, error) {
				_, err := s.Store.Attempt(background, l, offset, careful)
				if offset != last {
					last, count = offset, 0
				}
				count++
				return count - 1, err
			}
		}),
	},
	{
		name: "attempts begin anew with each lease", caughtBy: "attempts",
		store: bend(func(s *bentStore) {
			s.acquire = func(s *bentStore, a driver.Assignment) (driver.Lease, error) {
				l, err := s.Store.Acquire(background, a)
				if err == nil {
					_, err = s.Store.Attempt(background, l, -1, l.Careful)
				}
				return l, err
			}
		}),
	},
	{
		name: "careful never goes back", caughtBy: "attempts",
		store: bend(func(s *bentStore) {
			highest := int64(0)
			s.attempt = func(s *bentStore, l driver.Lease, offset, careful int64) (int64, error) {
				highest = max(highest, careful)
				return s.Store.Attempt(background, l, offset, highest)
			}
		}),
	},
	{name: "a released lease writes on", caughtBy: "release", store: bend(asTheStoreHasIt)},
	{
		name: "a released lease is held", caughtBy: "release",
		store: bend(func(s *bentStore) {
			s.release = func(s *bentStore, l driver.Lease) error {
				if err := s.Store.Release(background, l); err != nil {
					return err
				}
				l.Owner = deja.NewID()
				_, err := s.Store.Acquire(background, l.Assignment)
				return err
			}
		}),
	},
	{
		name: "ready tells the partition itself only", caughtBy: "ready",
		store: bend(func(s *bentStore) {
			s.ready = func(s *bentStore, l driver.Lease) ([]int32, error) {
				_, err := s.Store.Ready(background, l)
				return nil, err
			}
		}),
	},
	{
		name: "ready does not wait for who was never there", caughtBy: "ready",
		store: bend(func(s *bentStore) {
			s.ready = func(s *bentStore, l driver.Lease) ([]int32, error) {
				ps, err := s.Store.Ready(background, l)
				return slices.DeleteFunc(ps, func(p int32) bool { _, ok := s.leases()[p]; return !ok }), err
			}
		}),
	},
	{
		name: "ready outlives a reset", caughtBy: "ready",
		store: bend(func(s *bentStore) {
			ever := map[int32]bool{}
			s.ready = func(s *bentStore, l driver.Lease) ([]int32, error) {
				ps, err := s.Store.Ready(background, l)
				ever[l.Partition] = ever[l.Partition] || err == nil
				return slices.DeleteFunc(ps, func(p int32) bool { return ever[p] }), err
			}
		}),
	},
	{name: "the store forgets whose the partitions are", caughtBy: "leases after reopening", forgets: true},
	{name: "the store forgets who was ready", caughtBy: "ready after reopening", store: bend(func(s *bentStore) {
		here := map[int32]bool{} // in this process
		s.ready = func(s *bentStore, l driver.Lease) (waiting []int32, err error) {
			if _, err = s.Store.Ready(background, l); err == nil {
				here[l.Partition] = true
			}
			for p := range l.Inbox.Partitions {
				if !here[p] {
					waiting = append(waiting, p)
				}
			}
			return waiting, err
		}
	})},
}

// eachLease bends what is told of leases.
func eachLease(bend func(*driver.Lease)) func(*bentStore) {
	return func(s *bentStore) {
		s.tell = func(ls []driver.Lease) []driver.Lease {
			for i := range ls {
				bend(&ls[i])
			}
			return ls
		}
	}
}

// brokenCrews are shared stores that are wrong about who works on them.
var brokenCrews = []broken{
	{
		name: "members say when they started", caughtBy: "members",
		store: bend(func(s *bentStore) {
			said := map[deja.ID]time.Time{}
			s.beat = func(s *bentStore, m driver.Member, ttl time.Duration) (driver.Crew, error) {
				said[m.ID] = m.Started
				c, err := s.Store.Beat(background, m, ttl)
				for i := range c.Members {
					c.Members[i].Started = said[c.Members[i].ID]
				}
				return c, err
			}
		}),
	},
	{
		name: "members start anew with each beat", caughtBy: "members",
		store: bend(func(s *bentStore) {
			s.beat = func(s *bentStore, m driver.Member, ttl time.Duration) (driver.Crew, error) {
				time.Sleep(time.Millisecond)
				if err := s.Store.Leave(background, m.ID); err != nil {
					return driver.Crew{}, err
				}
				return s.Store.Beat(background, m, ttl)
			}
		}),
	},
	{
		name: "members are told in any order", caughtBy: "members",
		store: bend(func(s *bentStore) {
			s.beat = func(s *bentStore, m driver.Member, ttl time.Duration) (driver.Crew, error) {
				c, err := s.Store.Beat(background, m, ttl)
				slices.Reverse(c.Members)
				return c, err
			}
		}),
	},
	{
		name: "a beat tells no leases", caughtBy: "members",
		store: bend(func(s *bentStore) {
			s.beat = func(s *bentStore, m driver.Member, ttl time.Duration) (driver.Crew, error) {
				c, err := s.Store.Beat(background, m, ttl)
				c.Leases = nil
				return c, err
			}
		}),
	},
	{
		name: "members live until they leave", caughtBy: "a member runs out",
		store: bend(func(s *bentStore) {
			s.beat = func(s *bentStore, m driver.Member, _ time.Duration) (driver.Crew, error) {
				return s.Store.Beat(background, m, time.Hour)
			}
		}),
	},
	{
		name: "a beat renews everybody's leases", caughtBy: "a beat renews leases",
		store: bend(func(s *bentStore) {
			all := map[deja.ID]driver.Member{}
			s.beat = func(s *bentStore, m driver.Member, ttl time.Duration) (driver.Crew, error) {
				all[m.ID] = m
				for _, other := range all {
					if _, err := s.Store.Beat(background, other, ttl); err != nil {
						return driver.Crew{}, err
					}
				}
				return s.Store.Beat(background, m, ttl)
			}
		}),
	},
	{
		name: "a beat renews no lease", caughtBy: "a beat renews leases",
		store: func(s *memory.Store) driver.Store { return &unrenewed{Store: s, until: map[int32]time.Time{}} },
	},
	{
		name: "the living count as dead", caughtBy: "attempts of the living",
		store: bend(func(s *bentStore) {
			s.attempt = func(s *bentStore, l driver.Lease, offset, careful int64) (int64, error) {
				_, err := s.Store.Attempt(background, l, offset, careful)
				return 1, err
			}
		}),
	},
	{
		name: "who leaves holds on", caughtBy: "leave",
		store: bend(func(s *bentStore) {
			s.leave = func(s *bentStore, member deja.ID) error {
				ls, err := s.Store.Leases(background)
				if err != nil || !slices.ContainsFunc(ls, func(l driver.Lease) bool { return l.Owner == member }) {
					return err
				}
				_, err = s.Store.Beat(background, driver.Member{ID: member}, time.Nanosecond)
				return err
			}
		}),
	},
	{
		name: "who leaves releases", caughtBy: "leave",
		store: bend(func(s *bentStore) {
			s.leave = func(s *bentStore, member deja.ID) error {
				for _, l := range s.leases() {
					if err := s.Store.Release(background, l); l.Owner == member && err != nil && !errors.Is(err, driver.ErrFenced) {
						return err
					}
				}
				return s.Store.Leave(background, member)
			}
		}),
	},
	{
		name: "who leaves stays a member", caughtBy: "leave",
		store: bend(func(s *bentStore) { s.leave = func(*bentStore, deja.ID) error { return nil } }),
	},
}

// unrenewed tells leases as held for the time that they were acquired for.
type unrenewed struct {
	*memory.Store
	until map[int32]time.Time
}

func (s *unrenewed) Acquire(ctx context.Context, a driver.Assignment) (driver.Lease, error) {
	s.until[a.Partition] = time.Now().Add(a.TTL)
	return s.Store.Acquire(ctx, a)
}

func (s *unrenewed) Leases(ctx context.Context) ([]driver.Lease, error) {
	ls, err := s.Store.Leases(ctx)
	for i := range ls {
		ls[i].Held = s.until[ls[i].Partition].After(time.Now())
	}
	return ls, err
}
