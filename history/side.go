package history

import (
	"context"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/canon"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/talk"
	"github.com/dejalog/deja/internal/wire"
)

// Recorded stands, where a program is asked for, for what was decided then.
const Recorded = "recorded"

// A Build says who decides.
type Build struct {
	Program string `json:"program"`           // its path, or recorded
	Service string `json:"service,omitempty"` // of a program: what it says of itself
	Build   string `json:"build,omitempty"`
	Fold    string `json:"fold,omitempty"`
	Go      string `json:"go,omitempty"`
}

// side is one of two who decide the same messages. Its feed may run beside its next.
type side interface {
	// build says who it is.
	build() Build

	// begin begins with a partition, after its decision after.
	begin(ctx context.Context, partition int32, past []keyPast) error

	// feed hands over messages, in order.
	feed(ctx context.Context, vs []visit) error

	// next returns what the first message that was handed over, and has no answer yet, came to.
	next(ctx context.Context, v *visit) (talk.Answer, error)

	// row returns a key's state, after all messages that have an answer.
	row(ctx context.Context, s deja.Stream) (driver.State, error)

	close()
}

// visit is a message on its way to both sides: an act is one with all that it brought about.
type visit struct {
	entries []journal.Entry // as it was decided; an act's own decision comes last
	rec     driver.Record   // of the inbox
	repair  bool            // a repair sent it: programs do not live it
}

// own returns the message's own decision.
func (v *visit) own() *journal.Entry { return &v.entries[len(v.entries)-1] }

// envelope returns the message.
func (v *visit) envelope() (*deja.Envelope, error) {
	return wire.NewDecoder("").Message(v.rec.Value)
}

// keyPast is what a key is before the first message that is lived.
type keyPast struct {
	row     driver.State
	waiting []driver.Record // inbox records of its parked messages
}

// recordedSide is what was decided then.
type recordedSide struct {
	machine *deja.Machine
	keys    map[deja.Stream]*foldedKey
}

// foldedKey is a key as the record gives it.
type foldedKey struct {
	state  *deja.State
	fields []canon.Field
	hash   [32]byte
}

func (r *recordedSide) build() Build                        { return Build{Program: Recorded} }
func (r *recordedSide) feed(context.Context, []visit) error { return nil }
func (r *recordedSide) close()                              {}

func (r *recordedSide) begin(_ context.Context, _ int32, past []keyPast) error {
	r.keys = map[deja.Stream]*foldedKey{}
	for _, p := range past {
		st, err := r.machine.DecodeState(p.row.Stream, p.row.Version, p.row.Data)
		if err != nil {
			return err
		}
		k := &foldedKey{state: st}
		if err := r.flatten(k); err != nil {
			return err
		}
		r.keys[p.row.Stream] = k
	}
	return nil
}

// flatten brings a key's fields up to its state.
func (r *recordedSide) flatten(k *foldedKey) error {
	if k.state.Version == 0 {
		return nil
	}
	data, err := k.state.Encode()
	if err == nil {
		k.fields, err = r.machine.Flatten(nil, k.state.Stream.Aggregate, data)
	}
	k.hash = canon.HashFields(k.fields)
	return err
}

func (r *recordedSide) next(_ context.Context, v *visit) (talk.Answer, error) {
	a := talk.Answer{Offset: v.rec.Offset}
	for i := range v.entries {
		e := &v.entries[i]
		d := talk.Decision{Record: e.Record}
		k := r.keys[e.Cause.Stream]
		if len(e.Decided.Events) > 0 {
			var err error
			if k, d.Changes, err = r.fold(k, e.Record); err != nil {
				return a, fmt.Errorf("decision %d of partition %d: %w", e.N, e.Cause.Position.Partition, err)
			}
		}
		if k != nil {
			a.State = k.hash
		}
		a.Decisions = append(a.Decisions, d)
	}
	return a, nil
}

// fold applies the events of a decision, and returns what they changed.
func (r *recordedSide) fold(k *foldedKey, e *wire.Record) (*foldedKey, []canon.Change, error) {
	if k == nil {
		st, err := r.machine.NewState(e.Cause.Stream)
		if err != nil {
			return nil, nil, err
		}
		k = &foldedKey{state: st}
		r.keys[e.Cause.Stream] = k
	}
	for i := range e.Decided.Events {
		if err := r.machine.Fold(k.state, &e.Decided.Events[i]); err != nil {
			return k, nil, err
		}
	}
	before := k.fields
	err := r.flatten(k)
	return k, canon.Diff(before, k.fields), err
}

func (r *recordedSide) row(_ context.Context, s deja.Stream) (driver.State, error) {
	k := r.keys[s]
	if k == nil {
		return driver.State{Stream: s}, nil
	}
	data, err := k.state.Encode()
	return driver.State{Stream: s, Version: k.state.Version, Data: data}, err
}

// workerSide is a program that decides now.
type workerSide struct {
	w         *talk.Worker
	machine   *deja.Machine
	topic     driver.Topic // the journal
	states    map[deja.Stream][32]byte
	partition int32
}

// startSide starts a side: recorded, or a program.
func (h *History) startSide(ctx context.Context, program string, patience time.Duration) (side, error) {
	if program == Recorded || program == "" {
		return &recordedSide{machine: h.machine}, nil
	}
	topic, err := h.log.Topic(ctx, wire.Journal(h.machine.Name()))
	if err != nil {
		return nil, err
	}
	w, err := talk.Start(ctx, program, h.machine.Name(), talk.Options{Patience: patience})
	if err != nil {
		return nil, err
	}
	return &workerSide{w: w, machine: h.machine, topic: topic}, nil
}

func (s *workerSide) build() Build {
	hello := s.w.Hello()
	return Build{Program: s.w.Program(), Service: hello.Service, Build: hello.Build, Fold: hello.Fold, Go: hello.Go}
}

func (s *workerSide) close() { s.w.Close() }

func (s *workerSide) begin(ctx context.Context, partition int32, past []keyPast) error {
	var rows []driver.State
	var waiting []driver.Record
	s.partition, s.states = partition, map[deja.Stream][32]byte{}
	for _, p := range past {
		rows, waiting = append(rows, p.row), append(waiting, p.waiting...)
		if p.row.Version == 0 {
			continue
		}
		fields, err := s.machine.Flatten(nil, p.row.Stream.Aggregate, p.row.Data)
		if err != nil {
			return err
		}
		s.states[p.row.Stream] = canon.HashFields(fields)
	}
	return s.w.Begin(ctx, talk.Begin{Partition: partition, Partitions: s.topic.Partitions, MaxRecord: s.topic.MaxRecord}, rows, waiting)
}

func (s *workerSide) feed(ctx context.Context, vs []visit) error {
	ms := make([]talk.Message, 0, len(vs))
	for i := range vs {
		v := &vs[i]
		if v.repair {
			continue
		}
		ms = append(ms, talk.Message{
			Offset: v.rec.Offset, Time: wire.Micro(v.rec.Time), Value: v.rec.Value,
			NotBefore: v.entries[0].Time, Killed: v.own().Decided.Reason.Code == deja.CodeKilled,
		})
	}
	return s.w.Send(ctx, ms...)
}

func (s *workerSide) next(ctx context.Context, v *visit) (talk.Answer, error) {
	of := v.own().Cause.Stream
	if v.repair {
		return talk.Answer{Offset: v.rec.Offset, State: s.states[of]}, nil
	}
	a, err := s.w.Next(ctx)
	if err == nil && a.State != [32]byte{} {
		s.states[of] = a.State
	}
	return a, err
}

func (s *workerSide) row(ctx context.Context, of deja.Stream) (driver.State, error) {
	return s.w.Row(ctx, of)
}
