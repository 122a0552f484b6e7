package route_test

import (
	"slices"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/route"
)

func TestATopologyIsWhoIsSentToAndHeard(t *testing.T) {
	for _, c := range []struct {
		service          func() *deja.Service
		targets, sources []string
		reacts           bool
	}{
		{func() *deja.Service { bank, _ := remit.Services(remit.Variant{}); return bank }, []string{"bank", "ledger"}, []string{"ledger"}, false},
		{func() *deja.Service { bank, _ := remit.Services(remit.Variant{Counted: true}); return bank }, []string{"bank", "ledger"}, []string{"ledger"}, true},
		{func() *deja.Service { _, ledger := remit.Services(remit.Variant{}); return ledger }, nil, nil, false}, // it need not know who asks
		{func() *deja.Service { _, ledger := remit.Services(remit.Variant{Desks: true}); return ledger }, []string{"bank", "ledger"}, nil, false},
	} {
		m, err := deja.Compile(c.service())
		if err != nil {
			t.Fatal(err)
		}
		got := route.NewTopology(m, remit.Peers())
		if !slices.Equal(got.Targets, c.targets) || !slices.Equal(got.Sources, c.sources) || (got.Routes != "") != c.reacts {
			t.Errorf("the topology of %s is %+v, want targets %v, sources %v, reactions: %t", m.Name(), got, c.targets, c.sources, c.reacts)
		}
	}
}
