package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/internal/wire"
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
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := e.locator("argument", args[0])
			if err != nil {
				return err
			}
			db, err := e.OpenReader(cmd.Context())
			if err != nil {
				return err
			}
			defer db.Close()
			a, err := e.ledger(cmd.Context(), db, at)
			if err != nil {
				return err
			}
			if e.json {
				return e.Answer(a)
			}
			return e.printLedger(a)
		},
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

func (e *Env) ledger(ctx context.Context, db *Database, at replay.Locator) (*ledgerAnswer, error) {
	d, err := e.decision(ctx, db, at)
	if err != nil {
		return nil, err
	}
	key := wire.LedgerKey(e.app.Service.Name, &d.Cause)
	entries, err := db.Store.Lookup(ctx, []deja.ID{key})
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: the ledger has no message %s", replay.ErrNotFound, d.Cause.ID)
	}
	a := &ledgerAnswer{ID: d.Cause.ID, Key: keyText(d.Cause.Stream), Status: entries[0].Status.String(), N: entries[0].N}
	repeats, err := db.Store.Repeats(ctx, key)
	if err != nil {
		return nil, err
	}
	offsets := map[int64]bool{entries[0].Offset: true}
	last, scan := entries[0].Offset, false
	for _, r := range repeats {
		if r.Conflict {
			a.Conflicts = r.Count
		} else {
			a.Duplicates = r.Count
		}
		offsets[r.First], offsets[r.Last] = true, true
		last, scan = max(last, r.Last), scan || r.Count > 2
	}
	return a, e.deliveries(ctx, db, a, entries[0], key, offsets, last, scan)
}

// deliveries reads the deliveries of a key: those at known offsets, or all that a scan up to the last one finds.
func (e *Env) deliveries(ctx context.Context, db *Database, a *ledgerAnswer, first driver.Entry, key deja.ID, known map[int64]bool, last int64, scan bool) error {
	dec := wire.NewDecoder(e.app.Service.Name)
	var original *deja.Envelope
	at := deja.Position{Topic: wire.Inbox(e.app.Service.Name), Partition: partition, Offset: first.Offset}
	for at.Offset <= last {
		recs, err := db.Log.Fetch(ctx, at, int(min(chunk, last+1-at.Offset)))
		if err != nil {
			return err
		}
		for i := range recs {
			at.Offset = recs[i].Offset + 1
			if !scan && !known[recs[i].Offset] {
				continue
			}
			env, err := e.decode(dec, &recs[i])
			if err != nil && recs[i].Offset == first.Offset {
				// It was no message, which is why it is dead.
				a.Deliveries = append(a.Deliveries, delivery{deja.Position{Topic: at.Topic, Offset: first.Offset}, recs[i].Time, first.Status.String(), nil})
				continue
			}
			if err != nil || wire.LedgerKey(e.app.Service.Name, env) != key {
				continue
			}
			if original == nil {
				original = env
			}
			a.Deliveries = append(a.Deliveries, deliveryOf(env, original, first))
		}
	}
	return nil
}

func deliveryOf(env, original *deja.Envelope, first driver.Entry) delivery {
	d := delivery{Position: env.Position, Time: env.Time, Outcome: "duplicate"}
	hash, err := wire.ContentHash(env)
	switch {
	case env.Position.Offset == first.Offset:
		d.Outcome = first.Status.String()
	case err == nil && hash != first.Hash:
		d.Outcome, d.Differs = deja.Conflicted.String(), step.Differ(original, env)
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
