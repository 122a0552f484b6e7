package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/transfers/orders"
	"github.com/dejalog/deja/examples/transfers/proof"
)

// many is a run under load, with kills.
type many struct {
	program *program
	options options
	task    task // of the process that runs the accounts

	first, second *worker // the accounts' process, and the ledger's where it has one

	began, ended time.Time     // from the first order to the last end
	killed       int           // processes
	shown        time.Time     // when progress was last told
	made         int           // decisions, as it was heard last
	moved        time.Time     // when that was first heard
	died         time.Time     // the last kill, while nothing was decided since
	decided      int           // decisions when the next process said its first word
	standstill   time.Duration // the longest time from a kill to the next decision
}

// place makes a place for a run, and what ends that: it says how to look into what is kept, and removes the rest.
func (p *program) place(ctx context.Context, o options) (at place, clean func(), err error) {
	clean = func() {}
	if o.dir != "" {
		if at.dir, err = filepath.Abs(o.dir); err == nil {
			err = os.MkdirAll(at.dir, 0o755)
		}
		clean = func() {
			if err == nil {
				fmt.Fprintln(p.stderr, at.howToLook())
			}
		}
	} else if at.dir, err = os.MkdirTemp("", "deja-transfers-"); err == nil {
		clean = func() { _ = os.RemoveAll(at.dir) }
	}
	at.log = p.getenv(logVariable)
	if err != nil || !at.servers() {
		return at, clean, err
	}
	run := "transfers" + strings.ReplaceAll(deja.NewID().String(), "-", "")[:16]
	sep := "?"
	if strings.Contains(at.log, "?") {
		sep = "&"
	}
	at.log += sep + "prefix=" + run + "."
	if err = at.make(ctx, p.getenv(storeVariable), run); err == nil {
		fmt.Fprintf(p.stderr, "topics %s.*, databases %s_accounts and %s_ledger\n", run, run, run)
		err = at.writeSettings()
	}
	return at, clean, err
}

// many makes a run under load, with kills, and proves that it was right.
func (p *program) many(ctx context.Context, o options) error {
	at, clean, err := p.place(ctx, o)
	defer clean()
	if err != nil {
		return err
	}
	plan := orders.Plan{Transfers: o.transfers, Seed: o.seed, Began: time.Now().UTC()}
	m := &many{program: p, options: o, task: task{place: at, plan: plan}}
	if err := m.run(ctx); err != nil {
		return err
	}
	v, err := m.prove(ctx)
	if err != nil {
		return err
	}
	if err := m.print(v); err != nil {
		return err
	}
	if !v.OK() || m.killed < m.options.kills {
		return errNo
	}
	return nil
}

// run gets the transfers done, or as many of them as can be.
func (m *many) run(ctx context.Context) (err error) {
	defer func() {
		for _, w := range []*worker{m.first, m.second} {
			if w == nil {
				continue
			}
			if kerr := w.kill(); !errors.Is(kerr, os.ErrProcessDone) { // it may have ended by itself, which is told
				err = errors.Join(err, kerr)
			}
		}
	}()
	if m.task.servers() {
		if m.second, err = m.startLedger(); err != nil {
			return err
		}
	}
	m.task.phase = prepare
	if _, err := m.program.finish(ctx, &m.task); err != nil {
		return err
	}
	m.task.phase, m.task.points = load, m.choose()
	if m.first, err = m.program.start(&m.task); err != nil {
		return err
	}
	if err = m.watch(ctx); errors.Is(err, errStalled) {
		m.ended = time.Now()
		fmt.Fprintln(m.program.stderr, err)
		return nil
	}
	if err == nil && m.second != nil {
		err = m.second.end()
		m.second = nil
	}
	return err
}

// startLedger starts the process that runs the ledger alone.
func (m *many) startLedger() (*worker, error) {
	t := m.task
	t.phase, t.points = nothing, nil
	return m.program.start(&t)
}

// choose chooses the points at which processes are killed: one in each of as many parts of the run, by the seed. There are
// as many decisions as are counted on, or more, so that each will be reached, however few transfers there are.
func (m *many) choose() []point {
	if m.options.kills == 0 {
		return nil
	}
	before, sure := m.task.plan.Decisions()
	kills := max(fewestKills, min(m.options.kills, sure))
	m.options.kills = kills
	r := rand.New(rand.NewPCG(m.options.seed, 1))
	victim := r.IntN(2)
	points := make([]point, kills)
	for i := range points {
		first, next := sure*i/kills, sure*(i+1)/kills
		points[i] = point{before + first + 1 + r.IntN(next-first), m.task.servers() && (i+victim)%2 == 1}
	}
	return points
}

// stalled is how long nothing may be decided before a run is given up.
const stalled = time.Minute

// errStalled says that a run was given up.
var errStalled = errors.New("nothing more was decided: something is stuck")

// watch kills processes where it was chosen, starts others in their place, and returns when all is done.
func (m *many) watch(ctx context.Context) error {
	give := time.NewTimer(stalled)
	defer give.Stop()
	most := 0
	for {
		var ledger <-chan said
		if m.second != nil {
			ledger = m.second.said
		}
		select {
		case s, ok := <-m.first.said:
			if !ok {
				return fmt.Errorf("the worker ended by itself: %w", m.first.err)
			}
			if s.Decisions > most {
				most = s.Decisions
				give.Reset(stalled)
			}
			if done, err := m.heard(s); done || err != nil {
				return err
			}
		case _, ok := <-ledger:
			if !ok {
				return fmt.Errorf("the ledger's worker ended by itself: %w", m.second.err)
			}
		case <-give.C:
			return errStalled
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// heard takes in what the client says.
func (m *many) heard(s said) (done bool, err error) {
	switch s.What {
	case began:
		if m.began.IsZero() {
			m.began = time.Now()
		}
	case progress:
		m.progress(s)
	case reached:
		m.task.from = s.Sent
		return false, m.strike(s)
	case quiet:
		m.ended = time.Now()
	case finished:
		w := m.first
		m.first = nil
		return true, w.end()
	}
	return false, nil
}

// progress notes how far all is, and how long nothing was decided after a kill.
func (m *many) progress(s said) {
	if !m.died.IsZero() {
		switch {
		case m.decided == 0: // the first word of the process that took over
			m.decided = s.Decisions
		case s.Decisions > m.decided:
			m.standstill = max(m.standstill, time.Since(m.died))
			m.died, m.decided = time.Time{}, 0
		}
	}
	if s.Decisions > m.made {
		m.made, m.moved = s.Decisions, time.Now()
	}
	if time.Since(m.shown) > time.Second {
		m.shown = time.Now()
		still := ""
		if d := time.Since(m.moved); d > time.Second {
			still = fmt.Sprintf(", none for %.0f s", d.Seconds())
		}
		fmt.Fprintf(m.program.stderr, "%d of %d orders sent, %d decisions made%s\n", s.Sent, m.options.transfers, s.Decisions, still)
	}
}

// strike kills the process that a point is for, and starts another.
func (m *many) strike(s said) (err error) {
	at := m.task.points[0]
	m.task.points = m.task.points[1:]
	who := "the worker"
	if at.ledger {
		who = "the ledger's worker"
		if err = m.second.kill(); err == nil {
			m.second, err = m.startLedger()
		}
	} else {
		if m.task.servers() {
			who = "the accounts' worker"
		}
		if err = m.first.kill(); err == nil {
			m.died, m.decided = time.Now(), 0
			m.first, err = m.program.start(&m.task)
		}
	}
	m.killed++
	fmt.Fprintf(m.program.stderr, "%s was killed after %d decisions, %d of %d orders sent; another goes on\n",
		who, s.Decisions, s.Sent, m.options.transfers)
	return err
}

// prove reads what the run has left.
func (m *many) prove(ctx context.Context) (_ *proof.Verdict, err error) {
	o, err := m.task.open(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	return proof.Check(ctx, m.task.plan,
		proof.Witness{Service: m.program.accounts(), Log: o.log, Store: o.accounts},
		proof.Witness{Service: m.program.ledger(), Log: o.log, Store: o.ledger},
		m.task.receipts())
}

// print prints what the run came to, and on the standard error what is wrong.
func (m *many) print(v *proof.Verdict) error {
	p, took := m.program, m.ended.Sub(m.began)
	a := answer{
		Transfers: v.Transfers, Completed: v.Completed, Compensated: v.Compensated, Stuck: v.Stuck,
		MoneyBefore: v.MoneyBefore, MoneyAfter: v.MoneyAfter, Kills: m.killed,
		EffectsPerformed: v.Performed, EffectsDoubled: v.Doubled, EffectCalls: v.Calls,
		PerSecond: float64(v.Transfers) / took.Seconds(),
	}
	for _, f := range v.Faults {
		fmt.Fprintln(p.stderr, "wrong:", f)
	}
	if v.More > 0 {
		fmt.Fprintf(p.stderr, "wrong: and %d more\n", v.More)
	}
	if m.killed < m.options.kills {
		fmt.Fprintf(p.stderr, "wrong: of %d kills %d were made\n", m.options.kills, m.killed)
	}
	if m.options.json {
		return p.json(a)
	}
	fmt.Fprintf(p.stdout, `%8d transfers in %.2f s, %.0f a second%s
%8d completed
%8d compensated
%8d stuck
money    %d before, %d after
kills    %d%s
receipts %d sent by %d calls, %d twice
`, a.Transfers, took.Seconds(), a.PerSecond, m.withKills(), a.Completed, a.Compensated, a.Stuck, a.MoneyBefore, a.MoneyAfter,
		a.Kills, m.slowest(), a.EffectsPerformed, a.EffectCalls, a.EffectsDoubled)
	if v.OK() {
		fmt.Fprintln(p.stdout, "The journals, the states and the provider's file say the same, and it is as it should be.")
	}
	return nil
}

// withKills says that the time taken is not that of services left alone.
func (m *many) withKills() string {
	if m.killed == 0 {
		return ""
	}
	return ", with the kills"
}

func (m *many) slowest() string {
	if m.standstill == 0 {
		return ""
	}
	whose := ""
	if m.task.servers() {
		whose = "after those of the accounts' worker "
	}
	return fmt.Sprintf(", and %ssomething was decided again within %.2f s", whose, m.standstill.Seconds())
}
