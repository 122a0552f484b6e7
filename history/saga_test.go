package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/memory"
	placing "github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

// remitted is a bank's past: remittances that ended in all the ways that there are, with timers that fired, early and late
// ones, and answers that nobody waited for.
type remitted struct {
	t      *testing.T
	log    *memory.Log
	store  *memory.Store
	bank   deja.Client
	bounds context.Context
}

const remitPartitions = 2

// starts runs a service until the function it returns is called.
func (r *remitted) starts(svc *deja.Service, store driver.Store, effects ...deja.Performer) (deja.Client, func()) {
	r.t.Helper()
	e, err := engine.New(engine.Config{
		Service: svc, Log: r.log, Store: store, Peers: remit.Peers(), Effects: effects,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	ended := false
	end := func() {
		if stop(); !ended {
			ended = true
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				r.t.Error(err)
			}
		}
	}
	r.t.Cleanup(end)
	return e.Client(), end
}

func (r *remitted) do(key string, c deja.Command, until deja.Point) {
	r.t.Helper()
	if _, err := r.bank.Do(r.bounds, deja.Request{Key: key, Command: c, Until: until}); err != nil {
		r.t.Fatalf("%s of %s: %v", c.CommandType(), key, err)
	}
}

func (r *remitted) until(what string, holds func() bool) {
	r.t.Helper()
	for !holds() {
		if r.bounds.Err() != nil {
			r.t.Fatalf("it never came: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (r *remitted) remittance(key string) (s remit.Remittance) {
	r.t.Helper()
	if _, err := r.bank.State(r.bounds, deja.Stream{Aggregate: "remittance", Key: key}, &s); err != nil {
		r.t.Fatal(err)
	}
	return s
}

// open returns what a remittance waits for now.
func (r *remitted) open(key string) wire.Open {
	r.t.Helper()
	s := deja.Stream{Aggregate: "remittance", Key: key}
	rows, err := r.store.Load(r.bounds, []deja.Stream{s})
	if err != nil {
		r.t.Fatal(err)
	}
	var open wire.Open
	if len(rows) > 0 {
		if open, err = wire.DecodeOpen(remit.Bank, s, rows[0].Open); err != nil {
			r.t.Fatal(err)
		}
	}
	return open
}

// fires delivers a timer's command.
func (r *remitted) fires(c deja.Envelope) {
	r.t.Helper()
	c.Kind = deja.KindTimer
	rec := driver.Record{Partition: placing.Partition(c.Stream.Key, remitPartitions), Key: c.Stream.Key, Value: wire.AppendMessage(nil, &c)}
	if _, err := r.log.Append(r.bounds, wire.Inbox(remit.Bank), []driver.Record{rec}); err != nil {
		r.t.Fatal(err)
	}
}

// remits has the services live, in a time of its own: the timers are early and late as they are to be on any machine.
func (r *remitted) remits(bank, ledger *deja.Service) {
	t := r.t
	t.Cleanup(func() { time.Sleep(time.Second) }) // last: those who read a journal's end for others go on for a while
	bounds, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r.bounds = bounds
	ledgers := memory.NewStore()
	_, down := r.starts(ledger, ledgers)
	var end func()
	r.bank, end = r.starts(bank, r.store, remit.Mailer(func(_ context.Context, key deja.ID, _ remit.Mail) (string, error) { return key.String(), nil }))
	r.do("ana", remit.Deposit{Amount: 200}, deja.Point{})
	r.do("eve", remit.Deposit{Amount: 50}, deja.Point{})
	r.do("r1", remit.Start{From: "ana", To: "bob", Amount: 30, Patience: time.Hour}, deja.AtEnd())
	r.do("r2", remit.Start{From: "ana", To: remit.Nobody, Amount: 30, Patience: time.Hour}, deja.AtEnd())
	r.do("r3", remit.Start{From: "ana", To: "bob", Amount: 3000, Patience: time.Hour}, deja.AtEnd())
	r.until("the receipt is known", func() bool { return r.remittance("r1").Receipt != "" })
	down()
	r.do("r4", remit.Start{From: "ana", To: "bob", Amount: 20, Patience: 2 * time.Second}, deja.Point{})
	r.do("r5", remit.Start{From: "eve", To: "bob", Amount: 20, Patience: 300 * time.Millisecond}, deja.Point{})
	r.until("the timer is set", func() bool { return len(r.open("r4").Timers) == 1 })
	early := r.open("r4").Timers[0].Command
	r.fires(early)
	r.until("both are given up", func() bool {
		return r.remittance("r4").Phase == remit.Undoing && r.remittance("r5").Phase == remit.Undoing
	})
	early.ID = deja.DeriveID("late", "r4")
	r.fires(early)
	r.do("eve", remit.Close{}, deja.Point{})
	r.starts(ledger, ledgers)
	r.until("all are settled", func() bool {
		return r.remittance("r4").Phase == remit.Failed && r.remittance("r5").Phase == remit.InDoubt
	})
	r.until("the tally has heard", func() bool {
		var s remit.Tally
		_, err := r.bank.State(bounds, deja.Stream{Aggregate: "tally", Key: "bob"}, &s)
		return err == nil && s.Count == 3
	})
	time.Sleep(time.Second) // what shows in the store is logged a moment later
	end()
}

func newRemitted(t *testing.T) *History {
	t.Helper()
	log, store := memory.NewLog(memory.LogConfig{Partitions: remitPartitions}), memory.NewStore()
	bank, ledger := remit.Services(remit.Variant{Counted: true})
	synctest.Test(t, func(t *testing.T) {
		(&remitted{t: t, log: log, store: store}).remits(bank, ledger)
	})
	h, err := Open(t.Context(), Config{Service: bank, Log: log.Clone().ReadOnly(), Ledger: store, Build: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// eachDecision calls fn with each decision of a history.
func eachDecision(t *testing.T, h *History, fn func(s *Step)) {
	t.Helper()
	for p, last := range h.All().Last {
		for n := int64(1); n <= last; n++ {
			s, err := h.steps.decision(t.Context(), place{int32(p), n})
			if err != nil {
				t.Fatal(err)
			}
			fn(s)
		}
	}
}

// Whoever decides again from the middle of a saga on must know what it waited for: else its replies, timers and results are
// refused, and all comes otherwise.
func TestASagaIsDecidedAgainAsItWasFromAnywhere(t *testing.T) {
	h := newRemitted(t)
	build := buildOf(t, bankBuild)
	kinds, codes := map[deja.Kind]int{}, map[string]int{}
	first := map[deja.Stream]Edit{}
	eachDecision(t, h, func(s *Step) {
		d, err := h.source.Decision(t.Context(), s.Position.Partition, s.N)
		if err != nil {
			t.Fatal(err)
		}
		kinds[s.Kind]++
		codes[d.Decided.Reason.Code]++
		env, err := h.envelope(t.Context(), s.Position)
		if err != nil {
			t.Fatal(err)
		}
		at := locate(t, fmt.Sprintf("inbox:%d:%d", s.Position.Partition, s.Position.Offset))
		same := Edit{Do: Set, Message: at, Payload: env.Payload}
		overlays := []Overlay{{same}, {{Do: Duplicate, Message: at}}}
		if e, later := first[s.Stream]; later {
			overlays = append(overlays, Overlay{e, same})
		} else {
			first[s.Stream] = same
		}
		for _, opt := range []WhatIfOptions{{}, {Whole: true}, {Facts: Fixed}, {Program: build}} {
			for _, o := range overlays {
				w, err := h.WhatIf(t.Context(), o, opt)
				if err != nil {
					t.Fatal(err)
				}
				if w.Differs() || !w.Converged {
					t.Fatalf("%s of %s %s of %s, %+v: %+v", o[len(o)-1].Do, s.Kind, s.Type, s.Stream, opt, w)
				}
			}
		}
	})
	for _, k := range []deja.Kind{deja.KindCommand, deja.KindReply, deja.KindEvent, deja.KindTimer, deja.KindResult} {
		if kinds[k] == 0 {
			t.Errorf("no %s was decided", k)
		}
	}
	if codes[deja.CodeEarly] == 0 || codes[deja.CodeNotPending] == 0 {
		t.Errorf("the codes are %v: no timer was early, or none late", codes)
	}
	all := h.All()
	for p, last := range all.Last {
		for n := range last {
			lim := h.All()
			lim.After[p] = n
			d, err := h.Diverge(t.Context(), Diverge{A: Recorded, B: build, Limits: lim})
			if err != nil {
				t.Fatal(err)
			}
			if !d.Equal || !d.Complete {
				t.Fatalf("after decision %d of partition %d: %s", n, p, asText(t, d))
			}
		}
	}
}

// A saga that is in doubt is pinned as all else is: messages of other keys that caused its replies are counted apart.
func TestASagaInDoubtIsPinned(t *testing.T) {
	h := newRemitted(t)
	const when = `state.phase == "in doubt"`
	p := pinOf(t, h, suspect(t, h, "remittance/*", when))
	if p.FirstBad == nil || p.Key != "remittance/r5" || p.FirstBad.Type != "account.refund" || p.Confirmed == nil || !*p.Confirmed || !p.Handler.Same {
		t.Fatalf("%s", asText(t, p))
	}
	first, err := h.Step(t.Context(), locate(t, fmt.Sprintf("inbox:%d:%d", p.FirstBad.Position.Partition, p.FirstBad.Position.Offset)))
	if err != nil {
		t.Fatal(err)
	}
	m, err := h.Minimal(t.Context(), first, suspect(t, h, "remittance/r5", when).When)
	if err != nil {
		t.Fatal(err)
	}
	own := 0
	for _, msg := range m.Messages {
		if msg.Step.Stream == first.Stream {
			own++
		}
	}
	if !m.Reproduced || !m.Minimal || own != len(m.Messages)-m.Causes || m.Causes == 0 || own > m.Of || p.Minimal == nil ||
		*p.Minimal != (Reproduction{Messages: own, Causes: m.Causes, Of: m.Of, Minimal: true}) {
		t.Errorf("minimal: %s, pinned as %+v", asText(t, m), p.Minimal)
	}
	c, err := m.Capsule(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Relive(t.Context(), h.service)
	if err != nil {
		t.Fatal(err)
	}
	if holds, _, err := r.Holds(first.Stream, when); err != nil || !holds {
		t.Errorf("relived, it does not hold: %v", err)
	}
}

// What is sent otherwise is told, and that nobody else was asked.
func TestWhatASagaWouldHaveSent(t *testing.T) {
	h := newRemitted(t)
	r1 := deja.Stream{Aggregate: "remittance", Key: "r1"}
	var start, posted *Step
	eachDecision(t, h, func(s *Step) {
		switch {
		case s.Stream == r1 && s.Type == "remittance.start":
			start = s
		case s.Stream == r1 && s.Type == "posting.post":
			posted = s
		}
	})
	sends := func(es []Emission) (all []string) {
		for _, e := range es {
			if e.Kind != "event" {
				all = append(all, e.Kind+" "+e.Type+" to "+e.To)
			}
		}
		return all
	}
	at := func(s *Step) replay.Locator {
		return locate(t, fmt.Sprintf("inbox:%d:%d", s.Position.Partition, s.Position.Offset))
	}
	for _, facts := range []Facts{Decided, Fixed} {
		w, err := h.WhatIf(t.Context(), Overlay{{Do: Drop, Message: at(posted)}}, WhatIfOptions{Facts: facts})
		if err != nil {
			t.Fatal(err)
		}
		if got := sends(w.Lost); !slices.Equal(got, []string{"effect receipt.mail to "}) || len(w.Notes) != 1 || len(w.Holes) > 0 {
			t.Errorf("without the ledger's reply %v is lost; %v, %v", got, w.Notes, w.Holes)
		}
	}
	more := json.RawMessage("40")
	w, err := h.WhatIf(t.Context(), Overlay{{Do: Set, Message: at(start), Fields: map[string]json.RawMessage{"Amount": more}}}, WhatIfOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"command account.withdraw to account/ana", "command posting.post to posting/r1", "effect receipt.mail to "}
	if got := sends(w.Gained); !slices.Equal(got, want) || !slices.Equal(sends(w.Lost), want) || len(w.Notes) != 1 || len(w.Holes) > 0 {
		t.Errorf("with another amount %v is gained, %v lost; %v, %v", got, sends(w.Lost), w.Notes, w.Holes)
	}
	result, to := lastOf(t, h, r1, deja.KindResult), h.All()
	to.Last = slices.Clone(to.Last)
	to.Last[result.Position.Partition] = result.N - 1
	if w, err = h.WhatIf(t.Context(), Overlay{{Do: Duplicate, Message: at(posted)}}, WhatIfOptions{To: to}); err != nil {
		t.Fatal(err)
	}
	if len(w.Holes) != 1 || w.Holes[0].Type != "receipt.mail" || w.Differs() {
		t.Errorf("before its result came: %+v", w)
	}
}

// lastOf returns the last decision of a stream about a message of a kind.
func lastOf(t *testing.T, h *History, s deja.Stream, k deja.Kind) (last *Step) {
	t.Helper()
	eachDecision(t, h, func(st *Step) {
		if st.Stream == s && st.Kind == k {
			last = st
		}
	})
	return last
}
