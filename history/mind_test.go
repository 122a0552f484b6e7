package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dejalog/deja"
)

// tills is a run of the till whose builds are programs, too.
func tills(t *testing.T, seed uint64, n int) *run {
	rng := rand.New(rand.NewPCG(seed, 8))
	r := newRun(t, tillOf("ok"))
	for i := range n {
		env := deja.Envelope{
			ID: deja.DeriveID("till", fmt.Sprint(i)), Kind: deja.KindCommand, Source: "shop", ContentType: "application/json",
			Stream: deja.Stream{Aggregate: "till", Key: string(rune('a' + rng.IntN(3)))}, Type: []string{"till.put", "till.take"}[rng.IntN(2)],
			Payload: fmt.Appendf(nil, `{"Amount":%d}`, 1+rng.IntN(30)),
		}
		env.CorrelationID = env.ID
		r.deliver(sent{env: env, time: time.Unix(1e9+int64(i), 0)})
	}
	return r
}

// Another process of the same build finds the same, and another build what it would decide.
func TestWhatIfInAnotherBuild(t *testing.T) {
	same, strict := buildOf(t, "ok"), buildOf(t, "max=5")
	differed := 0
	for _, seed := range whatIfSeeds(t, 6) {
		r := tills(t, seed, 150)
		h := r.open(true)
		o := Overlay{
			{Do: Drop, Message: locate(t, r.sent[seed%20].env.ID.String())},
			{Do: Set, Message: locate(t, r.sent[30+seed%20].env.ID.String()), Payload: []byte(`{"Amount":7}`)},
			{Do: Duplicate, Message: locate(t, r.sent[60].env.ID.String())},
		}
		own, err := h.WhatIf(t.Context(), o, WhatIfOptions{Whole: true})
		if err != nil {
			t.Fatal(err)
		}
		other, err := h.WhatIf(t.Context(), o, WhatIfOptions{Program: same})
		if err != nil {
			t.Fatal(err)
		}
		if other.Build == nil || other.Build.Build != "ok" {
			t.Errorf("decided by %+v", other.Build)
		}
		other.Build = nil
		a, _ := json.Marshal(own)
		b, _ := json.Marshal(other)
		if string(a) != string(b) {
			t.Fatalf("seed %d: this build\n%s\nthe same as a process\n%s", seed, a, b)
		}
		other, err = h.WhatIf(t.Context(), o, WhatIfOptions{Program: strict})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range other.Paradoxes {
			if p.Kind == "refused" && p.Type == "till.take" {
				differed++
			}
		}
	}
	if differed == 0 {
		t.Error("the other build refused nothing")
	}
}

// What another build cannot be asked is said; and one that dies is no answer.
func TestWhatIfOfABuildThatFails(t *testing.T) {
	r := tills(t, 1, 20)
	id := deja.DeriveID("crash", "1")
	r.deliver(sent{time: time.Unix(2e9, 0), env: deja.Envelope{
		ID: id, Kind: deja.KindCommand, Source: "shop", ContentType: "application/json", CorrelationID: id,
		Stream: deja.Stream{Aggregate: "till", Key: "a"}, Type: "till.crash", Payload: []byte(`{}`),
	}})
	h := r.open(true)
	o := Overlay{{Do: Set, Message: locate(t, id.String()), Payload: []byte(`{"How":"error"}`)}}
	if _, err := h.WhatIf(t.Context(), o, WhatIfOptions{Program: buildOf(t, "exit")}); !errors.Is(err, ErrProgram) {
		t.Errorf("a program that dies: %v", err)
	}
	if _, err := h.WhatIf(t.Context(), o, WhatIfOptions{Program: "/no/such/program"}); !errors.Is(err, ErrProgram) {
		t.Errorf("no program: %v", err)
	}
	if _, err := h.WhatIf(t.Context(), o, WhatIfOptions{Program: buildOf(t, "ok"), Facts: Fixed}); err == nil {
		t.Error("facts fixed, and a build to decide")
	}
}
