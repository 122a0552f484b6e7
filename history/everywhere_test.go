package history_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/lived"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/replay"
)

// Every query gives the same answer wherever a past is read: in place, in a log without its ledger, in an archive, in a
// database that was filled from a snapshot on, and by an index that was built in several goes.
func TestAnswersAreTheSameEverywhere(t *testing.T) {
	var asked answers
	complete := func() bool { return *pointsSeed != 0 || asked.holding > 0 && asked.pinned > 0 && asked.otherwise > 0 }
	test := func(t *testing.T, rng *rand.Rand, p *lived.Past) {
		index := filepath.Join(t.TempDir(), "index")
		for range 1 + rng.IntN(3) { // the past goes on, and the index with it
			grown(t, p.Log, p.Store, index)
			for range rng.IntN(40) {
				p.Random(rng, 4)
			}
			p.Handle(10)
		}
		for i := range 16 { // without a ledger, duplicates behind the last decision of a partition are not known to be handled
			p.Send(deja.Envelope{Type: "shelf.add", Stream: deja.Stream{Aggregate: "shelf", Key: fmt.Sprint("last", i)}, Payload: []byte(`{"amount":1}`)})
		}
		p.Handle(20)
		all := map[string]*history.History{
			"in place": open(t, p.Log, p.Store), "log alone": open(t, p.Log, nil), "archived": open(t, archived(t, p), nil),
			"from a snapshot": fromSnapshot(t, rng, p), "indexed in several goes": grown(t, p.Log, p.Store, index),
		}
		seed := rng.Uint64()
		want := ask(t, all["in place"], p, rand.New(rand.NewPCG(seed, 2)))
		for name, h := range all {
			got := ask(t, h, p, rand.New(rand.NewPCG(seed, 2)))
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("%s:\n%s\nin place:\n%s", name, got[i], want[i])
				}
			}
		}
		asked.count(want)
	}
	eachPast(t, 6, test)
	for tries := 0; !complete() && !t.Failed(); tries++ { // more only for what has not come up yet
		if tries == 50 {
			t.Fatalf("nothing was answered: %+v", asked)
		}
		eachPast(t, 1, test)
	}
}

// answers counts those that say something, so that the test compares more than nothing with nothing.
type answers struct{ holding, pinned, otherwise int }

func (a *answers) count(all []string) {
	for _, text := range all {
		var v struct {
			When   []history.Holding `json:"when"`
			Pin    *history.Pin      `json:"pin"`
			WhatIf *history.WhatIf   `json:"whatif"`
		}
		if json.Unmarshal([]byte(text), &v) != nil {
			continue
		}
		for _, h := range v.When {
			a.holding += len(h.Intervals)
		}
		if v.Pin != nil && v.Pin.FirstBad != nil {
			a.pinned++
		}
		if v.WhatIf != nil && v.WhatIf.First != nil {
			a.otherwise++
		}
	}
}

// grown opens a history with an index that is kept.
func grown(t *testing.T, log driver.Log, ledger driver.Reader, index string) *history.History {
	t.Helper()
	h, err := history.Open(t.Context(), history.Config{Service: lived.Service(), Log: log, Ledger: ledger, Build: "test", Index: index})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// fromSnapshot fills a database up to a moment, which is a snapshot, and goes on from there.
func fromSnapshot(t *testing.T, rng *rand.Rand, p *lived.Past) *history.History {
	t.Helper()
	src := source(t, p.Log, p.Store)
	log := memory.NewLog(memory.LogConfig{Partitions: src.Partitions()})
	target := replay.Target{Log: log, Store: memory.NewStore(memory.Joint(log))}
	at, err := replay.ParseLocator(fmt.Sprintf("journal:0:%d", rng.IntN(5)))
	if err == nil {
		_, _, err = src.Into(t.Context(), target, replay.Options{To: at})
	}
	if err != nil && !errors.Is(err, replay.ErrNotFound) {
		t.Fatal(err)
	}
	if _, _, err := src.Into(t.Context(), target, replay.Options{}); err != nil {
		t.Fatal(err)
	}
	return open(t, target.Log, target.Store)
}

// ask asks for all there is to ask, and returns the answers as JSON.
func ask(t *testing.T, h *history.History, p *lived.Past, rng *rand.Rand) (all []string) {
	t.Helper()
	ctx := t.Context()
	tell := func(name string, answer any, err error) {
		text := fmt.Sprint(err)
		if err == nil {
			data, err := json.Marshal(map[string]any{name: answer})
			if err != nil {
				t.Fatal(err)
			}
			text = string(data)
		}
		all = append(all, text)
	}
	scope := history.Scope{}
	shelves, err := history.ParseScope(h.Source().Machine(), "*:shelf/*")
	if err != nil {
		t.Fatal(err)
	}
	text := []string{"state.balance < 0", "state.balance > 20", "state.items.size() > 2", "state.owner.name != '' && state.balance != prev.balance"}[rng.IntN(4)]
	holds, err := history.Compile(h.Source().Machine(), shelves, text)
	if err != nil {
		t.Fatal(err)
	}
	var when []*history.Holding
	for holding, err := range h.When(ctx, shelves, holds, h.All()) {
		if err != nil {
			t.Fatal(err)
		}
		when = append(when, holding)
	}
	tell("when", when, nil)
	rows, err := h.Query(ctx, history.Query{Scope: scope, Limits: h.All(), By: []string{"type", "status"}})
	tell("query", rows, err)
	var twins []*history.Twins
	for tw, err := range h.Twins(ctx, scope, h.All()) {
		if err != nil {
			t.Fatal(err)
		}
		twins = append(twins, tw)
	}
	tell("twins", twins, nil)
	sent := p.Sent()
	for range 4 {
		env := sent[rng.IntN(len(sent))]
		at, err := replay.ParseLocator(env.ID.String())
		if err != nil {
			t.Fatal(err)
		}
		of, err := h.Step(ctx, at)
		tell("step", of, err)
		if err != nil {
			continue
		}
		tell("trace", links(ctx, t, h, of), nil)
		key := of.Stream
		if key == (deja.Stream{}) {
			continue
		}
		point, err := h.Of(ctx, key, replay.Locator{}, replay.Decided)
		var blame []history.Blame
		if err == nil {
			blame, err = h.BlameOf(ctx, point)
		}
		tell("blame", blame, err)
		whatif, err := h.WhatIf(ctx, history.Overlay{{Do: history.Drop, Message: at}}, history.WhatIfOptions{})
		if err == nil {
			whatif.Lived = 0 // how far one must look for a duplicate depends on who knows it
		}
		tell("whatif", whatif, err)
		pin, err := h.Pin(ctx, history.Suspect{Scope: history.ScopeOf(key), When: holds})
		tell("pin", pin, err)
	}
	return all
}

func links(ctx context.Context, t *testing.T, h *history.History, of *history.Step) (all []string) {
	t.Helper()
	for l, err := range h.Why(ctx, of) {
		all = append(all, fmt.Sprint("why ", l.Depth, l.Step, err))
	}
	for l, err := range h.Impact(ctx, of) {
		all = append(all, fmt.Sprint("impact ", l.Depth, l.Step, err))
	}
	return all
}
