package kafka_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/kafka"
)

// every makes each of the calls that must not go on, with a Fetch that waits since before the change, and returns their
// errors.
func every(t *testing.T, l *kafka.Log, topic string, change func()) map[string]error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, end, err := l.Bounds(ctx, topic, 0)
	must(t, err)
	waiting := make(chan error, 1)
	at := deja.Position{Topic: topic, Offset: end}
	go func() {
		_, err := l.Fetch(ctx, at, 1)
		waiting <- err
	}()
	time.Sleep(50 * time.Millisecond) // until it waits, most times
	change()
	errs := map[string]error{"a waiting Fetch": <-waiting}
	_, errs["Fetch"] = l.Fetch(ctx, deja.Position{Topic: topic}, 1)
	_, errs["Append"] = l.Append(ctx, topic, numbered(0, 100, 1))
	_, _, errs["Bounds"] = l.Bounds(ctx, topic, 0)
	_, errs["Topic"] = l.Topic(ctx, topic)
	_, errs["Cursor"] = l.Cursor(ctx, "r", topic, 0)
	errs["SetCursor"] = l.SetCursor(ctx, "r", topic, 0, 1)
	return errs
}

func wantEvery(t *testing.T, errs map[string]error, target error, words ...string) {
	t.Helper()
	for call, err := range errs {
		if !errors.Is(err, target) || !errors.Is(err, driver.ErrIdentity) {
			t.Errorf("%s: got error %v, want %v", call, err, target)
			continue
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: the error %q does not tell %q", call, err, word)
			}
		}
	}
}

func TestDeletedTopicHalts(t *testing.T) {
	l, adm := open(t, kafka.Config{}), admin(t)
	topic := topicOf(t, l, kafka.TopicConfig{})
	was, err := l.Topic(t.Context(), topic)
	must(t, err)
	_, err = l.Append(t.Context(), topic, numbered(0, 0, 3))
	must(t, err)
	errs := every(t, l, topic, func() {
		_, err := adm.DeleteTopic(t.Context(), topic)
		must(t, err)
	})
	wantEvery(t, errs, driver.ErrRecreated, topic, was.ID)
	_, err = open(t, kafka.Config{}).Topic(t.Context(), topic)
	want(t, err, driver.ErrNotFound)
	if !strings.Contains(err.Error(), "topics create") {
		t.Errorf("the error %q does not say how to create the topic", err)
	}
}

func recreate(t *testing.T, l *kafka.Log, adm *kadm.Client, topic string, partitions int32) {
	t.Helper()
	_, err := adm.DeleteTopic(t.Context(), topic)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for { // the name is free a moment later
		err := l.CreateTopics(ctx, kafka.TopicConfig{Name: topic, Partitions: partitions})
		if err == nil {
			return
		}
		must(t, ctx.Err())
		time.Sleep(20 * time.Millisecond)
	}
}

// A topic of the same name, and as long, must not be taken for the one that was, by any call.
func TestRecreatedTopicHalts(t *testing.T) {
	l, other, adm := open(t, kafka.Config{}), open(t, kafka.Config{}), admin(t)
	topic := topicOf(t, l, kafka.TopicConfig{})
	was, err := l.Topic(t.Context(), topic)
	must(t, err)
	_, err = l.Append(t.Context(), topic, numbered(0, 0, 3))
	must(t, err)
	must(t, l.SetCursor(t.Context(), "reader", topic, 0, 2))
	errs := every(t, l, topic, func() {
		recreate(t, other, adm, topic, 1)
		_, err := other.Append(t.Context(), topic, numbered(0, 1000, 5))
		must(t, err)
	})
	wantEvery(t, errs, driver.ErrRecreated, topic, was.ID, was.Cluster)
	equal(t, "the new topic's values", readAll(t, other, topic, 0), []string{"1000", "1001", "1002", "1003", "1004"})
}

// Of a topic that was recreated while nobody looked, the first call says so: a Fetch that reads on, an Append.
func TestFirstCallOnRecreatedTopic(t *testing.T) {
	for name, call := range map[string]func(context.Context, *kafka.Log, string) error{
		"Fetch": func(ctx context.Context, l *kafka.Log, topic string) error {
			rs, err := l.Fetch(ctx, deja.Position{Topic: topic, Offset: 3}, 1)
			if len(rs) > 0 {
				return errors.New("it returned a record of the other topic: " + string(rs[0].Value))
			}
			return err
		},
		"Append": func(ctx context.Context, l *kafka.Log, topic string) error {
			_, err := l.Append(ctx, topic, numbered(0, 7, 1))
			return err
		},
		"Bounds": func(ctx context.Context, l *kafka.Log, topic string) error {
			_, _, err := l.Bounds(ctx, topic, 0)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, other, adm := open(t, kafka.Config{}), open(t, kafka.Config{}), admin(t)
			topic := topicOf(t, l, kafka.TopicConfig{})
			_, err := l.Append(t.Context(), topic, numbered(0, 0, 3))
			must(t, err)
			recreate(t, other, adm, topic, 1)
			_, err = other.Append(t.Context(), topic, numbered(0, 1000, 5))
			must(t, err)
			want(t, call(t.Context(), l, topic), driver.ErrRecreated)
			equal(t, "values", readAll(t, other, topic, 0), []string{"1000", "1001", "1002", "1003", "1004"})
		})
	}
}

func TestAddedPartitionsHalt(t *testing.T) {
	l, adm := open(t, kafka.Config{}), admin(t)
	topic := topicOf(t, l, kafka.TopicConfig{Partitions: 2})
	_, err := l.Append(t.Context(), topic, numbered(0, 0, 1))
	must(t, err)
	errs := every(t, l, topic, func() {
		rs, err := adm.UpdatePartitions(t.Context(), 3, topic)
		must(t, err)
		must(t, rs.Error())
	})
	wantEvery(t, errs, driver.ErrPartitions, topic, "3", "2")
}

func TestTrimmedAndBeyondEndSayWhere(t *testing.T) {
	l, adm := open(t, kafka.Config{}), admin(t)
	topic := topicOf(t, l, kafka.TopicConfig{})
	_, err := l.Append(t.Context(), topic, numbered(0, 0, 6))
	must(t, err)
	trim(t, adm, topic, 0, 4)
	_, err = l.Fetch(t.Context(), deja.Position{Topic: topic, Offset: 3}, 1)
	want(t, err, driver.ErrTrimmed)
	if want := topic + ":0:3"; !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "at 4") {
		t.Errorf("the error %q does not tell the position %s and that the log begins at 4", err, want)
	}
	_, err = l.Fetch(t.Context(), deja.Position{Topic: topic, Offset: 7}, 1)
	want(t, err, driver.ErrBeyondEnd)
	if want := topic + ":0:7"; !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "at 6") {
		t.Errorf("the error %q does not tell the position %s and that the log ends at 6", err, want)
	}
	for _, offset := range []int64{-1, 1 << 62} {
		if rs, err := l.Fetch(t.Context(), deja.Position{Topic: topic, Offset: offset}, 1); err == nil {
			t.Errorf("offset %d: got %d records", offset, len(rs))
		}
	}
}

// The addresses lead to another cluster, which has a topic of the same name and more records.
func TestSwappedClusterHalts(t *testing.T) {
	var swapped atomic.Pointer[string]
	conns := &connections{}
	l := open(t, kafka.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if to := swapped.Load(); to != nil {
			address = *to
		}
		return conns.dial(ctx, network, address)
	}})
	topic := topicOf(t, l, kafka.TopicConfig{})
	_, err := l.Append(t.Context(), topic, numbered(0, 0, 3))
	must(t, err)
	was, err := l.Topic(t.Context(), topic)
	must(t, err)

	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID("another"), kfake.SeedTopics(1, topic))
	must(t, err)
	t.Cleanup(fake.Close)
	other := open(t, kafka.Config{Brokers: fake.ListenAddrs()})
	_, err = other.Append(t.Context(), topic, numbered(0, 1000, 5))
	must(t, err)

	errs := every(t, l, topic, func() {
		swapped.Store(&fake.ListenAddrs()[0])
		conns.cut()
	})
	wantEvery(t, errs, driver.ErrCluster, "another", was.Cluster)
	equal(t, "the other cluster's values", readAll(t, other, topic, 0), []string{"1000", "1001", "1002", "1003", "1004"})
}

func TestCloseEndsWaitingCalls(t *testing.T) {
	l := open(t, kafka.Config{})
	topic := topicOf(t, l, kafka.TopicConfig{})
	waiting := make(chan error, 1)
	go func() {
		_, err := l.Fetch(context.Background(), deja.Position{Topic: topic}, 1)
		waiting <- err
	}()
	time.Sleep(50 * time.Millisecond)
	must(t, l.Close())
	want(t, <-waiting, driver.ErrUnusable, kafka.ErrClosed)
	_, err := l.Topic(t.Context(), topic)
	want(t, err, kafka.ErrClosed)
	_, err = l.Append(t.Context(), topic, numbered(0, 0, 1))
	want(t, err, kafka.ErrClosed)
	_, err = l.Join(t.Context(), "g", topic)
	want(t, err, kafka.ErrClosed)
	want(t, l.CreateTopics(t.Context(), kafka.TopicConfig{Name: "x", Partitions: 1}), kafka.ErrClosed)
}
