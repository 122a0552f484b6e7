package engine

import (
	"context"
	"encoding/json"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/request"
)

// An Act is an operator's act on the oldest parked message of a stream.
type Act struct {
	Stream  deja.Stream
	Message deja.ID // the parked message
	Actor   string  // who does it, for the record
	Reason  string  // why, for the record
}

// Retry has a parked message decided again, then those parked behind it, in order, until one fails or the key is
// free. The act is a message of the inbox like any other, so replay sees it at its place. A *[deja.Rejection] of code
// [deja.CodeFailed] says that a message failed again; of code [deja.CodeNotParked], that there is no such one.
func (e *Engine) Retry(ctx context.Context, a Act) error { return e.act(ctx, deja.ActRetry, a) }

// Skip gives a parked message up as dead, then goes on as Retry does with those behind it.
func (e *Engine) Skip(ctx context.Context, a Act) error { return e.act(ctx, deja.ActSkip, a) }

func (e *Engine) act(ctx context.Context, kind string, a Act) error {
	payload, err := json.Marshal(deja.Act{Message: a.Message, Reason: a.Reason})
	if err != nil {
		return err
	}
	env, err := request.Complete(e.machine, &deja.Envelope{
		Kind: deja.KindAct, Type: kind, Stream: a.Stream, Actor: a.Actor,
		ContentType: "application/json", Payload: payload,
	})
	if err != nil {
		return err
	}
	_, err = (&client{e}).do(ctx, env)
	return err
}
