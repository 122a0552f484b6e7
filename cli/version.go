package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/engine"
)

func (e *Env) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the build, as decisions record it",
		Long: `Print the build, as decisions record it: a hash of this program, the Go version and the architecture; and the fold
version, a fingerprint of what states and projections are folded with.`,
		Example: e.examples("version", "version --json"),
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return e.version() },
	}
}

func (e *Env) version() error {
	a := struct {
		Service string `json:"service"`
		Build   string `json:"build"`
		Fold    string `json:"fold"`
	}{e.app.Service.Name, engine.Build(), e.machine.FoldVersion()}
	if e.json {
		return e.Answer(a)
	}
	_, err := fmt.Fprintf(e.Stdout, "%s %s fold %s\n", a.Service, a.Build, a.Fold)
	return err
}
