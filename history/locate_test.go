package history_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/archive"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/lived"
	"github.com/dejalog/deja/replay"
)

var pointsSeed = flag.Uint64("points.seed", 0, "run the property tests about points with this one seed")

// eachPast runs a test on random pasts.
func eachPast(t *testing.T, runs int, test func(t *testing.T, rng *rand.Rand, p *lived.Past)) {
	first := uint64(time.Now().UnixNano())
	if testing.Short() {
		runs = (runs + 2) / 3
	}
	if *pointsSeed != 0 {
		first, runs = *pointsSeed, 1
	}
	for i := range runs {
		seed := first + uint64(i)
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Logf("repeat with: go test ./history -run '%s' -points.seed=%d", strings.Split(t.Name(), "/")[0], seed)
			rng := rand.New(rand.NewPCG(seed, 1))
			p := lived.New(t, lived.Service(), 1+int32(rng.IntN(3)))
			for range 20 + rng.IntN(100) {
				if p.Random(rng, 4); rng.IntN(3) == 0 {
					p.Handle(1 + rng.IntN(20))
				}
			}
			p.Handle(20)
			test(t, rng, p)
		})
	}
}

// open opens the history of a log.
func open(t testing.TB, log driver.Log, ledger driver.Reader) *history.History {
	t.Helper()
	h, err := history.Open(t.Context(), history.Config{Service: lived.Service(), Log: log, Ledger: ledger, Build: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// archived makes an archive of a past's log.
func archived(t testing.TB, p *lived.Past) driver.Log {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "archive")
	if _, err := archive.Pull(t.Context(), dir, archive.Config{Service: p.Service.Name, Log: p.Log}); err != nil {
		t.Fatal(err)
	}
	l, err := archive.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func source(t testing.TB, log driver.Log, store driver.Reader) *replay.Source {
	t.Helper()
	s, err := replay.Open(t.Context(), replay.Config{Service: lived.Service(), Log: log, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// told is all decisions of a past as plain slices, by partition in order of N.
type told [][]journal.Entry

func tell(t testing.TB, p *lived.Past) told {
	t.Helper()
	src := source(t, p.Log, p.Store)
	all := make(told, src.Partitions())
	for i := range all {
		for e, err := range src.Decisions(t.Context(), int32(i), 1) {
			if err != nil {
				t.Fatal(err)
			}
			all[i] = append(all[i], *e)
		}
	}
	return all
}

// place is where a decision is; N 0 is nowhere.
type place struct {
	partition int32
	n         int64
}

func placeOf(e *journal.Entry) place { return place{e.Cause.Position.Partition, e.N} }

func (all told) each(fn func(*journal.Entry)) {
	for p := range all {
		for i := range all[p] {
			fn(&all[p][i])
		}
	}
}

// settled returns where a message was settled.
func (all told) settled(id deja.ID) (at place) {
	all.each(func(e *journal.Entry) {
		if e.Cause.ID == id && e.Decided.Status != deja.Conflicted {
			at = placeOf(e)
		}
	})
	return at
}

func (all told) at(p place) *journal.Entry { return &all[p.partition][p.n-1] }

// before returns the nth decision of the same stream before one.
func (all told) before(from place, n int) place {
	var of []place
	for i := range all[from.partition][:from.n] {
		if e := &all[from.partition][i]; e.Cause.Stream == all.at(from).Cause.Stream {
			of = append(of, placeOf(e))
		}
	}
	if n >= len(of) {
		return place{}
	}
	return of[len(of)-1-n]
}

// cause returns what caused a message; nowhere if it is not in this history.
func (all told) cause(from place) place {
	if c := all.at(from).Cause.CausationID; !c.IsZero() {
		return all.settled(c)
	}
	return place{}
}

func (all told) root(from place) place {
	for passed := map[place]bool{}; !passed[from]; {
		passed[from] = true
		if c := all.cause(from); c.n > 0 {
			from = c
		}
	}
	return from
}

// asked is a locator, and the message that it must name.
type asked struct {
	at   string
	want place
}

// random returns locators of all kinds.
func (all told) random(rng *rand.Rand) (as []asked) {
	var decided []place
	all.each(func(e *journal.Entry) { decided = append(decided, placeOf(e)) })
	for range 20 {
		from := decided[rng.IntN(len(decided))]
		e := all.at(from)
		k := rng.IntN(4)
		id, s := e.Cause.ID.String(), e.Cause.Stream.String()
		base, text := all.settled(e.Cause.ID), id
		if base.n == 0 { // it was a conflict only, of an act perhaps
			continue
		}
		switch rng.IntN(5) {
		case 0:
			text = e.Cause.ID.String()[:23]
		case 1:
			if e.Version == 0 {
				continue
			}
			text = fmt.Sprintf("%s@%d", s, e.Version)
			base = place{}
			for i := range all[from.partition] {
				if f := &all[from.partition][i]; base.n == 0 && f.Cause.Stream == e.Cause.Stream && f.Version >= e.Version {
					base = placeOf(f)
				}
			}
		case 2:
			text = fmt.Sprintf("%s@inbox:%d:%d", s, from.partition, e.Through())
			base = place{}
			for i := range all[from.partition] {
				if f := &all[from.partition][i]; f.Cause.Stream == e.Cause.Stream && f.Through() <= e.Through() {
					base = placeOf(f)
				}
			}
		case 3:
			text = fmt.Sprintf("journal:%d:%d", from.partition, e.Offset)
			as = append(as, asked{text, from})
			if from.n > int64(k) {
				as = append(as, asked{fmt.Sprintf("%s~%d", text, k), place{from.partition, from.n - int64(k)}})
			} else {
				as = append(as, asked{fmt.Sprintf("%s~%d", text, k), place{}})
			}
			as = append(as, asked{text + "~cause~1", all.earlier(all.cause(from), 1)})
			continue
		}
		as = append(as, asked{text, base}, asked{fmt.Sprintf("%s~%d", text, k), all.earlier(base, k)}, asked{text + "~root", all.root(base)},
			asked{text + "~cause", all.cause(base)}, asked{text + "~~cause", all.causeOf(all.earlier(base, 1))})
	}
	if len(all) == 1 {
		n := int64(len(all[0]))
		as = append(as, asked{"HEAD", place{0, n}}, asked{"~3", place{0, n - 3}}, asked{"HEAD~~~", place{0, n - 3}})
	}
	return as
}

func (all told) earlier(from place, n int) place {
	if from.n == 0 {
		return from
	}
	return all.before(from, n)
}

func (all told) causeOf(from place) place {
	if from.n == 0 {
		return from
	}
	return all.cause(from)
}

// A locator names the same message whatever it is looked for in: the journal with or without a ledger, an index, an archive.
func TestALocatorNamesOneMessage(t *testing.T) {
	eachPast(t, 6, func(t *testing.T, rng *rand.Rand, p *lived.Past) {
		all, old := tell(t, p), archived(t, p)
		sources := map[string]*replay.Source{
			"with a ledger": source(t, p.Log, p.Store), "alone": source(t, p.Log, nil), "archived": source(t, old, nil),
			"indexed": open(t, p.Log, p.Store).Source(), "indexed and archived": open(t, old, nil).Source(),
		}
		for _, a := range all.random(rng) {
			at, err := replay.ParseLocator(a.at)
			if err != nil {
				t.Fatal(err)
			}
			for name, src := range sources {
				f, _, err := src.Message(context.Background(), at, replay.Decided)
				if got := (place{f.Partition, f.N}); (err == nil) != (a.want.n > 0) || err == nil && got != a.want {
					t.Errorf("%s: %s is decision %d of partition %d, %v; want %d of %d", name, a.at, got.n, got.partition, err, a.want.n, a.want.partition)
				}
			}
		}
	})
}

// A cut is the same with an index and without, of locators of all kinds and by both clocks; so is a range.
func TestAnIndexCutsAsTheJournalDoes(t *testing.T) {
	eachPast(t, 5, func(t *testing.T, rng *rand.Rand, p *lived.Past) {
		all, old := tell(t, p), archived(t, p)
		plain, indexed := source(t, p.Log, nil), open(t, p.Log, p.Store)
		archive := open(t, old, nil)
		texts := []string{"HEAD", "1999-01-01", "2019-01-01", "2020-01-01", "2099-01-01"}
		all.each(func(e *journal.Entry) {
			if rng.IntN(4) == 0 {
				texts = append(texts, e.Time.Format(time.RFC3339Nano), e.Cause.BusinessTime.Format(time.RFC3339),
					fmt.Sprintf("inbox:%d:%d", e.Cause.Position.Partition, e.Covers))
			}
		})
		for _, a := range all.random(rng) {
			if a.want.n > 0 {
				texts = append(texts, a.at)
			}
		}
		for i, text := range texts {
			at, err := replay.ParseLocator(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, by := range []replay.Clock{replay.Decided, replay.Business} {
				want, err := plain.Cut(t.Context(), at, by)
				if err != nil {
					t.Fatal(err)
				}
				for name, h := range map[string]*history.History{"indexed": indexed, "archived": archive} {
					lim, got, err := h.Resolve(t.Context(), at, by)
					if err != nil || !slices.Equal(got.Points, want.Points) || !slices.Equal(got.Notes, want.Notes) || !slices.Equal(lim.Last, want.Numbers()) {
						t.Errorf("%s, clock %d: %s is\n%+v %v\nwant\n%+v", name, by, at, got, err, want)
					}
				}
				r := replay.Range{To: at}
				if from, err := replay.ParseLocator(texts[(i*7)%len(texts)]); err == nil {
					r.From = &from
				}
				span, err := plain.Span(t.Context(), r, by)
				if err != nil {
					t.Fatal(err)
				}
				lim, _, err := indexed.Range(t.Context(), r, by)
				for p := range lim.Last {
					if err != nil || lim.After[p] != span.After[p] || lim.Last[p] != min(span.Last[p], int64(len(all[p]))) {
						t.Errorf("clock %d: %s is %+v, %v; want %+v", by, r, lim, err, span)
					}
				}
			}
		}
	})
}

// A business time cuts each partition before its first applied decision that is dated after it, whatever the others have.
func TestABusinessTimeCutsEachPartition(t *testing.T) {
	eachPast(t, 10, func(t *testing.T, _ *rand.Rand, p *lived.Past) {
		all, src := tell(t, p), source(t, p.Log, nil)
		all.each(func(e *journal.Entry) {
			day := e.Cause.BusinessTime
			if day.IsZero() {
				return
			}
			at, err := replay.ParseLocator("business:" + day.Format(time.RFC3339))
			if err != nil {
				t.Fatal(err)
			}
			cut, err := src.Cut(t.Context(), at, replay.Decided)
			for p := range all {
				n := slices.IndexFunc(all[p], func(e journal.Entry) bool {
					return e.Decided.Status == deja.Applied && e.Cause.BusinessTime.After(day)
				})
				if n < 0 {
					n = len(all[p])
				}
				if err != nil || cut.Points[p].N != int64(n) {
					t.Fatalf("%s: partition %d is cut at %d, %v; want %d", at, p, cut.Points[p].N, err, n)
				}
			}
		})
	})
}
