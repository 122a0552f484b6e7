//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/place"
	"github.com/dejalog/deja/internal/remit"
)

const (
	accounts    = 100
	hotAccounts = 5 // every other message is one of theirs
)

// A message is what was sent under an ID: it, and perhaps others.
type message struct {
	ID      deja.ID `json:"id"`
	Account int     `json:"account"`
	Take    bool    `json:"take"`
	Amount  int64   `json:"amount"`
}

func (m message) request() deja.Request {
	r := deja.Request{ID: m.ID, Key: accountKey(m.Account), Command: remit.Deposit{Amount: m.Amount}}
	if m.Take {
		r.Command = remit.Withdraw{Amount: m.Amount}
	}
	return r
}

// A told is what a client was told of a message.
type told struct {
	Message  message       `json:"message"`
	Status   deja.Status   `json:"status"`
	Code     string        `json:"code,omitempty"` // of a refusal
	Position deja.Position `json:"position"`       // of the applied message, or the conflicting one
	Version  int64         `json:"version,omitempty"`
	At       time.Time     `json:"at"` // when the client was told
}

// load sends messages and starts remittances, and remembers what was sent and what was told.
type load struct {
	client deja.Client // of the bank
	rate   float64     // messages a second, of Send
	remits float64     // remittances a second
	file   *bufio.Writer
	close  func() error

	sends, dos atomic.Int64 // calls that were answered
	ends       atomic.Int64 // remittances of which it was told how they ended
	errors     atomic.Int64 // calls that were not answered, and were tried again

	gate sync.RWMutex // held for writing while nobody sends

	mu    sync.Mutex
	rng   *rand.Rand
	sent  []message // all, in the order in which they were made
	acked []message // that the log has
	tolds []told
	asked []remittance // in the order in which they were made
	ended []ended
	wrong []string // answers that can be no answers
}

func newLoad(client deja.Client, opt options, rng *rand.Rand, path string) (*load, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	return &load{
		client: client, rate: opt.rate, remits: opt.remits, rng: rng, file: w,
		close: func() error { return errors.Join(w.Flush(), f.Close()) },
	}, nil
}

// next makes a message, or repeats or falsifies one that was made before.
func (l *load) next() message {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.make()
	if n := len(l.sent); n > 0 {
		old := l.sent[n-1-l.rng.IntN(min(n, 500))]
		if l.rng.IntN(2) == 0 {
			old = l.sent[l.rng.IntN(n)] // much older
		}
		switch pick := l.rng.IntN(100); {
		case pick < 14:
			m = old
		case pick < 17:
			m = old
			m.Amount += 1 + l.rng.Int64N(5)
		case pick < 19:
			m = l.elsewhere(m, old)
		}
	}
	l.sent = append(l.sent, m)
	return m
}

// elsewhere uses an old message's ID for another account, often one of another partition, or returns m. The store has to
// know the first message when the second is decided, also where it has just gone back to before the first.
func (l *load) elsewhere(m, old message) message {
	other := (old.Account + 1 + l.rng.IntN(accounts-1)) % accounts
	if old.Account == other {
		return m
	}
	old.Account = other
	return old
}

// make returns a new message.
func (l *load) make() message {
	m := message{Account: l.rng.IntN(accounts), Take: l.rng.IntN(2) == 0, Amount: 1 + l.rng.Int64N(100)}
	if l.rng.IntN(2) == 0 {
		m.Account = l.rng.IntN(hotAccounts)
	}
	if m.Take {
		m.Amount += 10 // so that accounts are emptied, and more is asked for
	}
	if m.ID = deja.NewID(); l.rng.IntN(3) == 0 { // a random one
		for i := range m.ID {
			m.ID[i] = byte(l.rng.Uint32())
		}
		m.ID[6], m.ID[8] = m.ID[6]&0x0f|0x40, m.ID[8]&0x3f|0x80
	}
	return m
}

// run sends until stop ends, and finishes what it began until ctx does.
func (l *load) run(stop, ctx context.Context) {
	var all sync.WaitGroup
	for range senders {
		all.Go(func() { l.send(stop, ctx, l.rate/float64(senders)) })
	}
	for range doers {
		all.Go(func() { l.do(stop, ctx) })
	}
	for range remitters {
		all.Go(func() { l.remit(stop, ctx, l.remits/remitters) })
	}
	all.Wait()
}

// pause lets nobody send until the function that it returns is called; what is on its way comes to its end first.
func (l *load) pause() (resume func()) {
	l.gate.Lock()
	return l.gate.Unlock
}

// send sends batches. One that is not acknowledged is sent again, as a client would that does not know.
func (l *load) send(stop, ctx context.Context, rate float64) {
	for stop.Err() == nil {
		l.mu.Lock()
		n := 1 + l.rng.IntN(20)
		l.mu.Unlock()
		sleep(stop, time.Duration(float64(n)/rate*float64(time.Second)))
		ms := make([]message, n)
		rs := make([]deja.Request, n)
		for i := range ms {
			ms[i] = l.next()
			rs[i] = ms[i].request()
		}
		l.gate.RLock()
		for ctx.Err() == nil {
			try, cancel := context.WithTimeout(ctx, 10*time.Second)
			_, err := l.client.Send(try, rs...)
			cancel()
			if err == nil {
				l.sends.Add(1)
				l.mu.Lock()
				l.acked = append(l.acked, ms...)
				l.mu.Unlock()
				break
			}
			l.errors.Add(1)
			sleep(ctx, 100*time.Millisecond)
		}
		l.gate.RUnlock()
	}
}

// do sends one message after the other and waits for its outcome, however often it has to ask.
func (l *load) do(stop, ctx context.Context) {
	for stop.Err() == nil {
		m := l.next()
		for {
			l.gate.RLock()
			try, cancel := context.WithTimeout(ctx, 10*time.Second)
			out, err := l.client.Do(try, m.request())
			cancel()
			l.gate.RUnlock()
			if l.tell(m, out, err) || ctx.Err() != nil {
				break
			}
			l.errors.Add(1)
			sleep(ctx, 100*time.Millisecond)
		}
	}
}

// tell keeps an outcome; false: it was none.
func (l *load) tell(m message, out deja.Outcome, err error) bool {
	t := told{Message: m, At: time.Now()}
	var (
		refused  *deja.Rejection
		conflict *deja.Conflict
		dead     *deja.Dead
	)
	switch {
	case err == nil:
		t.Status, t.Position, t.Version = deja.Applied, out.Position, out.Version
	case errors.As(err, &conflict):
		t.Status, t.Position = deja.Conflicted, conflict.Second
	case errors.As(err, &dead), errors.Is(err, deja.ErrParked), errors.Is(err, deja.ErrInvalid), errors.Is(err, deja.ErrHalted):
		l.mu.Lock()
		l.wrong = append(l.wrong, fmt.Sprintf("message %s: told %v", m.ID, err))
		l.mu.Unlock()
		return true
	case errors.As(err, &refused):
		t.Status, t.Code = deja.Rejected, refused.Code
	default:
		return false
	}
	l.dos.Add(1)
	l.mu.Lock()
	l.tolds = append(l.tolds, t)
	l.mu.Unlock()
	return true
}

// save writes what was sent, acknowledged and told to the run's file.
func (l *load) save() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	enc := json.NewEncoder(l.file)
	for _, part := range []map[string]any{{"sent": l.sent}, {"acknowledged": l.acked}, {"told": l.tolds}, {"remittances": l.asked}, {"ended": l.ended}} {
		if err := enc.Encode(part); err != nil {
			return err
		}
	}
	return l.close()
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// decodeMessage returns a message as it was sent.
func decodeMessage(env *deja.Envelope) (m message, err error) {
	m.ID, m.Take = env.ID, env.Type == remit.Withdraw{}.CommandType()
	var content struct{ Amount int64 }
	if err = json.Unmarshal(env.Payload, &content); err == nil && content.Amount <= 0 {
		err = fmt.Errorf("%s of %d", env.Type, content.Amount)
	}
	m.Amount = content.Amount
	return m, err
}

// wake sends a service something to do in the first partition, whether others may send or not. The ledger is to reverse
// what nobody has posted.
func (l *load) wake(ctx context.Context, s *side) {
	for n := range accounts {
		key := accountKey(n)
		switch {
		case place.Partition(key, partitions) != 0:
		case s.name == remit.Bank:
			l.one(ctx, n)
		default:
			short, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, _ = s.client.Send(short, deja.Request{Key: key, Command: remit.Reverse{}}) // what is not sent wakes nobody: no harm
			cancel()
		}
	}
}

// one sends a deposit to an account, whether others may send or not.
func (l *load) one(ctx context.Context, n int) {
	l.mu.Lock()
	m := l.make()
	m.Account, m.Take = n, false
	l.sent = append(l.sent, m)
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := l.client.Send(ctx, m.request()); err == nil {
		l.mu.Lock()
		l.acked = append(l.acked, m)
		l.mu.Unlock()
	}
}
