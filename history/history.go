// Package history answers questions about a service's past: what a state was at any point, who wrote a field last, when
// a condition held, and which message led to it. It reads a log's inboxes and journals, of a file, of servers or of an
// archive, and never writes to them. Beside them it keeps an index, which it builds from the journal as it folds it, and
// which can be deleted at any time.
package history

import (
	"context"
	"errors"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/replay"
)

// Config says which history is opened.
type Config struct {
	Service *deja.Service
	Log     driver.Log

	// Ledger vouches for the last record of each partition's chain, and tells of repeated deliveries. Nil: there is a log
	// alone.
	Ledger driver.Reader

	// Index is the path of the index, a file of its own. It is made where it is missing, and made anew where it does not
	// belong to this history and this build. Empty: it is kept until Close only.
	Index string

	// Build names the running program, as [engine.Config] does: states in the index were folded by it.
	Build string

	// Progress is called now and then while the history is indexed, from one goroutine; nil: not.
	Progress func(done, total int64)
}

// A History is a service's past, read-only. It is safe for concurrent use.
type History struct {
	service *deja.Service
	machine *deja.Machine
	source  *replay.Source
	log     driver.Log
	ledger  driver.Reader
	steps   steps
	index   *index
}

// Open opens a history, and brings its index up to the history's present end. What comes later is not seen: open it again.
// Where ctx ends while the index is built, what there is of it is kept, and building goes on at the next Open.
func Open(ctx context.Context, cfg Config) (*History, error) {
	src, err := replay.Open(ctx, replay.Config{Service: cfg.Service, Log: cfg.Log, Store: cfg.Ledger})
	if err != nil {
		return nil, err
	}
	h := &History{service: cfg.Service, machine: src.Machine(), source: src, log: cfg.Log, ledger: cfg.Ledger}
	x, err := openIndex(ctx, &cfg, src)
	if err != nil {
		return nil, fmt.Errorf("index the history of %s: %w", h.machine.Name(), err)
	}
	h.steps, h.index = x, x
	h.source = src.With(&finder{h})
	return h, nil
}

// Close frees what the history holds. Log and ledger stay open.
func (h *History) Close() error { return errors.Join(h.steps.close()) }

// An Index is what a history keeps beside its source.
type Index struct {
	Path     string // "": it has none, and goes with the history
	Bytes    int64
	Segments int
	Messages int64    // decisions that are in it
	Notes    []string // why it is not the one at Config.Index, or was made anew
}

// Index tells of the history's index.
func (h *History) Index() Index { return h.index.info() }

// Source returns the history as package replay reads it.
func (h *History) Source() *replay.Source { return h.source }
