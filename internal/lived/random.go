package lived

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dejalog/deja"
)

// Random sends a random message to the service that has shelves, and lets time pass: something new, of one's own client or
// another source, with a cause or without; something again, with the same content or another; or an act on a parked message.
func (p *Past) Random(rng *rand.Rand, keys int) {
	p.t.Helper()
	p.Now = p.Now.Add(time.Duration(rng.IntN(3)) * 500 * time.Millisecond) // some are decided at the same time
	s := deja.Stream{Aggregate: "shelf", Key: string(rune('a' + rng.IntN(keys)))}
	r := rng.IntN(20)
	if waiting := p.Waiting(s); r < 3 && !waiting.IsZero() {
		act := []string{deja.ActRetry, deja.ActSkip}[rng.IntN(2)]
		p.Send(deja.Envelope{Kind: deja.KindAct, Type: act, Stream: s, Payload: fmt.Appendf(nil, `{"message":%q}`, waiting)})
		return
	}
	if r < 6 && len(p.sent) > 0 {
		again := p.sent[rng.IntN(len(p.sent))]
		if r == 5 && again.Kind == deja.KindCommand {
			again.Type, again.Payload = "shelf.add", []byte(`{"amount":-3}`)
		}
		p.Send(again)
		return
	}
	env := deja.Envelope{Stream: s, Actor: []string{"", "ana", "bo"}[rng.IntN(3)]}
	if rng.IntN(6) == 0 {
		env.Source = "elsewhere"
	}
	if rng.IntN(3) > 0 {
		env.BusinessTime = p.Now.AddDate(-1, 0, -rng.IntN(3)*rng.IntN(2)).Truncate(time.Second)
	}
	if len(p.sent) > 0 && rng.IntN(3) == 0 {
		cause := p.sent[rng.IntN(len(p.sent))]
		env.CausationID, env.CorrelationID = cause.ID, cause.CorrelationID
	} else if rng.IntN(10) == 0 {
		env.CausationID = deja.DeriveID("foreign", fmt.Sprint(rng.IntN(3)))
	}
	env.Type, env.Payload = command(rng)
	p.Send(env)
}

// command returns something to ask of a shelf.
func command(rng *rand.Rand) (name string, payload []byte) {
	word := []string{"", "a.b", "eur", "~/x", "usd"}[rng.IntN(5)]
	switch rng.IntN(20) {
	case 0, 1, 2:
		return "shelf.add", fmt.Appendf(nil, `{"amount":%d,"twice":%t}`, rng.IntN(40)-20, rng.IntN(4) == 0)
	case 3, 4:
		return "shelf.own", fmt.Appendf(nil, `{"name":%q,"city":%q}`, word, []string{"", "Rome"}[rng.IntN(2)])
	case 5, 6, 7:
		return "shelf.limit", fmt.Appendf(nil, `{"name":%q,"value":%d}`, word, rng.IntN(5)-2)
	case 8, 9, 10:
		return "shelf.push", fmt.Appendf(nil, `{"sku":%q,"n":%d}`, word, rng.IntN(3))
	case 11, 12, 13:
		return "shelf.drop", fmt.Appendf(nil, `{"at":%d}`, rng.IntN(4))
	case 14:
		return "shelf.note", fmt.Appendf(nil, `{"text":%q}`, word)
	case 15, 16, 17, 18:
		return "shelf.shop", fmt.Appendf(nil, `{"at":%q,"name":%q,"city":%q}`, word, []string{"", "-", "x"}[rng.IntN(3)], []string{"", "Rome"}[rng.IntN(2)])
	}
	return "shelf.fail", []byte(`{}`)
}
