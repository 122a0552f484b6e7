package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dejalog/deja/driver"
)

// ErrClosed is returned by calls of a closed Log, those that wait included.
var ErrClosed = fmt.Errorf("%w: the log is closed", driver.ErrUnusable)

// Pauses between attempts, doubling.
const (
	groupHeartbeatKey = 68

	firstPause   = 10 * time.Millisecond
	longestPause = time.Second
)

// A Log is a Kafka cluster's topics. It is safe for concurrent use.
type Log struct {
	cfg    Config
	client *kgo.Client // for requests that do not wait at the broker
	admin  *kadm.Client
	lines  lines // for those that do
	codec  kgo.Compressor
	buffer sync.Pool // of *buffers, for batches on their way

	connects connects // of client

	done    context.Context //nolint:containedctx // ends with Close, and with it all that runs for the log
	close   context.CancelFunc
	running sync.WaitGroup

	asking chan struct{} // holds the right to ask for metadata: one asks, for all

	mu      sync.Mutex
	cluster string            // bound by the first answer
	topics  map[string]*topic // bound, by the names that callers use
	ended   map[string]error  // why a membership ended, until Join tells
}

var (
	_ driver.Log     = (*Log)(nil)
	_ driver.Grouper = (*Log)(nil)
	_ driver.Cursors = (*Log)(nil)
)

// Open connects to a cluster. It tries until ctx ends, or the brokers refuse. ctx bounds this call only.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	codec, err := compressor(cfg.Compression)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	l := &Log{
		cfg:    cfg,
		codec:  codec,
		asking: make(chan struct{}, 1),
		topics: map[string]*topic{},
		ended:  map[string]error{},
	}
	if l.client, err = cfg.client(kgo.WithHooks(&l.connects)); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	l.admin = kadm.NewClient(l.client)
	l.buffer.New = func() any { return new(buffers) }
	l.lines.cfg = &l.cfg
	l.done, l.close = context.WithCancel(context.Background())
	if err := l.connect(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("kafka %v: %w", cfg.Brokers, err), l.Close())
	}
	l.run(l.watch)
	return l, nil
}

// connects counts the connections that were opened. One is counted before a request goes through it.
type connects struct{ atomic.Int64 }

// OnBrokerConnect is called by the library.
func (c *connects) OnBrokerConnect(kgo.BrokerMetadata, time.Duration, net.Conn, error) { c.Add(1) }

// connect asks who the cluster is, and whether it speaks what this package needs.
func (l *Log) connect(ctx context.Context) error {
	return l.insist(ctx, func(ctx context.Context) error {
		if _, err := l.ask(ctx); err != nil {
			return err
		}
		return l.recent(ctx)
	})
}

// insist repeats an attempt until it succeeds, ctx or the log ends, or trying again does not help.
func (l *Log) insist(ctx context.Context, attempt func(ctx context.Context) error) error {
	ctx, cancel := l.during(ctx)
	defer cancel()
	var last error
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := attempt(ctx)
		if err == nil {
			return nil
		}
		if over := l.over(ctx); over != nil {
			return also(over, last)
		}
		if !retriable(err) {
			return err
		}
		last = err
		if err := l.sleep(ctx, pause); err != nil {
			return also(err, last)
		}
	}
}

// during returns a context that ends with ctx or with the log.
func (l *Log) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.done, cancel)
	return ctx, func() { stop(); cancel() }
}

// over returns why there is no trying again: the log was closed, or ctx ended.
func (l *Log) over(ctx context.Context) error {
	if l.done.Err() != nil {
		return ErrClosed
	}
	return ctx.Err()
}

// recent returns an error if the brokers cannot be asked for a topic by its id: under its name, another may answer.
func (l *Log) recent(ctx context.Context) error {
	resp, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, l.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return err
	}
	know := func(key, version int16) bool {
		return slices.ContainsFunc(resp.ApiKeys, func(k kmsg.ApiVersionsResponseApiKey) bool {
			return k.ApiKey == key && k.MaxVersion >= version
		})
	}
	if !know(fetchKey, fetchByID) {
		return fmt.Errorf("%w: the brokers do not read topics by their ids; deja needs Kafka 3.1 or later", driver.ErrUnusable)
	}
	if l.cfg.Protocol == Consumer && !know(groupHeartbeatKey, 1) {
		return fmt.Errorf("%w: the brokers do not know the group protocol %q; it needs Kafka 4.0 or later", driver.ErrUnusable, Consumer)
	}
	return nil
}

// also returns the error that ended the attempts, and with it why the last one failed.
func also(err, last error) error {
	if last == nil {
		return err
	}
	return fmt.Errorf("%w (tried until then: %w)", err, last)
}

// sleep waits between attempts.
func (l *Log) sleep(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done.Done():
		return ErrClosed
	}
}

// Close releases the connections. Calls that wait return an error that wraps [driver.ErrUnusable].
func (l *Log) Close() error {
	l.mu.Lock()
	l.close()
	l.mu.Unlock()
	l.running.Wait()
	l.lines.close()
	l.client.Close()
	return nil
}

// run starts what ends with the log; it reports false after Close.
func (l *Log) run(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done.Err() != nil {
		return false
	}
	l.running.Go(f)
	return true
}

// open returns an error after Close.
func (l *Log) open() error {
	if l.done.Err() != nil {
		return ErrClosed
	}
	return nil
}

func (l *Log) warn(ctx context.Context, message string, attrs ...slog.Attr) {
	if l.cfg.Logger != nil {
		l.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, message, attrs...)
	}
}

// lines are clients of one connection for one request that waits at the broker: a broker answers the requests of a
// connection one after the other, so two that wait must not share one.
type lines struct {
	cfg *Config

	mu     sync.Mutex
	free   []*kgo.Client // the last used comes last
	closed bool
}

// maxLines bounds the connections that wait for work.
const maxLines = 16

func (l *lines) take() (*kgo.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if n := len(l.free); n > 0 {
		line := l.free[n-1]
		l.free = l.free[:n-1]
		return line, nil
	}
	return l.cfg.client()
}

// give takes a line back. One that failed is closed: what its broker's address is may have changed.
func (l *lines) give(line *kgo.Client, failed bool) {
	l.mu.Lock()
	keep := !failed && !l.closed && len(l.free) < maxLines
	if keep {
		l.free = append(l.free, line)
	}
	l.mu.Unlock()
	if !keep {
		line.Close()
	}
}

func (l *lines) close() {
	l.mu.Lock()
	free := l.free
	l.free, l.closed = nil, true
	l.mu.Unlock()
	for _, line := range free {
		line.Close()
	}
}
