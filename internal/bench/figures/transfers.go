package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/remit"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/kafka"
	"github.com/dejalog/deja/postgres"
)

// The work is that of the peers' measurements: 1,000 accounts, and a ledger that refuses 5 %, which is undone. A transfer is
// some twelve messages: start, withdraw and its reply, post and its reply, the receipt's result; or what undoes it.
const (
	payers      = 1000
	refuseEvery = 20
	funds       = int64(1) << 40
	alone       = 300 // transfers one after another, for the latency
	few         = 8   // transfers under way at a time, for what small batches cost
	ofFew       = 100 // transfers of each of them
)

const (
	transfersLoad  = "transfers between two services, each with its database"
	transfersAlone = "one transfer alone, from sent to ended"
	transfersFew   = "8 transfers under way at a time, each begun when another has ended"
)

func transfers(ctx context.Context, b *bench) error {
	for i := range b.set.runs {
		profile := ""
		if i == b.set.runs-1 {
			profile = b.set.profile
		}
		if err := b.transfers(ctx, profile); err != nil {
			return err
		}
	}
	return nil
}

// pair is the two services, on a log that they share.
type pair struct {
	b            *bench
	run          string
	log          *kafka.Log
	bank, ledger *engine.Engine
	dsns         map[string]string       // by service
	stores       map[string]driver.Store // by service
	receipts     atomic.Int64
	stop         func() error
}

// newPair makes fresh topics for the two services, and a fresh database for each. They do not run yet.
func (b *bench) newPair(ctx context.Context) (p *pair, err error) {
	p = &pair{b: b, run: "b" + runID(), dsns: map[string]string{}, stores: map[string]driver.Store{}}
	if p.log, err = openLog(ctx, b.set.kafka, p.run); err != nil {
		return nil, err
	}
	for _, svc := range []string{remit.Bank, remit.Ledger} {
		err := p.log.CreateTopics(ctx,
			kafka.TopicConfig{Name: wire.Inbox(svc), Partitions: partitions, Replication: 1},
			kafka.TopicConfig{Name: wire.Journal(svc), Partitions: partitions, Replication: 1})
		if err != nil {
			return nil, err
		}
		if p.dsns[svc], err = b.database(ctx, "deja_"+p.run+"_"+svc); err != nil {
			return nil, err
		}
		db, err := postgres.Open(ctx, p.dsns[svc])
		if err != nil {
			return nil, err
		}
		p.stores[svc] = db.Store()
	}
	if p.ledger, err = p.engine(remit.Ledger); err == nil {
		p.bank, err = p.engine(remit.Bank)
	}
	return p, err
}

func (p *pair) engine(name string) (*engine.Engine, error) {
	cfg := pairConfig(name, func(_ context.Context, key deja.ID, _ remit.Mail) (string, error) {
		p.receipts.Add(1)
		return key.String(), nil
	})
	cfg.Log, cfg.Store, cfg.Logger = p.log, p.stores[name], slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return engine.New(cfg)
}

// pairConfig returns how one of the two services is run, but for its log and store.
func pairConfig(name string, send func(context.Context, deja.ID, remit.Mail) (string, error)) engine.Config {
	bank, ledger := remit.Services(remit.Variant{})
	if name == remit.Ledger {
		return engine.Config{Service: ledger}
	}
	return engine.Config{Service: bank, Peers: remit.Peers(), Effects: []deja.Performer{remit.Mailer(send)}}
}

// pair starts the two services in this process.
func (b *bench) pair(ctx context.Context) (*pair, error) {
	p, err := b.newPair(ctx)
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	errs := make(chan error, 2)
	for _, e := range []*engine.Engine{p.bank, p.ledger} {
		all.Go(func() { errs <- e.Run(running) })
	}
	p.stop = func() error {
		cancel()
		all.Wait()
		return errors.Join(ended(<-errs), ended(<-errs), p.log.Close())
	}
	return p, nil
}

func ended(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// database makes a database beside the one that was given, and returns its address. It goes in the end.
func (b *bench) database(ctx context.Context, name string) (dsn string, err error) {
	conn, err := pgx.Connect(ctx, b.set.postgres)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		return "", err
	}
	b.databases = append(b.databases, name)
	u, err := url.Parse(b.set.postgres)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}

func (b *bench) transfers(ctx context.Context, profile string) error {
	p, err := b.pair(ctx)
	if err != nil {
		return err
	}
	stopped := false
	defer func() {
		if !stopped {
			_ = p.stop()
		}
	}()
	if err := p.fund(ctx); err != nil {
		return err
	}
	if err := p.alone(ctx); err != nil {
		return err
	}
	if err := p.few(ctx); err != nil {
		return err
	}
	n := b.set.transfers
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	before, err := cpuSeconds()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := p.load(ctx, n); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	after, err := cpuSeconds()
	if err != nil {
		return err
	}
	b.add(transfersLoad, "transfers/s", float64(n)/took)
	b.add(transfersLoad+": CPU of the two services", "µs/transfer", (after-before)/float64(n)*1e6)
	stopped = true
	if err := p.stop(); err != nil {
		return err
	}
	done, err := p.check(ctx, n+alone+few*ofFew)
	if sent := p.receipts.Load(); err == nil && sent != done {
		err = fmt.Errorf("%d transfers are done, and %d receipts were sent", done, sent)
	}
	return err
}

func (p *pair) fund(ctx context.Context) error {
	rs := make([]deja.Request, payers)
	for i := range rs {
		rs[i] = deja.Request{Key: payer(i), Command: remit.Deposit{Amount: funds}}
	}
	if _, err := p.bank.Client().Send(ctx, rs...); err != nil {
		return err
	}
	_, err := p.bank.Client().Do(ctx, deja.Request{Key: "last", Command: remit.Deposit{Amount: 1}})
	return err
}

func payer(i int) string { return fmt.Sprintf("payer-%d", i%payers) }

// transferOf returns the i-th transfer.
func transferOf(i int) deja.Request {
	to := fmt.Sprintf("payee-%d", i*7919%payers)
	if i%refuseEvery == 0 {
		to = remit.Nobody
	}
	return deja.Request{
		ID: deja.NewID(), Key: fmt.Sprintf("remittance-%d", i),
		Command: remit.Start{From: payer(i), To: to, Amount: int64(i%1000 + 1), Patience: time.Hour},
	}
}

// alone measures transfers one at a time, and where their time goes: from each message's append to the next one's.
func (p *pair) alone(ctx context.Context) error {
	whole := make([]float64, 0, alone)
	for i := range alone {
		r := transferOf(i + 1_000_000_000)
		r.Until = deja.AtEnd()
		began := time.Now()
		if _, err := p.bank.Client().Do(ctx, r); err != nil {
			return err
		}
		whole = append(whole, time.Since(began).Seconds()*1e3)
	}
	slices.Sort(whole)
	p.b.add(transfersAlone+", p50", "ms", whole[len(whole)/2])
	p.b.add(transfersAlone+", p99", "ms", whole[len(whole)*99/100])
	return p.hops(ctx)
}

// few measures transfers a few at a time: batches are small then, and what each costs is not shared.
func (p *pair) few(ctx context.Context) error {
	before, err := cpuSeconds()
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	errs := make([]error, few)
	began := time.Now()
	for i := range few {
		all.Go(func() {
			for j := 0; j < ofFew && errs[i] == nil; j++ {
				r := transferOf(i*ofFew + j + 2_000_000_000)
				r.Until = deja.AtEnd()
				_, errs[i] = p.bank.Client().Do(ctx, r)
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	after, err := cpuSeconds()
	if err != nil {
		return err
	}
	p.b.add(transfersFew, "transfers/s", few*ofFew/took)
	p.b.add(transfersFew+": CPU of the two services", "µs/transfer", (after-before)/(few*ofFew)*1e6)
	return nil
}

// hops measures the times between the messages of a transfer, by the log's clock.
func (p *pair) hops(ctx context.Context) error {
	appended := map[deja.ID]map[string]time.Time{} // by the chain's first message, then by kind and type
	for _, svc := range []string{remit.Bank, remit.Ledger} {
		for n := range int32(partitions) {
			at := deja.Position{Topic: wire.Inbox(svc), Partition: n}
			_, end, err := p.log.Bounds(ctx, at.Topic, n)
			if err != nil {
				return err
			}
			for at.Offset < end {
				recs, err := p.log.Fetch(ctx, at, 1000)
				if err != nil {
					return err
				}
				for _, rec := range recs {
					at.Offset = rec.Offset + 1
					env, err := wire.NewDecoder(svc).Message(rec.Value)
					if err != nil {
						return err
					}
					if appended[env.CorrelationID] == nil {
						appended[env.CorrelationID] = map[string]time.Time{}
					}
					appended[env.CorrelationID][env.Kind.String()+" "+env.Type] = rec.Time
				}
			}
		}
	}
	path := []string{
		"command remittance.start", "command account.withdraw", "reply account.withdraw", "command posting.post", "reply posting.post",
	}
	for i := 1; i < len(path); i++ {
		var took []float64
		for _, times := range appended {
			from, to := times[path[i-1]], times[path[i]]
			if !from.IsZero() && !to.IsZero() {
				took = append(took, to.Sub(from).Seconds()*1e3)
			}
		}
		if len(took) > 0 {
			p.b.add(fmt.Sprintf("of which from %s to %s, median", path[i-1], path[i]), "ms", median(took))
		}
	}
	return nil
}

// load starts n transfers, and waits until nothing is open any more.
func (p *pair) load(ctx context.Context, n int) error {
	const chunk = 1000
	for from := 0; from < n; from += chunk {
		rs := make([]deja.Request, 0, chunk)
		for i := from; i < min(from+chunk, n); i++ {
			rs = append(rs, transferOf(i))
		}
		if _, err := p.bank.Client().Send(ctx, rs...); err != nil {
			return err
		}
	}
	return p.settle(ctx)
}

// settle waits until nothing is open any more.
func (p *pair) settle(ctx context.Context) error {
	for {
		open, err := p.open(ctx)
		if err != nil || !open {
			return err
		}
		select {
		case <-time.After(25 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// open reports whether anything waits, in an inbox or for something.
func (p *pair) open(ctx context.Context) (bool, error) {
	for svc, store := range p.stores {
		for n := range int32(partitions) {
			at, err := store.Progress(ctx, n)
			if err != nil {
				return false, err
			}
			_, end, err := p.log.Bounds(ctx, wire.Inbox(svc), n)
			if err != nil || at.Position < end {
				return true, err
			}
			rows, err := store.Open(ctx, n, deja.Stream{}, 1)
			if err != nil || len(rows) > 0 {
				return true, err
			}
		}
	}
	return false, nil
}

// check compares the states with the oracle: every transfer has ended once, no money was made or lost. It returns how many
// are done.
func (p *pair) check(ctx context.Context, n int) (done int64, err error) {
	var ends, money int64
	for svc, store := range p.stores {
		var after deja.Stream
		for {
			rows, err := store.States(ctx, after, 5000)
			if err != nil {
				return 0, err
			}
			if len(rows) == 0 {
				break
			}
			for _, row := range rows {
				var s struct {
					Balance, Amount int64
					Ends            int64
					Phase           string
				}
				if err := json.Unmarshal(row.Data, &s); err != nil {
					return 0, fmt.Errorf("state of %s in %s: %w", row.Stream, svc, err)
				}
				switch row.Stream.Aggregate {
				case "account":
					money += s.Balance
				case "posting":
					money += s.Amount
				case "remittance":
					ends += s.Ends
					if s.Phase == remit.Done {
						done++
					}
				}
			}
			after = rows[len(rows)-1].Stream
		}
	}
	if want := payers*funds + 1; money != want {
		return 0, fmt.Errorf("there is %d of money, there was %d", money, want)
	}
	if ends != int64(n) {
		return 0, fmt.Errorf("%d transfers have %d ends", n, ends)
	}
	return done, nil
}
