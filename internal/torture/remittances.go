//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/remit"
)

const (
	receivers = 10 // of remittances
	desks     = 6
)

// A remittance is one that was asked for.
type remittance struct {
	ID    deja.ID     `json:"id"`
	Key   string      `json:"key"`
	Start remit.Start `json:"start"`
}

// ended is how a client was told that a remittance has ended.
type ended struct {
	Key   string `json:"key"`
	Event string `json:"event"`
}

// nextRemittance makes a remittance, or asks for an earlier one again. Some nobody takes, many have little patience, and half
// go by way of a desk, which may take longer than that.
func (l *load) nextRemittance() (m remittance, waits bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waits = l.rng.IntN(2) == 0
	if n := len(l.asked); n > 0 && l.rng.IntN(10) == 0 {
		return l.asked[l.rng.IntN(n)], waits
	}
	m.ID, m.Key = deja.NewID(), fmt.Sprintf("rem-%06d", len(l.asked))
	m.Start = remit.Start{
		From: accountKey(l.rng.IntN(accounts)), To: fmt.Sprintf("rec-%02d", l.rng.IntN(receivers)), Amount: 1 + l.rng.Int64N(30),
		Patience: between(l.rng, 3*time.Second, 8*time.Second),
	}
	if l.rng.IntN(12) == 0 {
		m.Start.To = remit.Nobody
	}
	if l.rng.IntN(2) == 0 {
		m.Start.Patience = between(l.rng, 50*time.Millisecond, 1500*time.Millisecond)
	}
	if l.rng.IntN(2) == 0 {
		m.Start.Desk, m.Start.Hold = fmt.Sprintf("desk-%d", l.rng.IntN(desks)), between(l.rng, 0, 1500*time.Millisecond)
	}
	l.asked = append(l.asked, m)
	return m, waits
}

// remit starts one remittance after the other, however often it has to ask.
func (l *load) remit(stop, ctx context.Context, rate float64) {
	for stop.Err() == nil {
		sleep(stop, time.Duration(float64(time.Second)/rate))
		if stop.Err() != nil {
			return
		}
		m, waits := l.nextRemittance()
		for ctx.Err() == nil {
			l.gate.RLock()
			try, cancel := context.WithTimeout(ctx, 15*time.Second)
			done := l.start(try, m, waits)
			cancel()
			l.gate.RUnlock()
			if done {
				break
			}
			l.errors.Add(1)
			sleep(ctx, 100*time.Millisecond)
		}
	}
}

// start starts a remittance, and perhaps waits for its end; false: it is not known whether it has.
func (l *load) start(ctx context.Context, m remittance, waits bool) bool {
	r := deja.Request{ID: m.ID, Key: m.Key, Command: m.Start}
	if !waits {
		_, err := l.client.Send(ctx, r)
		return err == nil
	}
	r.Until = deja.AtEnd()
	out, err := l.client.Do(ctx, r)
	var refused *deja.Rejection
	wrong := ""
	switch {
	case errors.As(err, &refused), errors.Is(err, deja.ErrInvalid), errors.Is(err, deja.ErrHalted), errors.Is(err, deja.ErrParked):
		wrong = err.Error()
	case err != nil:
		return false
	case out.Reached == nil:
		wrong = "nothing"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if wrong != "" {
		l.wrong = append(l.wrong, fmt.Sprintf("remittance %s: told %s", m.Key, wrong))
		return true
	}
	l.ends.Add(1)
	l.ended = append(l.ended, ended{m.Key, out.Reached.Type})
	return true
}
