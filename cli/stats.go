package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

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
			db, err := e.Open(cmd.Context())
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
	Bytes       int64            `json:"bytes,omitempty"` // of a file or an archive
	PerMessage  int64            `json:"bytes_per_message,omitempty"`
	First       time.Time        `json:"first,omitzero"`
	Last        time.Time        `json:"last,omitzero"`
	Position    string           `json:"position"` // all up to it is decided; of several partitions each one's
	Lag         int64            `json:"lag"`      // messages that are not
	Incarnation int64            `json:"incarnation"`
	FoldCurrent bool             `json:"fold_current"`
	Builds      map[string]int64 `json:"builds"`
}

func (e *Env) stats(ctx context.Context, db *Database) (*statsAnswer, error) {
	a := &statsAnswer{Decisions: map[string]int64{}, Builds: map[string]int64{}}
	at, err := db.progress(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := e.current(ctx, db); err != nil {
		return nil, err
	}
	a.FoldCurrent = db.Store == nil || !e.foldedElsewhere(at)
	of := make([]extent, len(at))
	var positions []string
	for p, now := range at {
		first, end, err := db.Log.Bounds(ctx, wire.Inbox(e.app.Service.Name), int32(p))
		if err != nil {
			return nil, err
		}
		a.Messages += end - first
		a.Lag += max(end-max(now.Position, first), 0)
		a.Duplicates += max(now.Position-first, 0) // less those that have a decision of their own, below
		a.Incarnation = max(a.Incarnation, now.Incarnation.Number)
		if now.Position > 0 {
			positions = append(positions, e.inbox(int32(p), now.Position-1).String())
		}
		of[p] = extent{1, now.N}
	}
	a.Position = strings.Join(positions, ",")
	for d, err := range db.decisions(ctx, of) {
		if err != nil {
			return nil, err
		}
		a.Decisions[d.Decided.Status.String()]++
		a.Builds[d.Build]++
		if d.Act.IsZero() {
			a.Duplicates--
		}
		if a.First.IsZero() {
			a.First = d.Time
		}
		a.Last = d.Time
	}
	if err := eachParked(ctx, db, func(driver.Parked) error { a.Parked++; return nil }); err != nil {
		return nil, err
	}
	return a, e.measure(ctx, db, a)
}

// measure counts keys and bytes.
func (e *Env) measure(ctx context.Context, db *Database, a *statsAnswer) (err error) {
	if db.size != nil {
		if a.Bytes, err = db.size(ctx); err != nil {
			return err
		}
	}
	if a.Messages > 0 {
		a.PerMessage = a.Bytes / a.Messages
	}
	return replay.EachState(ctx, db.Reader, func(row driver.State) error {
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
	bytes := ""
	if a.Bytes > 0 {
		bytes = fmt.Sprintf("%d, %d a message", a.Bytes, a.PerMessage)
	}
	return e.fields("messages", a.Messages, "decisions", counts(a.Decisions), "duplicates", a.Duplicates, "keys", a.Keys,
		"parked", a.Parked, "bytes", bytes,
		"first decision", stamp(a.First), "last decision", stamp(a.Last), "position", strings.ReplaceAll(a.Position, ",", "\n"),
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
