package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// The group protocols of [Config].Protocol.
const (
	Classic  = "classic"  // assigned by the members, known to every broker
	Consumer = "consumer" // assigned by the broker (KIP-848), from Kafka 4.0 on, at its heartbeats: every 5 s by default
)

// The codecs of [Config].Compression.
const (
	None   = "none"
	Snappy = "snappy"
	LZ4    = "lz4"
	Zstd   = "zstd"
)

// The mechanisms of [SASL].
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

// A Config says how a cluster is reached. Only Brokers is required.
type Config struct {
	Brokers []string    // host:port of some of the cluster's brokers; the others are found
	TLS     *tls.Config // nil: no TLS
	SASL    *SASL       // nil: no authentication

	// Topic returns a topic's name on the cluster; nil: the same. It must give two topics two names, always the same
	// ones. Positions and errors bear the name that the caller used.
	Topic func(name string) string

	Compression string // of what is appended; default Snappy
	Protocol    string // of consumer groups; default Classic, whose members follow each other within milliseconds
	ClientID    string // as brokers log it and count quotas by it; default "deja"

	// SessionTimeout is after how long a silent member of a consumer group loses its partitions; default 6 s. Under
	// the protocol Consumer the broker's group.consumer.session.timeout.ms says it.
	SessionTimeout time.Duration

	// Dial opens the connections; nil: TCP. TLS is put on top.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	Logger *slog.Logger // nil: nothing is logged
}

// SASL is how to authenticate.
type SASL struct {
	Mechanism      string // one of Plain, ScramSHA256, ScramSHA512
	User, Password string
}

// ParseURL reads a Config from a URL of the form
//
//	kafka://[user:password@]host:port[,host:port…][?option=value&…]
//
// where the options are tls (true, false; default false), sasl (plain, scram-sha-256, scram-sha-512; default
// scram-sha-512 if there is a user), prefix (put in front of every topic's name on the cluster), compression and
// protocol. Errors do not repeat the password.
func ParseURL(address string) (Config, error) {
	cfg, err := parseURL(address)
	if err != nil {
		return Config{}, fmt.Errorf("kafka URL: %w; want %s", err, "kafka://[user:password@]host:port[,host:port…][?tls=true&sasl=scram-sha-512&prefix=run7.]")
	}
	return cfg, nil
}

func parseURL(address string) (Config, error) {
	rest, ok := strings.CutPrefix(address, "kafka://")
	if !ok {
		return Config{}, errors.New("it does not begin with kafka://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	cfg := Config{}
	user := ""
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		user, rest = rest[:i], rest[i+1:]
	}
	for broker := range strings.SplitSeq(strings.TrimSuffix(rest, "/"), ",") {
		if err := checkBroker(broker); err != nil {
			return Config{}, err
		}
		cfg.Brokers = append(cfg.Brokers, broker)
	}
	options, err := url.ParseQuery(query)
	if err != nil {
		return Config{}, errors.New("the options after ? are not of the form option=value&option=value")
	}
	mechanism := ""
	for name, values := range options {
		if err := cfg.set(name, values[len(values)-1], &mechanism); err != nil {
			return Config{}, err
		}
	}
	if cfg.SASL, err = credentials(user, mechanism); err != nil {
		return Config{}, err
	}
	if err := cfg.validate(); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

func checkBroker(broker string) error {
	host, port, err := net.SplitHostPort(broker)
	if err != nil || host == "" {
		return fmt.Errorf("broker %q is not of the form host:port", broker)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("broker %q has no port between 1 and 65535", broker)
	}
	return nil
}

// set takes one option of a URL.
func (c *Config) set(name, value string, mechanism *string) error {
	switch name {
	case "tls":
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("tls=%s is neither true nor false", value)
		}
		if on {
			c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	case "sasl":
		*mechanism = strings.ToUpper(value)
	case "prefix":
		c.Topic = func(topic string) string { return value + topic }
	case "compression":
		c.Compression = value
	case "protocol":
		c.Protocol = value
	default:
		return fmt.Errorf("no option %q: there are tls, sasl, prefix, compression and protocol", name)
	}
	return nil
}

// credentials reads user:password.
func credentials(user, mechanism string) (*SASL, error) {
	if user == "" {
		if mechanism != "" {
			return nil, fmt.Errorf("sasl=%s without a user and password before the @", strings.ToLower(mechanism))
		}
		return nil, nil //nolint:nilnil // nobody has to authenticate
	}
	name, password, ok := strings.Cut(user, ":")
	name, err1 := url.PathUnescape(name)
	password, err2 := url.PathUnescape(password)
	if !ok || err1 != nil || err2 != nil {
		return nil, errors.New("what is before the @ is not of the form user:password (write : as %3A, @ as %40, % as %25)")
	}
	return &SASL{Mechanism: cmp.Or(mechanism, ScramSHA512), User: name, Password: password}, nil
}

// validate reports all that is wrong.
func (c *Config) validate() error {
	var errs []error
	oneOf := func(what, value string, among ...string) {
		if value != "" && !slices.Contains(among, value) {
			errs = append(errs, fmt.Errorf("%s %q is none of %s", what, value, strings.Join(among, ", ")))
		}
	}
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("no brokers"))
	}
	for _, broker := range c.Brokers {
		errs = append(errs, checkBroker(broker))
	}
	oneOf("compression", c.Compression, None, Snappy, LZ4, Zstd)
	oneOf("protocol", c.Protocol, Classic, Consumer)
	if c.SASL != nil {
		oneOf("sasl mechanism", cmp.Or(c.SASL.Mechanism, "none"), Plain, ScramSHA256, ScramSHA512)
	}
	if c.SessionTimeout < 0 {
		errs = append(errs, fmt.Errorf("session timeout %s is negative", c.SessionTimeout))
	}
	return errors.Join(errs...)
}

func (c *Config) real(topic string) string {
	if c.Topic == nil {
		return topic
	}
	return c.Topic(topic)
}

// client makes a client of the library, which has not connected yet.
func (c *Config) client(more ...kgo.Opt) (*kgo.Client, error) {
	byID := new(kversion.Versions)
	byID.SetMaxKeyVersion(fetchKey, fetchByID)
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(cmp.Or(c.ClientID, "deja")),
		kgo.MinVersions(byID),
		kgo.DialTimeout(5 * time.Second),
		kgo.RequestRetries(2), // the loops of this package try again, and look for the cause first
		kgo.RetryTimeout(5 * time.Second),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.DisableClientMetrics(),
	}
	switch {
	case c.Dial != nil && c.TLS != nil:
		opts = append(opts, kgo.Dialer(c.dialTLS))
	case c.Dial != nil:
		opts = append(opts, kgo.Dialer(c.Dial))
	case c.TLS != nil:
		opts = append(opts, kgo.DialTLSConfig(c.TLS))
	}
	if s := c.SASL; s != nil {
		switch s.Mechanism {
		case Plain:
			opts = append(opts, kgo.SASL(plain.Auth{User: s.User, Pass: s.Password}.AsMechanism()))
		case ScramSHA256:
			opts = append(opts, kgo.SASL(scram.Auth{User: s.User, Pass: s.Password}.AsSha256Mechanism()))
		case ScramSHA512:
			opts = append(opts, kgo.SASL(scram.Auth{User: s.User, Pass: s.Password}.AsSha512Mechanism()))
		}
	}
	if c.Logger != nil {
		opts = append(opts, kgo.WithLogger(logger{c.Logger}))
	}
	return kgo.NewClient(append(opts, more...)...)
}

func (c *Config) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	config := c.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return secure, nil
}

// logger gives the library's warnings to slog. They speak of single attempts: errors that matter are returned.
type logger struct{ to *slog.Logger }

func (logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l logger) Log(_ kgo.LogLevel, message string, more ...any) {
	l.to.Debug("kafka: "+message, more...)
}
