package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/archive"
	"github.com/dejalog/deja/internal/wire"
)

func (e *Env) archiveCommand() *cobra.Command {
	var to moment
	cmd := &cobra.Command{
		Use:   "archive DIR",
		Short: "Keep inbox and journal as files, which outlive the topics' retention",
		Long: `Keep inbox and journal as files in the directory DIR, made if it is not there. What was pulled before is not pulled again,
so run it as often as you like, and before the topics lose what they have. Files are sealed when they are whole: read-only,
each with its own hash and that of the one before it. The journal's chain is checked while it is pulled. An archive of
another log is refused.

Every command that reads takes an archive in place of a database: --db DIR. It has no store; what one would have is folded
from the journal.`,
		Example: e.examples("archive past --log kafka://broker:9092", "replay --db past", "archive verify past"),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := to.parse(e); err != nil {
				return err
			}
			return e.archive(cmd.Context(), args[0], &to)
		},
	}
	to.addFlags(cmd, "to", "how far, a `LOCATOR`")
	cmd.AddCommand(&cobra.Command{
		Use:     "verify DIR",
		Short:   "Check every file of an archive against its hash, and the journal's chain",
		Example: e.examples("archive verify past", "archive verify past --json"),
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return e.verifyArchive(cmd.Context(), args[0]) },
	})
	return cmd
}

// archiveAnswer is what an archive holds.
type archiveAnswer struct {
	Archive    string         `json:"archive"`
	Pulled     int64          `json:"pulled"` // records that were added just now
	Records    int64          `json:"records"`
	Bytes      int64          `json:"bytes"`
	Seconds    float64        `json:"seconds"`
	Partitions []archive.Part `json:"partitions"`
}

func (e *Env) archive(ctx context.Context, dir string, to *moment) (err error) {
	db, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	if _, missing := db.Log.(*readLog); missing {
		return Nof("there is nothing to archive yet")
	}
	cfg := archive.Config{Service: e.app.Service.Name, Log: db.Log}
	if to.text != "" {
		cut, err := db.Source.Cut(ctx, to.at, to.clock)
		if err != nil {
			return err
		}
		e.notes(cut)
		for _, p := range cut.Points {
			cfg.To = append(cfg.To,
				deja.Position{Topic: wire.Inbox(cfg.Service), Partition: p.Partition, Offset: p.Covers},
				deja.Position{Topic: wire.Journal(cfg.Service), Partition: p.Partition, Offset: p.Offset})
		}
	}
	dir = pathOf(dir)
	tell, end := e.Progress("archiving into " + dir)
	cfg.Progress = tell
	began := time.Now()
	parts, err := archive.Pull(ctx, dir, cfg)
	end()
	if err != nil {
		return err
	}
	return e.printArchive(dir, parts, time.Since(began))
}

func (e *Env) verifyArchive(ctx context.Context, dir string) error {
	dir = pathOf(dir)
	began := time.Now()
	l, err := archive.Open(dir)
	if err != nil {
		return err
	}
	tell, end := e.Progress("verifying " + dir)
	err = l.Verify(ctx, tell)
	end()
	if err != nil {
		return err
	}
	return e.printArchive(dir, l.Parts(), time.Since(began))
}

func (e *Env) printArchive(dir string, parts []archive.Part, took time.Duration) error {
	a := archiveAnswer{Archive: filepath.Clean(dir), Seconds: took.Seconds(), Partitions: parts}
	for _, p := range parts {
		a.Pulled += p.Pulled
		a.Records += p.Records
		a.Bytes += p.Bytes
		if p.First > 0 {
			e.Notef("note: %s begins at offset %d in partition %d: what came before was not in the log any more when the archive was made",
				p.Topic, p.First, p.Partition)
		}
	}
	if e.json {
		return e.Answer(a)
	}
	t := e.table()
	fmt.Fprintln(t, "topic\tpartition\tfirst\tend\trecords\tfiles\tbytes\tpulled")
	for _, p := range parts {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", p.Topic, p.Partition, p.First, p.End, p.Records, p.Files, p.Bytes, p.Pulled)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(e.Stdout, "%s: %s in all, %d of them new, %.1f s\n", a.Archive, plural(a.Records, "record"), a.Pulled, a.Seconds)
	return err
}
