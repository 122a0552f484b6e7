package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/service"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

// measurement is that of one history.
type measurement struct {
	path, index string
	keys, runs  int
	figures     figures

	db  *sqlite.DB
	h   *history.History
	rng *rand.Rand
}

// asked is how many keys or points a run of a short query asks for.
const asked = 20

func (m *measurement) run(ctx context.Context) (err error) {
	m.rng = rand.New(rand.NewPCG(1, 1)) // the same keys each time
	if m.db, err = sqlite.OpenReadOnly(ctx, m.path); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.db.Close()) }()
	for _, part := range []func(context.Context) error{m.build, m.opening, m.points, m.when} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return m.h.Close()
}

func (m *measurement) config() history.Config {
	return history.Config{Service: service.Service(), Log: m.db.Log(), Ledger: m.db.Store(), Index: m.index, Build: "bench"}
}

func (m *measurement) add(name, unit, bound string, value float64) {
	m.figures = append(m.figures, figure{name, unit, bound, value})
}

// timed notes how long fn takes, in milliseconds.
func (m *measurement) timed(name, bound string, fn func() error) error {
	var took []float64
	for range m.runs {
		began := time.Now()
		if err := fn(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
	}
	m.add(name, "ms", bound, median(took))
	return nil
}

// each notes how long calls take: the one in the middle, and the slowest.
func (m *measurement) each(name, bound string, fn func(i int) error) error {
	var middle, worst []float64
	for range m.runs {
		var took []float64
		for i := range asked {
			began := time.Now()
			if err := fn(i); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			took = append(took, float64(time.Since(began).Microseconds())/1000)
		}
		middle = append(middle, median(took))
		worst = append(worst, slices.Max(took))
	}
	m.add(name, "ms", bound, median(middle))
	m.add(fmt.Sprintf("  the slowest of %d", asked), "ms", bound, median(worst))
	return nil
}

// build measures building, and what comes of it.
func (m *measurement) build(ctx context.Context) error {
	var rates []float64
	for range m.runs {
		if m.h != nil {
			if err := m.h.Close(); err != nil {
				return err
			}
		}
		if err := os.Remove(m.index); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		began := time.Now()
		var err error
		if m.h, err = history.Open(ctx, m.config()); err != nil {
			return err
		}
		rates = append(rates, float64(m.h.Index().Messages)/time.Since(began).Seconds())
	}
	m.add("index build", "messages/s", "≥ 100,000", median(rates))
	payload, n, err := m.payload(ctx)
	if err != nil {
		return err
	}
	m.add("index, with the events' payloads in it, compressed", "bytes/msg", "≤ 60 beyond the payload", float64(m.h.Index().Bytes)/n)
	m.add("those payloads as they are in the journal", "bytes/msg", "", payload/n)
	return nil
}

// payload returns the bytes of all events, and the number of decisions.
func (m *measurement) payload(ctx context.Context) (bytes, n float64, err error) {
	src, err := replay.Open(ctx, replay.Config{Service: service.Service(), Log: m.db.Log(), Store: m.db.Store()})
	if err != nil {
		return 0, 0, err
	}
	for p := range src.Partitions() {
		for e, err := range src.Decisions(ctx, p, 1) {
			if err != nil {
				return 0, 0, err
			}
			n++
			for i := range e.Decided.Events {
				bytes += float64(len(e.Decided.Events[i].Payload))
			}
		}
	}
	return bytes, n, nil
}

func (m *measurement) opening(ctx context.Context) error {
	return m.timed("open an indexed history", "≤ 1,000", func() (err error) {
		if err := m.h.Close(); err != nil {
			return err
		}
		m.h, err = history.Open(ctx, m.config())
		return err
	})
}

func (m *measurement) key() string { return fmt.Sprintf("account/%d", 1+m.rng.IntN(m.keys)) }

// points measures what is asked about one moment.
func (m *measurement) points(ctx context.Context) error {
	total := m.h.All().Last[0]
	at := func() (*history.Step, error) { return m.h.Decided(ctx, 0, 1+m.rng.Int64N(total)) }
	if err := m.each("step to the next, and back", "≤ 16", func(int) error {
		s, err := at()
		if err != nil {
			return err
		}
		next, err := m.h.Next(ctx, s)
		if errors.Is(err, replay.ErrNotFound) || err == nil && next == nil {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = m.h.Before(ctx, next)
		return err
	}); err != nil {
		return err
	}
	if err := m.each("state at any point", "≤ 50", func(int) error {
		s, err := at()
		if err != nil {
			return err
		}
		_, err = m.h.StateUpTo(ctx, s.Stream, s.N)
		return err
	}); err != nil {
		return err
	}
	if err := m.each("state at the locator of a position", "≤ 50", func(int) error {
		s, err := at()
		if err != nil {
			return err
		}
		p, err := m.h.At(ctx, fmt.Sprintf("%s@%s", s.Stream, s.Position))
		if err != nil {
			return err
		}
		_, _, err = m.h.State(ctx, p)
		return err
	}); err != nil {
		return err
	}
	if err := m.each("blame", "≤ 50", func(int) error {
		_, err := m.h.Blame(ctx, m.key())
		return err
	}); err != nil {
		return err
	}
	return m.timed("blame of the key with many messages", "≤ 50", func() error {
		_, err := m.h.Blame(ctx, "account/"+hotKey)
		return err
	})
}

// when measures predicates.
func (m *measurement) when(ctx context.Context) error {
	for _, w := range []struct{ scope, text, bound string }{
		{"account/" + hotKey, "state.balance < 0", "≤ 200"},
		{"account/" + hotKey, "state.balance != state.recorded", "≤ 200"},
		{"account/*", "state.balance < 0", "≤ 5,000"},
		{"account/*", "state.balance != state.recorded", "≤ 5,000"},
	} {
		machine, err := deja.Compile(service.Service())
		if err != nil {
			return err
		}
		scope, err := history.ParseScope(machine, w.scope)
		if err != nil {
			return err
		}
		predicate, err := history.Compile(machine, scope, w.text)
		if err != nil {
			return err
		}
		if err := m.timed(fmt.Sprintf("when %s %q", w.scope, w.text), w.bound, func() error {
			for _, err := range m.h.When(ctx, scope, predicate, history.Limits{}) {
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
