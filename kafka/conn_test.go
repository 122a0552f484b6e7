package kafka_test

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// connections are those that a Log has opened, for tests that break them.
type connections struct {
	mu   sync.Mutex
	open map[*connection]bool
	rng  *rand.Rand    // nil: writes are not delayed
	late time.Duration // the longest delay
}

func (cs *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, of: cs, sent: make(chan []byte, 1000), gone: make(chan struct{})}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.open == nil {
		cs.open = map[*connection]bool{}
	}
	cs.open[c] = true
	go c.pump()
	return c, nil
}

// cut breaks all connections, as the client sees it. What it has written still reaches the broker.
func (cs *connections) cut() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		c.end()
	}
}

// delay is how long a write is on its way.
func (cs *connections) delay() time.Duration {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.rng == nil || cs.rng.IntN(4) > 0 {
		return 0
	}
	return time.Duration(cs.rng.Int64N(int64(cs.late)))
}

// A connection's writes reach the other side later, even when it was closed meanwhile.
type connection struct {
	net.Conn
	of   *connections
	sent chan []byte
	once sync.Once
	gone chan struct{}
}

func (c *connection) Write(b []byte) (int, error) {
	select {
	case <-c.gone:
		return 0, net.ErrClosed
	case c.sent <- append([]byte(nil), b...):
		return len(b), nil
	}
}

func (c *connection) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	select {
	case <-c.gone:
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (c *connection) end() { c.once.Do(func() { close(c.gone) }) }

func (c *connection) Close() error {
	c.end()
	return c.SetReadDeadline(time.Unix(1, 0))
}

func (c *connection) pump() {
	defer func() {
		_ = c.Conn.Close()
		c.of.mu.Lock()
		delete(c.of.open, c)
		c.of.mu.Unlock()
	}()
	for {
		select {
		case b := <-c.sent:
			time.Sleep(c.of.delay())
			if _, err := c.Conn.Write(b); err != nil {
				return
			}
		case <-c.gone:
			if len(c.sent) == 0 {
				return
			}
		}
	}
}
