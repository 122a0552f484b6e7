package dejatest_test

import (
	"errors"
	"flag"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/remit"
)

// conserved returns an error unless all money is where it may be, and each remittance has ended once.
func conserved(w *dejatest.World) error {
	var sum int64
	for _, s := range w.Streams("account") {
		sum += stateOf[remit.Account](w, s.Aggregate, s.Key).Balance
	}
	for _, s := range w.Streams("posting") {
		sum += stateOf[remit.Entry](w, s.Aggregate, s.Key).Amount
	}
	for _, s := range w.Streams("remittance") {
		if r := stateOf[remit.Remittance](w, s.Aggregate, s.Key); r.Ends != 1 {
			return fmt.Errorf("%s is %s and has ended %d times", s, r.Phase, r.Ends)
		}
	}
	if sum != 100 {
		return fmt.Errorf("there is money for %d, want 100", sum)
	}
	return nil
}

// twoRemittances is a scenario of one that is finished, and one that the ledger refuses. All keys are in partitions apart.
// With desks the ledger's part takes a minute.
func twoRemittances(tb testing.TB, v remit.Variant) *dejatest.World {
	tb.Helper()
	w := remitting(tb, v)
	w.Perform(mailer())
	for _, c := range []struct {
		key   string
		start remit.Start
	}{
		{"r3", remit.Start{From: "ana", To: "bob", Amount: 30, Patience: patience}},
		{"gift", remit.Start{From: "ana", To: remit.Nobody, Amount: 20, Patience: patience}},
	} {
		if v.Desks {
			c.start.Desk, c.start.Hold = "north", time.Minute
		}
		w.Must(deja.Request{Key: c.key, Command: c.start})
	}
	w.Advance(time.Hour)
	return w
}

func TestExploreFindsNothingInASagaThatIsRight(t *testing.T) {
	begun := time.Now()
	x := dejatest.Exploration{Invariant: conserved} // as Explore has it
	want := 1200
	if testing.Short() {
		x.Runs, x.Random, want = 250, 50, 300
	}
	r := run(t, func(tb *recorder) { twoRemittances(tb, remit.Variant{}).ExploreWith(x) })
	if r.Failed() {
		t.Fatal(r.failed)
	}
	t.Logf("%s (%s)", r.logged[0], time.Since(begun).Round(time.Second/10))
	var runs, histories, all int
	_, err := fmt.Sscanf(r.logged[0], "Explore: %d runs came to %d histories, and nothing was found; departures in a run: up to %d in all ways", &runs, &histories, &all)
	if err != nil || runs != want || histories < 100 || all < 1 {
		t.Fatalf("%d runs came to %d histories, with up to %d departures in all ways (%v)", runs, histories, all, err)
	}
}

// The log keeps the order of what one stream sends to another, so a reversal cannot overtake the posting that it follows, and
// bars nothing. It can where the posting comes by another way.
func TestExploreTellsWhereACompensationMustBar(t *testing.T) {
	x := dejatest.Exploration{Invariant: conserved, Runs: 300, Random: 50}
	if testing.Short() {
		x.Runs, x.Random = 80, 20
	}
	for _, v := range []remit.Variant{{NoBar: true}, {Desks: true}} {
		twoRemittances(t, v).ExploreWith(x)
	}
	wantFinding(t, func(tb *recorder) { twoRemittances(tb, remit.Variant{Desks: true, NoBar: true}).Explore(conserved) },
		"there is money for 130, want 100", "has to wait", "posting.reversed", "posting.posted")
}

func TestExploreFindsAReplyThatComesAfterTheTimeOut(t *testing.T) {
	wantFinding(t, func(tb *recorder) { twoRemittances(tb, remit.Variant{Racing: true}).Explore(conserved) },
		"has to wait", `"time-out" of remittance/r3 fires`, "remittance.given-up", "remittance.finished")
}

var printed = regexp.MustCompile(`-dejatest\.scenario=(\S+)`)

// wantFinding checks that fn finds something with all of these texts in it, and finds the same if the scenario that it prints
// is given; with others it does not.
func wantFinding(t *testing.T, fn func(tb *recorder), texts ...string) {
	t.Helper()
	r := run(t, fn)
	if len(r.failed) != 1 {
		t.Fatalf("failed %d times, want once: %q, %q", len(r.failed), r.failed, r.logged)
	}
	for _, text := range texts {
		if !strings.Contains(r.failed[0], text) {
			t.Errorf("failed with\n%s\nwhich does not say %q", r.failed[0], text)
		}
	}
	m := printed.FindStringSubmatch(r.failed[0])
	if m == nil {
		t.Fatalf("it does not say how to repeat it: %s", r.failed[0])
	}
	_, steps, _ := strings.Cut(r.failed[0], m[0])
	t.Logf("found with %s: %s", m[1], strings.SplitN(r.failed[0], "\n", 2)[0])
	again := repeated(t, m[1], fn)
	if len(again.failed) != 1 || !strings.HasSuffix(again.failed[0], steps) {
		t.Errorf("scenario %s is not repeated: %q", m[1], again.failed)
	}
}

// repeated runs fn with the flag set to a scenario.
func repeated(t *testing.T, scenario string, fn func(tb *recorder)) *recorder {
	t.Helper()
	const name = "dejatest.scenario"
	was := flag.Lookup(name).Value.String()
	defer func() { _ = flag.Set(name, was) }()
	if err := flag.Set(name, scenario); err != nil {
		t.Fatal(err)
	}
	return run(t, fn)
}

func TestAScenarioIsShownWhereNothingIsWrong(t *testing.T) {
	for scenario, texts := range map[string][]string{
		"usual":                   {"request 2", "posting.posted"},
		"wait@9":                  {"has to wait"},
		"twice@0,lost@6":          {"it is delivered twice", "a copy of", "is lost"},
		"crash@1/6/before":        {"bank crashes at", "before it took effect"},
		"wait@9,crash@12/2/after": {"crashes at", "after it took effect"},
	} {
		r := repeated(t, scenario, func(tb *recorder) { twoRemittances(tb, remit.Variant{}).Explore(conserved) })
		if r.Failed() || len(r.logged) != 1 {
			t.Errorf("scenario %s: %q", scenario, r.failed)
			continue
		}
		for _, text := range texts {
			if !strings.Contains(r.logged[0], text) {
				t.Errorf("scenario %s says\n%s\nand not %q", scenario, r.logged[0], text)
			}
		}
	}
}

func TestScenariosThatAreNone(t *testing.T) {
	for scenario, text := range map[string]string{
		"nonsense":        "want departures such as",
		"wait@x":          "want departures such as",
		"wait@1/2":        "want departures such as",
		"crash@1":         "want departures such as",
		"crash@1/1/never": "want departures such as",
		"wait@4,wait@3":   "want departures such as",
		"twice@1":         "make no difference", // the step delivers nothing
		"wait@1000":       "make no difference",
	} {
		r := repeated(t, scenario, func(tb *recorder) { twoRemittances(tb, remit.Variant{}).Explore(conserved) })
		if len(r.failed) != 1 || !strings.Contains(r.failed[0], text) {
			t.Errorf("scenario %s: %q, want %q", scenario, r.failed, text)
		}
	}
}

// What a world relies on is explored as well: a store that loses what it must keep is found out.
func TestExploreNoticesALedgerThatIsNotKept(t *testing.T) {
	balance := func(w *dejatest.World) error {
		if got := stateOf[Account](w, "account", "1").Balance; got != 70 {
			return fmt.Errorf("the balance is %d, want 70", got)
		}
		return nil
	}
	nowhere := func(s driver.Store) driver.Store { return &broken{s, nil} }
	wantFinding(t, func(tb *recorder) { deposits(tb, nowhere).Explore(balance) }, "it is delivered twice")
	inMemory := func(s driver.Store) driver.Store { return &broken{s, map[deja.ID]driver.Entry{}} }
	wantFinding(t, func(tb *recorder) { deposits(tb, inMemory).Explore(balance) }, "crashes at", "after it took effect")
}

// The basket of these tests sells what a shelf sends.
type (
	Basket struct {
		Sold  int  `json:"sold"`
		Tired bool `json:"tired"`
	}
	Buy   struct{}
	Tire  struct{}
	Fetch struct{}

	Bought struct{}
	Sold   struct{}
	Bored  struct{}
	Sent   struct{}
)

func (Buy) CommandType() string   { return "basket.buy" }
func (Tire) CommandType() string  { return "basket.tire" }
func (Fetch) CommandType() string { return "shelf.fetch" }
func (Bought) EventType() string  { return "basket.bought" }
func (Sold) EventType() string    { return "basket.sold" }
func (Bored) EventType() string   { return "basket.tired" }
func (Sent) EventType() string    { return "shelf.sent" }

// basket waits a minute for a shelf; late says what it makes of a reply after that.
func basket(late func(d *deja.Decision) error, more ...deja.Handler[Basket]) *deja.Aggregate[Basket] {
	return deja.NewAggregate("basket", append(more,
		deja.Handle(func(_ Basket, d *deja.Decision, _ Buy) error {
			d.Record(Bought{})
			d.Send("shelf", Fetch{})
			d.Schedule("patience", d.Time().Add(time.Minute), Tire{})
			return nil
		}),
		deja.Handle(func(_ Basket, d *deja.Decision, _ Tire) error { d.Record(Bored{}); return nil }),
		deja.OnReply(func(b Basket, d *deja.Decision, _ deja.Reply[Fetch]) error {
			if b.Tired {
				return late(d)
			}
			d.Cancel("patience")
			d.Record(Sold{})
			return nil
		}),
		deja.Apply(func(*Basket, Bought) {}),
		deja.Apply(func(b *Basket, _ Sold) { b.Sold++ }),
		deja.Apply(func(b *Basket, _ Bored) { b.Tired = true }),
		deja.Ends[Basket, Sold](),
	)...)
}

// selling is a world in which a basket buys.
func selling(tb testing.TB, late func(d *deja.Decision) error) *dejatest.World {
	tb.Helper()
	shelf := deja.NewAggregate("shelf",
		deja.Handle(func(_ Basket, d *deja.Decision, _ Fetch) error { d.Record(Sent{}); return nil }),
		deja.Apply(func(*Basket, Sent) {}),
	)
	w := dejatest.NewWorld(tb,
		&deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{basket(late)}},
		&deja.Service{Name: "store", Aggregates: []deja.AnyAggregate{shelf}},
	)
	w.Must(deja.Request{Key: "b", Command: Buy{}, Until: deja.AtEnd()})
	return w
}

func TestACaseFollowsASaga(t *testing.T) {
	saga := basket(func(d *deja.Decision) error { d.Record(Sold{}); return nil }, deja.Sticks[Basket, Bored]())
	dejatest.New(t, saga, "in time").
		When(Buy{}).Sent("shelf", Fetch{}).Scheduled("patience", time.Minute).
		When(deja.Reply[Fetch]{}).Cancelled("patience").Ended()
	dejatest.New(t, saga, "late").
		When(Buy{}).
		Fires("patience").Recorded(Bored{}).Stuck().
		When(deja.Reply[Fetch]{}).Recorded(Sold{}).Ended()
	for name, c := range map[string]struct {
		test func(c *dejatest.Case[Basket])
		text string
	}{
		"not scheduled": {func(c *dejatest.Case[Basket]) { c.Fires("patience") }, "nothing is scheduled under \"patience\""},
		"cancelled":     {func(c *dejatest.Case[Basket]) { c.When(Buy{}).When(deja.Reply[Fetch]{}).Fires("patience") }, "nothing is scheduled"},
		"fired twice":   {func(c *dejatest.Case[Basket]) { c.When(Buy{}).Fires("patience").Fires("patience") }, "nothing is scheduled"},
		"not ended":     {func(c *dejatest.Case[Basket]) { c.When(Buy{}).Ended() }, "did not end the saga; it recorded"},
		"not stuck":     {func(c *dejatest.Case[Basket]) { c.When(Buy{}).Stuck() }, "did not leave the saga stuck"},
	} {
		t.Run(name, func(t *testing.T) {
			wantFailure(t, func(tb *recorder) { c.test(dejatest.New(tb, saga, "b")) }, c.text)
		})
	}
}

func TestExploreFindsWhatNoInvariantNeedsToSay(t *testing.T) {
	for name, c := range map[string]struct {
		late func(d *deja.Decision) error
		text string
	}{
		"a message that fails":            {func(*deja.Decision) error { return errors.New("too late") }, "messages of basket/b have failed"},
		"a saga that waits for nothing":   {func(*deja.Decision) error { return nil }, "basket/b: not ended, and waiting for nothing"},
		"a saga that ends twice":          {func(d *deja.Decision) error { d.Record(Sold{}, Sold{}); return nil }, "more than one end: basket/b (basket.sold, basket.sold)"},
		"a saga that never comes to rest": {func(d *deja.Decision) error { d.Send("shelf", Fetch{}); return nil }, "it does not come to rest"},
	} {
		t.Run(name, func(t *testing.T) {
			wantFinding(t, func(tb *recorder) { selling(tb, c.late).Explore(nil) }, c.text)
		})
	}
}

// What goes wrong once time goes by, in the usual course already, is no part of the scenario.
func TestExploreFindsATimeOutThatIsNotCancelled(t *testing.T) {
	for name, c := range map[string]struct {
		late func(d *deja.Decision) error
		text string
	}{
		"and fails":           {func(*deja.Decision) error { return errors.New("sold already") }, "messages of basket/b, basket/c, basket/d have failed"},
		"and ends what ended": {func(d *deja.Decision) error { d.Record(Sold{}); return nil }, "more than one end: basket/b (basket.sold, basket.sold)"},
	} {
		t.Run(name, func(t *testing.T) {
			wantFinding(t, func(tb *recorder) {
				w := dejatest.NewWorld(tb, &deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{deja.NewAggregate("basket",
					deja.Handle(func(_ Basket, d *deja.Decision, _ Buy) error {
						d.Record(Sold{})
						d.Schedule("patience", d.Time().Add(time.Minute), Tire{})
						return nil
					}),
					deja.Handle(func(_ Basket, d *deja.Decision, _ Tire) error { return c.late(d) }),
					deja.Apply(func(b *Basket, _ Sold) { b.Sold++ }),
					deja.Ends[Basket, Sold](),
				)}})
				for _, key := range []string{"b", "c", "d"} {
					w.Must(deja.Request{Key: key, Command: Buy{}})
				}
				w.Explore(nil)
			}, c.text, "scenario=usual", `"patience" of basket/b fires`)
		})
	}
}

func TestExplorationsFail(t *testing.T) {
	for name, c := range map[string]struct {
		test func(tb *recorder)
		text string
	}{
		"a tiny scenario": {func(tb *recorder) {
			dejatest.NewWorld(tb, service(aggregate())).Explore(nil)
		}, "too small to mean anything"},
		"an invariant that goes on": {func(tb *recorder) {
			twoRemittances(tb, remit.Variant{}).Explore(func(w *dejatest.World) error { w.Advance(1); return nil })
		}, "an invariant may look at the world"},
		"an invariant that never holds": {func(tb *recorder) {
			twoRemittances(tb, remit.Variant{}).Explore(func(*dejatest.World) error { return errors.New("never") })
		}, "-dejatest.scenario=usual"},
	} {
		t.Run(name, func(t *testing.T) { wantFailure(t, c.test, c.text) })
	}
}

// As in an engine, an hour's outage has nothing time out that the backlog answers.
func TestExploreFiresNothingThatTheBacklogAnswers(t *testing.T) {
	world := func(tb *recorder) { twoRemittances(tb, remit.Variant{}).Explore(conserved) }
	usually := repeated(t, "usual", world)
	m := regexp.MustCompile(`(?m)^ *(\d+) ledger\.journal/\d to bank: carries reply posting\.post to remittance/r3$`).FindStringSubmatch(usually.logged[0])
	if m == nil {
		t.Fatalf("the reply is not carried: %s", usually.logged)
	}
	late := repeated(t, "wait@"+m[1], world)
	if late.Failed() {
		t.Fatal(late.failed)
	}
	story := late.logged[0]
	passed, carried := strings.Index(story, "30m0s"), strings.Index(story, "carries reply posting.post to remittance/r3")
	if strings.Contains(story, `"time-out" of remittance/r3 fires`) || passed < 0 || passed > carried {
		t.Fatalf("the reply is carried late, and the time-out must not fire for it:\n%s", story)
	}
}
