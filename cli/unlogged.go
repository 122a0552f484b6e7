package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

func (e *Env) unloggedCommand() *cobra.Command {
	var show bool
	cmd := &cobra.Command{
		Use:   "unlogged",
		Short: "Tell which decisions the store has and the journal has not",
		Long: `Tell which decisions the store keeps that the journal has not: they are on their way, or wait for a process that brings
them there. Until then nobody is told of them. Where log and store are one database there are none.`,
		Example: e.examples("unlogged", "unlogged --show --json"),
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.unlogged(cmd.Context(), show) },
	}
	cmd.Flags().BoolVar(&show, "show", false, "list them")
	return cmd
}

// unloggedAnswer is what the journal lacks of a partition.
type unloggedAnswer struct {
	Partition int32 `json:"partition"`
	Unlogged  int64 `json:"unlogged"`
	First     int64 `json:"first,omitempty"` // number of the first one
	Last      int64 `json:"last,omitempty"`
	Logged    int64 `json:"logged"` // the last decision that the journal has
}

func (e *Env) unlogged(ctx context.Context, show bool) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	if db.Store == nil {
		return Usagef("what is not logged is in the store, and there is a log alone: name the store with --store")
	}
	leases, err := db.Store.Leases(ctx)
	if err != nil {
		return err
	}
	marks := make([]driver.Logged, db.Source.Partitions())
	for _, l := range leases {
		if int(l.Partition) < len(marks) {
			marks[l.Partition] = l.Logged
		}
	}
	list := func(*journal.Entry) error { return nil }
	if show {
		line := e.logPrinter(&columns{})
		list = func(d *journal.Entry) error { return line(ctx, d) }
	}
	for p := range db.Source.Partitions() {
		a, err := e.unloggedOf(ctx, db, p, marks[p], list)
		if err != nil {
			return err
		}
		switch {
		case show:
			e.Notef("partition %d: %d not logged", p, a.Unlogged)
			continue
		case e.json:
			err = e.Answer(a)
		default:
			_, err = fmt.Fprintf(e.Stdout, "partition %d: %s\n", p, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// String tells of the decisions for people.
func (a unloggedAnswer) String() string {
	if a.Unlogged == 0 {
		return fmt.Sprintf("all up to decision %d is logged", a.Logged)
	}
	return fmt.Sprintf("%s not logged, %d to %d", plural(a.Unlogged, "decision"), a.First, a.Last)
}

func (e *Env) unloggedOf(ctx context.Context, db *Database, p int32, mark driver.Logged, list func(*journal.Entry) error) (unloggedAnswer, error) {
	a := unloggedAnswer{Partition: p}
	if db.joint() {
		at, err := db.Store.Progress(ctx, p)
		a.Logged = at.N
		return a, err
	}
	end, err := e.journalEnd(ctx, db, p, mark)
	if err != nil {
		return a, err
	}
	a.Logged = end
	dec := wire.NewDecoder(e.app.Service.Name)
	for after := end; ; {
		recs, err := db.Store.Unlogged(ctx, p, after, chunk)
		if err != nil || len(recs) == 0 {
			return a, err
		}
		for _, r := range recs {
			d, err := dec.Record(p, r.Value)
			if err != nil {
				return a, fmt.Errorf("decision %d of partition %d: %w", r.N, p, err)
			}
			if err := list(&journal.Entry{Record: d, Raw: r.Value, Chain: wire.Hash(r.Value)}); err != nil {
				return a, err
			}
			if a.Unlogged == 0 {
				a.First = r.N
			}
			a.Unlogged++
			a.Last, after = r.N, r.N
		}
	}
}

// journalEnd returns the number of the journal's last decision, read on from where the store knows that it was read.
func (e *Env) journalEnd(ctx context.Context, db *Database, p int32, mark driver.Logged) (int64, error) {
	name := e.app.Service.Name
	first, end, err := db.Log.Bounds(ctx, wire.Journal(name), p)
	if err != nil {
		return 0, err
	}
	if mark.Offset < first {
		if mark, err = journal.Begin(ctx, db.Log, name, p); err != nil {
			return 0, err
		}
	}
	r := journal.NewReader(db.Log, name, p, mark)
	for {
		entries, err := r.Next(ctx, end, chunk)
		if err != nil || len(entries) == 0 {
			return r.Mark().N, err
		}
	}
}
