package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/drivertest"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/kafka"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// limit bounds what has to happen; most of it does within milliseconds.
const limit = time.Minute

func open(t testing.TB, cfg kafka.Config) *kafka.Log {
	t.Helper()
	if cfg.Brokers == nil {
		cfg.Brokers = testenv.Kafka(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	l, err := kafka.Open(ctx, cfg)
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	return l
}

func admin(t testing.TB) *kadm.Client {
	t.Helper()
	return kadm.NewClient(library(t))
}

// library returns a client of the library, to do by hand what a Log does not.
func library(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(testenv.Kafka(t)...), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	must(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// topicOf creates a topic for the test.
func topicOf(t testing.TB, l *kafka.Log, c kafka.TopicConfig) string {
	t.Helper()
	adm := admin(t)
	c.Name, c.Partitions = testenv.Unique("deja_test"), max(c.Partitions, 1)
	must(t, l.CreateTopics(t.Context(), c))
	t.Cleanup(func() { _, _ = adm.DeleteTopic(context.Background(), c.Name) })
	_, err := l.Topic(t.Context(), c.Name)
	must(t, err)
	return c.Name
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want fails the test unless err wraps all of the targets.
func want(t testing.TB, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Fatalf("got error %v, want %v", err, target)
		}
	}
}

// numbered returns n records whose values say their number, from first on.
func numbered(partition int32, first, n int) []driver.Record {
	rs := make([]driver.Record, n)
	for i := range rs {
		rs[i] = driver.Record{Partition: partition, Key: "k", Value: fmt.Append(nil, first+i)}
	}
	return rs
}

// readAll returns the values of a partition up to its end.
func readAll(t testing.TB, l *kafka.Log, topic string, partition int32) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	first, end, err := l.Bounds(ctx, topic, partition)
	must(t, err)
	var values []string
	for at := (deja.Position{Topic: topic, Partition: partition, Offset: first}); at.Offset < end; {
		rs, err := l.Fetch(ctx, at, 1000)
		must(t, err)
		for _, r := range rs {
			values = append(values, string(r.Value))
		}
		at.Offset = rs[len(rs)-1].Offset + 1
	}
	return values
}

func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}

func TestConformance(t *testing.T) {
	brokers := testenv.Kafka(t)
	adm := admin(t)
	drivertest.Run(t, drivertest.Harness{
		Open: func(t testing.TB) (driver.Log, driver.Store) {
			l, err := kafka.Open(t.Context(), kafka.Config{Brokers: brokers})
			must(t, err)
			return l, nil
		},
		Create: func(t testing.TB, log driver.Log, topic string) {
			must(t, log.(*kafka.Log).CreateTopics(t.Context(), kafka.TopicConfig{Name: topic, Partitions: 2}))
			t.Cleanup(func() { _, _ = adm.DeleteTopic(context.Background(), topic) })
		},
		Reopen: func(t testing.TB, log driver.Log, _ driver.Store) (driver.Log, driver.Store) {
			l, err := kafka.Open(t.Context(), kafka.Config{Brokers: brokers})
			must(t, err)
			must(t, log.Close())
			return l, nil
		},
		Trim: func(t testing.TB, _ driver.Log, topic string, partition int32, first int64) {
			trim(t, adm, topic, partition, first)
		},
	})
}

func trim(t testing.TB, adm *kadm.Client, topic string, partition int32, first int64) {
	t.Helper()
	to := kadm.Offsets{}
	to.AddOffset(topic, partition, first, -1)
	rs, err := adm.DeleteRecords(t.Context(), to)
	must(t, err)
	must(t, rs.Error())
}
