package history

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/relive"
)

// A Relived is what a service, as it is built now, made of a capsule's messages.
type Relived struct {
	machine *deja.Machine
	world   *relive.World
	steps   map[deja.Stream][]*Step // conflicts left out
}

// Relive lets a service decide the capsule's messages, in memory, as it would have when they came.
func (c *Capsule) Relive(ctx context.Context, s *deja.Service) (*Relived, error) {
	m, err := deja.Compile(s)
	if err != nil {
		return nil, err
	}
	if m.Name() != c.Service {
		return nil, fmt.Errorf("the messages are of the service %s, not of %s", c.Service, m.Name())
	}
	recs, err := c.Records()
	if err != nil {
		return nil, err
	}
	r := &Relived{machine: m, steps: map[deja.Stream][]*Step{}}
	r.world, err = relive.New(ctx, relive.Config{Machine: m, Partitions: c.Partitions, MaxRecord: c.MaxRecord, Build: "relived", Decided: func(d relive.Decision) {
		if d.Decided.Status != deja.Conflicted {
			s := stepOf(&d)
			r.steps[s.Stream] = append(r.steps[s.Stream], s)
		}
	}}, relive.Past{})
	if err != nil {
		return nil, err
	}
	ms := make([]relive.Message, len(recs))
	for i, rec := range recs {
		ms[i] = r.world.Prepare(rec)
	}
	return r, r.world.Live(ctx, ms)
}

// State returns the state of a key behind the last message.
func (r *Relived) State(ctx context.Context, s deja.Stream) (*deja.State, error) {
	return r.world.State(ctx, s)
}

// Holds reports whether a predicate, written in CEL, holds for a key after its last decision, which it returns. Without one it
// holds for none.
func (r *Relived) Holds(s deja.Stream, when string) (holds bool, last *Step, err error) {
	p, err := Compile(r.machine, ScopeOf(s), when)
	if err != nil {
		return false, nil, err
	}
	along, err := p.along(r.machine, s)
	if err != nil {
		return false, nil, err
	}
	for _, last = range r.steps[s] {
		if holds, err = along.step(last); err != nil {
			return false, last, err
		}
	}
	return holds, last, nil
}
