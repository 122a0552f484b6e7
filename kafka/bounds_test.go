package kafka_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dejalog/deja"
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
			before := offsets.Load()
			fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
				fake.KeepControl()
				if moved && fake.CurrentNode() == leader {
					return nil, nil, false // it says that it is the leader no more
				}
				if offsets.Load() > before {
					return nil, nil, false // who tells offsets knows
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

// The end is right behind the last record that Fetch gives, whatever transactions leave behind it.
func TestBoundsEndBehindTheLastRecord(t *testing.T) {
	appends, reads := open(t, kafka.Config{}), open(t, kafka.Config{})
	topic := topicOf(t, appends, kafka.TopicConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cl := library(t, kgo.TransactionalID(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	var behind int64 // the offset behind the last record
	given := 0
	check := func(l *kafka.Log) {
		t.Helper()
		wantEnd(ctx, t, l, topic, behind)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		switch n := 1 + rng.IntN(3); rng.IntN(3) {
		case 0:
			ps, err := appends.Append(ctx, topic, numbered(0, 0, n))
			must(t, err)
			behind, given = ps[n-1].Offset+1, given+n
		default:
			end := kgo.TransactionEndTry(rng.IntN(2) == 0)
			must(t, cl.BeginTransaction())
			for range n {
				r := &kgo.Record{Topic: topic, Value: []byte("x")}
				must(t, cl.ProduceSync(ctx, r).FirstErr())
				if end == kgo.TryCommit {
					behind, given = r.Offset+1, given+1
				}
			}
			must(t, cl.EndTransaction(ctx, end))
		}
		switch rng.IntN(5) {
		case 0:
			check(open(t, kafka.Config{}))
		case 1:
			check(reads)
			if n := len(readAll(t, reads, topic, 0)); n != given {
				t.Fatalf("there are %d records, %d were given", given, n)
			}
			check(reads)
		case 2:
			check(appends)
		case 3: // it has read what is there from the midst of nothing on
			l := open(t, kafka.Config{})
			soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			rs, err := l.Fetch(soon, deja.Position{Topic: topic, Offset: behind + 1}, 1)
			cancel()
			if err == nil {
				t.Fatalf("there is a record at %d", rs[0].Offset)
			}
			check(l)
		}
	}
	check(open(t, kafka.Config{}))
}

// wantEnd waits until a partition ends at an offset, which it does a moment after transactions have ended, and not behind it.
func wantEnd(ctx context.Context, t *testing.T, l *kafka.Log, topic string, want int64) {
	t.Helper()
	for end := int64(-1); end != want; {
		first, now, err := l.Bounds(ctx, topic, 0)
		must(t, err)
		if end = now; first != 0 || end > want {
			t.Fatalf("the bounds are %d and %d, the last record is at %d", first, end, want-1)
		}
	}
}
