package deja

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dejalog/deja/internal/body"
)

// unheard is a message that closes something, and has no handler: the result of an effect without an answer.
type unheard struct{}

// handlerOf returns what decodes a message for the row that handles it.
func (m *Machine) handlerOf(env *Envelope) (func(*Envelope) (any, error), *Rejection) {
	unknown := func(format string, args ...any) (func(*Envelope) (any, error), *Rejection) {
		return nil, (&Rejection{Code: CodeUnknownType}).Because(format, args...)
	}
	t, ok := m.tables[env.Stream.Aggregate]
	if !ok {
		return unknown("service %s has no aggregate %q", m.name, env.Stream.Aggregate)
	}
	kind := rowHandle
	switch env.Kind {
	case KindCommand, KindTimer:
	case KindReply:
		kind = rowReply
	case KindResult:
		return func(env *Envelope) (any, error) { return m.result(t, env) }, nil
	case KindEvent:
		if r, _ := m.reaction(t, env.Type); r == nil {
			return unknown("aggregate %s has no React row for %s", t.name, env.Type)
		}
		return func(env *Envelope) (any, error) {
			msg, _, err := m.reactionTo(t, env)
			return msg, err
		}, nil
	default:
		return unknown("aggregate %s handles no message of kind %s", t.name, env.Kind)
	}
	r, ok := t.rows[rowKey{kind, env.Type}]
	if !ok {
		return unknown("aggregate %s has no %s row for %s", t.name, kind, env.Type)
	}
	return func(env *Envelope) (any, error) { return m.payload(r, env) }, nil
}

// payload decodes a payload of the service's own codec, or one of deja's own.
func (m *Machine) payload(r *row, env *Envelope) (msg any, err error) {
	want := m.codec.ContentType()
	if env.Kind == KindReply || env.Kind == KindResult {
		want = body.JSON
	}
	if env.ContentType != want {
		return nil, fmt.Errorf("content type %q, this service reads %q", env.ContentType, want)
	}
	defer recovered(&err)
	return r.decode(m.codec, env.Payload)
}

// result decodes an effect's result: the command that answers, or why the effect was given up, or neither.
func (m *Machine) result(t *ruleTable, env *Envelope) (any, error) {
	var b body.Result
	if err := json.Unmarshal(env.Payload, &b); err != nil {
		return nil, err
	}
	switch {
	case b.Rejection != nil:
		r, ok := t.rows[rowKey{rowFailed, env.Type}]
		if !ok {
			return nil, fmt.Errorf("aggregate %s has no OnFailed row for %s", t.name, env.Type)
		}
		return m.payload(r, env)
	case b.Command != nil:
		r, ok := t.rows[rowKey{rowHandle, b.Command.Type}]
		if !ok {
			return nil, fmt.Errorf("aggregate %s has no Handle row for the answer %s", t.name, b.Command.Type)
		}
		own := Envelope{Kind: KindCommand}
		own.ContentType, own.Payload = b.Command.Data()
		return m.payload(r, &own)
	}
	return unheard{}, nil
}

// decodeReply decodes the payload of a reply.
func decodeReply[C Command](c Codec, data []byte) (any, error) {
	var b body.Reply
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, err
	}
	sent, err := part[C](c, &b.Command)
	if err != nil {
		return nil, fmt.Errorf("the command replied to: %w", err)
	}
	r := Reply[C]{Command: sent, Rejection: rejectionOf(b.Rejection)}
	var at time.Time
	if len(b.Events) > 0 {
		if at, err = time.Parse(time.RFC3339Nano, b.Time); err != nil {
			return nil, err
		}
	}
	for i := range b.Events {
		e := &b.Events[i]
		ev := Envelope{
			Kind: KindEvent, Type: e.Type, Stream: Stream{b.Tenant, b.Aggregate, b.Key}, Source: b.Service, Time: at, Version: e.Version,
		}
		ev.ContentType, ev.Payload = e.Data()
		if ev.ID, err = ParseID(e.ID); err != nil {
			return nil, err
		}
		r.Events = append(r.Events, ev)
	}
	return r, nil
}

// decodeFailed decodes the payload of a result that gave an effect up.
func decodeFailed[E Effect](c Codec, data []byte) (any, error) {
	var b body.Result
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, err
	}
	asked, err := part[E](c, &b.Effect)
	return Failed[E]{Effect: asked, Reason: rejectionOf(b.Rejection)}, err
}

// part decodes what was the aggregate's own, and so is of its codec.
func part[M any](c Codec, p *body.Part) (m M, err error) {
	contentType, payload := p.Data()
	if contentType != c.ContentType() {
		return m, fmt.Errorf("content type %q, this service reads %q", contentType, c.ContentType())
	}
	v, err := decodePayload[M](c, payload)
	if err != nil {
		return m, err
	}
	return v.(M), nil
}

func rejectionOf(r *body.Refusal) *Rejection {
	if r == nil {
		return nil
	}
	return &Rejection{Code: r.Code, Detail: r.Detail}
}

// reaction returns the React row of an aggregate for an event, and the upcasters on the way from the event to it; nil if
// there is none.
func (m *Machine) reaction(t *ruleTable, event string) (*row, []Upcaster) {
	var ups []Upcaster
	for range len(m.upcasters) + 1 {
		if r, ok := t.rows[rowKey{rowReact, event}]; ok {
			return r, ups
		}
		up, ok := m.upcasters[event]
		if !ok {
			break
		}
		ups, event = append(ups, up), up.to
	}
	return nil, nil
}

// reactionTo decodes an event for the row that reacts to it; nil if there is none.
func (m *Machine) reactionTo(t *ruleTable, ev *Envelope) (msg any, r *row, err error) {
	r, ups := m.reaction(t, ev.Type)
	if r == nil {
		return nil, nil, nil
	}
	if ev.ContentType != m.codec.ContentType() {
		return nil, r, fmt.Errorf("content type %q, this service reads %q", ev.ContentType, m.codec.ContentType())
	}
	defer recovered(&err)
	if len(ups) == 0 {
		msg, err = r.decode(m.codec, ev.Payload)
		return msg, r, err
	}
	if msg, err = ups[0].decode(m.codec, ev.Payload); err != nil {
		return nil, r, err
	}
	for _, up := range ups {
		msg = up.up(msg)
	}
	return msg, r, nil
}

// Reactions returns the streams that are to hear of an event, in order of aggregates.
func (m *Machine) Reactions(ev *Envelope) ([]Stream, error) {
	var to []Stream
	for _, name := range m.reacting {
		msg, r, err := m.reactionTo(m.tables[name], ev)
		if r == nil {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("decode event %s of %s for aggregate %s: %w", ev.Type, ev.Stream, name, err)
		}
		key, err := r.key(msg)
		if err == nil && key == "" {
			continue
		}
		s := Stream{ev.Stream.Tenant, name, key}
		if err == nil {
			err = s.Valid()
		}
		if err != nil {
			return nil, fmt.Errorf("key of aggregate %s for event %s of %s: %w", name, ev.Type, ev.Stream, err)
		}
		to = append(to, s)
	}
	return to, nil
}

// Routes describes the React rows: it is another text whenever a service hears of other events.
func (m *Machine) Routes() []string {
	var texts []string
	for _, name := range m.reacting {
		for key := range m.tables[name].rows {
			if key.kind == rowReact {
				texts = append(texts, name+" "+key.wire)
			}
		}
	}
	slices.Sort(texts)
	return texts
}

// Derive returns the ID of a message that follows from another one: what for, and to or from which stream.
func (m *Machine) Derive(s Stream, cause ID, what string) ID {
	return derivedID(m.name, s, cause, reservedPrefix+what, 0)
}

// Counterparts returns the aggregates, of this service and of others, that it sends commands to, those whose replies it hears,
// and those whose events it hears; each sorted.
func (m *Machine) Counterparts() (sends, replies, events []string) {
	for _, t := range m.tables {
		for key := range t.rows {
			to, err := aggregateOf(key.wire)
			if err != nil {
				continue
			}
			switch key.kind {
			case rowReply:
				sends, replies = append(sends, to), append(replies, to)
			case rowForget:
				sends = append(sends, to)
			case rowReact:
				events = append(events, to)
			default:
			}
		}
	}
	return distinct(sends), distinct(replies), distinct(events)
}

func distinct(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// CheckPeers returns an error naming every aggregate that messages would go to, or come from, and that is nobody's: peers are
// the services that own the aggregates of other services.
func (m *Machine) CheckPeers(peers map[string]string) error {
	var faults []error
	sends, _, events := m.Counterparts()
	for _, agg := range distinct(slices.Concat(sends, events)) {
		if _, own := m.tables[agg]; !own && peers[agg] == "" {
			faults = append(faults, fmt.Errorf("aggregate %s is none of service %s, which has rows for it; say in Peers which service owns it", agg, m.name))
		}
	}
	for _, agg := range slices.Sorted(maps.Keys(peers)) {
		service := peers[agg]
		if _, own := m.tables[agg]; own && service != m.name {
			faults = append(faults, fmt.Errorf("peers: aggregate %s is service %s's own, not %s's", agg, m.name, service))
		}
		if !validName(service) || !validName(agg) {
			faults = append(faults, fmt.Errorf("peers: %q: %q: want names of an aggregate and of a service", agg, service))
		}
	}
	return errors.Join(faults...)
}

// Effects returns the wire names of the effects that the service's aggregates ask for, sorted.
func (m *Machine) Effects() []string {
	var names []string
	for _, t := range m.tables {
		for key := range t.rows {
			if key.kind == rowFailed {
				names = append(names, key.wire)
			}
		}
	}
	return distinct(names)
}
