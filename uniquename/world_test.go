package uniquename_test

import (
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/uniquename"
)

func TestANameSurvivesRedeliveryAndCrashes(t *testing.T) {
	w := dejatest.NewWorld(t, &deja.Service{Name: "users", Aggregates: []deja.AnyAggregate{uniquename.Aggregate[handles]()}})
	must := func(name string, c deja.Command) { w.Must(deja.Request{Key: name, Command: c}) }
	must("ana", claim(held))
	must("ana", confirm(held))
	must("eva", release{Owner: "u2", Until: until})
	for _, name := range []string{"ana", "eva"} {
		if _, err := w.Do(deja.Request{Key: name, Command: claim{Owner: "u2", Until: until}}); err == nil {
			t.Fatalf("u2 got %s", name)
		}
	}
	must("ana", release(held))
	must("ana", claim{Owner: "u2", Until: until})
	must("ana", confirm{Owner: "u2", Until: until})
	must("ida", claim{Owner: "u3", Until: until})
	w.Advance(time.Hour)
	for name, want := range map[string]string{"ana": "u2", "eva": "", "ida": ""} {
		var n uniquename.Name
		if w.State(deja.Stream{Aggregate: "handles", Key: name}, &n); n.Owner != want {
			t.Fatalf("%s is %+v", name, n)
		}
	}
	before := w.Hash()
	w.RedeliverAll()
	w.CrashAtEveryWrite()
	w.WantHash(before)
}
