package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/examples/bank/berka"
	"github.com/dejalog/deja/examples/bank/importer"
	"github.com/dejalog/deja/replay"
)

// What the demonstration does: one in twenty messages again, some IDs with other content, one account then and then.
const (
	demoRedeliver = 0.05
	demoConflicts = 5
	demoAccount   = "576"
)

var demoDays = []string{"1993-06-30", "1993-12-31", "1994-03-31"}

// demonstration is what it came to.
type demonstration struct {
	DB         string       `json:"db"`
	Import     importAnswer `json:"import"`
	ConflictID deja.ID      `json:"conflict_id"`
	Conflict   string       `json:"conflict"`
	States     []dayState   `json:"states"`
	Past       string       `json:"past"`
	Replay     cli.Replayed `json:"replay"`
	Equal      bool         `json:"equal"`
}

type dayState struct {
	Day string `json:"day"`
	cli.State
}

// demo shows in one go what deja does.
func demo(ctx context.Context, e *cli.Env) error {
	dir, err := os.MkdirTemp("", "deja-bank-")
	if err != nil {
		return err
	}
	d := demonstration{DB: filepath.Join(dir, "bank.db"), Past: filepath.Join(dir, "past.db")}
	if err := d.takeIn(ctx, e); err != nil {
		return err
	}
	if err := d.lookBack(ctx, e); err != nil {
		return err
	}
	if e.JSON() {
		err = e.Answer(d)
	} else {
		err = d.print(e)
	}
	if err == nil && !d.Equal {
		err = cli.Nof("the replay's states have another hash than the live ones")
	}
	return err
}

// takeIn imports the data that the program ships, as a bad network would deliver it.
func (d *demonstration) takeIn(ctx context.Context, e *cli.Env) error {
	e.Notef("importing into %s: %.0f %% are delivered twice, some only after a restart, and %d IDs come again with another amount",
		d.DB, 100*demoRedeliver, demoConflicts)
	data, err := berka.Data()
	if err != nil {
		return err
	}
	defer data.Close()
	cfg := importer.Config{Open: importer.File(d.DB), Redeliver: demoRedeliver, Conflicts: demoConflicts, Seed: 1}
	read := func(ctx context.Context) (*cli.Database, error) { return e.OpenReader(ctx, d.DB) }
	d.Import, err = importAll(ctx, e, read, &source{ReadCloser: data}, cfg)
	return err
}

// lookBack looks at the past, and makes it again.
func (d *demonstration) lookBack(ctx context.Context, e *cli.Env) (err error) {
	db, err := e.OpenReader(ctx, d.DB)
	if err != nil {
		return err
	}
	defer db.CloseInto(&err)
	conflicts, err := e.Conflicts(ctx, db, 1)
	if err != nil {
		return err
	}
	for i := range conflicts {
		d.ConflictID, d.Conflict = conflicts[i].ID, conflicts[i].Error()
	}
	s := deja.Stream{Aggregate: "account", Key: demoAccount}
	for _, day := range demoDays {
		k, err := stateAt(ctx, db, s, day, "business")
		if err != nil {
			return err
		}
		d.States = append(d.States, dayState{day, cli.StateOf(k)})
	}
	e.Notef("replaying the whole history into %s", d.Past)
	d.Replay, err = e.Into(ctx, db, d.Past, "", replay.Options{})
	d.Equal = d.Replay.StateHash == d.Import.StateHash
	return err
}

func (d *demonstration) print(e *cli.Env) error {
	if err := printImport(e, d.Import); err != nil {
		return err
	}
	fmt.Fprintf(e.Stdout, "\none of the conflicts:\n  %s\n\naccount %s at three days of its past, in hellers:\n", d.Conflict, demoAccount)
	for _, s := range d.States {
		fmt.Fprintf(e.Stdout, "  %s  version %3d  %s\n", s.Day, s.Version, s.State.State)
	}
	equal := "equal to the live one"
	if !d.Equal {
		equal = "NOT the live one"
	}
	fmt.Fprintf(e.Stdout, "\nthe replay into a clean database: %d decisions in %.2f s\n  its hash  %s\n  is %s\n", d.Replay.Messages, d.Replay.Seconds,
		d.Replay.StateHash, equal)
	fmt.Fprintf(e.Stdout, "\nto try next:\n")
	for _, args := range []string{
		"dedup " + d.ConflictID.String() + " --db " + d.DB,
		"step account/" + demoAccount + " --db " + d.DB,
		"state account/" + demoAccount + " --db " + d.Past,
		"verify --db " + d.DB,
		"serve --db " + d.DB,
	} {
		fmt.Fprintf(e.Stdout, "  %s %s\n", e.Program(), args)
	}
	return nil
}
