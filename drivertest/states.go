package drivertest

import (
	"cmp"
	"slices"
	"strings"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var stateCases = []testCase{
	{
		"states in order", "States pages in order of tenant, aggregate and key by their bytes, whatever the engine's language",
		needs{store: true},
		statesInOrder,
	},
	{
		"states are replaced", "a state replaces the one of its stream, field by field, and version 0 has no bytes",
		needs{store: true},
		statesReplaced,
	},
	{
		"load of many", "Load finds what there is among thousands of streams, and nothing for none",
		needs{store: true},
		loadMany,
	},
}

// oddStreams returns streams that an engine may sort, fold or escape in ways of its own, in order of bytes.
func oddStreams() []deja.Stream {
	keys := []string{
		" ", "%", "'", "-", "0", "00", "1", "10", "2", "A", "B", "Z", "\\", "_", "a", "a ", "a b", "a/b", "a:b", "aa", "b", "e\u0301",
		"z", "{}", "~", "\u00a0", "\u00e9", "\u00fc", "\u0416", "\u65e5\u672c", "\ufb01", "\U0001f600", strings.Repeat("k", 512),
	}
	var ss []deja.Stream
	for _, tenant := range []string{"", "T", "t", "t'", "\u00fc"} {
		for _, aggregate := range []string{"account", "account-a", "account.b", "account_c"} {
			for _, k := range keys {
				ss = append(ss, deja.Stream{Tenant: tenant, Aggregate: aggregate, Key: k})
			}
		}
	}
	slices.SortFunc(ss, deja.Stream.Compare)
	return ss
}

func statesInOrder(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	batch, to := w.story.next(0, w.at)
	ss := oddStreams()
	for i, j := range rng(3).Perm(len(ss)) {
		batch.States = append(batch.States, driver.State{
			Stream: ss[j], Version: int64(i), Data: []byte(ss[j].String()), Position: int64(i), N: to.N, Parked: int64(j),
		})
	}
	b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
	m.commit(0, batch, to)
	for _, b.page = range []int{7, 100, 10_000} {
		b.holds(m)
	}
	for _, after := range []deja.Stream{ss[0], ss[len(ss)/2], {Tenant: "T"}, {Tenant: "t", Aggregate: "account"}, {Tenant: "t", Aggregate: "account", Key: "aZ"}} {
		got, err := b.store.States(b.ctx, after, 1)
		b.must(err)
		i := slices.IndexFunc(ss, func(s deja.Stream) bool { return s.Compare(after) > 0 })
		equal(b, "the state after "+after.String(), got[0].Stream, ss[i])
	}
	got, err := b.store.States(b.ctx, slices.MaxFunc(append(ss, w.story.stream(0, 1)), deja.Stream.Compare), 10)
	b.must(err)
	equal(b, "states after the last", len(got), 0)
}

func statesReplaced(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	stream := deja.Stream{Tenant: "t", Aggregate: "account", Key: "42"}
	for i, data := range []string{"", "{}", "", `{"owner":"\u0000\u00fc 'ana'","balance":9007199254740993}`, "\x00\xff"} {
		batch, to := w.story.next(0, w.at)
		batch.States = []driver.State{{
			Stream: stream, Version: int64(min(i, cmp.Compare(len(data), 0)*i)), Data: []byte(data), Position: int64(10 * i), N: to.N, Parked: int64(i % 2),
		}}
		batch.Parked, batch.Unparked = nil, nil
		b.must(attempt(b.ctx, b.store, w.lease, w.at, batch, to))
		m.commit(0, batch, to)
		w.at = to
		b.holds(m)
	}
}

func loadMany(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	w.decide(m, 3)
	ss := []deja.Stream{w.story.stream(0, 1), w.story.stream(0, 2)}
	for _, s := range oddStreams() {
		for _, suffix := range []string{"", "x", "xx", "xxx"} {
			ss = append(ss, deja.Stream{Tenant: s.Tenant, Aggregate: s.Aggregate, Key: s.Key + suffix})
		}
	}
	sts, err := b.store.Load(b.ctx, ss)
	b.must(err)
	equal(b, "states found", len(sts), 2)
	sts, err = b.store.Load(b.ctx, nil)
	b.must(err)
	equal(b, "states found", len(sts), 0)
}
