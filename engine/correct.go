package engine

import (
	"context"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/request"
)

// A Correction is a command that corrects what an earlier message led to.
type Correction struct {
	ID      deja.ID // the same each time that it is sent
	Stream  deja.Stream
	Type    string  // the command's wire name
	Payload []byte  // encoded by the service's codec
	Cause   deja.ID // the message that it corrects
	Root    deja.ID // the first message of that one's chain
	Actor   string  // who does it, for the record
	Headers map[string]string
}

// Correct sends a correction, and answers as [deja.Client.Do] does. It differs from a client's command only in that the record
// says what it was for.
func (e *Engine) Correct(ctx context.Context, c Correction) (deja.Outcome, error) {
	env, err := request.Complete(e.machine, &deja.Envelope{
		ID: c.ID, Kind: deja.KindCommand, Type: c.Type, Stream: c.Stream, Actor: c.Actor, Headers: c.Headers,
		CausationID: c.Cause, CorrelationID: c.Root, ContentType: e.machine.Codec().ContentType(), Payload: c.Payload,
	})
	if err != nil {
		return deja.Outcome{}, invalid(err)
	}
	return (&client{e}).do(ctx, env)
}
