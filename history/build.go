package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/trail"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

// builder opens trails of a history, and builds what is missing.
type builder struct {
	machine  *deja.Machine
	source   *replay.Source
	log      driver.Log
	path     string // "": without a name
	inbox    string
	identity string
	progress func(done, total int64)
	limits   trail.Limits
	live     int   // states that are kept while it builds
	every    int64 // decisions between two reports of progress
	point    int   // decisions of a stream between two states that are noted

	done, total int64
}

func newBuilder(cfg *Config, src *replay.Source) *builder {
	return &builder{
		machine: src.Machine(), source: src, log: cfg.Log, path: cfg.Index, progress: cfg.Progress, limits: trail.DefaultLimits,
		inbox: wire.Inbox(src.Machine().Name()), live: maxLive, every: reportEvery, point: pointEvery,
	}
}

// identify returns a text that differs wherever an index cannot serve: another service, log or number of partitions, or
// another build, whose Apply functions may be others.
func (b *builder) identify(ctx context.Context, build string) (string, error) {
	var t strings.Builder
	fmt.Fprintf(&t, "deja/history/1\nservice %q\nbuild %q\nfold %q\n", b.machine.Name(), build, b.machine.FoldVersion())
	for _, name := range []string{b.inbox, wire.Journal(b.machine.Name())} {
		topic, err := b.log.Topic(ctx, name)
		if errors.Is(err, driver.ErrNotFound) { // of an archive without an inbox
			continue
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&t, "%s %q %q %d\n", name, topic.Cluster, topic.ID, topic.Partitions)
	}
	return t.String(), nil
}

// open returns the trail, up to the history's present end. The notes say why it is not the one at the path, or was made anew.
func (b *builder) open(ctx context.Context) (t *trail.Trail, notes []string, err error) {
	if b.path == "" {
		t, _, err := b.temporary(ctx, "")
		return t, nil, err
	}
	unlock, err := trail.Lock(b.path)
	switch {
	case errors.Is(err, trail.ErrLocked), unwritable(err):
		return b.borrow(ctx, fmt.Sprintf("the index %s is not extended: %v", b.path, err))
	case err != nil:
		return nil, nil, fmt.Errorf("lock the index: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	t, err = trail.Open(b.path, true)
	if unwritable(err) {
		return b.borrow(ctx, fmt.Sprintf("the index %s is not extended: %v", b.path, err))
	}
	if err == nil {
		if t, err = b.checked(ctx, t); err == nil {
			t, err = b.extended(ctx, t)
		}
	}
	if err == nil {
		t, err = t.Rewritten()
		return t, nil, err
	}
	if !errors.Is(err, trail.ErrNone) && !errors.Is(err, trail.ErrDamaged) && !errors.Is(err, errStale) {
		return nil, nil, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		notes = append(notes, fmt.Sprintf("the index %s was made anew: %v", b.path, err))
	}
	if t, err = trail.Create(b.path, b.identity, b.source.Partitions()); err == nil {
		t, err = b.extended(ctx, t)
	}
	return t, notes, err
}

// unwritable reports whether an error says that a file may not be written, whoever is to blame.
func unwritable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}

// borrow takes what there is at the path without writing there, and builds the rest in a file that goes with the process.
func (b *builder) borrow(ctx context.Context, why string) (*trail.Trail, []string, error) {
	own, err := trail.Open(b.path, false)
	if err == nil {
		own, err = b.checked(ctx, own)
	}
	if errors.Is(err, trail.ErrForeign) {
		return nil, nil, err
	}
	if err == nil {
		if n, err := b.toCome(ctx, own); err != nil || n == 0 {
			return own, nil, err
		}
		next, err := own.Copy()
		if err := errors.Join(err, own.Close()); err != nil {
			return nil, nil, err
		}
		if next, err = b.extended(ctx, next); !errors.Is(err, trail.ErrDamaged) {
			return next, []string{why + "; what is new is in a temporary one"}, err
		}
	}
	return b.temporary(ctx, why)
}

// temporary builds a trail that goes with the process.
func (b *builder) temporary(ctx context.Context, why string) (*trail.Trail, []string, error) {
	t, err := trail.Create("", b.identity, b.source.Partitions())
	if err == nil {
		t, err = b.extended(ctx, t)
	}
	return t, []string{why + "; a temporary one was built"}, err
}

// errStale says that an index is not one of this history as it is.
var errStale = errors.New("it belongs to another history or build")

// checked returns a trail if it belongs to this history; else it closes it.
func (b *builder) checked(ctx context.Context, t *trail.Trail) (*trail.Trail, error) {
	err := b.check(ctx, t)
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (b *builder) check(ctx context.Context, t *trail.Trail) error {
	if was := t.Identity(); was != b.identity || t.Partitions() != b.source.Partitions() {
		return fmt.Errorf("%w: %s", errStale, firstDifference(was, b.identity))
	}
	for p := range t.Partitions() {
		ok, err := journal.Holds(ctx, b.log, b.machine.Name(), p, t.Mark(p))
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: decision %d of partition %d is not the one that was read", errStale, t.Mark(p).N, p)
		}
	}
	return nil
}

// firstDifference says in which line two identities differ.
func firstDifference(was, is string) string {
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("it says %s, this is %s", a[i], b[i])
		}
	}
	return "it says more, or less"
}

// toCome returns how many journal records the log has beyond a trail.
func (b *builder) toCome(ctx context.Context, t *trail.Trail) (int64, error) {
	var n int64
	for p := range t.Partitions() {
		more, err := b.recordsAfter(ctx, t, p)
		if err != nil {
			return 0, err
		}
		n += more
	}
	return n, nil
}

func (b *builder) recordsAfter(ctx context.Context, t *trail.Trail, partition int32) (int64, error) {
	first, end, err := b.log.Bounds(ctx, wire.Journal(b.machine.Name()), partition)
	return max(end-max(first, t.Mark(partition).Offset), 0), err
}

// extended brings a trail up to the history's end. After an error what was added stays in it, and it is closed.
func (b *builder) extended(ctx context.Context, t *trail.Trail) (*trail.Trail, error) {
	if err := b.extend(ctx, t); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (b *builder) extend(ctx context.Context, t *trail.Trail) (err error) {
	b.done = 0
	if b.total, err = b.toCome(ctx, t); err != nil {
		return err
	}
	w, err := t.Build(b.limits)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for p := range t.Partitions() {
		f := filler{builder: b, trail: t, out: w, partition: p, states: newStates(b.live)}
		if err := f.run(ctx); err != nil {
			return err
		}
	}
	b.report()
	return nil
}

func (b *builder) report() {
	if b.progress != nil {
		b.progress(b.done, max(b.total, b.done))
	}
}

const reportEvery = 5000 // decisions

// A look-back passes so many decisions of its stream that folding them is cheap, before it finds a state.
const (
	pointEvery = 32
	pointMost  = 256
)

// lookBack folds a stream's state after the decisions of a partition with N ≤ last: from the last state that was noted.
func (b *builder) lookBack(ctx context.Context, t *trail.Trail, partition int32, s deja.Stream, last int64) (*live, error) {
	var es []*trail.Entry
	l := &live{}
	var err error
	for e, err := range t.Key(ctx, partition, s, 0, last, true) {
		if err != nil {
			return nil, err
		}
		l.pass(e.Events)
		if len(e.Events) > 0 || e.Point != nil {
			es = append(es, e)
		}
		if e.Point != nil {
			break
		}
	}
	slices.Reverse(es)
	if len(es) > 0 && es[0].Point != nil {
		l.state, err = b.machine.DecodeState(s, es[0].PointVersion, es[0].Point)
	} else {
		l.state, err = b.machine.NewState(s)
	}
	if err != nil {
		return nil, err
	}
	for _, e := range es {
		for i := range e.Events {
			if err := b.machine.Fold(l.state, &deja.Envelope{Type: e.Events[i].Type, Stream: s, Payload: e.Events[i].Payload}); err != nil {
				return nil, fmt.Errorf("decision %d: %w", e.N, err)
			}
		}
	}
	return l, nil
}
