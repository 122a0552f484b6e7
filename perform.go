package deja

import (
	"context"
	"time"
)

// Performing says how effects of one type are performed, outside the service and after the decision that asked for one is
// logged.
//
// Key is the effect's own ID, the same at each try: pass it to the provider as its idempotency key. Effects are at least
// once, and a provider that honours keys makes that once.
//
// The command that Do returns answers the instance that asked, which must have a [Handle] row for it, or a person must say
// what became of the effect; with none the effect is done, and nobody hears of it. A *[Rejection] gives it up at once: the provider has refused it, and [OnFailed] hears
// of that. After any other error nobody can know whether it was performed, so it is tried again, with growing pauses, as
// long as the provider remembers the key.
//
// Functions are to return when their context ends. One that does not keeps its place among those that run at a time, and is
// not waited for when the process stops, or loses the partition: another may call with the same key meanwhile.
type Performing[E Effect] struct {
	Do func(ctx context.Context, key ID, e E) (Command, error)

	// Inquire tells what became of an effect that Do must not be tried with any more: it answers as Do would have, with a
	// *Rejection where the effect was not performed, and with another error while that cannot be told. Without it a person
	// decides.
	Inquire func(ctx context.Context, key ID, e E) (Command, error)

	Window      time.Duration // how long after the decision, which has its message's time, the provider surely remembers the key; 0: 24 hours
	Deadline    time.Duration // of one try; 0: 30 seconds
	Concurrency int           // how many are performed at a time by a process; 0: 16
}

// A Performer performs the effects of one type. It is safe for concurrent use if its functions are.
type Performer struct {
	wire        string
	missing     bool
	do, inquire func(ctx context.Context, c Codec, key ID, payload []byte) (Command, error)

	window, deadline time.Duration
	concurrency      int
}

// Perform returns a performer with a provider that remembers keys for 24 hours.
func Perform[E Effect](do func(ctx context.Context, key ID, e E) (Command, error)) Performer {
	return PerformWith(Performing[E]{Do: do})
}

// PerformWith returns a performer.
func PerformWith[E Effect](p Performing[E]) Performer {
	var zero E
	out := Performer{
		wire: zero.EffectType(), missing: p.Do == nil, do: calling(p.Do),
		window: p.Window, deadline: p.Deadline, concurrency: p.Concurrency,
	}
	if p.Inquire != nil {
		out.inquire = calling(p.Inquire)
	}
	if out.window <= 0 {
		out.window = 24 * time.Hour
	}
	if out.deadline <= 0 {
		out.deadline = 30 * time.Second
	}
	if out.concurrency <= 0 {
		out.concurrency = 16
	}
	return out
}

func calling[E Effect](fn func(ctx context.Context, key ID, e E) (Command, error)) func(context.Context, Codec, ID, []byte) (Command, error) {
	return func(ctx context.Context, c Codec, key ID, payload []byte) (cmd Command, err error) {
		defer recovered(&err)
		e, err := decodePayload[E](c, payload)
		if err != nil {
			return nil, err
		}
		return fn(ctx, key, e.(E))
	}
}

// EffectType returns the wire name of the effects that are performed.
func (p *Performer) EffectType() string { return p.wire }

// Valid reports whether the performer has a function.
func (p *Performer) Valid() bool { return p.do != nil && !p.missing }

// Window returns how long after the decision an effect may be tried.
func (p *Performer) Window() time.Duration { return p.window }

// Deadline returns how long one try may take.
func (p *Performer) Deadline() time.Duration { return p.deadline }

// Concurrency returns how many effects are performed at a time.
func (p *Performer) Concurrency() int { return p.concurrency }

// Inquires reports whether the provider can be asked what became of an effect.
func (p *Performer) Inquires() bool { return p.inquire != nil }

// Do tries to perform an effect, once and up to the deadline. A panic is an error.
func (p *Performer) Do(ctx context.Context, c Codec, key ID, payload []byte) (Command, error) {
	ctx, cancel := context.WithTimeout(ctx, p.deadline)
	defer cancel()
	return p.do(ctx, c, key, payload)
}

// Inquire asks, once and up to the deadline, what became of an effect.
func (p *Performer) Inquire(ctx context.Context, c Codec, key ID, payload []byte) (Command, error) {
	ctx, cancel := context.WithTimeout(ctx, p.deadline)
	defer cancel()
	return p.inquire(ctx, c, key, payload)
}
