// Package receipt is the effect of the example: a receipt that a provider outside of deja sends to whoever paid.
package receipt

import (
	"context"

	"github.com/dejalog/deja"
)

// Send asks for the receipt of a transfer.
type Send struct {
	To       string `json:"to"` // the sender's account
	Transfer string `json:"transfer"`
	Amount   int64  `json:"amount"`
}

// EffectType returns the wire name.
func (Send) EffectType() string { return "receipt.send" }

// Performer returns what performs the effect: calls of the provider, with the effect's own key. There is no answer to
// wait for but that it was sent.
func Performer(p *Provider) deja.Performer {
	return deja.PerformWith(deja.Performing[Send]{
		Do: func(ctx context.Context, key deja.ID, s Send) (deja.Command, error) {
			return nil, p.Send(ctx, key.String(), s)
		},
		Concurrency: concurrency,
	})
}

// concurrency is how many calls there are at a time. The provider writes those that come together at once.
const concurrency = 64
