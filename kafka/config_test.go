package kafka_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/kafka"
)

func TestParseURL(t *testing.T) {
	for url, check := range map[string]func(kafka.Config) bool{
		"kafka://localhost:9092":            func(c kafka.Config) bool { return c.SASL == nil && c.TLS == nil && c.Topic == nil },
		"kafka://a:1,[::1]:2/":              func(c kafka.Config) bool { return slices.Equal(c.Brokers, []string{"a:1", "[::1]:2"}) },
		"kafka://a:1?tls=true&prefix=run7.": func(c kafka.Config) bool { return c.TLS != nil && c.Topic("x") == "run7.x" },
		"kafka://a:1?tls=false&compression=lz4&protocol=classic": func(c kafka.Config) bool {
			return c.TLS == nil && c.Compression == kafka.LZ4 && c.Protocol == kafka.Classic
		},
		"kafka://me:p%40%3A%25%2F@a:1": func(c kafka.Config) bool {
			return *c.SASL == kafka.SASL{Mechanism: kafka.ScramSHA512, User: "me", Password: "p@:%/"}
		},
		"kafka://me:secret@a:1,b:2?sasl=plain": func(c kafka.Config) bool {
			return c.SASL.Mechanism == kafka.Plain && len(c.Brokers) == 2
		},
		"kafka://me:secret@a:1?sasl=scram-sha-256": func(c kafka.Config) bool { return c.SASL.Mechanism == kafka.ScramSHA256 },
	} {
		c, err := kafka.ParseURL(url)
		if err != nil || !check(c) {
			t.Errorf("%s: got %+v, error %v", url, c, err)
		}
	}
	for url, word := range map[string]string{
		"localhost:9092":                      "kafka://",
		"kafka://":                            "host:port",
		"kafka://a":                           "host:port",
		"kafka://a:99999":                     "65535",
		"kafka://a:1,":                        "host:port",
		"kafka://a:1?tls=maybe":               "maybe",
		"kafka://a:1?acks=1":                  "acks",
		"kafka://a:1?sasl=plain":              "user",
		"kafka://me@a:1":                      "user:password",
		"kafka://me:secret@a:1?sasl=gssapi":   "GSSAPI",
		"kafka://a:1?compression=brotli":      "brotli",
		"kafka://a:1?protocol=next":           "next",
		"kafka://me:secret@a:b?sasl=plain":    "65535",
		"kafka://me:secret%zz@a:1?sasl=plain": "%25",
	} {
		_, err := kafka.ParseURL(url)
		if err == nil || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got error %v, want one that tells %q, and no password", url, err, word)
		}
	}
}

func TestOpenReportsAllThatIsWrong(t *testing.T) {
	_, err := kafka.Open(t.Context(), kafka.Config{Compression: "x", Protocol: "y", SASL: &kafka.SASL{}, SessionTimeout: -1})
	for _, word := range []string{"brokers", "compression", "protocol", "mechanism", "timeout"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("error %v does not tell of %s", err, word)
		}
	}
}

// certificate returns a server's configuration for 127.0.0.1, and who trusts it.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	made, err := x509.ParseCertificate(der)
	must(t, err)
	trusted := x509.NewCertPool()
	trusted.AddCert(made)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12},
		&tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}
}

// roundTrip appends and fetches.
func roundTrip(t *testing.T, l *kafka.Log, topic string) {
	t.Helper()
	_, err := l.Append(t.Context(), topic, numbered(0, 5, 1))
	must(t, err)
	rs, err := l.Fetch(t.Context(), deja.Position{Topic: topic}, 1)
	must(t, err)
	equal(t, "value", []string{string(rs[0].Value)}, []string{"5"})
}

func TestTLSAndSASL(t *testing.T) {
	server, client := certificate(t)
	for _, mechanism := range []string{kafka.Plain, kafka.ScramSHA256, kafka.ScramSHA512} {
		t.Run(mechanism, func(t *testing.T) {
			fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"), kfake.TLS(server), kfake.EnableSASL(),
				kfake.Superuser(mechanism, "me", "secret"))
			must(t, err)
			t.Cleanup(fake.Close)
			cfg := kafka.Config{Brokers: fake.ListenAddrs(), TLS: client, SASL: &kafka.SASL{Mechanism: mechanism, User: "me", Password: "secret"}}
			roundTrip(t, open(t, cfg), "t")

			dialed := cfg
			dialed.Dial = (&connections{}).dial // TLS goes on top of it
			_, err = open(t, dialed).Topic(t.Context(), "t")
			must(t, err)

			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			wrong := cfg
			wrong.SASL = &kafka.SASL{Mechanism: mechanism, User: "me", Password: "wrong"}
			briefly, stop := context.WithTimeout(ctx, 300*time.Millisecond)
			defer stop()
			_, err = kafka.Open(briefly, wrong) // this broker tells no reason
			want(t, err, context.DeadlineExceeded)
			untrusted := cfg
			untrusted.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
			_, err = kafka.Open(ctx, untrusted)
			var certificate *tls.CertificateVerificationError
			if !errors.As(err, &certificate) {
				t.Errorf("got error %v, want one of the certificate", err)
			}
		})
	}
}

func TestTopicsMayHaveOtherNames(t *testing.T) {
	plain := open(t, kafka.Config{})
	full := topicOf(t, plain, kafka.TopicConfig{Partitions: 2})
	l := open(t, kafka.Config{Topic: func(name string) string { return full[:len(full)-3] + name }})
	name := full[len(full)-3:]
	topic, err := l.Topic(t.Context(), name)
	must(t, err)
	if topic.Name != name || topic.Partitions != 2 {
		t.Errorf("got %+v", topic)
	}
	ps, err := l.Append(t.Context(), name, numbered(1, 3, 1))
	must(t, err)
	if ps[0] != (deja.Position{Topic: name, Partition: 1}) {
		t.Errorf("got position %v", ps[0])
	}
	equal(t, "values", readAll(t, l, name, 1), []string{"3"})
	equal(t, "values under the full name", readAll(t, plain, full, 1), []string{"3"})
	must(t, l.SetCursor(t.Context(), "r", name, 0, 1))
	_, err = l.Topic(t.Context(), full)
	want(t, err, driver.ErrNotFound)
}

func TestCreateTopics(t *testing.T) {
	l, adm := open(t, kafka.Config{}), admin(t)
	name := topicOf(t, l, kafka.TopicConfig{Partitions: 3, Settings: map[string]string{"retention.ms": "12345678"}})
	configs, err := adm.DescribeTopicConfigs(t.Context(), name)
	must(t, err)
	got := map[string]string{}
	for _, c := range configs[0].Configs {
		got[c.Key] = c.MaybeValue()
	}
	for setting, value := range map[string]string{
		"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "retention.ms": "12345678", "retention.bytes": "-1",
		"unclean.leader.election.enable": "false", "min.insync.replicas": "1", "max.message.bytes": "1048576",
	} {
		if got[setting] != value {
			t.Errorf("%s is %q, want %q", setting, got[setting], value)
		}
	}
	must(t, l.CreateTopics(t.Context(), kafka.TopicConfig{Name: name, Partitions: 3}))
	want(t, l.CreateTopics(t.Context(), kafka.TopicConfig{Name: name, Partitions: 4}), driver.ErrPartitions)
	if err := l.CreateTopics(t.Context(), kafka.TopicConfig{Name: name + "0"}); err == nil {
		t.Error("a topic of 0 partitions was created")
	}
	if err := l.CreateTopics(t.Context(), kafka.TopicConfig{Name: "no/name", Partitions: 1}); err == nil {
		t.Error("a topic was created whose name is none")
	}
}

func TestCheckFindsDangers(t *testing.T) {
	l := open(t, kafka.Config{})
	good := topicOf(t, l, kafka.TopicConfig{})
	bad := topicOf(t, l, kafka.TopicConfig{Settings: map[string]string{
		"cleanup.policy": "compact,delete", "retention.ms": "1000000", "retention.bytes": "1000000", "message.timestamp.type": "CreateTime",
		"unclean.leader.election.enable": "true", "compression.type": "gzip",
	}})
	found, err := l.Check(t.Context(), good, bad)
	must(t, err)
	fatal := map[string]bool{
		"cleanup.policy": true, "message.timestamp.type": true, "unclean.leader.election.enable": true, "retention.ms": false, "retention.bytes": false,
		"replication.factor": false, "compression.type": false,
	}
	last := true
	for _, f := range found {
		if f.Fatal && !last {
			t.Error("a fatal finding comes after others")
		}
		last = f.Fatal
		switch {
		case f.Topic == bad:
			if want, ok := fatal[f.Setting]; !ok || want != f.Fatal {
				t.Errorf("not wanted: %+v", f)
			}
			delete(fatal, f.Setting)
			if text := f.String(); !strings.Contains(text, bad) || !strings.Contains(text, f.Setting) || f.Why == "" || f.Want == "" {
				t.Errorf("the finding %q says too little", text)
			}
		case f.Topic == good && f.Setting != "replication.factor":
			t.Errorf("not wanted: %+v", f)
		}
	}
	for setting := range fatal {
		t.Errorf("%s was not found", setting)
	}
	_, err = l.Check(t.Context(), good+"-not-there")
	want(t, err, driver.ErrNotFound)
}

func TestCheckFindsBrokersThatCreateTopics(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(1, "t"), kfake.BrokerConfigs(map[string]string{
		"auto.create.topics.enable": "true", "offsets.retention.minutes": "60",
	}))
	must(t, err)
	t.Cleanup(fake.Close)
	found, err := open(t, kafka.Config{Brokers: fake.ListenAddrs()}).Check(t.Context())
	must(t, err)
	for _, setting := range []string{"auto.create.topics.enable", "offsets.retention.minutes"} {
		if !slices.ContainsFunc(found, func(f kafka.Finding) bool { return f.Setting == setting && f.Topic == "" }) {
			t.Errorf("%s was not found among %+v", setting, found)
		}
	}
}
