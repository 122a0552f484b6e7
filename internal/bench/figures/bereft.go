package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/remit"
)

// A transfer needs both services. These measure what the death of one process of either costs, with two of each at work.
const (
	steady   = 200             // transfers a second
	bereaved = 8 * time.Second // how long it is looked at after a death
)

func bereavements(ctx context.Context, b *bench) error {
	for range b.set.runs {
		if err := b.bereavement(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) bereavement(ctx context.Context) error {
	p, err := b.newPair(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.log.Close() }()
	processes := map[string]*process{}
	defer func() {
		for _, w := range processes {
			w.kill()
		}
	}()
	for _, svc := range []string{remit.Bank, remit.Ledger} {
		for i := range 2 {
			w, err := start(ctx, job{Service: svc, Kafka: b.set.kafka, Run: p.run, DSN: p.dsns[svc]})
			if err != nil {
				return err
			}
			processes[fmt.Sprint(svc, i)] = w
		}
	}
	if err := p.fund(ctx); err != nil {
		return err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watches := map[string]*watch{remit.Bank: newWatch(remit.Bank, p.log), remit.Ledger: newWatch(remit.Ledger, p.log)}
	failed := make(chan error, len(watches)+1)
	for _, w := range watches {
		go func() { failed <- w.follow(watching) }()
	}
	sending, stopSending := context.WithCancel(ctx)
	defer stopSending()
	sent := make(chan int, 1)
	go func() {
		n, err := p.send(sending)
		if err != nil {
			failed <- err
		}
		sent <- n
	}()
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err = wait(warmUp)
	for _, svc := range []string{remit.Bank, remit.Ledger} {
		if err != nil {
			return err
		}
		for _, w := range watches {
			w.reset()
		}
		processes[svc+"0"].kill()
		err = wait(bereaved)
		b.add("stand-still of a partition of the "+svc+" after kill -9, with transfers", "s", watches[svc].stood().Seconds())
	}
	stopSending()
	n, began := <-sent, time.Now()
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err = errors.Join(err, p.settle(limited)); err != nil {
		return fmt.Errorf("a transfer is stuck: %w", err)
	}
	b.add("until the last transfer has ended, after both deaths", "s", time.Since(began).Seconds())
	_, err = p.check(ctx, n)
	return err
}

// send starts transfers at a steady rate until ctx ends, and returns how many.
func (p *pair) send(ctx context.Context) (n int, err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for due := time.Now(); ; {
		select {
		case <-ctx.Done():
			return n, nil
		case <-tick.C:
		}
		var rs []deja.Request
		for ; due.Before(time.Now()); due = due.Add(time.Second / steady) {
			rs = append(rs, transferOf(n))
			n++
		}
		if len(rs) == 0 {
			continue
		}
		if _, err := p.bank.Client().Send(context.WithoutCancel(ctx), rs...); err != nil {
			return n, err
		}
	}
}
