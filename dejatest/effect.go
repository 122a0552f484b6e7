package dejatest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
)

// Performed is an effect that a provider was called for.
type Performed struct {
	Effect deja.Envelope
	Calls  int // all of them with the effect's ID as their key
}

// firstRetry is how long after a failed call of a provider the next one is made; then it is twice as long each time.
const firstRetry = 100 * time.Millisecond

// effect is one that a life knows to be open.
type effect struct {
	wire.Effect
	next  time.Time     // when it is tried next
	pause time.Duration // before the try after that
	after int64         // the inbox offset below which its result may be
	done  bool          // its result was delivered, or nobody can tell what became of it
}

// unanswered notes the effects of a partition that are open when a life begins.
func (l *life) unanswered(ctx context.Context, partition int32) error {
	var after deja.Stream
	for {
		rows, err := l.store.Open(ctx, partition, after, 1000)
		if err != nil || len(rows) == 0 {
			return err
		}
		for _, row := range rows {
			open, err := wire.DecodeOpen(l.name(), row.Stream, row.Open)
			if err != nil {
				return err
			}
			for _, e := range open.Effects {
				l.effects = append(l.effects, &effect{Effect: e, pause: firstRetry, after: l.end(partition)})
			}
		}
		after = rows[len(rows)-1].Stream
	}
}

// follow notes what a decision asks for, and what it has heard the result of.
func (l *life) follow(r *wire.Record) {
	if r.Cause.Kind == deja.KindResult && r.Opens() {
		l.effects = slices.DeleteFunc(l.effects, func(e *effect) bool { return e.ID == r.Cause.CausationID })
	}
	for i := range r.Decided.Effects {
		l.effects = append(l.effects, &effect{Effect: wire.Effect{Envelope: r.Decided.Effects[i], Asked: r.Time}, pause: firstRetry})
	}
}

// wanted returns an effect that is to be performed now; nil if there is none.
func (l *life) wanted() *effect {
	for _, e := range l.effects {
		if e.done || l.disk.performers[e.Type] == nil || e.next.After(l.disk.now) {
			continue
		}
		if l.workers[place.Partition(e.Stream.Key, partitions)].Position().Offset >= e.after {
			return e
		}
	}
	return nil
}

// perform calls the provider of an effect once, and delivers the result if there is one. It says how that went.
func (l *life) perform(ctx context.Context, e *effect) (string, error) {
	p := l.disk.performers[e.Type]
	call := p.Do
	if l.disk.now.Sub(e.Asked) > p.Window() {
		if !p.Inquires() {
			e.done = true
			return "its provider may have forgotten the key, and nobody can tell what became of it", nil
		}
		call = p.Inquire
	} else {
		l.disk.called(&e.Envelope)
	}
	cmd, err := call(ctx, l.m.Codec(), e.ID, e.Payload)
	result := route.Result{Command: cmd}
	how := "done"
	if errors.As(err, &result.Rejection) && result.Rejection != nil {
		how = "refused: " + result.Rejection.Error()
	} else if err != nil {
		e.next, e.pause = l.disk.now.Add(e.pause), 2*e.pause
		return "failed: " + err.Error(), nil //nolint:nilerr // it is the provider's error, and tried again
	}
	m, err := result.Message(l.m, &e.Effect)
	if err != nil {
		return "", err
	}
	if _, err := l.disk.deliver(ctx, l.log, l.name(), []driver.Record{route.Record(&m, partitions)}); err != nil {
		return "", err
	}
	e.done = true
	return how, nil
}
