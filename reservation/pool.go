package reservation

import (
	"math"
	"time"

	"github.com/dejalog/deja"
)

// Pool is the state of a pool of units.
type Pool struct {
	Supply    int64 `json:"supply"`    // all units that there are, those confirmed among them
	Confirmed int64 `json:"confirmed"` // units taken for good
	Holds     Holds `json:"holds"`
}

// Free returns how many units are neither held nor confirmed.
func (p Pool) Free() int64 { return p.Supply - p.Confirmed - p.Holds.Sum }

// Aggregate returns the pools of a kind. Settled reservations are remembered until the time remember has gone by since
// their end, and then forgotten; a negative one is 0. It may change from build to build.
func Aggregate[K Kind](remember time.Duration) *deja.Aggregate[Pool] {
	var k K
	m := memory[K]{remember}
	return deja.NewAggregate(k.AggregateName(),
		deja.Handle(supply[K]),
		deja.Handle(m.reserve),
		deja.Handle(confirm[K]),
		deja.Handle(m.cancel),
		deja.Handle(expire[K]),
		deja.Apply(func(p *Pool, e Supplied[K]) { p.Supply += e.Amount }),
		deja.Apply(func(p *Pool, e Reserved[K]) { p.Holds.Reserve(e.ID, e.Amount, e.Until) }),
		deja.Apply(func(p *Pool, e Confirmed[K]) { p.Confirmed += p.Holds.Confirm(e.ID) }),
		deja.Apply(func(p *Pool, e Cancelled[K]) { p.Holds.Cancel(e.ID, e.Until) }),
		deja.Apply(func(p *Pool, e Expired[K]) { p.Holds.Expire(e.ID) }),
		deja.Apply(func(p *Pool, e Forgotten[K]) { p.Holds.Forget(e.Until) }),
	)
}

// memory has the decisions that add to what is remembered, and so may forget.
type memory[K Kind] struct{ remember time.Duration }

func supply[K Kind](p Pool, d *deja.Decision, c Supply[K]) error {
	switch {
	case c.Amount == 0 || c.Amount == math.MinInt64 || c.Amount > math.MaxInt64-p.Supply:
		return ErrMalformed.Because("an amount of %d beside %d", c.Amount, p.Supply)
	case c.Amount < 0:
		if err := makeRoom[K](p, d, -c.Amount); err != nil {
			return err
		}
	}
	d.Record(Supplied[K](c))
	return nil
}

func (m memory[K]) reserve(p Pool, d *deja.Decision, c Reserve[K]) error {
	if fresh, err := p.Holds.MayReserve(d, c.ID, c.Amount, c.Until); !fresh {
		return err
	}
	if err := makeRoom[K](p, d, c.Amount); err != nil {
		return err
	}
	m.forget(p, d)
	d.Record(Reserved[K](c))
	d.Schedule(timer(c.ID), c.Until, Expire[K]{ID: c.ID})
	return nil
}

func confirm[K Kind](p Pool, d *deja.Decision, c Confirm[K]) error {
	if fresh, err := p.Holds.MayConfirm(d, c.ID); !fresh {
		return err
	}
	d.Record(Confirmed[K]{ID: c.ID, Amount: p.Holds.ByID[c.ID].Amount})
	d.Cancel(timer(c.ID))
	return nil
}

func (m memory[K]) cancel(p Pool, d *deja.Decision, c Cancel[K]) error {
	if fresh, err := p.Holds.MayCancel(d, c.ID, c.Until); !fresh {
		return err
	}
	r, came := p.Holds.ByID[c.ID]
	if came {
		d.Cancel(timer(c.ID))
	} else {
		m.forget(p, d)
	}
	d.Record(Cancelled[K]{ID: c.ID, Amount: r.Amount, Until: c.Until})
	return nil
}

func expire[K Kind](p Pool, d *deja.Decision, c Expire[K]) error {
	if p.Holds.MayExpire(d, c.ID) {
		d.Record(Expired[K]{ID: c.ID, Amount: p.Holds.ByID[c.ID].Amount})
	}
	return nil
}

// makeRoom sees to it that so many units are free: what is over is given back now if its timer is late.
func makeRoom[K Kind](p Pool, d *deja.Decision, amount int64) error {
	over, ok := p.Holds.MayExpireFor(d, amount-p.Free())
	if !ok {
		return ErrShort.Because("%d are free, asked for %d", p.Free(), amount)
	}
	for _, id := range over {
		d.Record(Expired[K]{ID: id, Amount: p.Holds.ByID[id].Amount})
		d.Cancel(timer(id))
	}
	return nil
}

func (m memory[K]) forget(p Pool, d *deja.Decision) {
	if until, ok := p.Holds.MayForget(d, m.remember); ok {
		d.Record(Forgotten[K]{Until: until})
	}
}

// timer names the timer of a reservation.
func timer(id string) string { return "expire/" + id }
