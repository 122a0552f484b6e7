package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/relive"
	"github.com/dejalog/deja/internal/wire"
)

// facts are recorded events on their way onto other states.
type facts struct {
	*lifetime
	states  map[deja.Stream]*deja.State
	parked  map[deja.Stream]int64
	open    map[deja.Stream]wire.Open // of the streams of which it matters
	known   map[deja.ID]driver.Entry  // of the IDs that edited messages have
	records map[deja.ID]driver.Record
}

// keep folds what was recorded, and lets only those messages be decided that are not as they were.
func (l *lifetime) keep(ctx context.Context) error {
	if _, err := l.past(ctx); err != nil { // for the rows
		return err
	}
	f := facts{
		lifetime: l, states: map[deja.Stream]*deja.State{}, parked: map[deja.Stream]int64{}, open: map[deja.Stream]wire.Open{},
		known: map[deja.ID]driver.Entry{}, records: map[deja.ID]driver.Record{},
	}
	for _, s := range l.streams {
		if err := f.put(s.row); err != nil {
			return err
		}
	}
	for _, d := range l.order() {
		s := l.streams[d.env.Stream]
		if s == nil {
			continue // dead, whatever else is otherwise
		}
		if err := f.take(ctx, s, d); err != nil {
			return fmt.Errorf("message %s of %s: %w", d.env.ID, s.stream, err)
		}
		l.lived++
	}
	for s := range l.streams {
		row, err := f.rowOf(s)
		if err != nil {
			return err
		}
		l.rows[s] = row
	}
	return nil
}

// put takes a row for the state of its stream.
func (f *facts) put(row driver.State) (err error) {
	f.parked[row.Stream] = row.Parked
	if f.streams[row.Stream].open != nil {
		if f.open[row.Stream], err = wire.DecodeOpen(f.h.machine.Name(), row.Stream, row.Open); err != nil {
			return err
		}
	}
	f.states[row.Stream], err = f.h.machine.DecodeState(row.Stream, row.Version, row.Data)
	return err
}

func (f *facts) rowOf(s deja.Stream) (row driver.State, err error) {
	st := f.states[s]
	row = driver.State{Stream: s, Partition: f.partition(s), Version: st.Version, Parked: f.parked[s]}
	open := f.open[s]
	row.Open, row.Due = open.Append(nil), open.Due()
	if st.Version > 0 {
		row.Data, err = st.Encode()
	}
	return row, err
}

func (f *facts) take(ctx context.Context, s *streamPlan, d *delivery) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.step == nil || d.edit != nil || d.step.Status == deja.Conflicted {
		return f.decide(ctx, s, d)
	}
	i, found := slices.BinarySearchFunc(s.groups, d.step.Position.Offset, func(g group, at int64) int { return cmp.Compare(g.offset, at) })
	if !found {
		return errors.New("how it was settled is not in the history")
	}
	for _, st := range s.groups[i].steps {
		if e := f.of(st).edit; e != nil && e.Do != Drop {
			return cannotBe("it had message %s decided again, which is edited: with facts fixed it is not known how", st.ID)
		} else if e != nil {
			continue
		}
		for _, ev := range st.Events {
			if err := f.h.machine.Fold(f.states[s.stream], &deja.Envelope{Type: ev.Type, Stream: s.stream, Payload: ev.Payload}); err != nil {
				return err
			}
		}
		if s.open != nil {
			e, err := f.h.source.Decision(ctx, st.Position.Partition, st.N)
			if err != nil {
				return err
			}
			f.open[s.stream] = f.open[s.stream].After(e.Record, s.open.rules)
		}
		f.parked[s.stream] += parks(st)
		o, err := f.recorded(ctx, st)
		if err != nil {
			return err
		}
		f.of(st).now = append(f.of(st).now, o)
	}
	if d.own {
		f.know(d, d.step.Status)
	}
	return nil
}

// know notes that a message's ID is known from now on.
func (f *facts) know(d *delivery, status deja.Status) {
	m := f.prepared(d)
	f.known[m.Key] = driver.Entry{Key: m.Key, Hash: m.Hash, Partition: d.rec.Partition, Offset: d.rec.Offset, Status: status}
	f.records[m.Key] = d.rec
}

// decide lets one message be decided on the state as it is.
func (f *facts) decide(ctx context.Context, s *streamPlan, d *delivery) error {
	if d.env.Kind == deja.KindAct {
		return cannotBe("it is an operator's act: with facts fixed it is not known what it would have had decided again")
	}
	row, err := f.rowOf(s.stream)
	if err != nil {
		return err
	}
	past := relive.Past{States: []driver.State{row}, Ledger: slices.Collect(maps.Values(f.known)), Inbox: slices.Collect(maps.Values(f.records))}
	slices.SortFunc(past.Inbox, func(a, b driver.Record) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	account := f.at[f.positionOf(d)]
	before := len(account.now)
	w, err := f.newWorld(ctx, past)
	if err != nil {
		return err
	}
	m, err := f.message(ctx, w, d)
	if err != nil {
		return err
	}
	if err := w.Live(ctx, []relive.Message{m}); err != nil {
		return err
	}
	if len(account.now) == before {
		return nil // a duplicate
	}
	if o := account.now[before]; o.status != deja.Conflicted {
		f.know(d, o.status)
	}
	if row, err = w.Row(ctx, s.stream); err != nil {
		return err
	}
	return f.put(row)
}
