package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/route"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
)

const (
	wheelEvery   = 100 * time.Millisecond // how often the wheel looks for timers that are due
	longestEarly = 10 * time.Second       // how long a timer waits at most that came before its time
)

// wheel has a partition's timers fire: each becomes a message of the inbox, when its time has come by the input's
// watermark. That is the time up to which all that was in the journals of those it hears, and all in the inbox, is
// handled: what a backlog answers does not time out.
type wheel struct {
	p     *partition
	w     *step.Worker
	fired map[deja.ID]int64 // timers whose messages were appended, and the offset behind each
	early map[deja.ID]early // timers as they are if those messages come before their time

	looked int64     // how many timers had been scheduled when the store was asked for the earliest that is not fired
	next   time.Time // when that one is due; zero if there was none

	mark  time.Time        // the watermark
	asked time.Time        // when the ends below were asked for; zero if they are reached
	heard map[source]int64 // how far the journals went then that answers come from; those that are carried are gone
	end   int64            // of the inbox, once all of these are carried; -1 before
}

// early is a timer that may have fired too early, as our clock may be ahead of the log's: were it fired again at each turn, the
// inbox would fill.
type early struct {
	was   deja.ID       // the timer's message that was appended
	until time.Time     // before that it is not fired again
	pause time.Duration // to that time; the next one is twice as long
}

// turning is one turn of a wheel.
type turning struct {
	released int64            // the number of the last decision that is logged
	pending  map[deja.ID]bool // timers that are due, and are not to be fired now
	left     bool             // some of them are to be fired later
	next     time.Time        // when the first other one is due; zero if there is none
}

// source is a partition of a journal that answers come from: of another service, whose cursor is an offset, or of this one,
// whose cursor counts decisions.
type source struct {
	service   string
	partition int32
}

func (p *partition) wheel(ctx context.Context, w *step.Worker) {
	p.e.keep(ctx, fmt.Sprintf("timers of partition %d", p.number), func(ctx context.Context, well func()) error {
		wh := wheel{p: p, w: w, fired: map[deja.ID]int64{}, early: map[deja.ID]early{}, looked: -1}
		tick := time.NewTicker(wheelEvery)
		defer tick.Stop()
		for {
			if err := wh.turn(ctx); err != nil {
				return err
			}
			well()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

// forever is after every time that a timer may be due at.
var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

// turn has those timers fire that are due.
func (wh *wheel) turn(ctx context.Context) error {
	scheduled := wh.w.Timers()
	if scheduled != wh.looked {
		first, err := wh.dueAfter(ctx, driver.State{})
		if err != nil {
			return err
		}
		wh.looked, wh.next = scheduled, first
	}
	if wh.next.IsZero() || time.Now().Before(wh.next) {
		return nil
	}
	wh.looked = -1 // it may be gone by the next time
	if err := wh.watch(ctx); err != nil {
		return err
	}
	handled := wh.w.Progress().Position
	t := turning{released: wh.w.Released(), pending: map[deja.ID]bool{}}
	var after driver.State
	for {
		rows, err := wh.p.e.store.Due(ctx, wh.p.number, wh.mark, after, batchSize)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			break
		}
		if err := wh.fire(ctx, rows, &t); err != nil {
			return err
		}
		after = rows[len(rows)-1]
	}
	for id, behind := range wh.fired {
		switch {
		case behind > handled:
			t.left = true
		case !t.pending[id]: // else its message is parked, or was dead, and comes once all the same
			delete(wh.fired, id)
		}
	}
	for id, e := range wh.early {
		if _, fired := wh.fired[e.was]; !fired && !t.pending[id] {
			delete(wh.early, id)
		}
	}
	if t.left {
		return nil
	}
	next, err := wh.dueAfter(ctx, after)
	if err != nil {
		return err
	}
	t.sooner(next)
	wh.looked, wh.next = scheduled, t.next
	return nil
}

// dueAfter returns when the first row after another is due; zero if there is none.
func (wh *wheel) dueAfter(ctx context.Context, after driver.State) (time.Time, error) {
	rows, err := wh.p.e.store.Due(ctx, wh.p.number, forever, after, 1)
	if err != nil || len(rows) == 0 {
		return time.Time{}, err
	}
	return rows[0].Due, nil
}

// sooner notes when another timer is due.
func (t *turning) sooner(due time.Time) {
	if t.next.IsZero() || !due.IsZero() && due.Before(t.next) {
		t.next = due
	}
}

// fire appends the messages of the timers in rows that are due. A row whose last decision is not logged yet waits.
func (wh *wheel) fire(ctx context.Context, rows []driver.State, turn *turning) error {
	e := wh.p.e
	ps, err := e.partitions(ctx)
	if err != nil {
		return err
	}
	var recs []driver.Record
	var ids []deja.ID
	now := time.Now()
	for _, row := range rows {
		open, err := wire.DecodeOpen(e.machine.Name(), row.Stream, row.Open)
		if err != nil {
			return err
		}
		for i := range open.Timers {
			t := &open.Timers[i]
			if _, fired := wh.fired[t.Command.ID]; fired {
				turn.pending[t.Command.ID] = true
				continue
			}
			if t.Due.After(wh.mark) {
				turn.sooner(t.Due)
				continue
			}
			if row.N > turn.released || now.Before(wh.early[t.Command.ID].until) {
				turn.pending[t.Command.ID], turn.left = true, true
				continue
			}
			m := route.Fired(t)
			recs, ids = append(recs, route.Record(&m, int32(len(ps)))), append(ids, m.ID)
		}
	}
	if len(recs) == 0 {
		return nil
	}
	at, err := e.log.Append(ctx, wire.Inbox(e.machine.Name()), recs)
	if err != nil {
		return fmt.Errorf("append timers to the inbox: %w", err)
	}
	for i, id := range ids {
		wh.fired[id] = at[i].Offset + 1
		pause := max(wh.early[id].pause, wheelEvery)
		delete(wh.early, id)
		wh.early[wire.AfterEarly(id)] = early{was: id, until: now.Add(pause), pause: min(2*pause, longestEarly)}
	}
	return nil
}

// watch moves the watermark on. First what was in the others' journals at some time must have been carried into the inbox,
// then what is in the inbox be handled; then that time is the watermark. While that goes on, it stays where it was: the time
// of a decision says nothing of what is older and not carried yet.
func (wh *wheel) watch(ctx context.Context) error {
	if wh.asked.IsZero() {
		if err := wh.ask(ctx); err != nil {
			return err
		}
	}
	e := wh.p.e
	cursors, _ := e.log.(driver.Cursors)
	for s, end := range wh.heard {
		at, err := cursors.Cursor(ctx, route.Reader(e.machine.Name(), e.machine.Name()), wire.Journal(s.service), s.partition)
		if err != nil {
			return err
		}
		if at < end && s.service != e.machine.Name() && time.Since(wh.asked) > uncounted {
			if end, err = e.counted(ctx, s, at, end); err != nil {
				return err
			}
		}
		if at >= end {
			delete(wh.heard, s)
		}
	}
	if len(wh.heard) > 0 {
		return nil
	}
	if wh.end < 0 {
		var err error
		if _, wh.end, err = e.log.Bounds(ctx, wire.Inbox(e.machine.Name()), wh.p.number); err != nil {
			return err
		}
	}
	if wh.w.Progress().Position >= wh.end {
		if wh.asked.After(wh.mark) {
			wh.mark = wh.asked
		}
		wh.asked = time.Time{}
	}
	return nil
}

// uncounted is how long a cursor may stay behind a journal's end before it is looked at what is in between.
const uncounted = 2 * time.Second

// counted returns at where no decision lies between at, where a cursor is, and the end of a journal: a cursor is behind a
// decision, and there may be copies and markers behind it.
func (e *Engine) counted(ctx context.Context, s source, at, end int64) (int64, error) {
	mark, err := journal.MarkAt(ctx, e.log, s.service, s.partition, at)
	if err != nil {
		return 0, err
	}
	entries, err := journal.NewReader(e.log, s.service, s.partition, mark).Next(ctx, end, 1)
	if err != nil || len(entries) > 0 {
		return end, err
	}
	return at, nil
}

// ends calls fn with the end of each partition of the other services' journals that are heard, in order. One whose journal
// is not there has not answered anything yet.
func (e *Engine) ends(ctx context.Context, fn func(s source, end int64) error) error {
	for _, service := range e.talks.Sources {
		t, err := e.log.Topic(ctx, wire.Journal(service))
		if errors.Is(err, driver.ErrNotFound) {
			continue // the route's fault says so
		}
		if err != nil {
			return err
		}
		for n := range t.Partitions {
			_, end, err := e.log.Bounds(ctx, t.Name, n)
			if err == nil {
				err = fn(source{service, n}, end)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// ask asks how far the journals go now that answers come from.
func (wh *wheel) ask(ctx context.Context) error {
	e := wh.p.e
	asked := time.Now()
	heard := map[source]int64{}
	if err := e.ends(ctx, func(s source, end int64) error { heard[s] = end; return nil }); err != nil {
		return err
	}
	if own := e.machine.Name(); slices.Contains(e.talks.Targets, own) {
		ps, err := e.partitions(ctx)
		if err != nil {
			return err
		}
		for _, p := range ps {
			at, err := e.store.Progress(ctx, p.number)
			if err != nil {
				return err
			}
			heard[source{own, p.number}] = at.N
		}
	}
	wh.asked, wh.heard, wh.end = asked, heard, -1
	return nil
}
