package dejatest

import (
	"context"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/wire"
)

// forever is after every time that a timer may be due at.
var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// watch moves a partition's watermark on, as the engine's wheel does: to now if all that other services' journals have for
// the service is carried and all in the inbox is handled; else it is the time of the last decision.
func (l *life) watch(partition int32) error {
	at := l.workers[partition].Progress().Time
	if !l.waiting(partition) && l.disk.now.After(l.mark[partition]) {
		unheard, err := l.unheard()
		if err != nil {
			return err
		}
		if !unheard {
			at = l.disk.now
		}
	}
	if at.After(l.mark[partition]) {
		l.mark[partition] = at
	}
	return nil
}

// unheard reports whether other services' journals have something that is not carried yet.
func (l *life) unheard() (bool, error) {
	for _, c := range l.carriers {
		if c.route.From == l.name() {
			continue
		}
		if behind, err := l.behind(c); behind || err != nil {
			return behind, err
		}
	}
	return false, nil
}

// pending calls fn with the timers of a partition, earliest streams first, until it returns false.
func (l *life) pending(partition int32, fn func(*deja.Timer) bool) error {
	rows, err := l.kept.Due(context.Background(), partition, forever, driver.State{}, 1<<20)
	if err != nil {
		return err
	}
	for _, row := range rows {
		open, err := wire.DecodeOpen(l.name(), row.Stream, row.Open)
		if err != nil {
			return err
		}
		for i := range open.Timers {
			if !fn(&open.Timers[i]) {
				return nil
			}
		}
	}
	return nil
}

// due returns a timer of a partition that is to fire now; nil if there is none.
func (l *life) due(partition int32) (t *deja.Timer, err error) {
	err = l.pending(partition, func(p *deja.Timer) bool {
		if !l.fired[p.Command.ID] && !p.Due.After(l.mark[partition]) {
			t = p
		}
		return t == nil
	})
	return t, err
}

// fire delivers the message of a timer.
func (l *life) fire(ctx context.Context, t *deja.Timer) error {
	m := route.Fired(t)
	if _, err := l.disk.deliver(ctx, l.log, l.name(), []driver.Record{route.Record(&m, partitions)}); err != nil {
		return err
	}
	l.fired[m.ID] = true
	return nil
}

// wakes returns when, after now, the service has something to do without any message; zero if it has not.
func (l *life) wakes() (at time.Time, err error) {
	earliest := func(t time.Time) {
		if t.After(l.disk.now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for p := range int32(partitions) {
		if err := l.pending(p, func(t *deja.Timer) bool { earliest(t.Due); return true }); err != nil {
			return at, err
		}
	}
	for _, e := range l.effects {
		if !e.done {
			earliest(e.next)
		}
	}
	return at, nil
}
