package orders_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/transfers/orders"
	"github.com/dejalog/deja/examples/transfers/posting"
)

func TestKinds(t *testing.T) {
	p := orders.Plan{Transfers: 1000, Seed: 7}
	kinds := map[orders.Kind]int{}
	for o := range p.Orders(0) {
		kinds[o.Kind]++
		if posting.Valid(o.To) == (o.Kind == orders.Mistyped) {
			t.Errorf("%+v: is the number right?", o)
		}
		if (o.Amount > p.Opening()) != (o.Kind == orders.Greedy) {
			t.Errorf("%+v: is the money there?", o)
		}
	}
	if want := map[orders.Kind]int{orders.Plain: 935, orders.Mistyped: 40, orders.Stopped: 10, orders.Greedy: 10, orders.Hasty: 5}; !maps.Equal(kinds, want) {
		t.Errorf("kinds %v, want %v", kinds, want)
	}
	if n := len(p.Stops()); n != 10 {
		t.Errorf("%d stops, want 10", n)
	}
}

func TestOrdersAreTheSameFromWhereverTheyAreAskedFor(t *testing.T) {
	p := orders.Plan{Transfers: 130, Seed: 7, Began: time.Unix(1_800_000_000, 0)}
	all := slices.Collect(p.Orders(0))
	if len(all) != p.Transfers {
		t.Fatalf("%d orders", len(all))
	}
	ids := map[deja.ID]bool{}
	for from := range all {
		if got := slices.Collect(p.Orders(from)); !slices.Equal(got, all[from:]) {
			t.Fatalf("orders from %d: %v, want %v", from, got, all[from:])
		}
		n, ok := p.Number(all[from].Key)
		r := p.Request(all[from])
		if !ok || n != from || r.ID.Valid() != nil || r.ID.Version() != 7 || ids[r.ID] {
			t.Errorf("order %d: number %d, request %+v", from, n, r)
		}
		ids[r.ID] = true
	}
	if _, ok := p.Number("t0000130"); ok {
		t.Error("order 130 is there")
	}
	q := orders.Plan{Transfers: 130, Seed: 8}
	if slices.Equal(slices.Collect(q.Orders(0)), all) {
		t.Error("another seed gives the same orders")
	}
}
