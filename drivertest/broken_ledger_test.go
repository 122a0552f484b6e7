package drivertest_test

import (
	"errors"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// brokenSegments are stores whose ledger goes wrong where it has several segments.
var brokenSegments = []broken{
	{
		name: "only the newest segment refuses", caughtBy: "settled after the look-up",
		store: bend(dropSealed(deja.Applied)),
	},
	{
		name: "only the newest segment refuses what was parked", caughtBy: "parked after the look-up",
		store: bend(dropSealed(deja.Rejected)),
	},
	{
		name: "an old mark is refused", caughtBy: "settled after the look-up",
		store: bend(func(s *bentStore) {
			s.batch = func(s *bentStore, b driver.Batch) driver.Batch {
				if b.Asked < s.rolls {
					b.Ledger = append(slices.Clone(b.Ledger), b.Ledger...) // an error
				}
				return b
			}
		}),
	},
	{
		name: "only the newest segment is searched", caughtBy: "ledger in segments",
		store: bend(func(s *bentStore) {
			s.find = func(s *bentStore, lo, hi deja.ID, max int) ([]driver.Entry, error) {
				es, err := s.Store.Find(background, lo, hi, 1_000_000)
				es = slices.DeleteFunc(es, func(e driver.Entry) bool { return s.sealed[e.Key] })
				return es[:min(max, len(es))], err
			}
		}),
	},
	{
		name: "a reset empties the newest segment", caughtBy: "ledger in segments",
		store: bend(func(s *bentStore) {
			var left []driver.Entry
			s.reset = func(s *bentStore, l driver.Lease) error {
				es, err := s.Store.Find(background, deja.ID{}, deja.ID{0: 0xff}, 1_000_000)
				left = slices.DeleteFunc(es, func(e driver.Entry) bool { return !s.sealed[e.Key] })
				return errors.Join(err, s.Store.Reset(background, l))
			}
			s.find = func(s *bentStore, lo, hi deja.ID, max int) ([]driver.Entry, error) {
				es, err := s.Store.Find(background, lo, hi, max)
				if len(es) == 0 {
					es = left
				}
				return es[:min(max, len(es))], err
			}
		}),
	},
	{
		name: "a parked entry in an older segment stays", caughtBy: "ledger replaces in segments",
		store: bend(func(s *bentStore) {
			s.batch = func(s *bentStore, b driver.Batch) driver.Batch {
				b.Ledger = slices.DeleteFunc(slices.Clone(b.Ledger), func(e driver.Entry) bool { return s.sealed[e.Key] })
				return b
			}
		}),
	},
	{
		name: "a parked entry is told beside the one that replaced it", caughtBy: "ledger replaces in segments",
		store: bend(func(s *bentStore) {
			s.find = func(s *bentStore, lo, hi deja.ID, max int) ([]driver.Entry, error) {
				es, err := s.Store.Find(background, lo, hi, max)
				if len(es) > 0 && s.sealed[es[0].Key] && es[0].Status == deja.Applied {
					es = slices.Insert(es, 0, es[0])
				}
				return es[:min(max, len(es))], err
			}
		}),
	},
}

// dropSealed makes a store take keys again that are settled as status in an older segment: it drops them.
func dropSealed(status deja.Status) func(*bentStore) {
	return func(s *bentStore) {
		settled := dropEntries(func(e driver.Entry) bool { return s.sealed[e.Key] && e.Status == status })
		s.batch = settled
	}
}
