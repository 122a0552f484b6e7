package cli

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/sqlite"
)

func (e *Env) adoptCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "adopt",
		Short: "Make a copied database one of its own",
		Long: `Make a copied database, or a past that replay --into made, one of its own.

Two copies of one database that both went on would give the same IDs to different futures. So a copy is read-only until
it is adopted: it gets an identity of its own, and its next decisions begin a new life, which its journal notes.`,
		Example: e.examples("adopt --db copy.db"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.given.log != "" || e.given.store != "" {
				return Usagef("adopt is about a file: name it with --db")
			}
			if partial, err := exists(e.DB() + partialSuffix); err != nil || partial {
				return cmp.Or(err, Usagef("%s is a replay that is not finished: run the same replay again first", e.DB()))
			}
			if err := sqlite.Adopt(cmd.Context(), e.DB()); err != nil {
				return err
			}
			e.Notef("what it decides from now on is another history than that of the database it came from")
			if e.json {
				return e.Answer(struct {
					File    string `json:"file"`
					Adopted bool   `json:"adopted"`
				}{e.DB(), true})
			}
			_, err := fmt.Fprintf(e.Stdout, "%s is a database of its own\n", e.DB())
			return err
		},
	}
}
