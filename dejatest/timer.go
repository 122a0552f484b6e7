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

// watermark is the time up to which a partition has handled all that there was to handle, as the engine's wheel knows it.
type watermark struct {
	at    time.Time
	asked time.Time          // when the ends below were asked for; zero if they are reached
	heard map[*carrier]int64 // the ends of the journals that answers come from; those that are carried are gone
	end   int64              // of the inbox, once all of these are carried; -1 before
}

// watch moves a partition's watermark on: first what was in the journals at some time must have been carried into the inbox,
// then what is in the inbox be handled; then that time is the watermark.
func (l *life) watch(partition int32) error {
	m := &l.marks[partition]
	if m.asked.IsZero() {
		if !l.disk.now.After(m.at) {
			return nil
		}
		m.asked, m.heard, m.end = l.disk.now, map[*carrier]int64{}, -1
		for _, c := range l.carriers {
			if c.route.To == l.name() {
				m.heard[c] = l.disk.end(c.from.Topic, c.from.Partition)
			}
		}
	}
	for c, end := range m.heard {
		behind, err := l.behind(c)
		if err != nil {
			return err
		}
		if !behind || c.found > end {
			delete(m.heard, c)
		}
	}
	if len(m.heard) > 0 {
		return nil
	}
	if m.end < 0 {
		m.end = l.end(partition)
	}
	if l.workers[partition].Position().Offset >= m.end {
		m.at, m.asked = m.asked, time.Time{}
	}
	return nil
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
		if !l.fired[p.Command.ID] && !p.Due.After(l.marks[partition].at) {
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
