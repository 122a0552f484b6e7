package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
	"github.com/dejalog/deja/replay"
)

func (e *Env) statsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "stats",
		Short:   "Count what the database holds, and tell how far the service is",
		Example: e.examples("stats", "stats --json"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			db, err := e.OpenReader(cmd.Context(), e.DB())
			if err != nil {
				return err
			}
			defer db.CloseInto(&err)
			a, err := e.stats(cmd.Context(), db)
			if err != nil {
				return err
			}
			if e.json {
				return e.Answer(a)
			}
			return e.printStats(a)
		},
	}
}

// statsAnswer counts what a database holds.
type statsAnswer struct {
	Messages    int64            `json:"messages"` // in the inbox
	Decisions   map[string]int64 `json:"decisions"`
	Duplicates  int64            `json:"duplicates"`
	Keys        int64            `json:"keys"`
	Parked      int64            `json:"parked"`
	Bytes       int64            `json:"bytes"`
	PerMessage  int64            `json:"bytes_per_message"`
	First       time.Time        `json:"first,omitzero"`
	Last        time.Time        `json:"last,omitzero"`
	Position    deja.Position    `json:"position"` // all up to it is decided
	Lag         int64            `json:"lag"`      // messages that are not
	Incarnation int64            `json:"incarnation"`
	FoldCurrent bool             `json:"fold_current"`
	Builds      map[string]int64 `json:"builds"`
}

func (e *Env) stats(ctx context.Context, db *Database) (*statsAnswer, error) {
	a := &statsAnswer{Decisions: map[string]int64{}, Builds: map[string]int64{}}
	at, err := db.Store.Progress(ctx, partition)
	if err != nil {
		return nil, err
	}
	first, end, err := db.Log.Bounds(ctx, wire.Inbox(e.app.Service.Name), partition)
	if err != nil {
		return nil, err
	}
	a.Messages, a.Lag, a.Incarnation = end-first, end-at.Position, at.Incarnation.Number
	a.FoldCurrent = at.N == 0 || at.Fold == e.machine.FoldVersion()
	if at.Position > 0 {
		a.Position = deja.Position{Topic: wire.Inbox(e.app.Service.Name), Partition: partition, Offset: at.Position - 1}
	}
	var handled int64 // deliveries that have a decision of their own
	if _, err := e.current(ctx, db); err != nil {
		return nil, err
	}
	for d, err := range e.decisions(ctx, db, 1, at.N) {
		if err != nil {
			return nil, err
		}
		a.Decisions[d.Decided.Status.String()]++
		a.Builds[d.Build]++
		if d.Act.IsZero() {
			handled++
		}
		if a.First.IsZero() {
			a.First = d.Time
		}
		a.Last = d.Time
	}
	a.Duplicates = at.Position - first - handled
	if err := eachParked(ctx, db, func(driver.Parked) error { a.Parked++; return nil }); err != nil {
		return nil, err
	}
	return a, e.measure(ctx, db, a)
}

// measure counts keys and bytes.
func (e *Env) measure(ctx context.Context, db *Database, a *statsAnswer) (err error) {
	if a.Bytes, err = db.file.Size(ctx); err != nil {
		return err
	}
	if a.Messages > 0 {
		a.PerMessage = a.Bytes / a.Messages
	}
	return replay.EachState(ctx, db.Store, func(row driver.State) error {
		if row.Version > 0 {
			a.Keys++
		}
		return nil
	})
}

func (e *Env) printStats(a *statsAnswer) error {
	fold := "current"
	if !a.FoldCurrent {
		fold = "another one: the store is folded again when this build runs"
	}
	return e.fields("messages", a.Messages, "decisions", counts(a.Decisions), "duplicates", a.Duplicates, "keys", a.Keys,
		"parked", a.Parked, "bytes", fmt.Sprintf("%d, %d a message", a.Bytes, a.PerMessage),
		"first decision", stamp(a.First), "last decision", stamp(a.Last), "position", a.Position,
		"lag", plural(a.Lag, "message"), "incarnation", a.Incarnation, "fold version", fold, "builds", counts(a.Builds))
}

// counts writes names with their counts.
func counts(m map[string]int64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(parts, ", ")
}
