// History measures the debugger's index: how fast it is built and how large it is, and what the queries on it cost. It makes a
// history of the bank of its own, and keeps it and its index in a directory, to be used again.
//
//	go run ./internal/bench/history -messages 1000000
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
)

func main() {
	messages := flag.Int("messages", 1_000_000, "messages of the history; 10 times as many with -large")
	keys := flag.Int("keys", 10_000, "keys that they are spread over")
	large := flag.Bool("large", false, "also measure on ten times the messages, and print the ratios")
	runs := flag.Int("runs", 3, "runs of each measurement; the median counts")
	dir := flag.String("dir", "", "`DIR` of the histories; a temporary one by default")
	flag.Parse()
	if err := run(*messages, *keys, *runs, *large, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "history:", err)
		os.Exit(1)
	}
}

func run(messages, keys, runs int, large bool, dir string) error {
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "deja-bench-history"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	ctx := context.Background()
	return create(ctx, fmt.Sprintf("%s/%d.db", dir, messages), messages, keys)
}
