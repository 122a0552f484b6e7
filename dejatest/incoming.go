package dejatest

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/dejalog/deja"
)

var errNoMessage = errors.New("want a command, a request, a reply, a failed effect or an event")

// incoming is a message for a case, and how to decode it anew.
type incoming struct {
	env    *deja.Envelope
	decode func() (any, error)
}

func (c *Case[S]) incoming(message any) (*incoming, error) {
	c.t.Helper()
	switch m := message.(type) {
	case nil:
		return nil, errNoMessage
	case deja.Request:
		return c.request(m)
	case deja.Command:
		return c.request(deja.Request{Command: m})
	case deja.Event:
		env := c.event(m)
		return &incoming{&env, func() (any, error) { return c.again(&env, reflect.TypeOf(m)) }}, nil
	}
	return c.answer(message)
}

func (c *Case[S]) request(r deja.Request) (*incoming, error) {
	if r.Key != "" && r.Key != c.stream.Key || r.Tenant != "" {
		return nil, fmt.Errorf("the request is for key %q and tenant %q, the case of %s", r.Key, r.Tenant, c.stream)
	}
	r.Key = c.stream.Key
	env, err := message(c.m, r, c.id())
	if err != nil {
		return nil, err
	}
	if env.Stream != c.stream {
		return nil, fmt.Errorf("%s goes to aggregate %s, the case is of %s", env.Type, env.Stream.Aggregate, c.stream)
	}
	env.Time = c.now
	return &incoming{env, func() (any, error) { return c.m.Decode(env) }}, nil
}

// answer makes a message of a reply or a failed effect. What they carry of the aggregate's own, the command or the
// effect, is encoded and decoded; the rest is handed on as it is.
func (c *Case[S]) answer(message any) (*incoming, error) {
	c.t.Helper()
	v := reflect.ValueOf(message)
	if v.Kind() != reflect.Struct || v.Type().PkgPath() != reflect.TypeFor[deja.Decision]().PkgPath() {
		return nil, errNoMessage
	}
	part := "Command" // of a Reply
	if !v.FieldByName(part).IsValid() {
		part = "Effect" // of a Failed
	}
	own := v.FieldByName(part)
	if !own.IsValid() || !own.CanInterface() {
		return nil, errNoMessage
	}
	var env deja.Envelope
	switch p := own.Interface().(type) {
	case deja.Command:
		env = c.payload(deja.KindReply, p.CommandType(), p)
	case deja.Effect:
		env = c.payload(deja.KindResult, p.EffectType(), p)
	default:
		return nil, errNoMessage
	}
	return &incoming{&env, func() (any, error) {
		sent, err := c.again(&env, own.Type())
		if err != nil {
			return nil, err
		}
		m := reflect.New(v.Type()).Elem()
		m.Set(v)
		m.FieldByName(part).Set(reflect.ValueOf(sent))
		return m.Interface(), nil
	}}, nil
}

// again decodes a payload into a new value of a type, a pointer or not.
func (c *Case[S]) again(env *deja.Envelope, t reflect.Type) (any, error) {
	if t.Kind() == reflect.Pointer {
		p := reflect.New(t.Elem())
		return p.Interface(), c.m.Codec().Unmarshal(env.Payload, p.Interface())
	}
	p := reflect.New(t)
	err := c.m.Codec().Unmarshal(env.Payload, p.Interface())
	return p.Elem().Interface(), err
}
