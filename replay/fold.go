package replay

import (
	"context"
	"fmt"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// Options say how far a replay goes, and of what.
type Options struct {
	To       Locator
	By       Clock                   // what a time in To means
	Match    func(deja.Stream) bool  // nil: every stream. A time by Business then cuts each stream for itself
	From     *Snapshot               // nil: from the beginning
	Progress func(done, total int64) // called now and then, from one goroutine; nil: not
}

// A KeyState is the state of one stream at a moment.
type KeyState struct {
	Stream   deja.Stream
	Version  int64         // 0: nothing was recorded yet
	Position deja.Position // the inbox position up to which all was decided when it last changed; zero at version 0
	State    []byte        // JSON
	Hash     Hash
	Parked   int64
	Open     []byte // what it waits for, as [driver.State] has it
}

// A Past is a service folded up to a moment, in memory.
type Past struct {
	Cut      Cut
	Messages int64 // decisions folded
	machine  *deja.Machine
	states   map[deja.Stream]*foldedState
}

type foldedState struct {
	state     *deja.State
	position  deja.Position
	partition int32
	parked    int64
	open      wire.Open
}

// progressEvery is how many decisions pass between two reports of progress.
const progressEvery = 5000

// Fold folds the history into memory, which holds no more than the live states.
func (s *Source) Fold(ctx context.Context, opt Options) (*Past, error) {
	perStream := opt.Match != nil && opt.To.IsTime() && opt.To.by(opt.By) == Business
	lim, err := s.limits(ctx, opt.To, opt.By, perStream)
	if err != nil {
		return nil, err
	}
	past := s.emptyPast()
	var begin []*journal.Entry
	var passed *Cut // what the snapshot passed over decides, too, where the moment is
	if opt.From != nil {
		if begin, err = opt.From.load(ctx, s, past); err != nil {
			return nil, err
		}
		if lim.looksBack() {
			cut, err := s.Cut(ctx, opt.To, opt.By)
			if err != nil {
				return nil, err
			}
			lim, passed = upTo(cut), &cut
		}
	}
	total, err := s.size(ctx)
	if err != nil {
		return nil, err
	}
	f := folding{Options: opt, past: past, lim: lim, total: total, asked: make([]bool, s.partitions)}
	for p := range s.partitions {
		from, more, err := s.beginAt(ctx, lim, &past.Cut.Points[p], begin)
		if err != nil {
			return nil, err
		}
		f.asked[p] = past.Cut.Points[p].N > 0
		if !more {
			continue
		}
		if err := s.scan(ctx, p, from, f.take); err != nil {
			return nil, err
		}
	}
	f.report()
	lim.name(&past.Cut, func(p Point) bool { return f.asked[p.Partition] })
	if passed != nil {
		past.Cut.Notes = passed.Notes
	}
	return past, lim.missing()
}

func (s *Source) emptyPast() *Past {
	return &Past{Cut: s.emptyCut(), machine: s.machine, states: map[deja.Stream]*foldedState{}}
}

// folding is a fold in the making.
type folding struct {
	Options
	past  *Past
	lim   *limit
	total int64
	asked []bool // partitions that had something which was asked for
}

// take takes the next decision, and reports whether there may be more.
func (f *folding) take(e *journal.Entry) (bool, error) {
	matches := f.Match == nil || f.Match(e.Cause.Stream)
	if f.lim.dates != nil && f.lim.dates.per && !matches {
		return true, nil
	}
	take, more := f.lim.admit(e)
	if !take {
		return more, nil
	}
	if f.past.Messages++; f.past.Messages%progressEvery == 0 {
		f.report()
	}
	p := e.Cause.Position.Partition
	f.past.Cut.Points[p].reach(e)
	if !matches {
		return more, nil
	}
	f.asked[p] = true
	return more, f.past.fold(e)
}

func (f *folding) report() {
	if f.Progress != nil {
		f.Progress(f.past.Messages, f.total)
	}
}

// fold applies one decision.
func (p *Past) fold(e *journal.Entry) error {
	if !e.Touches() {
		return nil
	}
	f, err := p.state(e.Cause.Stream)
	if err != nil {
		return err
	}
	f.parked += e.Parks()
	for i := range e.Decided.Events {
		ev := &e.Decided.Events[i]
		if err := p.machine.Fold(f.state, ev); err != nil {
			return fmt.Errorf("decision %d: %w", e.N, err)
		}
		if f.state.Version != ev.Version {
			return fmt.Errorf("decision %d: %s is at version %d, its event says %d: %w", e.N, ev.Stream, f.state.Version, ev.Version, journal.ErrForked)
		}
		f.position = deja.Position{Topic: e.Cause.Position.Topic, Partition: e.Cause.Position.Partition, Offset: e.Through()}
	}
	f.partition = e.Cause.Position.Partition
	f.open = f.open.After(e.Record, p.machine.Saga(e.Cause.Stream.Aggregate))
	return nil
}

func (p *Past) state(s deja.Stream) (*foldedState, error) {
	if f, ok := p.states[s]; ok {
		return f, nil
	}
	st, err := p.machine.NewState(s)
	if err != nil {
		return nil, err
	}
	f := &foldedState{state: st}
	p.states[s] = f
	return f, nil
}

// State returns the state of one stream; at version 0 the empty one.
func (p *Past) State(s deja.Stream) (KeyState, error) {
	f, err := p.state(s)
	if err != nil {
		return KeyState{}, err
	}
	return p.keyState(s, f)
}

func (p *Past) keyState(s deja.Stream, f *foldedState) (KeyState, error) {
	data, err := f.state.Encode()
	if err != nil {
		return KeyState{}, fmt.Errorf("encode state of %s: %w", s, err)
	}
	k := KeyState{Stream: s, Version: f.state.Version, Position: f.position, State: data, Parked: f.parked, Open: f.open.Append(nil)}
	k.Hash, err = HashState(p.machine, s, k.Version, data)
	return k, err
}

// Each calls fn with every state that has a version, in order of streams.
func (p *Past) Each(fn func(KeyState) error) error {
	streams := make([]deja.Stream, 0, len(p.states))
	for s, f := range p.states {
		if f.state.Version > 0 {
			streams = append(streams, s)
		}
	}
	slices.SortFunc(streams, deja.Stream.Compare)
	for _, s := range streams {
		k, err := p.keyState(s, p.states[s])
		if err == nil {
			err = fn(k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Hash returns the hash of all folded states.
func (p *Past) Hash() (Hash, error) {
	h := newHasher()
	err := p.Each(func(k KeyState) error { h.add(k.Hash); return nil })
	return h.sum(), err
}

// StoredState returns the present state of a stream as a store has it.
func (s *Source) StoredState(row driver.State) (KeyState, error) {
	k := KeyState{Stream: row.Stream, Version: row.Version, State: row.Data, Parked: row.Parked, Open: row.Open}
	if row.Version > 0 {
		k.Position = deja.Position{Topic: wire.Inbox(s.machine.Name()), Partition: row.Partition, Offset: row.Position}
	} else {
		st, err := s.machine.NewState(row.Stream)
		if err != nil {
			return k, err
		}
		if k.State, err = st.Encode(); err != nil {
			return k, err
		}
	}
	var err error
	k.Hash, err = HashState(s.machine, row.Stream, row.Version, k.State)
	return k, err
}
