package drivertest_test

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
)

var brokenOpen = []broken{
	{
		name: "what waits elsewhere is told too", caughtBy: "open states in order",
		store: misread(func(s *misreader) {
			s.open = func(partition int32, after deja.Stream, max int) []driver.State {
				return s.first(max, func(st driver.State) bool { return len(st.Open) > 0 && st.Stream.Compare(after) > 0 }, byStream)
			}
		}),
	},
	{
		name: "open repeats at the page's edge", caughtBy: "open states in order",
		store: misread(func(s *misreader) {
			s.open = func(partition int32, after deja.Stream, max int) []driver.State {
				return s.first(max, func(st driver.State) bool {
					return st.Partition == partition && len(st.Open) > 0 && st.Stream.Compare(after) >= 0
				}, byStream)
			}
		}),
	},
	{
		name: "open is in order of what wrote the rows", caughtBy: "open states in order",
		store: misread(func(s *misreader) {
			s.open = func(partition int32, after deja.Stream, max int) []driver.State {
				return s.first(max, func(st driver.State) bool {
					return st.Partition == partition && len(st.Open) > 0 && st.Stream.Compare(after) > 0
				}, func(a, b driver.State) int { return cmp.Or(cmp.Compare(a.Version, b.Version), byStream(a, b)) })
			}
		}),
	},
	{
		name: "open leaves out what was never decided", caughtBy: "open states come and go",
		store: misread(func(s *misreader) {
			s.open = func(partition int32, after deja.Stream, max int) []driver.State {
				return s.first(max, func(st driver.State) bool {
					return st.Partition == partition && len(st.Open) > 0 && st.Version > 0 && st.Stream.Compare(after) > 0
				}, byStream)
			}
		}),
	},
	{
		name: "what waits elsewhere is due too", caughtBy: "due states in order",
		store: misread(func(s *misreader) {
			s.due = func(_ int32, until time.Time, after driver.State, max int) []driver.State {
				return s.first(max, func(st driver.State) bool { return isDue(st, until) && byDue(st, after) > 0 }, byDue)
			}
		}),
	},
	{
		name: "due is in order of streams", caughtBy: "due states in order",
		store: misread(func(s *misreader) {
			s.due = func(partition int32, until time.Time, after driver.State, max int) []driver.State {
				return s.first(max, func(st driver.State) bool {
					return st.Partition == partition && isDue(st, until) && byStream(st, after) > 0
				}, byStream)
			}
		}),
	},
	{
		name: "due passes over what is due at the same time", caughtBy: "due states in order",
		store: misread(func(s *misreader) {
			s.due = func(partition int32, until time.Time, after driver.State, max int) []driver.State {
				return s.first(max, func(st driver.State) bool {
					return st.Partition == partition && isDue(st, until) && st.Due.After(after.Due)
				}, byDue)
			}
		}),
	},
	{
		name: "due leaves out the time itself", caughtBy: "due states in order",
		store: misread(func(s *misreader) {
			s.due = func(partition int32, until time.Time, after driver.State, max int) []driver.State {
				return s.first(max, func(st driver.State) bool {
					return st.Partition == partition && isDue(st, until.Add(-time.Microsecond)) && byDue(st, after) > 0
				}, byDue)
			}
		}),
	},
	{
		name: "due tells what has no timer", caughtBy: "due states in order",
		store: misread(func(s *misreader) {
			s.due = func(partition int32, until time.Time, after driver.State, max int) []driver.State {
				return s.first(max, func(st driver.State) bool {
					return st.Partition == partition && len(st.Open) > 0 && !st.Due.After(until) && byDue(st, after) > 0
				}, byDue)
			}
		}),
	},
	{
		name: "due begins in 1970", caughtBy: "due states in order",
		store: misread(func(s *misreader) {
			s.due = func(partition int32, until time.Time, after driver.State, max int) []driver.State {
				return s.first(max, func(st driver.State) bool {
					return st.Partition == partition && isDue(st, until) && st.Due.Unix() >= 0 && byDue(st, after) > 0
				}, byDue)
			}
		}),
	},
	{name: "times are due in milliseconds", caughtBy: "due states in order", store: rewrite(func(st driver.State) driver.State {
		st.Due = st.Due.Truncate(time.Millisecond)
		return st
	})},
	{name: "a row at version 0 does not wait", caughtBy: "open states come and go", store: rewrite(func(st driver.State) driver.State {
		if st.Version == 0 {
			st.Open, st.Due = nil, time.Time{}
		}
		return st
	})},
	{name: "what waited once waits for ever", caughtBy: "open states come and go", store: remember(func(was, st driver.State) driver.State {
		if len(st.Open) == 0 {
			st.Open = was.Open
		}
		return st
	})},
	{name: "what was due once is due for ever", caughtBy: "open states come and go", store: remember(func(was, st driver.State) driver.State {
		if st.Due.IsZero() {
			st.Due = was.Due
		}
		return st
	})},
	{name: "a random run finds that too", caughtBy: "model", store: remember(func(was, st driver.State) driver.State {
		if st.Due.IsZero() {
			st.Due = was.Due
		}
		return st
	})},
	{
		name: "reset leaves what waits", caughtBy: "reset of open states",
		store: func(s *memory.Store) driver.Store { return &lingering{Store: s} },
	},
}

func isDue(st driver.State, until time.Time) bool { return !st.Due.IsZero() && !st.Due.After(until) }

func byStream(a, b driver.State) int { return a.Stream.Compare(b.Stream) }

func byDue(a, b driver.State) int { return cmp.Or(a.Due.Compare(b.Due), byStream(a, b)) }

// misreader tells what waits in a way of its own, where a function is set.
type misreader struct {
	*memory.Store
	open func(partition int32, after deja.Stream, max int) []driver.State
	due  func(partition int32, until time.Time, after driver.State, max int) []driver.State
}

func misread(set func(*misreader)) func(*memory.Store) driver.Store {
	return func(s *memory.Store) driver.Store {
		m := &misreader{Store: s}
		set(m)
		return m
	}
}

// first returns the first rows of a kind in an order.
func (s *misreader) first(max int, belongs func(driver.State) bool, order func(a, b driver.State) int) []driver.State {
	all, _ := s.States(background, deja.Stream{}, 1_000_000)
	all = slices.DeleteFunc(all, func(st driver.State) bool { return !belongs(st) })
	slices.SortFunc(all, order)
	return all[:min(max, len(all))]
}

func (s *misreader) Open(ctx context.Context, partition int32, after deja.Stream, max int) ([]driver.State, error) {
	if s.open != nil {
		return s.open(partition, after, max), nil
	}
	return s.Store.Open(ctx, partition, after, max)
}

func (s *misreader) Due(ctx context.Context, partition int32, until time.Time, after driver.State, max int) ([]driver.State, error) {
	if s.due != nil {
		return s.due(partition, until, after, max), nil
	}
	return s.Store.Due(ctx, partition, until, after, max)
}

// rewrite returns a store that writes other rows than it is given.
func rewrite(other func(driver.State) driver.State) func(*memory.Store) driver.Store {
	return remember(func(_, st driver.State) driver.State { return other(st) })
}

// remember does so, and looks at the row that was there.
func remember(other func(was, st driver.State) driver.State) func(*memory.Store) driver.Store {
	return bend(func(s *bentStore) {
		s.batch = func(s *bentStore, b driver.Batch) driver.Batch {
			b.States = slices.Clone(b.States)
			for i, st := range b.States {
				was, _ := s.Load(background, []deja.Stream{st.Stream})
				b.States[i] = other(slices.Concat(was, []driver.State{{}})[0], st)
			}
			return b
		}
	})
}

// lingering tells after Reset what waited before.
type lingering struct {
	*memory.Store
	left []driver.State
}

func (s *lingering) Reset(ctx context.Context, l driver.Lease) error {
	s.left, _ = s.Store.Open(ctx, l.Partition, deja.Stream{}, 1_000_000)
	return s.Store.Reset(ctx, l)
}

func (s *lingering) Open(ctx context.Context, partition int32, after deja.Stream, max int) ([]driver.State, error) {
	if len(s.left) > 0 && partition == s.left[0].Partition {
		return s.left, nil
	}
	return s.Store.Open(ctx, partition, after, max)
}
