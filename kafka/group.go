package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dejalog/deja/driver"
)

const (
	defaultSession = 6 * time.Second
	leaveWithin    = 2 * time.Second
)

// Join joins a consumer group for its assignments alone: nothing is read or committed by it. When ctx ends the member
// leaves, so that the others need not wait for its session to run out; then the channel is closed. Which partitions a
// process may write is not the group's to say: the leases of a store do, and a member that was silent for too long
// learns late that it lost some.
func (l *Log) Join(ctx context.Context, group, topic string) (<-chan []int32, error) {
	t, err := l.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	m := &member{log: l, topic: t, group: group, mine: map[int32]bool{}, changed: make(chan struct{}, 1), out: make(chan []int32)}
	l.mu.Lock()
	err = l.ended[m.key()]
	delete(l.ended, m.key())
	l.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("group %q: %w", group, err)
	}
	if m.client, err = l.cfg.client(m.options()...); err != nil {
		return nil, fmt.Errorf("group %q: %w", group, err)
	}
	m.client.PauseFetchTopics(t.real)
	if !l.run(func() { m.run(ctx) }) {
		m.client.Close()
		return nil, ErrClosed
	}
	return m.out, nil
}

// A member is this process's membership in a group.
type member struct {
	log    *Log
	client *kgo.Client
	topic  *topic
	group  string
	out    chan []int32

	mu      sync.Mutex
	mine    map[int32]bool
	changed chan struct{} // something to send, perhaps
}

func (m *member) key() string { return m.group + "\x00" + m.topic.Name }

func (m *member) options() []kgo.Opt {
	cfg := &m.log.cfg
	session := cmp.Or(cfg.SessionTimeout, defaultSession)
	change := func(is bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, which map[string][]int32) { m.change(which[m.topic.real], is) }
	}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(m.group),
		kgo.ConsumeTopics(m.topic.real),
		kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), // fetching is paused: it is of no consequence
		kgo.SessionTimeout(session),
		kgo.HeartbeatInterval(session / 6),
		kgo.OnPartitionsAssigned(change(true)),
		kgo.OnPartitionsRevoked(change(false)),
		kgo.OnPartitionsLost(change(false)),
	}
	if cfg.Protocol == Consumer {
		return append(opts, kgo.Balancers(kgo.StickyBalancer()), kgo.ServerSideBalancer())
	}
	return append(opts, kgo.Balancers(kgo.CooperativeStickyBalancer()))
}

func (m *member) change(which []int32, is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range which {
		if is {
			m.mine[n] = true
		} else {
			delete(m.mine, n)
		}
	}
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *member) now() []int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.mine))
}

// run sends what changes until the membership ends, and keeps why it did if nobody asked for it.
func (m *member) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer close(m.out)
	failed := make(chan error, 1)
	var polling sync.WaitGroup
	polling.Go(func() { failed <- m.poll(ctx) })
	err := m.send(ctx, failed)
	cancel()
	leaving, stop := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	_ = m.client.LeaveGroupContext(leaving) // else the session runs out
	stop()
	m.client.Close()
	polling.Wait()
	if err != nil {
		m.log.mu.Lock()
		m.log.ended[m.key()] = err
		m.log.mu.Unlock()
	}
}

// send returns nil if ctx ended.
func (m *member) send(ctx context.Context, failed <-chan error) error {
	var last []int32
	for {
		var out chan<- []int32
		now := m.now()
		if !slices.Equal(now, last) {
			out = m.out
		}
		select {
		case out <- now:
			last = slices.Clone(now)
		case <-m.changed:
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-m.topic.gone:
			return m.topic.broken()
		case <-m.log.done.Done():
			return ErrClosed
		}
	}
}

// poll returns the error that trying again does not mend.
func (m *member) poll(ctx context.Context) error {
	for {
		fetches := m.client.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, failed := range fetches.Errors() {
			if slices.ContainsFunc(final, func(f *kerr.Error) bool { return errors.Is(failed.Err, f) }) {
				return failed.Err
			}
			if errors.Is(failed.Err, kgo.ErrClientClosed) {
				return fmt.Errorf("%w: %w", driver.ErrUnusable, failed.Err)
			}
		}
	}
}

// final are the errors of a group that the library would run into for ever.
var final = []*kerr.Error{
	kerr.GroupAuthorizationFailed, kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.SaslAuthenticationFailed,
	kerr.InconsistentGroupProtocol, kerr.InvalidSessionTimeout, kerr.InvalidGroupID, kerr.GroupMaxSizeReached,
	kerr.FencedInstanceID, kerr.UnsupportedAssignor, kerr.UnsupportedVersion, kerr.InvalidRequest,
}
