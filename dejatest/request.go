package dejatest

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/wire"
)

// message makes of a request what a client would send; id is for requests that bring none.
func message(m *deja.Machine, r deja.Request, id deja.ID) (*deja.Envelope, error) {
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
	if r.ID.IsZero() {
		r.ID = id
	}
	env := &deja.Envelope{
		ID: r.ID, Kind: deja.KindCommand, Type: name, Source: cmp.Or(r.Source, m.Name()), Actor: r.Actor,
		Stream:       deja.Stream{Tenant: r.Tenant, Aggregate: aggregate, Key: r.Key},
		BusinessTime: wire.Micro(r.BusinessTime), Headers: r.Headers, CorrelationID: r.ID,
		ContentType: m.Codec().ContentType(), Payload: payload,
	}
	return env, check(m, env)
}

// check finds what a client refuses before it sends.
func check(m *deja.Machine, env *deja.Envelope) error {
	if err := env.ID.Valid(); err != nil {
		return fmt.Errorf("message id %s: %w", env.ID, err)
	}
	if err := env.Stream.Valid(); err != nil {
		return err
	}
	if _, err := m.NewState(env.Stream); err != nil {
		return err
	}
	if err := deja.CheckPayload(env.ContentType, env.Payload); err != nil {
		return fmt.Errorf("%s: %w", env.Type, err)
	}
	_, err := m.Decode(env)
	return err
}
