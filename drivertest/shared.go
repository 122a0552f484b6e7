package drivertest

import (
	"bytes"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var sharedCases = []testCase{
	{
		"members", "Beat joins a member, by the store's clock, and tells all who are alive in order of ids, and the leases",
		needs{store: true, shared: true},
		members,
	},
	{
		"a member runs out", "a member that beats no more is not alive once its time is over, nor are its leases held",
		needs{store: true, shared: true},
		memberRunsOut,
	},
	{
		"a beat renews leases", "a beat renews the member's own leases, and no other's",
		needs{store: true, shared: true, partitions: 2},
		beatRenews,
	},
	{
		"attempts of the living", "an owner that noted an offset is not counted as dead while it is a member",
		needs{store: true, shared: true},
		attemptsOfTheLiving,
	},
	{
		"leave", "who leaves is alive no more and holds nothing, but what it held is not released, and not fenced",
		needs{store: true, shared: true},
		leave,
	},
}

// beat joins or renews a member of the fold "fold-1", and returns who is alive, by id.
func (b *bench) beat(id deja.ID, ttl time.Duration) driver.Crew {
	b.Helper()
	wrong := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC) // the store's to give
	c, err := b.store.(driver.Shared).Beat(b.ctx, driver.Member{ID: id, Fold: "fold-1", Started: wrong}, ttl)
	b.must(err)
	for _, m := range c.Members {
		if b.utc(m.Started).Equal(wrong) {
			b.Errorf("member %s started when it said itself", m.ID)
		}
		equal(b, "fold", m.Fold, "fold-1")
	}
	return c
}

func ids(ms []driver.Member) []deja.ID {
	var out []deja.ID
	for _, m := range ms {
		out = append(out, m.ID)
	}
	return out
}

// twoIDs returns two ids in order.
func twoIDs() (deja.ID, deja.ID) {
	two := []deja.ID{deja.NewID(), deja.NewID()}
	slices.SortFunc(two, func(a, b deja.ID) int { return bytes.Compare(a[:], b[:]) })
	return two[0], two[1]
}

func members(b *bench) {
	first, last := twoIDs()
	alone := b.beat(last, long)
	equal(b, "members", ids(alone.Members), []deja.ID{last})
	equal(b, "leases", len(alone.Leases), 0)
	both := b.beat(first, long)
	equal(b, "members", ids(both.Members), []deja.ID{first, last})
	equal(b, "the member that was there", both.Members[1], alone.Members[0])
	if both.Members[0].Started.Before(both.Members[1].Started) {
		b.Errorf("started at %s, after the other at %s", both.Members[0].Started, both.Members[1].Started)
	}
	b.owned(0, last, long)
	again := b.beat(last, long)
	equal(b, "members after another beat", again.Members, both.Members)
	ls, err := b.store.Leases(b.ctx)
	b.must(err)
	equal(b, "leases", again.Leases, ls)
}

func memberRunsOut(b *bench) {
	dead, alive := twoIDs()
	b.owned(0, dead, short)
	b.beat(dead, short)
	b.until("the member to run out", func() bool { return len(b.beat(alive, long).Members) == 1 })
	equal(b, "members", ids(b.beat(alive, long).Members), []deja.ID{alive})
	b.until("its lease to run out", func() bool { return !b.lease(0).Held })
	equal(b, "members", ids(b.beat(dead, long).Members), []deja.ID{dead, alive}) // it was asleep
}

func beatRenews(b *bench) {
	one, two := twoIDs()
	b.beat(one, long)
	b.owned(1, two, time.Second)
	b.beat(two, long) // renews it
	b.owned(0, one, time.Second)
	b.until("the other's lease to run out", func() bool {
		b.beat(two, long)
		return !b.lease(0).Held
	})
	b.heldBy(1, holder{two, true, 1})
	b.beat(two, short)
	b.until("the lease to run out, since it was renewed for a short time", func() bool { return !b.lease(1).Held })
}

func attemptsOfTheLiving(b *bench) {
	first, second, third := deja.NewID(), deja.NewID(), deja.NewID()
	for _, id := range []deja.ID{first, second, third} {
		b.beat(id, long)
		equal(b, "owners that died", b.attempted(b.owned(0, id, long), 5, 6), 0)
	}
	w := b.owned(0, third, long)
	b.must(b.store.(driver.Shared).Leave(b.ctx, first))
	equal(b, "owners that died", b.attempted(w, 5, 6), 1)
	b.beat(second, short)
	b.until("the second to run out", func() bool { return b.attempted(w, 5, 6) == 2 })
}

func leave(b *bench) {
	m := newModel()
	gone, stays := twoIDs()
	b.beat(gone, long)
	b.beat(stays, long)
	w := b.owned(0, gone, long)
	last := b.inbox.Partitions - 1
	if last > 0 {
		b.owned(last, stays, long)
	}
	for range 2 { // the second time there is nobody to leave
		b.must(b.store.(driver.Shared).Leave(b.ctx, gone))
		equal(b, "members", ids(b.beat(stays, long).Members), []deja.ID{stays})
		b.heldBy(0, holder{tries: 1})
		if last > 0 {
			b.heldBy(last, holder{stays, true, 1})
		}
	}
	w.decide(m, 1)
	b.holds(m)
}
