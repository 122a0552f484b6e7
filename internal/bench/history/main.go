// History measures the debugger's index: how fast it is built and how large it is, and what the queries on it cost. It makes a
// history of the bank of its own, and keeps it and its index in a directory, to be used again.
//
//	go run ./internal/bench/history
//
// Machines are shared and noisy: compare figures of one run only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/dejalog/deja/examples/bank/service"
)

// settings are the command line.
type settings struct {
	messages, keys, runs int
	large                bool
	dir                  string
}

func main() {
	var s settings
	flag.IntVar(&s.messages, "messages", 1_000_000, "messages of the history")
	flag.IntVar(&s.keys, "keys", 10_000, "keys that they are spread over")
	flag.IntVar(&s.runs, "runs", 3, "runs of each measurement; the median counts")
	flag.BoolVar(&s.large, "large", false, "measure on ten times the messages and keys, too, and print the ratios")
	flag.StringVar(&s.dir, "dir", "", "`DIR` of the histories, to be used again; a temporary one by default")
	flag.Parse()
	if err := s.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "history:", err)
		os.Exit(1)
	}
}

func (s *settings) run(ctx context.Context) (err error) {
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "deja-bench-history"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	}
	small, err := s.measure(ctx, s.messages, s.keys)
	if err != nil {
		return err
	}
	fmt.Printf("%d messages over %d keys, and %d of one key; median of %d\n\n", s.messages, s.keys, min(hot, s.messages/10), s.runs)
	small.print(nil)
	if err := s.minimal(ctx); err != nil {
		return err
	}
	if !s.large {
		return nil
	}
	large, err := s.measure(ctx, 10*s.messages, 10*s.keys)
	if err != nil {
		return err
	}
	fmt.Printf("\n%d messages over %d keys, and how many times the figure before\n\n", 10*s.messages, 10*s.keys)
	large.print(small)
	return nil
}

// A figure is a line of the table.
type figure struct {
	name, unit, bound string
	value             float64
}

type figures []figure

func (fs figures) print(before figures) {
	for i, f := range fs {
		fmt.Printf("%-62s %12.3f %-11s %s", f.name, f.value, f.unit, f.bound)
		if before != nil && before[i].value > 0 {
			fmt.Printf("  %.2f×", f.value/before[i].value)
		}
		fmt.Println()
	}
}

// measure takes all figures of a history of so many messages.
func (s *settings) measure(ctx context.Context, messages, keys int) (figures, error) {
	path := filepath.Join(s.dir, fmt.Sprintf("%d.db", messages))
	if err := create(ctx, path, service.Service(), messages, transfers(messages, keys)); err != nil {
		return nil, fmt.Errorf("make a history: %w", err)
	}
	m := &measurement{path: path, index: path + ".index", keys: keys, runs: s.runs}
	if err := m.run(ctx); err != nil {
		return nil, err
	}
	return m.figures, nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
