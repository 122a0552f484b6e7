package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

func (e *Env) lagCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "lag",
		Short: "Tell how far each partition is behind its inbox, and the journal behind the store",
		Long: `Tell of each partition how many messages wait and for how long the oldest of them has, how many decisions there are, and
how many of them are known to be in the journal: those that are not are told to nobody yet.`,
		Example: e.examples("lag", "lag --json"),
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.lag(cmd.Context()) },
	}
}

// lagAnswer is how far a partition is.
type lagAnswer struct {
	Partition int32   `json:"partition"`
	Position  int64   `json:"position"` // the next inbox offset to handle
	End       int64   `json:"end"`      // of the inbox
	Lag       int64   `json:"lag"`
	Age       float64 `json:"age_seconds"` // of the oldest message that waits
	Decided   int64   `json:"decided"`
	Logged    int64   `json:"logged"` // of which so many are known to be in the journal
	Owner     deja.ID `json:"owner,omitzero"`
}

func (e *Env) lag(ctx context.Context) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	if db.Store == nil {
		e.Notef("note: there is no store here: positions are those of the journal, and duplicates after its end count as waiting")
	}
	lags, err := e.lags(ctx, db)
	if err != nil {
		return err
	}
	if e.json {
		for _, a := range lags {
			if err := e.Answer(a); err != nil {
				return err
			}
		}
		return nil
	}
	t := e.table()
	fmt.Fprintln(t, "partition\tposition\tend\tlag\toldest\tdecided\tlogged\towner")
	for _, a := range lags {
		age, owner := "-", "-"
		if a.Lag > 0 {
			age = (time.Duration(a.Age*1000) * time.Millisecond).String()
		}
		if !a.Owner.IsZero() {
			owner = a.Owner.String()
		}
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%s\t%d\t%d\t%s\n", a.Partition, a.Position, a.End, a.Lag, age, a.Decided, a.Logged, owner)
	}
	return t.Flush()
}

func (e *Env) lags(ctx context.Context, db *Database) ([]lagAnswer, error) {
	leases, err := db.Reader.Leases(ctx)
	if err != nil {
		return nil, err
	}
	held := map[int32]driver.Lease{}
	for _, l := range leases {
		held[l.Partition] = l
	}
	lags := make([]lagAnswer, db.Source.Partitions())
	for p := range lags {
		// The store is asked before the log: what comes meanwhile is lag, and never less than none.
		at, err := db.Reader.Progress(ctx, int32(p))
		if err != nil {
			return nil, err
		}
		first, end, err := db.Log.Bounds(ctx, wire.Inbox(e.app.Service.Name), int32(p))
		if err != nil {
			return nil, err
		}
		a := lagAnswer{Partition: int32(p), Position: at.Position, End: end, Lag: max(end-max(at.Position, first), 0), Decided: at.N, Logged: at.N}
		if l := held[a.Partition]; l.Held {
			a.Owner = l.Owner
		}
		if !db.joint() && db.Store != nil {
			a.Logged = min(held[a.Partition].Logged.N, at.N)
		}
		if a.Lag > 0 {
			if a.Age, err = db.age(ctx, e.inbox(a.Partition, max(at.Position, first))); err != nil {
				return nil, err
			}
		}
		lags[p] = a
	}
	return lags, nil
}

// age returns for how many seconds the first message from a position on has been in the log.
func (db *Database) age(ctx context.Context, from deja.Position) (float64, error) {
	recs, err := db.Log.Fetch(ctx, from, 1)
	if err != nil {
		return 0, err
	}
	return max(time.Since(recs[0].Time).Seconds(), 0), nil
}

// joint reports whether log and store are one database, in which what is decided is logged.
func (db *Database) joint() bool {
	j, ok := db.Store.(driver.Joint)
	return ok && j.Joint(db.Log)
}
