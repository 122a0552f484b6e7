//go:build unix

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A proxy passes connections on to a server, until it is told to harm them.
type proxy struct {
	target string
	listen net.Listener
	delay  atomic.Int64 // nanoseconds that each piece takes longer

	mu      sync.Mutex
	links   map[*link]bool
	refuses time.Time // new connections are refused until then
	hold    [2]bool   // pieces of a direction wait
	freed   chan struct{}
	commits int           // so many answers to a COMMIT are still to be lost
	appends int           // so many requests to append to a topic are still to be lost
	held    time.Duration // how long each of both is held back before it is lost
	answers int           // so many answers to anything are still to be lost

	lostCommits atomic.Int64 // connections cut between a COMMIT and its answer
	lostAppends atomic.Int64 // connections cut before a request to append
	cuts        atomic.Int64 // connections cut
}

// The directions of a link.
const (
	toServer = 0
	toClient = 1
)

// link is a connection through the proxy.
type link struct {
	client, server net.Conn
	written        atomic.Bool // the client has written something that was not answered yet
}

func (l *link) close() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// newProxy listens on a port of its own.
func newProxy(ctx context.Context, target string) (*proxy, error) {
	var lc net.ListenConfig
	listen, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{target: target, listen: listen, links: map[*link]bool{}, freed: make(chan struct{})}
	go p.accept()
	return p, nil
}

func (p *proxy) address() string { return p.listen.Addr().String() }

func (p *proxy) close() {
	_ = p.listen.Close()
	p.free()
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listen.Accept()
		if err != nil {
			return
		}
		go p.serve(client)
	}
}

func (p *proxy) serve(client net.Conn) {
	p.mu.Lock()
	refused := time.Now().Before(p.refuses)
	p.mu.Unlock()
	if refused {
		_ = client.Close()
		return
	}
	server, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &link{client: client, server: server}
	p.mu.Lock()
	if time.Now().Before(p.refuses) {
		p.mu.Unlock()
		l.close()
		return
	}
	p.links[l] = true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pump(l, toServer, server, client) })
	both.Go(func() { p.pump(l, toClient, client, server) })
	both.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pump passes one direction on, piece by piece.
func (p *proxy) pump(l *link, direction int, to io.Writer, from io.Reader) {
	defer l.close()
	piece := make([]byte, 64<<10)
	for {
		n, err := from.Read(piece)
		if n > 0 {
			if !p.pass(l, direction, piece[:n]) {
				return
			}
			if _, err := to.Write(piece[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// committed is how PostgreSQL says that a COMMIT was done: the message CommandComplete with its tag.
var committed = []byte("C\x00\x00\x00\x0bCOMMIT\x00")

// appending reports whether a piece begins with a Produce request of Kafka's: its length, and 0.
func appending(piece []byte) bool { return len(piece) > 6 && piece[4] == 0 && piece[5] == 0 }

// pass waits until a piece may go on; false: it is lost, and the connection with it.
func (p *proxy) pass(l *link, direction int, piece []byte) bool {
	if d := time.Duration(p.delay.Load()); d > 0 {
		time.Sleep(d)
	}
	p.mu.Lock()
	for p.hold[direction] {
		freed := p.freed
		p.mu.Unlock()
		<-freed
		p.mu.Lock()
	}
	lost, wait := false, time.Duration(0)
	switch {
	case direction == toServer && p.appends > 0 && appending(piece):
		p.appends--
		lost, wait = true, p.held
		p.lostAppends.Add(1)
	case direction == toServer:
		l.written.Store(true)
		p.mu.Unlock()
		return true
	case p.commits > 0 && bytes.Contains(piece, committed):
		p.commits--
		lost, wait = true, p.held
		p.lostCommits.Add(1)
	case p.answers > 0 && l.written.Load():
		p.answers--
		lost = true
	}
	p.mu.Unlock()
	l.written.Store(false)
	if lost {
		time.Sleep(wait)
		p.cuts.Add(1)
	}
	return !lost
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
		p.cuts.Add(1)
	}
}

// refuse ends all connections and lets nobody in for a while.
func (p *proxy) refuse(d time.Duration) {
	p.mu.Lock()
	p.refuses = time.Now().Add(d)
	p.mu.Unlock()
	p.cut()
}

// admit ends a refusal before its time.
func (p *proxy) admit() {
	p.mu.Lock()
	p.refuses = time.Time{}
	p.mu.Unlock()
}

// stall lets nothing through in one direction until free.
func (p *proxy) stall(direction int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold[direction] = true
}

// free ends a stall.
func (p *proxy) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = [2]bool{}
	close(p.freed)
	p.freed = make(chan struct{})
}

// loseCommits loses the answers of the next n COMMITs, each with its connection, after holding them back.
func (p *proxy) loseCommits(n int, held time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commits, p.held = n, held
}

// loseAppends loses the next n requests to append to a topic, each with its connection, after holding them back.
func (p *proxy) loseAppends(n int, held time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.appends, p.held = n, held
}

// loseAnswers loses the next n answers, each with its connection: what was asked for has happened.
func (p *proxy) loseAnswers(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = n
}

// calm ends all harm.
func (p *proxy) calm() {
	p.delay.Store(0)
	p.loseCommits(0, 0)
	p.loseAppends(0, 0)
	p.loseAnswers(0)
	p.admit()
	p.free()
}
