package step_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/fault"
)

// hoard is a state as large as what it was told.
type hoard struct {
	Text string `json:"text"`
}

type (
	keep struct{ Text string }
	kept struct{ Text string }
)

func (keep) CommandType() string { return "till.keep" }
func (kept) EventType() string   { return "till.kept" }

// New streams fill the memory as old ones do.
func TestTheStatesInMemoryAreBounded(t *testing.T) {
	for _, c := range []struct {
		streams int
		kept    bool
	}{{100, true}, {300, false}} { // of 40,000 bytes each; the bound is 8 MiB
		svc := &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{deja.NewAggregate("till",
			deja.Handle(func(_ hoard, d *deja.Decision, c keep) error { d.Record(kept(c)); return nil }),
			deja.Apply(func(s *hoard, e kept) { s.Text = e.Text }),
		)}}
		b := newBench(t, svc)
		loads := 0
		b.start(svc, func(_ int, at fault.Step) fault.Mode {
			if at.Call == "store.Load" {
				loads++
			}
			return fault.Pass
		})
		put := func(key int) {
			b.append(&deja.Envelope{
				ID: deja.NewID(), Kind: deja.KindCommand, Type: "till.keep", Source: "shop", ContentType: "application/json",
				Payload: fmt.Appendf(nil, `{"Text":%q}`, strings.Repeat("x", 40_000)), Stream: deja.Stream{Aggregate: "till", Key: fmt.Sprint(key)},
			})
			if got := statuses(b.must()); got != "applied" {
				t.Fatalf("got %s", got)
			}
		}
		for key := range c.streams {
			put(key)
		}
		loads = 0
		put(0)
		if held := loads == 0; held != c.kept {
			t.Errorf("of %d new streams the first is still in memory: %t, want %t", c.streams, held, c.kept)
		}
	}
}
