package kafka

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

const (
	watchEvery = 2 * time.Second

	// A broker that has just started may know less than the others for a moment. That a topic is gone or another is
	// believed when it was said so often, and for so long; nothing is read or written meanwhile.
	believeAfter  = 3
	believeLonger = time.Second
)

// errDoubt is returned while a topic is not what it was, but that is not believed yet.
var errDoubt = errors.New("the brokers do not agree about the topic")

// A topic is one that was bound: what it was when it was first asked for is what it has to be.
type topic struct {
	driver.Topic
	real  string // its name on the cluster
	id    [16]byte
	limit int // max.message.bytes
	parts []*partition

	mu      sync.Mutex
	leaders []leader
	version int64 // counts the answers about it
	doubts  int
	since   time.Time // of the first doubt
	err     error
	gone    chan struct{} // closed with err set
}

// own reports whether the topic is a service's inbox or journal, which only deja writes.
func (t *topic) own() bool {
	return strings.HasSuffix(t.Name, ".inbox") || strings.HasSuffix(t.Name, ".journal")
}

// A leader is where a partition's requests go.
type leader struct{ broker, epoch int32 }

// A partition is what a Log keeps of one.
type partition struct {
	log   *Log
	topic *topic
	n     int32

	appender appender
	streams  streams
	ends     ends
}

// Topic returns a topic's identity: Cluster is the cluster's id, ID the topic's. The first call binds the name to them
// and to the number of partitions for the Log's life. A topic that is not there is [driver.ErrNotFound]: none is made.
func (l *Log) Topic(ctx context.Context, name string) (driver.Topic, error) {
	t, err := l.topic(ctx, name)
	if err != nil {
		return driver.Topic{}, err
	}
	return t.Topic, nil
}

// topic returns a bound topic that is still what it was.
func (l *Log) topic(ctx context.Context, name string) (*topic, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	t := l.topics[name]
	l.mu.Unlock()
	if t != nil {
		return t.usable()
	}
	return l.bind(ctx, name)
}

// partition returns a partition of a topic.
func (l *Log) partition(ctx context.Context, name string, n int32) (*partition, error) {
	t, err := l.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	if n < 0 || n >= t.Partitions {
		return nil, fmt.Errorf("topic %q has no partition %d: it has %d", name, n, t.Partitions)
	}
	return t.parts[n], nil
}

// bind takes a topic as it is now for what it has to be.
func (l *Log) bind(ctx context.Context, name string) (*topic, error) {
	actual := l.cfg.real(name)
	found, err := l.find(ctx, name, actual)
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", name, err)
	}
	limit, err := l.limit(ctx, actual)
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", name, err)
	}
	t := &topic{
		Topic: driver.Topic{
			Name: name, ID: topicID(found.TopicID), Partitions: int32(len(found.Partitions)), MaxRecord: limit - min(reserve, limit/2),
		},
		real:    actual,
		id:      found.TopicID,
		limit:   limit,
		leaders: make([]leader, len(found.Partitions)),
		gone:    make(chan struct{}),
	}
	for n := range t.Partitions {
		p := &partition{log: l, topic: t, n: n}
		p.appender.p, p.appender.producer = p, noProducer
		t.parts = append(t.parts, p)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Cluster = l.cluster
	if first := l.topics[name]; first != nil { // two asked at once
		return first.usable()
	}
	l.topics[name] = t
	err = t.judge(found, l.cluster)
	return t, err
}

// find asks for a topic until there is an answer about it.
func (l *Log) find(ctx context.Context, name, actual string) (found *kmsg.MetadataResponseTopic, err error) {
	missing := 0
	err = l.insist(ctx, func(ctx context.Context) error {
		resp, err := l.ask(ctx, actual)
		if err != nil {
			return err
		}
		found = &resp.Topics[0]
		err = kerr.ErrorForCode(found.ErrorCode)
		switch {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			if missing++; missing >= believeAfter {
				return fmt.Errorf("%w on cluster %s%s: create it with the command `topics create`",
					driver.ErrNotFound, l.bound(), as(name, actual))
			}
		case err == nil && found.TopicID == [16]byte{}:
			return fmt.Errorf("%w: the brokers give topics no ids; deja needs Kafka 3.1 or later", driver.ErrUnusable)
		}
		return err
	})
	return found, err
}

// as says what a topic is called on the cluster, where that is another name.
func as(name, actual string) string {
	if name == actual {
		return ""
	}
	return fmt.Sprintf(" as %q", actual)
}

func (l *Log) bound() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cluster
}

// limit returns a topic's max.message.bytes.
func (l *Log) limit(ctx context.Context, actual string) (limit int, err error) {
	err = l.insist(ctx, func(ctx context.Context) error {
		configs, err := l.admin.DescribeTopicConfigs(ctx, actual)
		if err != nil {
			return err
		}
		values, err := read(configs.On(actual, nil))
		if err != nil {
			return err
		}
		if limit = number(values[maxMessageBytes]); limit <= 0 {
			return fmt.Errorf("%w: the brokers do not tell its %s", driver.ErrUnusable, maxMessageBytes)
		}
		return nil
	})
	return limit, err
}

// ask asks any broker about topics, and who the cluster is. From the first answer on it has to be the same.
func (l *Log) ask(ctx context.Context, topics ...string) (*kmsg.MetadataResponse, error) {
	ctx, cancel := l.during(ctx)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, actual := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(actual)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, l.client)
	if err != nil {
		if over := l.over(ctx); over != nil {
			return nil, over
		}
		return nil, err
	}
	if len(resp.Topics) != len(topics) {
		return nil, fmt.Errorf("asked for %d topics, the broker told of %d", len(topics), len(resp.Topics))
	}
	if resp.ClusterID == nil {
		return nil, fmt.Errorf("%w: the brokers have no cluster id; deja needs Kafka 3.1 or later", driver.ErrUnusable)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cluster == "" {
		l.cluster = *resp.ClusterID
	}
	if l.cluster != *resp.ClusterID {
		err := fmt.Errorf("%w: the brokers %v are cluster %s, the log was bound to %s",
			driver.ErrCluster, l.cfg.Brokers, *resp.ClusterID, l.cluster)
		for _, t := range l.topics {
			t.fail(err)
		}
		return nil, err
	}
	return resp, nil
}

// refresh learns where a topic's leaders are, and whether it is still what it was. It does nothing if somebody else
// did since the version that the caller saw.
func (l *Log) refresh(ctx context.Context, t *topic, seen int64) error {
	select {
	case l.asking <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done.Done():
		return ErrClosed
	}
	defer func() { <-l.asking }()
	if t.seen() > seen {
		return t.broken()
	}
	resp, err := l.ask(ctx, t.real)
	if err != nil {
		if broken := t.broken(); broken != nil {
			return broken
		}
		return err
	}
	return t.judge(&resp.Topics[0], *resp.ClusterID)
}

// check asks anew whether a topic is what it was, until it is certain.
func (l *Log) check(ctx context.Context, t *topic) error {
	return l.insist(ctx, func(ctx context.Context) error { return l.refresh(ctx, t, t.seen()) })
}

// watch looks at the bound topics now and then, so that those who wait learn what became of them.
func (l *Log) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.done.Done():
			return
		}
		l.mu.Lock()
		topics := make([]*topic, 0, len(l.topics))
		for _, t := range l.topics {
			topics = append(topics, t)
		}
		l.mu.Unlock()
		for _, t := range topics {
			if t.broken() != nil {
				continue
			}
			ctx, cancel := context.WithTimeout(l.done, watchEvery)
			err := l.refresh(ctx, t, t.seen())
			cancel()
			if errors.Is(err, driver.ErrIdentity) {
				l.warn(l.done, "kafka: a topic is not what it was", slog.String("topic", t.Name), slog.Any("error", err))
			}
		}
		for _, t := range topics {
			for _, p := range t.parts {
				p.streams.tidy()
			}
		}
	}
}

// judge takes an answer about the topic. It returns errDoubt while a difference is not believed yet.
func (t *topic) judge(found *kmsg.MetadataResponseTopic, cluster string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version++
	if t.err != nil {
		return t.err
	}
	err, certain := t.difference(found)
	switch {
	case err == nil:
		t.doubts = 0
		for i := range found.Partitions {
			if p := &found.Partitions[i]; p.Partition >= 0 && p.Partition < t.Partitions && p.Leader >= 0 {
				t.leaders[p.Partition] = leader{p.Leader, p.LeaderEpoch}
			}
		}
		return nil
	case !errors.Is(err, driver.ErrIdentity):
		return err
	}
	if t.doubts++; t.doubts == 1 {
		t.since = time.Now()
	}
	if !certain && (t.doubts < believeAfter || time.Since(t.since) < believeLonger) {
		return errDoubt
	}
	t.set(fmt.Errorf("topic %q%s of cluster %s: %w", t.Name, as(t.Name, t.real), cluster, err))
	return t.err
}

// difference says in what an answer is not the topic, and whether no broker that lags behind could have given it.
func (t *topic) difference(found *kmsg.MetadataResponseTopic) (err error, certain bool) { //nolint:revive // the error is the answer
	switch err := kerr.ErrorForCode(found.ErrorCode); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("%w: there is none any more; it had the id %s", driver.ErrRecreated, t.ID), false
	case err != nil:
		return err, false
	case found.TopicID != t.id:
		return fmt.Errorf("%w: it has the id %s, it had %s", driver.ErrRecreated, topicID(found.TopicID), t.ID), false
	case len(found.Partitions) != int(t.Partitions):
		return fmt.Errorf("%w: it has %d, it had %d", driver.ErrPartitions, len(found.Partitions), t.Partitions),
			len(found.Partitions) > int(t.Partitions)
	}
	return nil, false
}

// fail ends the topic's use.
func (t *topic) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.set(fmt.Errorf("topic %q: %w", t.Name, err))
	}
}

// set is called with the lock held.
func (t *topic) set(err error) {
	t.err = err
	close(t.gone)
}

// usable returns the topic as long as it is what it was.
func (t *topic) usable() (*topic, error) {
	if err := t.broken(); err != nil {
		return nil, err
	}
	return t, nil
}

// broken returns why the topic is not what it was, or nil.
func (t *topic) broken() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

func (t *topic) seen() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.version
}

// leader returns where a partition's requests go, and the version of the answer that said so.
func (t *topic) leader(n int32) (leader, int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leaders[n], t.version
}

// doubted reports whether the topic may not be what it was.
func (t *topic) doubted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.doubts > 0
}

// topicID writes an id as Kafka's tools do.
func topicID(id [16]byte) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// at puts a position in front of an error.
func (p *partition) at(offset int64, err error) error {
	return fmt.Errorf("%s: %w", deja.Position{Topic: p.topic.Name, Partition: p.n, Offset: offset}, err)
}

// try insists on an attempt at a partition. Before it tries again it looks where the leader is now, and that the topic
// is what it was.
func (p *partition) try(ctx context.Context, attempt func(ctx context.Context, to leader) error) error {
	return p.log.insist(ctx, func(ctx context.Context) error {
		if err := p.topic.broken(); err != nil {
			return err
		}
		to, version := p.topic.leader(p.n)
		err := errDoubt
		if !p.topic.doubted() {
			err = attempt(ctx, to)
		}
		if err == nil || !retriable(err) || p.log.over(ctx) != nil {
			return err
		}
		if found := p.log.refresh(ctx, p.topic, version); found != nil && !retriable(found) {
			return found
		}
		return err
	})
}

// retriable reports whether trying again may help. It does for most errors of connections, and for those of the
// protocol that say so.
func retriable(err error) bool {
	for _, final := range []error{
		errGivenUp, driver.ErrUnusable, driver.ErrNotFound, driver.ErrIdentity, driver.ErrTrimmed, driver.ErrBeyondEnd, driver.ErrTooLarge,
	} {
		if errors.Is(err, final) {
			return false
		}
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return false
	}
	var broker *kerr.Error
	if errors.As(err, &broker) {
		return broker.Retriable
	}
	return true
}
