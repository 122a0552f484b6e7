package history

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/memory"
	placing "github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

// An excerpt of some keys is a history of its own, which verifies, with the states that the keys had.
func TestAnExcerptIsAHistoryOfItsOwn(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	broken := true
	l := newLived(t, till.Service(till.Variant{Broken: func() bool { return broken }}))
	var sent []*deja.Envelope
	for range 300 {
		env := put(fmt.Sprint(rng.IntN(6)), 1+rng.IntN(100), deja.ID{})
		switch rng.IntN(8) {
		case 0:
			env.Type = "till.take"
		case 1:
			env.Type, env.Payload = "till.crash", []byte(`{"How":"error"}`)
		case 2:
			env.Type, env.Payload = "till.none", []byte(`{}`)
		case 3, 4:
			if len(sent) > 0 {
				env = *sent[rng.IntN(len(sent))]
				if rng.IntN(2) == 0 {
					env.Payload = []byte(`{"Amount":777}`)
				}
				if rng.IntN(3) == 0 { // a conflict with another key's message
					env.Stream.Key = fmt.Sprint(rng.IntN(6))
				}
			}
		}
		sent = append(sent, l.send(env))
	}
	h := l.open()
	scope, err := ParseScope(l.m, "till/3")
	if err != nil {
		t.Fatal(err)
	}
	for _, limits := range []Limits{h.All(), {After: make([]int64, livedPartitions), Last: []int64{rng.Int64N(100), rng.Int64N(100)}}} {
		target := replay.Target{Log: memory.NewLog(memory.LogConfig{Partitions: livedPartitions}), Store: memory.NewStore()}
		taken, err := h.Take(t.Context(), Excerpt{Scope: scope, Limits: limits}, target)
		if err != nil {
			t.Fatal(err)
		}
		src, err := replay.Open(t.Context(), replay.Config{Service: l.Service, Log: target.Log, Store: target.Store})
		if err != nil {
			t.Fatal(err)
		}
		verdict, err := src.Verify(t.Context(), "test", nil)
		if err != nil || verdict.First != nil || verdict.Messages != taken.Decisions {
			t.Fatalf("verify: %+v, %v, of %+v", verdict, err, taken)
		}
		stream, _ := scope.Single()
		p := placing.Partition(stream.Key, livedPartitions) // there may be no step of it yet
		var want []string
		for s, err := range h.steps.scan(t.Context(), scope.Matches, limits.Last) {
			if err != nil {
				t.Fatal(err)
			}
			if s.Status != deja.Conflicted {
				want = append(want, fmt.Sprint(s.ID, s.Status, s.Version, s.Time, s.Writes))
			}
		}
		past, err := Open(t.Context(), Config{Service: l.Service, Log: target.Log, Build: "test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = past.Close() })
		var got []string
		for s, err := range past.steps.scan(t.Context(), scope.Matches, past.All().Last) {
			if err != nil {
				t.Fatal(err)
			}
			if s.Status != deja.Conflicted {
				got = append(got, fmt.Sprint(s.ID, s.Status, s.Version, s.Time, s.Writes))
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("steps:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		is, err := past.steps.state(t.Context(), stream, past.All().Last[p])
		if err != nil {
			t.Fatal(err)
		}
		was, err := h.steps.state(t.Context(), stream, limits.Last[p])
		if err != nil {
			t.Fatal(err)
		}
		a, _ := is.Encode()
		b, _ := was.Encode()
		if !bytes.Equal(a, b) || is.Version != was.Version {
			t.Errorf("state %s at version %d, want %s at %d", a, is.Version, b, was.Version)
		}
	}
}

// Nothing of what is redacted is left anywhere in the excerpt, and it is a history that holds together.
func TestNothingRedactedIsLeft(t *testing.T) {
	l := newLived(t, noted())
	for i := range 20 {
		env := deja.Envelope{
			Type: "note.write", Stream: deja.Stream{Aggregate: "note", Key: fmt.Sprint(i % 3)}, Actor: "SECRET-actor",
			Headers: map[string]string{"h": "SECRET-header"}, Payload: fmt.Appendf(nil, `{"text":"SECRET %d","size":%d}`, i%4, i),
		}
		again := l.send(env)
		l.send(*again)
		again.Payload = []byte(`{"text":"SECRET other","size":1}`)
		l.send(*again)
	}
	h := l.open()
	target := replay.Target{Log: memory.NewLog(memory.LogConfig{Partitions: livedPartitions}), Store: memory.NewStore()}
	r := &Redaction{Key: []byte("0123456789abcdef"), Fields: []string{"note.write.text", "note.written.text"}}
	taken, err := h.Take(t.Context(), Excerpt{Scope: everything(t, l.m), Limits: h.All(), Redact: r}, target)
	if err != nil {
		t.Fatal(err)
	}
	if taken.Decisions != 40 || taken.Messages != 60 {
		t.Errorf("taken: %+v", taken)
	}
	texts := map[string]int{}
	for _, topic := range []string{wire.Inbox("notes"), wire.Journal("notes")} {
		for p := range int32(livedPartitions) {
			_, end, err := target.Log.Bounds(t.Context(), topic, p)
			if err != nil {
				t.Fatal(err)
			}
			var recs []driver.Record
			if end > 0 {
				if recs, err = target.Log.Fetch(t.Context(), deja.Position{Topic: topic, Partition: p}, int(end)); err != nil {
					t.Fatal(err)
				}
			}
			for _, rec := range recs {
				if bytes.Contains(rec.Value, []byte("SECRET")) {
					t.Fatalf("%s has %q", topic, rec.Value)
				}
				for i := range 4 {
					if bytes.Contains(rec.Value, []byte(r.hash(fmt.Sprintf("SECRET %d", i)))) {
						texts[fmt.Sprint(topic, i)]++
					}
				}
			}
		}
	}
	if len(texts) != 8 {
		t.Errorf("equal texts stay equal, and different ones different: %v", texts)
	}
	src, err := replay.Open(t.Context(), replay.Config{Service: l.Service, Log: target.Log, Store: target.Store})
	if err != nil {
		t.Fatal(err)
	}
	if verdict, err := src.Verify(t.Context(), "test", nil); err != nil || verdict.First != nil || verdict.Judged != 40 {
		t.Errorf("verify: %+v, %v", verdict, err)
	}
}

// noted returns a service with texts.
func noted() *deja.Service {
	return &deja.Service{Name: "notes", Aggregates: []deja.AnyAggregate{deja.NewAggregate("note",
		deja.Handle(func(_ note, d *deja.Decision, c write) error {
			if c.Size%5 == 4 {
				return deja.NewRejection("note.size").Because("%q of %s is too large", c.Text, d.Key())
			}
			d.Record(written(c))
			return nil
		}),
		deja.Apply(func(n *note, e written) { n.Text, n.Size = e.Text, n.Size+e.Size }),
	)}}
}

type (
	note struct {
		Text string `json:"text"`
		Size int64  `json:"size"`
	}
	write struct {
		Text string `json:"text"`
		Size int64  `json:"size"`
	}
	written struct {
		Text string `json:"text"`
		Size int64  `json:"size"`
	}
)

func (write) CommandType() string { return "note.write" }
func (written) EventType() string { return "note.written" }
