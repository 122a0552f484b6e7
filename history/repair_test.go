package history

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/replay"
)

// mend books the difference of a till's balance.
func mend(_ deja.Stream, is, shouldBe []byte) ([]deja.Command, error) {
	var a, b till.Till
	for _, s := range []struct {
		data []byte
		to   *till.Till
	}{{is, &a}, {shouldBe, &b}} {
		if len(s.data) == 0 {
			continue
		}
		if err := json.Unmarshal(s.data, s.to); err != nil {
			return nil, err
		}
	}
	switch d := b.Balance - a.Balance; {
	case d > 0:
		return []deja.Command{till.Put{Amount: d}}, nil
	case d < 0:
		return []deja.Command{till.Take{Amount: -d}}, nil
	}
	return nil, nil
}

// astrayTills is a history in which till a took more than a good build lets it, and then all that was left.
func astrayTills(t *testing.T) (h *History, first *deja.Envelope) {
	t.Helper()
	l, first := astrayLived(t)
	return l.open(), first
}

func astrayLived(t *testing.T) (l *lived, first *deja.Envelope) {
	t.Helper()
	l = newLived(t, tillOf("max=0"))
	a, b := deja.Stream{Key: "a"}, deja.Stream{Key: "b"}
	l.send(deja.Envelope{Type: "till.put", Stream: a, Payload: []byte(`{"Amount":20}`)})
	l.send(deja.Envelope{Type: "till.put", Stream: b, Payload: []byte(`{"Amount":20}`)})
	first = l.send(deja.Envelope{Type: "till.take", Stream: a, Payload: []byte(`{"Amount":9}`)})
	l.send(deja.Envelope{Type: "till.take", Stream: a, Payload: []byte(`{"Amount":1}`)})
	return l, first
}

// A plan has the key that is not as it should be, the message at which it went wrong, the command, and what that leaves.
func TestPlanRepair(t *testing.T) {
	h, first := astrayTills(t)
	good := buildOf(t, "max=5")
	p, err := h.PlanRepair(t.Context(), RepairOf{Build: good, Corrective: mend})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Keys) != 1 || len(p.Left) != 0 {
		t.Fatalf("%s", asText(t, p))
	}
	k := p.Keys[0]
	c := k.Commands[0]
	if k.Key != "till/a" || k.Version != 3 || k.Cause.ID != first.ID || k.Root != first.ID || c.Type != "till.put" || string(c.Payload) != `{"Amount":9}` || c.Outcome != "applied" {
		t.Errorf("%s", asText(t, k))
	}
	if got := asText(t, k.Leaves); got != `[{"path":"moves","old":4,"new":2}]` {
		t.Errorf("leaves %s", got)
	}
	again, err := h.PlanRepair(t.Context(), RepairOf{Build: good, Corrective: mend})
	if err != nil || again.ID != p.ID || asText(t, again) != asText(t, p) {
		t.Errorf("made again it is another plan: %s, %v", asText(t, again), err)
	}
	data, err := json.MarshalIndent(p, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	back, err := ReadRepairPlan(data)
	if err != nil || asText(t, back) != asText(t, p) {
		t.Errorf("read again: %s, %v", asText(t, back), err)
	}
	if err := back.Check(t.Context(), h.log, "shop"); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another service": back.Check(t.Context(), h.log, "inn"),
		"another history": func() error {
			other, _ := astrayTills(t)
			h2 := *p
			h2.History[0].Chain = strings.Repeat("00", 32)
			return h2.Check(t.Context(), other.log, "shop")
		}(),
	} {
		if !errors.Is(err, ErrPlan) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, change := range [][2]string{{`"Amount": 9`, `"Amount": 99`}, {`"version": 3`, `"version": 4`}, {`till/a`, `till/b`}} {
		changed := strings.Replace(string(data), change[0], change[1], 1)
		if _, err := ReadRepairPlan([]byte(changed)); changed == string(data) || !errors.Is(err, ErrPlan) {
			t.Errorf("%v: %v", change, err)
		}
	}
}

// What no command corrects is left, with why.
func TestWhatCannotBeRepaired(t *testing.T) {
	h, first := astrayTills(t)
	good := buildOf(t, "max=5")
	for why, fn := range map[string]Corrective{
		"ask the auditor": func(deja.Stream, []byte, []byte) ([]deja.Command, error) { return nil, errors.New("ask the auditor") },
		"panic: no idea":  func(deja.Stream, []byte, []byte) ([]deja.Command, error) { panic("no idea") },
		"no command":      func(deja.Stream, []byte, []byte) ([]deja.Command, error) { return nil, nil },
		"till.empty": func(deja.Stream, []byte, []byte) ([]deja.Command, error) {
			return []deja.Command{till.Put{Amount: 1}, till.Take{Amount: 100}}, nil
		},
	} {
		p, err := h.PlanRepair(t.Context(), RepairOf{Build: good, Corrective: fn})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Keys) != 0 || len(p.Left) != 1 || p.Left[0].Key != "till/a" || !strings.Contains(p.Left[0].Why, why) || p.Left[0].Cause.ID != first.ID {
			t.Errorf("%s: %s", why, asText(t, p))
		}
	}
	_, err := h.PlanRepair(t.Context(), RepairOf{Build: good, Corrective: func(deja.Stream, []byte, []byte) ([]deja.Command, error) {
		return []deja.Command{setSlot{}}, nil
	}})
	if err == nil || !strings.Contains(err.Error(), "no command for till") {
		t.Errorf("another aggregate's command: %v", err)
	}
	if _, err := h.PlanRepair(t.Context(), RepairOf{Build: buildOf(t, "exit"), Corrective: mend}); err != nil {
		t.Errorf("it has no till.crash to exit at: %v", err)
	}
	l := newLived(t, tillOf("max=0"))
	l.send(deja.Envelope{Type: "till.crash", Stream: deja.Stream{Key: "a"}, Payload: []byte(`{}`)})
	if _, err := l.open().PlanRepair(t.Context(), RepairOf{Build: buildOf(t, "exit"), Corrective: mend}); !errors.Is(err, ErrProgram) {
		t.Errorf("a build that dies says nothing of what should be: %v", err)
	}
}

// A plan of nothing is one all the same.
func TestNothingToRepair(t *testing.T) {
	h, _ := astrayTills(t)
	p, err := h.PlanRepair(t.Context(), RepairOf{Build: buildOf(t, "max=0"), Corrective: mend})
	if err != nil || len(p.Keys)+len(p.Left) != 0 || p.ID.IsZero() || !slices.ContainsFunc(p.History, func(r RepairPoint) bool { return r.N > 0 }) {
		t.Errorf("%s, %v", asText(t, p), err)
	}
}

// A fault in a message is corrected as one in a handler is: by what would have been without it.
func TestPlanRepairOfAMessage(t *testing.T) {
	l, first := astrayLived(t)
	h := l.open()
	at, err := replay.ParseLocator(first.ID.String())
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.PlanRepairOf(t.Context(), Overlay{{Do: Drop, Message: at}}, WhatIfOptions{}, mend)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Keys) != 1 || p.Keys[0].Key != "till/a" || p.Keys[0].Version != 3 || p.Keys[0].Cause.ID != first.ID || string(p.Keys[0].Commands[0].Payload) != `{"Amount":9}` {
		t.Errorf("%s", asText(t, p))
	}
	l.send(deja.Envelope{
		Type: "till.put", Stream: deja.Stream{Key: "a"}, Payload: []byte(`{"Amount":9}`), CausationID: first.ID,
		Headers: map[string]string{RepairHeader: p.ID.String()},
	})
	p, err = l.open().PlanRepairOf(t.Context(), Overlay{{Do: Drop, Message: at}}, WhatIfOptions{Facts: Fixed}, mend)
	if err != nil || len(p.Keys) != 0 || len(p.Left) != 1 || !strings.Contains(p.Left[0].Why, "before") {
		t.Errorf("once corrected: %s, %v", asText(t, p), err)
	}
}
