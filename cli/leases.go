package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
)

func (e *Env) leasesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "leases",
		Short: "Tell which process holds which partition",
		Long: `Tell which process holds which partition, as the store has it. A lease that is not held was given back, or its owner has
not been heard of for longer than its time: then another process takes the partition over.

The epoch counts the take-overs, and tries those since the partition last moved. The incarnation counts how often the store
went back.`,
		Example: e.examples("leases", "leases --json"),
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.leases(cmd.Context()) },
	}
}

// leaseAnswer is who holds a partition.
type leaseAnswer struct {
	Partition   int32   `json:"partition"`
	Owner       deja.ID `json:"owner,omitzero"`
	Held        bool    `json:"held"`
	Epoch       int64   `json:"epoch"`
	Tries       int64   `json:"tries"`
	Careful     int64   `json:"careful_below,omitempty"` // messages before this offset are handled one by one
	Incarnation int64   `json:"incarnation"`
	Position    int64   `json:"position"`
	N           int64   `json:"n"`
	Logged      int64   `json:"logged"`
}

func (e *Env) leases(ctx context.Context) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	if db.Store == nil {
		return Usagef("leases are in the store, and there is a log alone: name the store with --store")
	}
	leases, err := db.Store.Leases(ctx)
	if err != nil {
		return err
	}
	t := e.table()
	if !e.json && len(leases) > 0 {
		fmt.Fprintln(t, "partition\towner\theld\tepoch\ttries\tincarnation\tposition\tn\tlogged")
	}
	for _, l := range leases {
		a := leaseAnswer{
			Partition: l.Partition, Owner: l.Owner, Held: l.Held, Epoch: l.Epoch, Tries: l.Tries, Careful: l.Careful,
			Incarnation: l.Progress.Incarnation.Number, Position: l.Progress.Position, N: l.Progress.N, Logged: l.Logged.N,
		}
		if db.joint() {
			a.Logged = a.N
		}
		if e.json {
			if err := e.Answer(a); err != nil {
				return err
			}
			continue
		}
		owner, held := "-", "no"
		if !a.Owner.IsZero() {
			owner = a.Owner.String()
		}
		if a.Held {
			held = "yes"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\n", a.Partition, owner, held, a.Epoch, a.Tries, a.Incarnation, a.Position, a.N, a.Logged)
	}
	e.Notef("%s of %d partitions", plural(int64(len(leases)), "lease"), db.Source.Partitions())
	return t.Flush()
}
