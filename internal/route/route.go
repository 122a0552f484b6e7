// Package route turns what a journal has recorded into the messages that follow from it: sent commands, replies, events for
// those that react, fired timers, results of effects. It is functions of recorded data, with no log and no clock in it;
// whoever carries the messages may do so any number of times, as each has an ID that follows from its cause.
package route

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/body"
	"github.com/dejalog/deja/internal/wire"
)

// A Route carries from the journal of one service into the inbox of one. It belongs to the router of the service that
// sends, or of the one that hears: from the own journal it carries commands, each to the service that owns its aggregate;
// into the own inbox it carries replies to what the service has sent, and events that its aggregates react to.
type Route struct {
	Machine *deja.Machine
	Peers   map[string]string // which service owns an aggregate of another service
	From    string            // the service whose journal it is
	To      string            // the service whose inbox it is

	// Since is the number of the last decision in the partition that events are not carried of, as the aggregates did not
	// react to them yet.
	Since int64
}

// Messages returns what follows from a decision, in order.
func (r *Route) Messages(rec *wire.Record) ([]deja.Envelope, error) {
	var out []deja.Envelope
	own := r.Machine.Name()
	if r.From == own {
		for i := range rec.Decided.Commands {
			c := rec.Decided.Commands[i]
			if r.owner(c.Stream.Aggregate) == r.To {
				out = append(out, carried(c, rec))
			}
		}
	}
	if r.To != own {
		return out, nil
	}
	if r.answers(rec) {
		m, err := reply(r.Machine, r.From, rec)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if rec.N <= r.Since {
		return out, nil
	}
	for i := range rec.Decided.Events {
		ev := &rec.Decided.Events[i]
		streams, err := r.Machine.Reactions(ev)
		if err != nil {
			return nil, err
		}
		for _, s := range streams {
			m := *ev
			m.ID = r.Machine.Derive(s, ev.ID, "react")
			m.Stream, m.Sender, m.CausationID, m.Version = s, ev.Stream, ev.ID, 0
			out = append(out, carried(m, rec))
		}
	}
	return out, nil
}

// owner returns the service that an aggregate belongs to.
func (r *Route) owner(aggregate string) string {
	return cmp.Or(r.Peers[aggregate], r.Machine.Name())
}

// answers reports whether a decision settles a command that the router's service sent, and that it hears the reply to.
func (r *Route) answers(rec *wire.Record) bool {
	c := &rec.Cause
	if c.Kind != deja.KindCommand || c.Source != r.Machine.Name() || c.Sender == (deja.Stream{}) || rec.Decided.Status == deja.Parked {
		return false
	}
	saga := r.Machine.Saga(c.Sender.Aggregate)
	return saga == nil || saga.Hears(c.Type)
}

// carried gives a message the trace of what it follows from.
func carried(m deja.Envelope, rec *wire.Record) deja.Envelope {
	m.Time, m.Position, m.Headers = time.Time{}, deja.Position{}, nil
	for _, h := range wire.TraceHeaders {
		if v, ok := rec.Cause.Headers[h]; ok {
			if m.Headers == nil {
				m.Headers = map[string]string{}
			}
			m.Headers[h] = v
		}
	}
	return m
}

// reply returns the reply to a sent command, of a decision that settles it.
func reply(m *deja.Machine, service string, rec *wire.Record) (deja.Envelope, error) {
	c := &rec.Cause
	b := body.Reply{
		Service: service, Tenant: c.Stream.Tenant, Aggregate: c.Stream.Aggregate, Key: c.Stream.Key,
		Time: rec.Time.Format(time.RFC3339Nano), Command: part(c),
	}
	for i := range rec.Decided.Events {
		e := &rec.Decided.Events[i]
		b.Events = append(b.Events, body.Event{ID: e.ID.String(), Version: e.Version, Part: part(e)})
	}
	switch d := &rec.Decided; d.Status {
	case deja.Applied:
	case deja.Rejected:
		b.Rejection = &body.Refusal{Code: d.Reason.Code, Detail: d.Reason.Detail}
	case deja.Conflicted:
		b.Rejection = &body.Refusal{Code: deja.CodeConflict, Detail: "the command's ID was used before, with other content"}
	default:
		b.Rejection = &body.Refusal{Code: deja.CodeDead, Detail: d.Reason.Error()}
	}
	payload, err := json.Marshal(&b)
	if err != nil {
		return deja.Envelope{}, fmt.Errorf("reply to %s: %w", c.ID, err)
	}
	return carried(deja.Envelope{
		ID: m.Derive(c.Sender, c.ID, "reply"), Kind: deja.KindReply, Type: c.Type, Stream: c.Sender, Source: service, Actor: c.Actor,
		BusinessTime: c.BusinessTime, CausationID: c.ID, CorrelationID: c.CorrelationID, ContentType: body.JSON, Payload: payload,
	}, rec), nil
}

// part returns a payload as it is; one that says that it is JSON and is not is kept byte by byte.
func part(e *deja.Envelope) body.Part {
	p := body.NewPart(e.Type, e.ContentType, e.Payload)
	if len(p.Payload) > 0 && !json.Valid(p.Payload) {
		return body.Part{Type: e.Type, ContentType: e.ContentType, Bytes: e.Payload}
	}
	return p
}

// Fired returns the message of a timer that is due.
func Fired(t *deja.Timer) deja.Envelope {
	m := t.Command
	m.Kind = deja.KindTimer
	return m
}

// A Result says what became of an effect. Of Command and Rejection one is set at most.
type Result struct {
	Command   deja.Command    // the answer
	Rejection *deja.Rejection // why it was given up
	Actor     string          // the operator who decided, if one did
	Reason    string          // and why
}

// Message returns the message of an effect's result, or an error if the aggregate could not hear it. Of one effect they all
// have one ID: the first counts, also if it was dead.
func (r Result) Message(m *deja.Machine, e *wire.Effect) (deja.Envelope, error) {
	b := body.Result{Effect: part(&e.Envelope), Reason: r.Reason}
	if r.Command != nil {
		p, err := encoded(m, r.Command)
		if err != nil {
			return deja.Envelope{}, fmt.Errorf("encode the answer to effect %s, a %T: %w", e.ID, r.Command, err)
		}
		b.Command = &p
	}
	if r.Rejection != nil {
		b.Rejection = &body.Refusal{Code: r.Rejection.Code, Detail: r.Rejection.Detail}
	}
	payload, err := json.Marshal(&b)
	if err != nil {
		return deja.Envelope{}, fmt.Errorf("result of effect %s: %w", e.ID, err)
	}
	env := deja.Envelope{
		ID: m.Derive(e.Stream, e.ID, "result"), Kind: deja.KindResult, Type: e.Type, Stream: e.Stream, Source: m.Name(),
		Actor: cmp.Or(r.Actor, e.Actor), BusinessTime: e.BusinessTime, CausationID: e.ID, CorrelationID: e.CorrelationID,
		ContentType: body.JSON, Payload: payload,
	}
	if _, err := m.Decode(&env); err != nil {
		return deja.Envelope{}, fmt.Errorf("result of effect %s: %w", e.ID, err)
	}
	return env, nil
}

// encoded encodes a command that answers. It is the user's, and may panic.
func encoded(m *deja.Machine, c deja.Command) (p body.Part, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	data, err := m.Codec().Append(nil, c)
	if err == nil {
		err = deja.CheckPayload(m.Codec().ContentType(), data)
	}
	return body.NewPart(c.CommandType(), m.Codec().ContentType(), data), err
}
