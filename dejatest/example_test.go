package dejatest_test

import (
	"os"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
)

// The till of the package's comment.
type (
	Till struct {
		Balance int64 `json:"balance"`
	}

	Put   struct{ Amount int64 }
	Take  struct{ Amount int64 }
	Added struct{ Amount int64 }
	Taken struct{ Amount int64 }
)

func (Put) CommandType() string  { return "till.put" }
func (Take) CommandType() string { return "till.take" }
func (Added) EventType() string  { return "till.added" }
func (Taken) EventType() string  { return "till.taken" }

var ErrEmpty = deja.NewRejection("till.empty")

func till() *deja.Aggregate[Till] {
	return deja.NewAggregate("till",
		deja.Handle(func(_ Till, d *deja.Decision, c Put) error {
			d.Record(Added(c))
			return nil
		}),
		deja.Handle(func(t Till, d *deja.Decision, c Take) error {
			if t.Balance < c.Amount {
				return ErrEmpty.Because("it has %d, asked for %d", t.Balance, c.Amount)
			}
			d.Record(Taken(c))
			return nil
		}),
		deja.Apply(func(t *Till, e Added) { t.Balance += e.Amount }),
		deja.Apply(func(t *Till, e Taken) { t.Balance -= e.Amount }),
	)
}

func shop() *deja.Service {
	return &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{till()}}
}

// A case is a chain: what is given, what happens, and what must have come of it.
func TestATillGivesOutNoMoreThanItHas(t *testing.T) {
	dejatest.New(t, till(), "front").
		Given(Added{Amount: 100}).
		When(Take{Amount: 101}).Rejected(ErrEmpty).
		When(Take{Amount: 60}).Recorded(Taken{Amount: 60}).
		State(Till{Balance: 40})
}

// A world runs the service, and then everything that can go wrong around it.
func TestATillCountsEveryCoinOnce(t *testing.T) {
	w := dejatest.NewWorld(t, shop())
	w.Must(deja.Request{Key: "front", Command: Put{Amount: 100}})
	w.Must(deja.Request{Key: "front", Command: Take{Amount: 60}})
	w.RedeliverAll()
	w.CrashAtEveryWrite()
}

func TestThePackageCommentShowsTheseTests(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for l := range strings.Lines(string(doc)) {
		if l, ok := strings.CutPrefix(l, "//\t"); ok {
			shown++
			if !strings.Contains(string(source), l) {
				t.Errorf("the package comment shows %q, which is not in this file", l)
			}
		}
	}
	if shown < 10 {
		t.Errorf("the package comment shows %d lines of code", shown)
	}
}
