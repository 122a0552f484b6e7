package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/transfers/accounts"
	"github.com/dejalog/deja/examples/transfers/ledger"
	"github.com/dejalog/deja/examples/transfers/orders"
	"github.com/dejalog/deja/examples/transfers/posting"
	"github.com/dejalog/deja/examples/transfers/transfer"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
)

// pair is the two services as a client sees them: who asks the accounts, and reads both stores. Their processes come and go.
type pair struct {
	services
	log    *kafka.Log
	dbs    [2]*postgres.DB // the accounts', the ledger's
	client deja.Client     // of the accounts
	paidIn atomic.Int64    // beyond what the accounts began with
}

// openPair makes the topics and the tables of both services.
func openPair(ctx context.Context, s services) (p *pair, err error) {
	p = &pair{services: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.log, err = s.openLog(ctx); err != nil {
		return p, err
	}
	if err := makeTopics(ctx, p.log); err != nil {
		return p, err
	}
	for i, service := range []string{accounts.Name, ledger.Name} {
		if p.dbs[i], err = s.openStore(ctx, service); err != nil {
			return p, err
		}
	}
	e, err := engine.New(engine.Config{
		Service: accounts.Service(), Peers: accounts.Peers(), Log: p.log, Store: p.dbs[0].Store(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return p, err
	}
	p.client = e.Client()
	return p, nil
}

func (p *pair) close() (err error) {
	for _, db := range p.dbs {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	if p.log != nil {
		err = errors.Join(err, p.log.Close())
	}
	return err
}

// makeTopics makes the inboxes and the journals.
func makeTopics(ctx context.Context, log *kafka.Log) error {
	var topics []kafka.TopicConfig
	for _, service := range []string{accounts.Name, ledger.Name} {
		for _, topic := range []string{wire.Inbox(service), wire.Journal(service)} {
			topics = append(topics, kafka.TopicConfig{Name: topic, Partitions: partitions, Replication: 1})
		}
	}
	return log.CreateTopics(ctx, topics...)
}

// prepare gives the accounts their money, and sees that a transfer comes to its end.
func (p *pair) prepare(ctx context.Context) error {
	const atOnce = 50
	var (
		all  sync.WaitGroup
		next atomic.Int64
		errs = make(chan error, atOnce)
	)
	for range atOnce {
		all.Go(func() {
			var err error
			for n := next.Add(1) - 1; n < perSide && err == nil; n = next.Add(1) - 1 {
				_, err = p.client.Do(ctx, deja.Request{Key: orders.Sender(int(n)), Command: account.Deposit{Amount: opening}})
			}
			errs <- err
		})
	}
	all.Wait()
	var err error
	for range atOnce {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	if what, err := p.do(ctx, move{"before", open(0), open(0), 1}, 0, deja.AtEnd()); err != nil || what != completed {
		return errors.Join(errors.New("a transfer is not completed while nothing is dead"), err)
	}
	return nil
}

// do asks for a transfer and waits until it is accepted or, if until is a point, has come there.
func (p *pair) do(ctx context.Context, t move, timeOut time.Duration, until deja.Point) (outcome, error) {
	r := t.request(timeOut)
	r.Until = until
	out, err := p.client.Do(ctx, r)
	switch {
	case err != nil:
		return completed, fmt.Errorf("transfer %q: %w", t.id, err)
	case out.Reached == nil:
		return waiting, nil
	case out.Reached.Type == transfer.Finished{}.EventType():
		return completed, nil
	}
	return undone, nil
}

// payIn puts money to an account: a command of one service alone.
func (p *pair) payIn(ctx context.Context, to int, amount int64) (outcome, error) {
	_, err := p.client.Do(ctx, deja.Request{Key: orders.Sender(to), Command: account.Deposit{Amount: amount}})
	if err == nil {
		p.paidIn.Add(amount)
	}
	return completed, err
}

// check fails unless money is whole and every transfer has come to one end.
func (p *pair) check(ctx context.Context) error {
	b, err := p.read(ctx)
	if err != nil {
		return err
	}
	return b.check(money + p.paidIn.Load())
}

// read reads the stores of both services.
func (p *pair) read(ctx context.Context) (*books, error) {
	return readBooks(ctx, p.dbs[0].Store(), p.dbs[1].Store())
}

// until waits until the books say what they should.
func (p *pair) until(ctx context.Context, reached func(*books) bool) error {
	for {
		b, err := p.read(ctx)
		if err != nil || reached(b) {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// shared waits until so many processes share the partitions of the accounts.
func (p *pair) shared(ctx context.Context, processes int) error {
	for {
		leases, err := p.dbs[0].Store().Leases(ctx)
		if err != nil {
			return err
		}
		owners := map[string]int{}
		for _, l := range leases {
			if l.Held {
				owners[fmt.Sprint(l.Owner)]++
			}
		}
		if len(owners) == processes {
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// pause waits before one looks again.
func pause(ctx context.Context) error {
	select {
	case <-time.After(20 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// request is what asks for a transfer. The ledger has so long for its answer; 0: as long as the example gives it.
func (t move) request(timeOut time.Duration) deja.Request {
	number := posting.Number(t.to)
	if isClosed(t.to) {
		number += "0" // nobody's
	}
	return deja.Request{Key: t.id, Command: transfer.Start{
		From: orders.Sender(t.from), To: number, Amount: t.amount, Patience: timeOut.Milliseconds(),
	}}
}

// send asks for transfers and waits for nothing but the log.
func (p *pair) send(ctx context.Context, ts []move) error {
	rs := make([]deja.Request, len(ts))
	for i, t := range ts {
		rs[i] = t.request(0)
	}
	_, err := p.client.Send(ctx, rs...)
	return err
}

// quiet waits until the accounts have decided all that was sent so far, and wait for nothing any more.
func (p *pair) quiet(ctx context.Context) error {
	store, ends := p.dbs[0].Store(), map[int32]int64{}
	for n := range int32(partitions) {
		_, end, err := p.log.Bounds(ctx, wire.Inbox(accounts.Name), n)
		if err != nil {
			return err
		}
		ends[n] = end
	}
	for len(ends) > 0 {
		if err := pause(ctx); err != nil {
			return err
		}
		leases, err := store.Leases(ctx)
		if err != nil {
			return err
		}
		for _, l := range leases {
			if end, ok := ends[l.Partition]; !ok || l.Progress.Position < end {
				continue
			}
			open, err := store.Open(ctx, l.Partition, deja.Stream{}, 1)
			if err != nil {
				return err
			}
			if len(open) == 0 {
				delete(ends, l.Partition)
			}
		}
	}
	return nil
}
