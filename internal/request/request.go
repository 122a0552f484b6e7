// Package request is what clients have in common, the engine's and those of tests: how a request becomes a message,
// and a decision an answer.
package request

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

// Message makes a message of a request to a service.
func Message(m *deja.Machine, r *deja.Request) (*deja.Envelope, error) {
	if r.Command == nil {
		return nil, errors.New("the request has no command")
	}
	name := r.Command.CommandType()
	aggregate, err := deja.Target(name)
	if err != nil {
		return nil, err
	}
	payload, err := m.Codec().Append(nil, r.Command)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	return Complete(m, &deja.Envelope{
		ID: r.ID, Kind: deja.KindCommand, Type: name, Source: r.Source, Actor: r.Actor,
		Stream:       deja.Stream{Tenant: r.Tenant, Aggregate: aggregate, Key: r.Key},
		BusinessTime: wire.Micro(r.BusinessTime), Headers: r.Headers,
		ContentType: m.Codec().ContentType(), Payload: payload,
	})
}

// Complete gives a message its defaults, and checks what would otherwise only be found out in the inbox.
func Complete(m *deja.Machine, env *deja.Envelope) (*deja.Envelope, error) {
	if env.ID.IsZero() {
		env.ID = deja.NewID()
	}
	env.Source, env.CorrelationID = cmp.Or(env.Source, m.Name()), cmp.Or(env.CorrelationID, env.ID)
	if err := step.Valid(env); err != nil {
		return nil, err
	}
	if _, err := m.NewState(env.Stream); err != nil {
		return nil, err
	}
	if err := deja.CheckPayload(env.ContentType, env.Payload); err != nil {
		return nil, fmt.Errorf("%s: %w", env.Type, err)
	}
	if env.Kind != deja.KindCommand {
		return env, nil
	}
	_, err := m.Decode(env)
	return env, err
}

// An Answer is a settled message on its way to whoever asked.
type Answer struct {
	Record    *wire.Record // the decision that counts; of a duplicate, the first delivery's
	Duplicate bool
	Conflict  *deja.Conflict // why the message was refused, if its ID was another's
}

// Decided returns the answer of a decision that was just made.
func Decided(r *wire.Record) Answer {
	a := Answer{Record: r}
	if second := r.Cause.Position; r.Decided.Status == deja.Conflicted {
		first := deja.Position{Topic: second.Topic, Partition: r.FirstIn, Offset: r.First}
		a.Conflict = &deja.Conflict{ID: r.Cause.ID, First: first, Second: second, Paths: r.Paths}
	}
	return a
}

// Outcome returns what [deja.Client.Do] answers.
func (a Answer) Outcome() (deja.Outcome, error) {
	r := a.Record
	out := deja.Outcome{
		ID: r.Cause.ID, Duplicate: a.Duplicate, Position: r.Cause.Position, Version: r.Version, Events: r.Decided.Events,
	}
	if a.Conflict != nil {
		return out, a.Conflict
	}
	reason := r.Decided.Reason
	switch r.Decided.Status {
	case deja.Applied:
		return out, nil
	case deja.Rejected:
		return out, &reason
	case deja.Parked:
		return out, fmt.Errorf("%w: %w", deja.ErrParked, &reason)
	default:
		return out, &deja.Dead{ID: out.ID, Reason: reason}
	}
}
