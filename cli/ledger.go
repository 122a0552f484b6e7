package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/replay"
)

func (e *Env) ledgerCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ledger ID|PREFIX",
		Short: "List every delivery of an ID, and what became of it",
		Long: `List every delivery of a message's ID in the inbox, with its position and what became of it.

The first delivery is decided. One with the same content is a duplicate, and suppressed; one with other content is a
conflict, and refused: what differs from the first is named.`,
		Example: e.examples("ledger 0190163d", "ledger 0190163d-8694-739b-aea5-966c26f8ad91 --json"),
		Args:    cobra.ExactArgs(1),
		RunE:    aboutMessage(e, e.ledger, e.printLedger),
	}
}

// ledgerAnswer is all that the inbox has of an ID.
type ledgerAnswer struct {
	ID         deja.ID    `json:"id"`
	Key        string     `json:"key"`
	Status     string     `json:"status"`
	N          int64      `json:"n"`
	Duplicates int64      `json:"duplicates"`
	Conflicts  int64      `json:"conflicts"`
	Deliveries []delivery `json:"deliveries"`
}

// delivery is one record of the inbox.
type delivery struct {
	Position deja.Position `json:"position"`
	Time     time.Time     `json:"time"`
	Outcome  string        `json:"outcome"`
	Differs  []string      `json:"differs,omitempty"`
}

func (e *Env) ledger(ctx context.Context, db *Database, m step.Message) (*ledgerAnswer, error) {
	entries, _, err := db.Store.Lookup(ctx, []deja.ID{m.Key})
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: message %s is not decided yet", replay.ErrNotFound, m.Env.ID)
	}
	first := entries[0]
	a := &ledgerAnswer{ID: m.Env.ID, Key: keyText(m.Env.Stream), Status: first.Status.String(), N: first.N}
	repeats, err := db.Store.Repeats(ctx, m.Key)
	if err != nil {
		return nil, err
	}
	where := places{first: first.Offset, last: first.Offset, known: map[int64]bool{first.Offset: true}}
	for _, r := range repeats {
		if r.Conflict {
			a.Conflicts = r.Count
		} else {
			a.Duplicates = r.Count
		}
		where.add(r)
	}
	a.Deliveries, err = e.deliveries(ctx, db, first, where)
	return a, err
}

// places are the inbox offsets at which a message was delivered, as far as the ledger's counts tell.
type places struct {
	first, last int64
	known       map[int64]bool // nil: the inbox must be searched
}

func (p *places) add(r driver.Repeat) {
	p.last = max(p.last, r.Last)
	if r.Count > 2 {
		p.known = nil
	}
	if p.known != nil {
		p.known[r.First], p.known[r.Last] = true, true
	}
}

// deliveries reads the deliveries of a ledger entry's message.
func (e *Env) deliveries(ctx context.Context, db *Database, first driver.Entry, where places) (ds []delivery, err error) {
	prepare := step.NewPreparer(e.machine)
	var original *deja.Envelope
	for at := where.first; at <= where.last; {
		recs, err := db.Log.Fetch(ctx, e.inbox(at), int(min(chunk, where.last+1-at)))
		if err != nil {
			return nil, err
		}
		at = recs[len(recs)-1].Offset + 1
		if where.known != nil {
			recs = slices.DeleteFunc(recs, func(r driver.Record) bool { return !where.known[r.Offset] })
		}
		for _, m := range prepare.Prepare(recs) {
			if m.Key != first.Key {
				continue
			}
			if original == nil {
				original = m.Env
			}
			ds = append(ds, deliveryOf(m, original, first))
		}
	}
	return ds, nil
}

func deliveryOf(m step.Message, original *deja.Envelope, first driver.Entry) delivery {
	d := delivery{Position: m.Env.Position, Time: m.Env.Time, Outcome: "duplicate"}
	switch {
	case d.Position.Offset == first.Offset:
		d.Outcome = first.Status.String()
	case m.Hash != first.Hash:
		d.Outcome, d.Differs = deja.Conflicted.String(), step.Differ(original, m.Env)
	}
	return d
}

func (e *Env) printLedger(a *ledgerAnswer) error {
	fmt.Fprintf(e.Stdout, "%s  %s  %s at decision %d; it came again: %s\n", e.paint(bold, a.ID.String()), a.Key, a.Status, a.N, again(a.Duplicates, a.Conflicts))
	t := e.table()
	for _, d := range a.Deliveries {
		note := ""
		if len(d.Differs) > 0 {
			note = strings.Join(d.Differs, ", ") + " differ from the first"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", d.Position, stamp(d.Time), d.Outcome, note)
	}
	return t.Flush()
}
