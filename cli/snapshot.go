package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

func (e *Env) snapshotCommand() *cobra.Command {
	var at moment
	var into string
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Keep a moment of the past, for replays to begin at",
		Long: `Keep a moment of the past as a database file, for replays to begin at: a cache, which loses nothing if it is lost.

It is what replay --into makes. The hash of its states lies beside it, in FILE` + hashSuffix + `; a replay refuses a snapshot
whose states have another hash, or whose last decision is not the history's.`,
		Example: e.examples("snapshot --into snapshot.db", "replay --from snapshot.db"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := at.parse(e); err != nil {
				return err
			}
			if into == "" {
				return Usagef("--into FILE is missing: the snapshot's file")
			}
			if k, err := kindOf(into); err != nil || k != aFile {
				return Usagef("--into %s: a snapshot is a file", redact(into))
			}
			return e.replayInto(cmd.Context(), &at, into, "")
		},
	}
	at.addFlags(cmd, "at", "the moment, a `LOCATOR`")
	cmd.Flags().StringVar(&into, "into", "", "make this `FILE`, which must not be there")
	return cmd
}

// hashSuffix names the file that holds the hash of a past's states.
const hashSuffix = ".hash"

func noteHash(path string, h replay.Hash) error {
	f, err := os.Create(path + hashSuffix)
	if err != nil {
		return err
	}
	_, err = f.WriteString(h.String() + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// notedHash reads what noteHash wrote.
func notedHash(path string) (h replay.Hash, err error) {
	data, err := os.ReadFile(path + hashSuffix)
	if err != nil {
		return h, fmt.Errorf("%w: the hash of its states is not beside it: %w", replay.ErrSnapshot, err)
	}
	if err := h.UnmarshalText([]byte(strings.TrimSpace(string(data)))); err != nil {
		return h, fmt.Errorf("%w: %s: %w", replay.ErrSnapshot, path+hashSuffix, err)
	}
	return h, nil
}

// openSnapshot opens a snapshot to begin at.
func (e *Env) openSnapshot(ctx context.Context, path string) (*replay.Snapshot, func(), error) {
	file, err := sqlite.OpenReadOnly(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	closeIt := func() { _ = file.Close() } // it was only read
	hash, err := notedHash(path)
	if err != nil {
		closeIt()
		return nil, nil, err
	}
	store, err := e.storeIn(ctx, file)
	if err != nil {
		closeIt()
		return nil, nil, err
	}
	return &replay.Snapshot{Log: file.Log(), Store: store, Hash: hash}, closeIt, nil
}
