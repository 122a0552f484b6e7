package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dejalog/deja/driver"
)

// The names of settings, and what this package wants of them.
const (
	maxMessageBytes = "max.message.bytes"

	defaultMaxMessage = 1 << 20
	reserve           = 8 << 10 // of max.message.bytes for a record's key, headers and lengths
)

// A TopicConfig describes a topic to create.
type TopicConfig struct {
	Name        string
	Partitions  int32             // at least 1; cannot change later
	Replication int16             // default 3, or as many as there are brokers
	Settings    map[string]string // beside the defaults, or instead of them
}

// settings returns what a topic is created with.
func (t *TopicConfig) settings(replication int16) map[string]*string {
	all := map[string]string{
		"message.timestamp.type":         "LogAppendTime",
		"cleanup.policy":                 "delete",
		"retention.ms":                   "-1",
		"retention.bytes":                "-1",
		"unclean.leader.election.enable": "false",
		"min.insync.replicas":            "1",
		maxMessageBytes:                  strconv.Itoa(defaultMaxMessage),
	}
	if replication >= 3 {
		all["min.insync.replicas"] = "2"
	}
	maps.Copy(all, t.Settings)
	out := map[string]*string{}
	for name, value := range all {
		out[name] = &value
	}
	return out
}

// CreateTopics creates topics, one after the other, and waits until they can be used. A topic that is there must have
// as many partitions, and is left as it is: [Log.Check] looks at its settings.
func (l *Log) CreateTopics(ctx context.Context, ts ...TopicConfig) error {
	if err := l.open(); err != nil {
		return err
	}
	for i := range ts {
		if err := l.create(ctx, &ts[i]); err != nil {
			return fmt.Errorf("create topic %q: %w", ts[i].Name, err)
		}
	}
	return nil
}

func (l *Log) create(ctx context.Context, t *TopicConfig) error {
	if t.Partitions < 1 {
		return fmt.Errorf("it cannot have %d partitions", t.Partitions)
	}
	replication := t.Replication
	if replication == 0 {
		brokers, err := l.admin.BrokerMetadata(ctx)
		if err != nil {
			return err
		}
		replication = int16(min(3, len(brokers.Brokers)))
	}
	actual := l.cfg.real(t.Name)
	made, err := l.admin.CreateTopic(ctx, t.Partitions, replication, t.settings(replication), actual)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		if made.ErrMessage != "" {
			return fmt.Errorf("%w: %s", err, made.ErrMessage)
		}
		return err
	}
	return l.ready(ctx, t, actual)
}

// ready waits until every partition of a topic has a leader.
func (l *Log) ready(ctx context.Context, t *TopicConfig, actual string) error {
	return l.insist(ctx, func(ctx context.Context) error {
		resp, err := l.ask(ctx, actual)
		if err != nil {
			return err
		}
		found := &resp.Topics[0]
		if err := led(found); err != nil {
			return err
		}
		if n := len(found.Partitions); n != int(t.Partitions) {
			return fmt.Errorf("%w: it is there and has %d partitions, not %d", driver.ErrPartitions, n, t.Partitions)
		}
		return nil
	})
}

// led returns an error while a partition has no leader.
func led(t *kmsg.MetadataResponseTopic) error {
	err := kerr.ErrorForCode(t.ErrorCode)
	for i := range t.Partitions {
		err = cmp.Or(err, kerr.ErrorForCode(t.Partitions[i].ErrorCode))
	}
	return err
}
