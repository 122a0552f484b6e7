package kafka_test

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dejalog/deja/kafka"
)

// asked counts the requests for offsets that a cluster gets.
func asked(fake *kfake.Cluster) *atomic.Int64 {
	var n atomic.Int64
	fake.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		n.Add(1)
		return nil, nil, false
	})
	return &n
}

// settled asks for the bounds until that takes no request for offsets, and returns them.
func settled(t *testing.T, l *kafka.Log, topic string, offsets *atomic.Int64) (first, end int64) {
	t.Helper()
	for range 100 {
		before := offsets.Load()
		first, end, err := l.Bounds(t.Context(), topic, 0)
		must(t, err)
		if offsets.Load() == before {
			return first, end
		}
	}
	t.Fatal("bounds are asked for by offsets every time")
	return 0, 0
}

func TestBoundsTakeOneRequest(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	must(t, err)
	t.Cleanup(fake.Close)
	offsets := asked(fake)
	l, other := open(t, kafka.Config{Brokers: fake.ListenAddrs()}), open(t, kafka.Config{Brokers: fake.ListenAddrs()})
	for i := range int64(5) {
		if first, end := settled(t, l, "t", offsets); first != 0 || end != 3*i {
			t.Fatalf("the bounds are %d and %d, want 0 and %d", first, end, 3*i)
		}
		_, err := l.Append(t.Context(), "t", numbered(0, 0, 1))
		must(t, err)
		_, err = other.Append(t.Context(), "t", numbered(0, 0, 2))
		must(t, err)
	}
}

// Who may not read a topic may be told its bounds all the same.
func TestBoundsWithoutReading(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	must(t, err)
	t.Cleanup(fake.Close)
	fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		return fetched(req, kmsg.FetchResponseTopicPartition{ErrorCode: kerr.TopicAuthorizationFailed.Code}), nil, true
	})
	l := open(t, kafka.Config{Brokers: fake.ListenAddrs()})
	for i := range int64(5) {
		if first, end, err := l.Bounds(t.Context(), "t", 0); err != nil || first != 0 || end != i {
			t.Fatalf("the bounds are %d and %d (%v), want 0 and %d", first, end, err, i)
		}
		_, err := l.Append(t.Context(), "t", numbered(0, 0, 1))
		must(t, err)
	}
}

// fetched makes an answer to a fetch from one partition.
func fetched(req kmsg.Request, p kmsg.FetchResponseTopicPartition) kmsg.Response {
	topic := kmsg.NewFetchResponseTopic()
	topic.TopicID, topic.Partitions = req.(*kmsg.FetchRequest).Topics[0].TopicID, append(topic.Partitions, p)
	resp := req.ResponseKind().(*kmsg.FetchResponse)
	resp.Topics = append(resp.Topics, topic)
	return resp
}

// A broker that has started again, or a new leader, may not know yet how far its records are acknowledged, which shows in what
// is fetched from it. Who asks it for offsets is told to wait.
func TestBoundsOfAStartingLeader(t *testing.T) {
	for name, start := range map[string]func(*kfake.Cluster, *connections) error{
		"a broker that has started again": func(_ *kfake.Cluster, conns *connections) error { conns.cut(); return nil },
		"a new leader": func(fake *kfake.Cluster, _ *connections) error {
			return errors.Join(fake.MoveTopicPartition("t", 0, 1), fake.MoveTopicPartition("beside", 0, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			fake, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.SeedTopics(1, "t", "beside"))
			must(t, err)
			t.Cleanup(fake.Close)
			offsets, conns := asked(fake), &connections{}
			l, other := open(t, kafka.Config{Brokers: fake.ListenAddrs(), Dial: conns.dial}), open(t, kafka.Config{Brokers: fake.ListenAddrs()})
			must(t, errors.Join(fake.MoveTopicPartition("t", 0, 0), fake.MoveTopicPartition("beside", 0, 0)))
			_, err = other.Append(t.Context(), "t", numbered(0, 0, 3))
			must(t, err)
			_, end := settled(t, l, "t", offsets)
			_, err = other.Append(t.Context(), "t", numbered(0, 3, 2))
			must(t, err)
			leader := fake.LeaderFor("t", 0)
			must(t, start(fake, conns))
			moved := fake.LeaderFor("t", 0) != leader
			settled(t, l, "beside", offsets) // there are connections again
			fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
				fake.KeepControl()
				if moved && fake.CurrentNode() == leader {
					return nil, nil, false // it says that it is the leader no more
				}
				p := kmsg.NewFetchResponseTopicPartition()
				p.HighWatermark, p.LastStableOffset, p.LogStartOffset = end, end, 0
				return fetched(req, p), nil, true
			})
			if _, got, err := l.Bounds(t.Context(), "t", 0); err != nil || got != end+2 {
				t.Errorf("the end is %d (%v), want %d: two more were acknowledged", got, err, end+2)
			}
		})
	}
}
