package fault

import (
	"context"
	"strconv"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// Store wraps a store. The wrapped one is a [driver.Joint] if and only if s is, and knows its log wrapped or not.
func (in *Injector) Store(s driver.Store) driver.Store {
	w := &store{in, s}
	if j, ok := s.(driver.Joint); ok {
		return jointStore{w, j}
	}
	return w
}

type store struct {
	in    *Injector
	inner driver.Store
}

type jointStore struct {
	*store
	joint driver.Joint
}

func (s jointStore) Joint(l driver.Log) bool { return s.joint.Joint(unwrap(l)) }

func (s *store) Progress(ctx context.Context, partition int32) (driver.Progress, error) {
	return do(s.in, reading("store.Progress", number(partition)), func() (driver.Progress, error) {
		return s.inner.Progress(ctx, partition)
	})
}

func (s *store) Leases(ctx context.Context) ([]driver.Lease, error) {
	return do(s.in, reading("store.Leases", ""), func() ([]driver.Lease, error) { return s.inner.Leases(ctx) })
}

func (s *store) Lookup(ctx context.Context, keys []deja.ID) (es []driver.Entry, asked int64, err error) {
	_, err = do(s.in, reading("store.Lookup", ""), nothing(func() (err error) {
		es, asked, err = s.inner.Lookup(ctx, keys)
		return err
	}))
	if err != nil {
		return nil, 0, err
	}
	return es, asked, nil
}

func (s *store) Find(ctx context.Context, lo, hi deja.ID, max int) ([]driver.Entry, error) {
	return do(s.in, reading("store.Find", ""), func() ([]driver.Entry, error) { return s.inner.Find(ctx, lo, hi, max) })
}

func (s *store) Load(ctx context.Context, streams []deja.Stream) ([]driver.State, error) {
	return do(s.in, reading("store.Load", ""), func() ([]driver.State, error) { return s.inner.Load(ctx, streams) })
}

func (s *store) States(ctx context.Context, after deja.Stream, max int) ([]driver.State, error) {
	return do(s.in, reading("store.States", ""), func() ([]driver.State, error) { return s.inner.States(ctx, after, max) })
}

func (s *store) Open(ctx context.Context, partition int32, after deja.Stream, max int) ([]driver.State, error) {
	return do(s.in, reading("store.Open", number(partition)), func() ([]driver.State, error) { return s.inner.Open(ctx, partition, after, max) })
}

func (s *store) Due(ctx context.Context, partition int32, until time.Time, after driver.State, max int) ([]driver.State, error) {
	return do(s.in, reading("store.Due", number(partition)), func() ([]driver.State, error) {
		return s.inner.Due(ctx, partition, until, after, max)
	})
}

func (s *store) Parked(ctx context.Context, partition int32, stream deja.Stream, from int64, max int) ([]driver.Parked, error) {
	return do(s.in, reading("store.Parked", number(partition)), func() ([]driver.Parked, error) {
		return s.inner.Parked(ctx, partition, stream, from, max)
	})
}

func (s *store) Repeats(ctx context.Context, key deja.ID) ([]driver.Repeat, error) {
	return do(s.in, reading("store.Repeats", ""), func() ([]driver.Repeat, error) { return s.inner.Repeats(ctx, key) })
}

func (s *store) Unlogged(ctx context.Context, partition int32, after int64, max int) ([]driver.JournalRecord, error) {
	return do(s.in, reading("store.Unlogged", number(partition)), func() ([]driver.JournalRecord, error) {
		return s.inner.Unlogged(ctx, partition, after, max)
	})
}

func (s *store) Acquire(ctx context.Context, a driver.Assignment) (driver.Lease, error) {
	return do(s.in, writing("store.Acquire", a), func() (driver.Lease, error) { return s.inner.Acquire(ctx, a) })
}

func (s *store) Logged(ctx context.Context, l driver.Lease, to driver.Logged) error {
	_, err := do(s.in, writing("store.Logged", l.Assignment), nothing(func() error { return s.inner.Logged(ctx, l, to) }))
	return err
}

func (s *store) Ready(ctx context.Context, l driver.Lease) ([]int32, error) {
	return do(s.in, writing("store.Ready", l.Assignment), func() ([]int32, error) { return s.inner.Ready(ctx, l) })
}

func (s *store) Attempt(ctx context.Context, l driver.Lease, offset, careful int64) (int64, error) {
	return do(s.in, writing("store.Attempt", l.Assignment), func() (int64, error) { return s.inner.Attempt(ctx, l, offset, careful) })
}

func (s *store) Release(ctx context.Context, l driver.Lease) error {
	_, err := do(s.in, writing("store.Release", l.Assignment), nothing(func() error { return s.inner.Release(ctx, l) }))
	return err
}

func (s *store) Reset(ctx context.Context, l driver.Lease) error {
	_, err := do(s.in, writing("store.Reset", l.Assignment), nothing(func() error { return s.inner.Reset(ctx, l) }))
	return err
}

// Begin passes ctx on as it is: engines bind a transaction's life to it.
func (s *store) Begin(ctx context.Context, l driver.Lease) (driver.Tx, error) {
	on := writing("", l.Assignment).On
	var t *tx
	_, err := do(s.in, reading("store.Begin", on), nothing(func() error {
		inner, err := s.inner.Begin(ctx, l)
		if err == nil {
			t = s.in.opened(inner, on)
		}
		return err
	}))
	if err != nil {
		if t != nil {
			t.abandon() // begun, but nobody will know
		}
		return nil, err
	}
	return t, nil
}

// Close is no step. It closes the store inside only while the process lives: who restarts goes on with it.
func (s *store) Close() error {
	if s.in.Crashed() {
		return nil
	}
	return s.inner.Close()
}

func reading(call, on string) Step { return Step{call, on, true} }

func writing(call string, a driver.Assignment) Step {
	return Step{call, place(a.Inbox.Name, a.Partition), false}
}

func place(topic string, partition int32) string { return topic + ":" + number(partition) }

func number(partition int32) string { return strconv.Itoa(int(partition)) }
