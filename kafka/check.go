package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/dejalog/deja/driver"
)

// A Finding is a setting that endangers what deja promises.
type Finding struct {
	Topic   string // empty: the brokers'
	Setting string // as the brokers call it
	Value   string
	Want    string
	Why     string
	Fatal   bool // records would be lost, or promises broken; else it may be so on purpose
}

func (f Finding) String() string {
	of := "the brokers"
	if f.Topic != "" {
		of = "topic " + f.Topic
	}
	return fmt.Sprintf("%s of %s is %s, want %s: %s", f.Setting, of, f.Value, f.Want, f.Why)
}

// A rule says what is wanted of a setting. It returns false where the value is good.
type rule struct {
	setting string
	want    string
	why     string
	fatal   bool
	bad     func(value string, replicas int) bool
}

func isNot(want string) func(string, int) bool {
	return func(value string, _ int) bool { return value != want }
}

var topicRules = []rule{
	{
		"cleanup.policy", "delete", "compaction removes records of the past: the store cannot be rebuilt, and no past state be told",
		true, isNot("delete"),
	},
	{
		"message.timestamp.type", "LogAppendTime", "with the producers' time a wrong clock anywhere moves the time of decisions",
		true, isNot("LogAppendTime"),
	},
	{
		"unclean.leader.election.enable", "false", "a replica that lags may become the leader, and acknowledged records are lost",
		true, isNot("false"),
	},
	{
		"retention.ms", "-1", "older records are deleted: archive them before, as stores are rebuilt, and past states told, from what is there",
		false, isNot("-1"),
	},
	{
		"retention.bytes", "-1", "beyond that size the oldest records are deleted, however young they are: archive them before",
		false, isNot("-1"),
	},
	{
		"min.insync.replicas", "2", "a record is acknowledged by one broker alone when the others lag, and lost with it",
		false, func(value string, replicas int) bool { return replicas >= 3 && number(value) < 2 },
	},
	{
		"min.insync.replicas", "less than the replicas", "with one broker down nothing can be appended",
		false, func(value string, replicas int) bool { return replicas > 1 && number(value) >= replicas },
	},
	{
		"replication.factor", "3", "records are on one broker alone, and lost with its disk",
		false, func(_ string, replicas int) bool { return replicas == 1 },
	},
	{
		"compression.type", "producer", "the brokers compress every batch anew",
		false, isNot("producer"),
	},
	{
		"remote.storage.enable", "false", "older records are read from remote storage: slowly, and only as long as it keeps them",
		false, func(value string, _ int) bool { return value == "true" },
	},
}

var brokerRules = []rule{
	{
		"auto.create.topics.enable", "false",
		"whoever names a topic that was deleted creates it anew, with other settings; deja notices, and halts",
		false, isNot("false"),
	},
	{
		"offsets.retention.minutes", "10080 or more",
		"a reader's cursor that was not moved for so long is forgotten, and the reader starts from the beginning",
		false, func(value string, _ int) bool { return number(value) < int(7*24*time.Hour/time.Minute) },
	},
}

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// Check looks at the settings of topics and brokers, and returns those that endanger something, the fatal ones first.
func (l *Log) Check(ctx context.Context, topics ...string) ([]Finding, error) {
	var found []Finding
	for _, name := range topics {
		values, replicas, err := l.settings(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("check topic %q: %w", name, err)
		}
		found = append(found, judge(name, topicRules, values, replicas)...)
	}
	values, err := l.brokerSettings(ctx)
	if err != nil {
		return nil, fmt.Errorf("check the brokers' settings: %w", err)
	}
	found = append(found, judge("", brokerRules, values, 0)...)
	slices.SortStableFunc(found, func(a, b Finding) int {
		switch {
		case a.Fatal == b.Fatal:
			return 0
		case a.Fatal:
			return -1
		}
		return 1
	})
	return found, nil
}

// judge applies rules to the settings that are known.
func judge(topic string, rules []rule, values map[string]string, replicas int) []Finding {
	var found []Finding
	for _, r := range rules {
		value, known := values[r.setting]
		if known && r.bad(value, replicas) {
			found = append(found, Finding{Topic: topic, Setting: r.setting, Value: value, Want: r.want, Why: r.why, Fatal: r.fatal})
		}
	}
	return found
}

// settings returns a topic's settings, and how many replicas its partitions have at least.
func (l *Log) settings(ctx context.Context, name string) (values map[string]string, replicas int, err error) {
	actual := l.cfg.real(name)
	err = l.insist(ctx, func(ctx context.Context) error {
		resp, err := l.ask(ctx, actual)
		if err != nil {
			return err
		}
		t := &resp.Topics[0]
		if err := kerr.ErrorForCode(t.ErrorCode); errors.Is(err, kerr.UnknownTopicOrPartition) {
			return driver.ErrNotFound
		} else if err != nil {
			return err
		}
		for i := range t.Partitions {
			if n := len(t.Partitions[i].Replicas); i == 0 || n < replicas {
				replicas = n
			}
		}
		configs, err := l.admin.DescribeTopicConfigs(ctx, actual)
		if err != nil {
			return err
		}
		values, err = read(configs.On(actual, nil))
		return err
	})
	if err == nil {
		values["replication.factor"] = strconv.Itoa(replicas)
	}
	return values, replicas, err
}

// brokerSettings returns the settings of one of the brokers. They are the cluster's, but for what was set on one alone.
func (l *Log) brokerSettings(ctx context.Context) (values map[string]string, err error) {
	err = l.insist(ctx, func(ctx context.Context) error {
		brokers, err := l.admin.BrokerMetadata(ctx)
		if err != nil {
			return err
		}
		if len(brokers.Brokers) == 0 {
			return kerr.BrokerNotAvailable
		}
		configs, err := l.admin.DescribeBrokerConfigs(ctx, brokers.Brokers[0].NodeID)
		if err != nil {
			return err
		}
		values, err = read(configs.On(strconv.Itoa(int(brokers.Brokers[0].NodeID)), nil))
		return err
	})
	return values, err
}

func read(c kadm.ResourceConfig, err error) (map[string]string, error) {
	if err == nil {
		err = c.Err
	}
	if err != nil {
		return nil, fmt.Errorf("read settings (the right to DescribeConfigs is needed): %w", err)
	}
	values := map[string]string{}
	for _, setting := range c.Configs {
		values[setting.Key] = setting.MaybeValue()
	}
	return values, nil
}
