package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/history"
	"github.com/dejalog/deja/internal/step"
	"github.com/dejalog/deja/replay"
)

func (e *Env) dedupCommand() *cobra.Command {
	var twins bool
	var at moment
	cmd := &cobra.Command{
		Use:     "dedup ID|PREFIX | dedup --twins [SCOPE]",
		Aliases: []string{"ledger"},
		Short:   "List every delivery of an ID, and what became of it; or messages that say the same under different IDs",
		Long: `List every delivery of a message's ID in the inbox, with its position and what became of it.

The first delivery is decided. One with the same content is a duplicate, and suppressed; one with other content is a
conflict, and refused: what differs from the first is named.

With --twins, list the messages to one key that say the same, because of the same, under different IDs: each was applied
for itself. They are suspects of a broken idempotency key, such as one with the number of the attempt in it; but equal
requests may also be meant. Exit code 1 if there are none. SCOPE is a key, account/* or, by default, everything.`,
		Example: e.examples("dedup 0190163d", "dedup 0190163d-8694-739b-aea5-966c26f8ad91 --json", "dedup --twins 'account/*'"),
		Args: func(_ *cobra.Command, args []string) error {
			if twins {
				return cobra.MaximumNArgs(1)(nil, args)
			}
			return cobra.ExactArgs(1)(nil, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !twins {
				return aboutMessage(e, e.ledger, e.printLedger)(cmd, args)
			}
			if err := at.parse(e); err != nil {
				return err
			}
			return e.twins(cmd.Context(), strings.Join(args, ""), &at)
		},
	}
	cmd.Flags().BoolVar(&twins, "twins", false, "list messages that say the same under different IDs")
	at.addFlags(cmd, "at", "how far to look for twins, a `LOCATOR`")
	e.addIndexFlags(cmd)
	return cmd
}

// twins prints the twins of a scope.
func (e *Env) twins(ctx context.Context, text string, at *moment) (err error) {
	scope, err := e.scope(cmp.Or(text, "*"))
	if err != nil {
		return err
	}
	db, h, limits, err := e.openPart(ctx, at)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	found := 0
	for t, err := range h.Twins(ctx, scope, limits) {
		if err != nil {
			return err
		}
		found++
		if e.json {
			err = e.Answer(t)
		} else {
			err = e.printTwins(t)
		}
		if err != nil {
			return err
		}
	}
	if found == 0 {
		return Nof("no two messages of %s say the same up to %s", cmp.Or(text, "any key"), at.at)
	}
	return nil
}

func (e *Env) printTwins(t *history.Twins) error {
	same := "all of their content is the same"
	if !t.Whole {
		same = "type and payload are the same"
	}
	because := "of clients"
	if !t.Cause.IsZero() {
		because = "caused by " + t.Cause.String()
	}
	fmt.Fprintf(e.Stdout, "%s: %s, %s\n", e.paint(bold, t.Key), because, same)
	w := e.table()
	for _, m := range t.Messages {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", m.ID, m.Position, m.Type, m.Status, m.Payload)
	}
	return w.Flush()
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
	entries, _, err := db.Reader.Lookup(ctx, []deja.ID{m.Key})
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("%w: message %s is not decided yet", replay.ErrNotFound, m.Env.ID)
	}
	first := entries[0]
	a := &ledgerAnswer{ID: m.Env.ID, Key: keyText(m.Env.Stream), Status: first.Status.String(), N: first.N}
	repeats, err := db.Reader.Repeats(ctx, m.Key)
	if err != nil {
		return nil, err
	}
	a.Duplicates, a.Conflicts = countsOf(repeats)
	original, err := e.message(ctx, db, e.inbox(first.Partition, first.Offset))
	if err != nil {
		return nil, err
	}
	for p := range db.Source.Partitions() {
		ds, err := e.deliveries(ctx, db, original.Env, first, placesIn(p, first, repeats))
		if err != nil {
			return nil, err
		}
		a.Deliveries = append(a.Deliveries, ds...)
	}
	slices.SortStableFunc(a.Deliveries, func(x, y delivery) int { return x.Time.Compare(y.Time) })
	return a, nil
}

// countsOf returns how often a message came again.
func countsOf(rs []driver.Repeat) (duplicates, conflicts int64) {
	for _, r := range rs {
		if r.Conflict {
			conflicts = r.Count
		} else {
			duplicates = r.Count
		}
	}
	return duplicates, conflicts
}

// places are the inbox offsets of a partition at which a message was delivered, as far as the ledger's counts tell.
type places struct {
	partition   int32
	first, last int64          // last is below first where there are none
	known       map[int64]bool // nil: the inbox must be searched
}

// placesIn returns the places in a partition. What was counted in several partitions is only known to be in the first of
// them; of more than two deliveries the middle ones are anywhere.
func placesIn(p int32, first driver.Entry, rs []driver.Repeat) places {
	at := places{partition: p, last: -1, known: map[int64]bool{}}
	add := func(offset int64) {
		if len(at.known) == 0 {
			at.first, at.last = offset, offset
		}
		at.first, at.last = min(at.first, offset), max(at.last, offset)
		at.known[offset] = true
	}
	if first.Partition == p {
		add(first.Offset)
	}
	search := false
	for _, r := range rs {
		if r.Partition == p {
			add(r.First)
			add(r.Last)
			search = search || r.Count > 2
		}
	}
	if search {
		at.known = nil
	}
	return at
}

// deliveries reads the deliveries of a ledger entry's message in a partition.
func (e *Env) deliveries(ctx context.Context, db *Database, original *deja.Envelope, first driver.Entry, at places) (ds []delivery, err error) {
	prepare := step.NewPreparer(e.machine, db.Source.Partitions())
	for from := e.inbox(at.partition, at.first); from.Offset <= at.last; {
		recs, err := db.Log.Fetch(ctx, from, int(min(chunk, at.last+1-from.Offset)))
		if err != nil {
			return nil, err
		}
		from.Offset = recs[len(recs)-1].Offset + 1
		if at.known != nil {
			recs = slices.DeleteFunc(recs, func(r driver.Record) bool { return !at.known[r.Offset] })
		}
		for _, m := range prepare.Prepare(recs) {
			if m.Key == first.Key {
				ds = append(ds, deliveryOf(m, original, first))
			}
		}
	}
	return ds, nil
}

func deliveryOf(m step.Message, original *deja.Envelope, first driver.Entry) delivery {
	d := delivery{Position: m.Env.Position, Time: m.Env.Time, Outcome: "duplicate"}
	switch {
	case d.Position.Partition == first.Partition && d.Position.Offset == first.Offset:
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
