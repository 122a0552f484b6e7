package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/replay"
)

func (e *Env) rebuildCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rebuild",
		Short: "Make the store anew from inbox and journal",
		Long: `Make the store anew from inbox and journal: ledger, states and projections are emptied and folded again, in place.

Nothing is decided again, and nothing can be lost: the store is a cache of the log. What came after the last decision,
repeated deliveries for example, is handled when the service runs next. Stop the service first: a file must be this
command's alone, and on servers nobody may decide before all partitions are folded.

In a file a journal that contradicts the store is refused: put a backup back instead. Where log and store are two, the
journal counts, and what was decided but never logged is decided anew.`,
		Example: e.examples("rebuild", "rebuild --db bank.db --json"),
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.rebuild(cmd.Context()) },
	}
}

// rebuildAnswer is what a rebuild came to.
type rebuildAnswer struct {
	Messages int64       `json:"messages"` // decisions folded
	Before   replay.Hash `json:"state_hash_before"`
	After    replay.Hash `json:"state_hash"`
	Seconds  float64     `json:"seconds"`
}

func (e *Env) rebuild(ctx context.Context) (err error) {
	db, err := e.OpenWriter(ctx, false)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	var a rebuildAnswer
	if err := e.alone(ctx, db); err != nil {
		return err
	}
	if a.Before, err = replay.HashStore(ctx, e.machine, db.Store); err != nil {
		e.Notef("the store as it was cannot be read: %s", err)
	}
	tell, end := e.Progress("rebuilding")
	began := time.Now()
	a.Messages, err = db.Source.Rebuild(ctx, replay.Target{Log: db.Log, Store: db.Store}, tell)
	end()
	if err != nil {
		e.Notef("the store is not finished: the service goes on with it when it runs, as does the same command")
		return err
	}
	a.Seconds = time.Since(began).Seconds()
	if a.After, err = replay.HashStore(ctx, e.machine, db.Store); err != nil {
		return err
	}
	if a.After != a.Before {
		e.Notef("the store was not what its journal says; it is now")
	}
	if e.json {
		return e.Answer(a)
	}
	return e.fields("messages", a.Messages, "state hash before", a.Before, "state hash after", a.After, "seconds", fmt.Sprintf("%.3f", a.Seconds))
}

// alone returns an error if the service runs on the store.
func (e *Env) alone(ctx context.Context, db *Database) error {
	l, err := db.held(ctx)
	if err == nil && l != nil {
		err = fmt.Errorf("the service runs: the process %s holds partition %d; stop it first (`%s` lists all)", l.Owner, l.Partition, e.hint("leases"))
	}
	return err
}
