package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// A scene is what happened to transfers while something was dead.
type scene struct {
	Dead      string  `json:"dead"`
	Seconds   float64 `json:"seconds"` // until it was there again, or somebody had done its work
	InFlight  int     `json:"in_flight"`
	Meanwhile []group `json:"meanwhile"`
	InTheEnd  []group `json:"in_the_end,omitempty"` // what became of those
	After     []group `json:"afterwards,omitempty"`

	Waited []float64 `json:"waited_seconds,omitempty"` // how long transfers waited that had no time limit
	Ended  float64   `json:"ended_seconds"`            // after Seconds, all that had waited had ended

	MoneySeen int64 `json:"money_seen,omitempty"` // what a reader of both databases saw meanwhile
	Money     int64 `json:"money,omitempty"`      // what there was

	Verdicts []verdict `json:"by_hand,omitempty"` // what somebody had to do
}

// The phases of a scene.
const (
	meanwhile  = "meanwhile"
	afterwards = "afterwards"
)

// A group is what was asked for by clients of one kind, and what became of it.
type group struct {
	Who       string  `json:"who"`
	Asked     int     `json:"asked"`
	Completed int     `json:"completed"`
	Undone    int     `json:"undone"`  // refused by a rule of one side, or its time was over
	Waiting   int     `json:"waiting"` // accepted and not ended: it will, by itself
	GaveUp    int     `json:"gave_up"` // for a lock that was not to be had in time: nothing happened
	Late      int     `json:"late"`    // of all these, had no answer within the time that a client has patience
	P50       float64 `json:"p50_ms"`  // until the answer
	Max       float64 `json:"max_ms"`
}

// What became of what a client asked for.
type outcome int

const (
	completed outcome = iota
	undone
	waiting
	gaveUp
)

func (g *group) count(o outcome) {
	g.Asked++
	switch o {
	case completed:
		g.Completed++
	case undone:
		g.Undone++
	case waiting:
		g.Waiting++
	case gaveUp:
		g.GaveUp++
	}
}

// A kind is clients that ask for the same kind of thing.
type kind struct {
	who string
	// client returns what asks for the nth thing, and what ends the client.
	client func(ctx context.Context, number int) (ask func(n int) (outcome, error), end func() error, err error)
}

// A crowd is clients that work at the same time: so many of each kind, each asking for one thing after another.
type crowd struct {
	clients  int
	patience time.Duration
}

// run lets them work for a while, from when all are there. Each asks at least once.
func (c crowd) run(ctx context.Context, kinds []kind, length time.Duration) (found []group, err error) {
	type client struct {
		kind int
		ask  func(n int) (outcome, error)
	}
	var (
		all     sync.WaitGroup
		mu      sync.Mutex
		clients []client
		ends    []func() error
		took    = make([][]time.Duration, len(kinds))
	)
	found = make([]group, len(kinds))
	defer func() {
		for _, end := range ends {
			err = errors.Join(err, end())
		}
	}()
	for i, k := range kinds {
		found[i].Who = k.who
		for number := range c.clients {
			ask, end, err := k.client(ctx, number)
			if err != nil {
				return nil, err
			}
			clients, ends = append(clients, client{i, ask}), append(ends, end)
		}
	}
	until, errs := time.Now().Add(length), make(chan error, len(clients))
	for _, cl := range clients {
		all.Go(func() {
			errs <- askUntil(until, cl.ask, func(o outcome, d time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				found[cl.kind].count(o)
				if took[cl.kind] = append(took[cl.kind], d); d > c.patience {
					found[cl.kind].Late++
				}
			})
		})
	}
	all.Wait()
	for range clients {
		err = errors.Join(err, <-errs)
	}
	for i := range found {
		found[i].P50, found[i].Max = spread(took[i])
	}
	return found, err
}

// askUntil asks for one thing after another until a time, and notes what became of each and how long the answer took.
func askUntil(until time.Time, ask func(n int) (outcome, error), note func(outcome, time.Duration)) error {
	for n := 0; n == 0 || time.Now().Before(until); n++ {
		began := time.Now()
		o, err := ask(n)
		if err != nil {
			return err
		}
		note(o, time.Since(began))
	}
	return nil
}

// A wait is how long one waited who had no time limit.
type wait struct {
	time.Duration
	err error
}

// waitFor starts somebody who waits as long as it takes.
func waitFor(waits chan<- wait, do func() error) {
	began := time.Now()
	go func() {
		err := do()
		waits <- wait{time.Since(began), err}
	}()
}

// spread returns the median and the longest of some times, in milliseconds.
func spread(times []time.Duration) (p50, longest float64) {
	if len(times) == 0 {
		return 0, 0
	}
	slices.Sort(times)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return ms(times[len(times)/2]), ms(times[len(times)-1])
}
