package cli

import (
	"context"

	"github.com/dejalog/deja"
)

// Conflicts returns the first conflicts of the history, up to max.
func (e *Env) Conflicts(ctx context.Context, db *Database, max int) (cs []deja.Conflict, err error) {
	for d, err := range db.decisions(ctx, db.all()) {
		if err != nil || len(cs) == max {
			return cs, err
		}
		if d.Decided.Status == deja.Conflicted {
			cs = append(cs, deja.Conflict{ID: d.Cause.ID, First: e.inbox(d.FirstIn, d.First), Second: d.Cause.Position, Paths: d.Paths})
		}
	}
	return cs, nil
}
