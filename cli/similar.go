package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/replay"
)

const similarKeys = 5

// adviseKey says which keys there are, where one has no state.
func (e *Env) adviseKey(ctx context.Context, db *Database, s deja.Stream) error {
	type candidate struct {
		stream   string
		distance int
	}
	var best []candidate
	err := replay.EachState(ctx, db.Reader, func(row driver.State) error {
		if row.Version == 0 || row.Stream.Aggregate != s.Aggregate {
			return nil
		}
		best = append(best, candidate{row.Stream.String(), distance(s.Key, row.Stream.Key)})
		if len(best) > similarKeys {
			slices.SortStableFunc(best, func(a, b candidate) int { return cmp.Compare(a.distance, b.distance) })
			best = best[:similarKeys]
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(best) == 0 {
		e.Notef("nothing was recorded for %s, nor for any other key of %s", s, s.Aggregate)
		return nil
	}
	slices.SortStableFunc(best, func(a, b candidate) int { return cmp.Compare(a.distance, b.distance) })
	names := make([]string, len(best))
	for i, c := range best {
		names[i] = c.stream
	}
	e.Notef("nothing was recorded for %s; similar keys: %s", s, strings.Join(names, ", "))
	e.Notef("`%s` lists all", e.hint("state '"+s.Aggregate+"/*'"))
	return nil
}

// distance returns how many letters make one text of another (Levenshtein). Of long texts only the beginning counts.
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// completeKeys lets the shell complete a key.
func (e *Env) completeKeys(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 || e.compile() != nil {
		return nil, directive
	}
	db, err := e.Open(cmd.Context())
	if err != nil {
		return nil, directive
	}
	defer db.CloseInto(&err)
	if db.Store == nil { // it would have to be folded for each key pressed
		return nil, directive
	}
	aggregate, key, _ := strings.Cut(typed, "/")
	rows, err := db.Reader.States(cmd.Context(), deja.Stream{Aggregate: aggregate, Key: key}, 100)
	if err != nil {
		return nil, directive
	}
	var keys []string
	for _, row := range rows {
		if text := row.Stream.String(); strings.HasPrefix(text, typed) {
			keys = append(keys, text)
		}
	}
	return keys, directive
}
