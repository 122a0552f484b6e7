package dejatest

import (
	"fmt"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
)

// played is the service that stands for all whose aggregates none of a world's services has: the test plays it.
const played = "dejatest"

// Perform has effects performed from here on, and before that what is open already. A performer is called again, with the
// same key, whenever a process dies before its result is kept, and in each run that the world makes of its own: like a good
// provider it must answer a key the same each time. What it cannot answer now it is asked again once time passes.
func (w *World) Perform(ps ...deja.Performer) {
	w.t.Helper()
	for i := range ps {
		name := ps[i].EffectType()
		if !slices.ContainsFunc(w.members, func(m *member) bool { return slices.Contains(m.m.Effects(), name) }) {
			w.t.Fatalf("Perform: no aggregate asks for effect %s (there is no OnFailed row)", name)
		}
		if !ps[i].Valid() {
			w.t.Fatalf("Perform: the performer of %s has no function", name)
		}
	}
	w.come(entry{performs: ps, text: "the test: effects are performed from here on"})
}

// Performed returns the effects that providers were called for, in the order of the first calls.
func (w *World) Performed() []Performed { return slices.Clone(w.course.disk.performed) }

// Effects returns the effects that are open: in the order of services and of what they were asked for.
func (w *World) Effects() []deja.Envelope {
	w.t.Helper()
	return w.course.open()
}

// Sent returns the commands that wait for services which are not of the world, in the order in which they came. The test
// plays these services: it answers with [World.Answer] or [World.Refuse].
func (w *World) Sent() []deja.Envelope {
	w.t.Helper()
	return w.course.sent()
}

// Answer has a command of [World.Sent] applied, with these events.
func (w *World) Answer(cmd deja.Envelope, events ...deja.Event) {
	w.t.Helper()
	m := w.asker(&cmd, deja.KindCommand)
	d := deja.Decided{Status: deja.Applied}
	for i, e := range events {
		d.Events = append(d.Events, w.played(m, cmd.Stream, cmd.ID, i, e))
	}
	w.settle(&cmd, d)
}

// Refuse has a command of [World.Sent] rejected, or gives an effect of [World.Effects] up, as its provider does that refuses
// it.
func (w *World) Refuse(m deja.Envelope, why *deja.Rejection) {
	w.t.Helper()
	if why == nil {
		w.t.Fatalf("Refuse %s: want a reason", m.Type)
	}
	if m.Kind == deja.KindEffect {
		w.result(&m, route.Result{Rejection: why})
		return
	}
	w.asker(&m, deja.KindCommand)
	w.settle(&m, deja.Decided{Status: deja.Rejected, Reason: *why})
}

// Resolve has an effect of [World.Effects] performed, with the command that answers the instance which asked for it; nil
// for none.
func (w *World) Resolve(effect deja.Envelope, answer deja.Command) {
	w.t.Helper()
	w.result(&effect, route.Result{Command: answer})
}

// Happened has an instance of an aggregate that is not of the world record events, for those that react to them.
func (w *World) Happened(s deja.Stream, events ...deja.Event) {
	w.t.Helper()
	e := entry{text: fmt.Sprintf("the test: %s has recorded events", s)}
	id := deja.DeriveID("deja/dejatest/happened", fmt.Sprint(len(w.script)))
	for _, m := range w.members {
		rec := &wire.Record{Kind: wire.KindDecision, N: 1, Time: w.course.disk.now, Cause: deja.Envelope{ID: id, Stream: s}}
		for i, ev := range events {
			rec.Decided.Events = append(rec.Decided.Events, w.played(m, s, id, i, ev))
		}
		e.delivered = append(e.delivered, w.follows(m, rec)...)
	}
	if len(e.delivered) == 0 {
		w.t.Fatalf("Happened: nobody reacts to events of %s", s)
	}
	w.come(e)
}

// settle has a played service settle a command.
func (w *World) settle(cmd *deja.Envelope, d deja.Decided) {
	w.t.Helper()
	rec := &wire.Record{Kind: wire.KindDecision, N: 1, Time: w.course.disk.now, Cause: *cmd, Decided: d}
	e := entry{waits: cmd.ID, text: fmt.Sprintf("the test: %s of %s is %s", cmd.Type, cmd.Stream, verdict(&d))}
	for _, m := range w.members {
		e.delivered = append(e.delivered, w.follows(m, rec)...)
	}
	w.come(e)
}

// follows returns what follows for a service from a decision of a played one.
func (w *World) follows(m *member, rec *wire.Record) []delivery {
	w.t.Helper()
	r := route.Route{Machine: m.m, Peers: m.peers, From: played, To: m.name()}
	ms, err := r.Messages(rec)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	var ds []delivery
	for i := range ms {
		ds = append(ds, delivery{m.name(), route.Record(&ms[i], partitions)})
	}
	return ds
}

// played returns the i-th event that a played service records because of a message.
func (w *World) played(m *member, s deja.Stream, cause deja.ID, i int, e deja.Event) deja.Envelope {
	w.t.Helper()
	payload, err := m.m.Codec().Append(nil, e)
	if err != nil {
		w.t.Fatalf("encode %s: %v", e.EventType(), err)
	}
	return deja.Envelope{
		ID: deja.DeriveID("deja/dejatest/played", fmt.Sprintf("%s %d", cause, i)), Kind: deja.KindEvent, Type: e.EventType(), Stream: s,
		Source: played, Time: w.course.disk.now, CausationID: cause, CorrelationID: cause,
		ContentType: m.m.Codec().ContentType(), Payload: payload, Version: int64(i) + 1,
	}
}

// asker returns the service that has sent a command which waits, or asked for an effect.
func (w *World) asker(m *deja.Envelope, kind deja.Kind) *member {
	w.t.Helper()
	if m.Kind != kind || !slices.ContainsFunc(w.course.unanswered(), func(o deja.Envelope) bool { return o.ID == m.ID }) {
		w.t.Fatalf("%s of %s does not wait for an answer", m.Type, m.Stream)
	}
	i := slices.IndexFunc(w.members, func(o *member) bool { return o.name() == m.Source })
	return w.members[i]
}

// result delivers an effect's result.
func (w *World) result(e *deja.Envelope, r route.Result) {
	w.t.Helper()
	m := w.asker(e, deja.KindEffect)
	msg, err := r.Message(m.m, &wire.Effect{Envelope: *e})
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	how := "done"
	if r.Rejection != nil {
		how = "refused: " + r.Rejection.Error()
	}
	w.come(entry{
		waits: e.ID, delivered: []delivery{{m.name(), route.Record(&msg, partitions)}},
		text: fmt.Sprintf("the test: %s of %s is %s", e.Type, e.Stream, how),
	})
}

// sent returns the commands that wait for played services.
func (c *course) sent() []deja.Envelope {
	over := map[deja.ID]bool{}
	for i := range c.next {
		over[c.script[i].waits] = true
	}
	dec := wire.NewDecoder(played)
	var ms []deja.Envelope
	for i := range c.disk.came {
		m, err := dec.Message(c.disk.came[i].Value)
		if err != nil {
			panic(err) // it was encoded by the same build
		}
		if !over[m.ID] {
			over[m.ID] = true
			ms = append(ms, *m)
		}
	}
	return ms
}

// open returns the effects whose results are not handled yet.
func (c *course) open() []deja.Envelope {
	var es []deja.Envelope
	for _, l := range c.lives {
		for _, e := range l.effects {
			es = append(es, e.Envelope)
		}
	}
	return es
}

// unanswered returns what the test may answer.
func (c *course) unanswered() []deja.Envelope { return append(c.sent(), c.open()...) }
