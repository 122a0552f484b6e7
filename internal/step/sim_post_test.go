package step_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// post is an aggregate that asks for anything and hears of everything, as its messages' random numbers say: timers of few
// names, commands to itself, some of whose replies it forgets, effects, and ends. The simulation has one beside each till.
type post struct {
	Moves int64 `json:"moves"`
}

type (
	postDo    struct{}
	postHint  struct{}
	postMail  struct{}
	postMoved struct{}
	postEnded struct{}
	postStuck struct{}
)

func (postDo) CommandType() string   { return "post.do" }
func (postHint) CommandType() string { return "post.hint" }
func (postMail) EffectType() string  { return "post.mail" }
func (postMoved) EventType() string  { return "post.moved" }
func (postEnded) EventType() string  { return "post.ended" }
func (postStuck) EventType() string  { return "post.stuck" }

// newPost returns the aggregate; its handlers fail now and then, as long as broken says so.
func newPost(broken func() bool) *deja.Aggregate[post] {
	return deja.NewAggregate("post",
		deja.Handle(func(_ post, d *deja.Decision, _ postDo) error { return anything(d, broken()) }),
		deja.Handle(func(_ post, d *deja.Decision, _ postHint) error { return anything(d, broken()) }),
		deja.OnReply(func(_ post, d *deja.Decision, _ deja.Reply[postDo]) error { return anything(d, broken()) }),
		deja.Forget[post, postHint](),
		deja.OnFailed(func(_ post, d *deja.Decision, _ deja.Failed[postMail]) error { return anything(d, broken()) }),
		deja.Apply(func(p *post, _ postMoved) { p.Moves++ }),
		deja.Apply(func(p *post, _ postEnded) { p.Moves++ }),
		deja.Apply(func(p *post, _ postStuck) { p.Moves++ }),
		deja.Ends[post, postEnded](),
		deja.Sticks[post, postStuck](),
	)
}

var errPost = deja.NewRejection("post.no")

func anything(d *deja.Decision, broken bool) error {
	rng := d.Rand()
	often := 2
	if d.Message().Kind == deja.KindCommand { // what is parked behind one is not parked for itself
		often = 20
	}
	switch fails := rng.IntN(often) == 0; {
	case fails && broken:
		return errors.New("as asked")
	case rng.IntN(8) == 0:
		return errPost
	}
	name := []string{"", "x", "y"}[rng.IntN(3)]
	for range 1 + rng.IntN(3) {
		switch rng.IntN(8) {
		case 0, 1:
			d.Schedule(name, d.Time().Add(time.Duration(rng.IntN(20_000_000))), postHint{})
		case 2:
			d.Cancel(name)
		case 3:
			d.Send(d.Key(), postDo{})
		case 4:
			d.Send(d.Key(), postHint{})
		case 5:
			d.Effect(postMail{})
		case 6:
			d.Record(postMoved{})
		default:
			d.Record([]deja.Event{postEnded{}, postStuck{}}[rng.IntN(2)])
		}
	}
	return nil
}

// write appends a message for a post: a command; what one that it waits for is answered with, by its row as it is now; one
// that came before; or an operator's act.
func (s *sim) write() {
	stream := deja.Stream{Aggregate: "post", Key: simKeys[s.rng.IntN(len(simKeys))]}
	m := deja.Envelope{
		ID: deja.DeriveID("sim-post", fmt.Sprint(s.rng.Uint64())), Kind: deja.KindCommand, Type: "post.do", Source: "shop",
		ContentType: "application/json", Payload: []byte(`{}`), Stream: stream,
	}
	m.CorrelationID = m.ID
	switch s.rng.IntN(8) {
	case 0:
	case 1:
		if len(s.posted) > 0 {
			m = s.posted[s.rng.IntN(len(s.posted))]
		}
	case 2, 3:
		s.actOn(&m, stream)
	default:
		if ms := s.answers(stream); len(ms) > 0 {
			m = ms[s.rng.IntN(len(ms))]
		}
	}
	s.posted = append(s.posted, m)
	s.append(&m)
}

// answers returns messages that a stream waits for.
func (s *sim) answers(stream deja.Stream) (ms []deja.Envelope) {
	rows, err := s.store.Load(context.Background(), []deja.Stream{stream})
	if err != nil || len(rows) == 0 {
		return nil
	}
	open, err := wire.DecodeOpen("shop", stream, rows[0].Open)
	if err != nil {
		s.fail("%v", err)
		return nil
	}
	m, err := deja.Compile(&deja.Service{Name: "shop", Aggregates: []deja.AnyAggregate{newPost(nil)}})
	if err != nil {
		s.fail("%v", err)
		return nil
	}
	for i := range open.Timers {
		ms = append(ms, route.Fired(&open.Timers[i]))
	}
	for _, c := range open.Sent {
		r := route.Route{Machine: m, From: "shop", To: "shop"}
		replies, err := r.Messages(&wire.Record{
			Cause: deja.Envelope{
				ID: c.ID, Kind: deja.KindCommand, Type: c.Type, Source: "shop", Stream: c.Stream, Sender: stream,
				ContentType: "application/json", Payload: []byte(`{}`),
			},
			Decided: deja.Decided{Status: deja.Applied},
		})
		if err != nil {
			s.fail("%v", err)
		}
		ms = append(ms, replies...)
	}
	for i := range open.Effects {
		for _, r := range []route.Result{{}, {Rejection: deja.NewRejection("post.closed")}} { // the second one conflicts
			result, err := r.Message(m, &open.Effects[i])
			if err != nil {
				s.fail("%v", err)
			}
			ms = append(ms, result)
		}
	}
	return ms
}

// expected is what a post waits for, told from its recorded decisions by hand.
type expected struct {
	timers  map[string]deja.ID
	sent    map[deja.ID]bool
	effects map[deja.ID]bool
}

func (w *expected) take(e *journal.Entry) {
	d := &e.Decided
	heard := d.Status == deja.Applied || d.Status == deja.Rejected || d.Status == deja.Ignored || d.Reason.Code == deja.CodeSkipped
	if heard {
		delete(w.sent, e.Cause.CausationID)
		delete(w.effects, e.Cause.CausationID)
	}
	for name, id := range w.timers {
		switch {
		case e.Cause.Kind != deja.KindTimer || !heard || e.Cause.ID != id:
		case d.Reason.Code == deja.CodeEarly:
			w.timers[name] = deja.DeriveID("deja/early", id.String())
		default:
			delete(w.timers, name)
		}
	}
	for _, name := range d.Cancelled {
		delete(w.timers, name)
	}
	for i := range d.Timers {
		w.timers[d.Timers[i].Name] = d.Timers[i].Command.ID
	}
	for i := range d.Commands {
		if d.Commands[i].Type == "post.do" {
			w.sent[d.Commands[i].ID] = true
		}
	}
	for i := range d.Effects {
		w.effects[d.Effects[i].ID] = true
	}
}

// checkPosts holds what the store says that the posts wait for against their decisions.
func (s *sim) checkPosts(ctx context.Context, entries []journal.Entry) {
	want := map[string]*expected{}
	for _, key := range simKeys {
		want[key] = &expected{map[string]deja.ID{}, map[deja.ID]bool{}, map[deja.ID]bool{}}
	}
	for i := range entries {
		if of := entries[i].Cause.Stream; of.Aggregate == "post" {
			want[of.Key].take(&entries[i])
			if e := &entries[i]; e.Cause.Kind != deja.KindCommand && e.Cause.Kind != deja.KindAct && e.Decided.Status == deja.Applied {
				s.heard++
			}
		}
	}
	for _, key := range simKeys {
		stream := deja.Stream{Aggregate: "post", Key: key}
		rows, err := s.store.Load(ctx, []deja.Stream{stream})
		if err != nil {
			s.fail("%v", err)
		}
		got := &expected{map[string]deja.ID{}, map[deja.ID]bool{}, map[deja.ID]bool{}}
		if len(rows) > 0 {
			open, err := wire.DecodeOpen("shop", stream, rows[0].Open)
			if err != nil || !rows[0].Due.Equal(open.Due()) {
				s.fail("the row of %s: %v, due at %s, and its timers at %s", stream, err, rows[0].Due, open.Due())
			}
			for i := range open.Timers {
				got.timers[open.Timers[i].Name] = open.Timers[i].Command.ID
			}
			for _, c := range open.Sent {
				got.sent[c.ID] = true
			}
			for i := range open.Effects {
				got.effects[open.Effects[i].ID] = true
			}
		}
		if w := want[key]; !maps.Equal(w.timers, got.timers) || !maps.Equal(w.sent, got.sent) || !maps.Equal(w.effects, got.effects) {
			s.fail("%s waits for %+v in the store, and by the journal for %+v", stream, *got, *w)
		}
	}
}

// checkVerified has the core verify the store by the journal. It judges no decision: whether a handler fails is nothing that
// is recorded here.
func (s *sim) checkVerified(ctx context.Context, p *simProcess) {
	for n := range s.parts {
		v, err := step.NewVerifier(ctx, step.Config{Machine: p.machine, Log: s.log, Partition: n, Build: "another"})
		if err != nil {
			s.fail("%v", err)
			return
		}
		for _, e := range s.journal(ctx, n) {
			if _, err := v.Check(ctx, &e); err != nil {
				s.fail("verify: %v", err)
				return
			}
		}
		if err := v.Store(ctx, s.store); err != nil {
			s.fail("verify: %v", err)
		}
	}
}
