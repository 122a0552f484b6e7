package cli_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/cli"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/sqlite"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"shop": func() { os.Exit(shop()) }, "bank": func() { os.Exit(bank()) }, "ledger": func() { os.Exit(ledgers()) },
	})
}

// TestScripts runs the scripts in testdata against a shop: internal/till with the commands of every service.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":    exits,
			"hold":     hold,
			"damage":   damage,
			"truncate": truncate,
			"exec-sql": execSQL,
			"share":    share,
			"until":    until,
			"resolve":  resolve,
		},
	})
}

// broken reports whether till.Crash fails, or lets it end the program.
func broken() bool {
	if os.Getenv("BROKEN") == "exit" {
		fmt.Fprintln(os.Stderr, "so long")
		os.Exit(9) //nolint:revive // it is to die there
	}
	return os.Getenv("BROKEN") != ""
}

// shop is the program. BROKEN makes it the build in which till.Crash fails, or if it is exit dies, MAX_TAKE another one that takes no more.
func shop() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	most, _ := strconv.ParseInt(cmp.Or(os.Getenv("MAX_TAKE"), "0"), 10, 64)
	app := cli.App{
		Service: till.Service(till.Variant{Broken: broken, MaxTake: most}),
		Short:   "A shop",
		Commands: func(e *cli.Env) []*cobra.Command {
			return []*cobra.Command{
				{Use: "send", RunE: func(cmd *cobra.Command, _ []string) error { return send(cmd.Context(), e) }},
				{Use: "post", RunE: func(cmd *cobra.Command, _ []string) error { return post(cmd.Context(), e) }},
			}
		},
	}
	return app.Main(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr, os.Getenv)
}

// send sends the messages of the standard input, one by one: the first digits of the ID, the key, a word, its argument, and
// a business date if it has one.
func send(ctx context.Context, e *cli.Env) error {
	db, err := e.OpenWriter(ctx, true)
	if err != nil {
		return err
	}
	defer db.Close()
	return e.Run(ctx, db, func(ctx context.Context, eng *engine.Engine) error {
		lines := bufio.NewScanner(e.Stdin)
		for lines.Scan() {
			r, err := parse(lines.Text())
			if err != nil {
				return err
			}
			_, err = eng.Client().Do(ctx, r)
			var rejection *deja.Rejection
			var conflict *deja.Conflict
			if err != nil && !errors.Is(err, deja.ErrParked) && !errors.As(err, &rejection) && !errors.As(err, &conflict) {
				return err
			}
		}
		return lines.Err()
	})
}

// post puts the messages of the standard input into the inbox, and waits for nobody.
func post(ctx context.Context, e *cli.Env) error {
	db, err := e.OpenWriter(ctx, true)
	if err != nil {
		return err
	}
	defer db.Close()
	eng, err := engine.New(engine.Config{Service: till.Service(till.Variant{}), Log: db.Log, Store: db.Store})
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(e.Stdin)
	for lines.Scan() {
		r, err := parse(lines.Text())
		if err != nil {
			return err
		}
		if _, err := eng.Client().Send(ctx, r); err != nil {
			return err
		}
	}
	return lines.Err()
}

func parse(line string) (r deja.Request, err error) {
	f := strings.Fields(line)
	if len(f) < 4 {
		return r, fmt.Errorf("%q: want an ID, a key, a word and an argument", line)
	}
	if r.ID, err = deja.ParseID((f[0] + "00000000")[:8] + "-0000-4000-8000-000000000000"); err != nil {
		return r, err
	}
	n, err := strconv.ParseInt(f[3], 10, 64)
	if err != nil {
		return r, err
	}
	if len(f) > 4 {
		if r.BusinessTime, err = time.Parse(time.DateOnly, f[4]); err != nil {
			return r, err
		}
	}
	r.Key, r.Actor = f[1], "tester"
	switch f[2] {
	case "put":
		r.Command = till.Put{Amount: n}
	case "take":
		r.Command = till.Take{Amount: n}
	case "crash":
		r.Command = till.Crash{How: "error"}
	default:
		return r, fmt.Errorf("no word %q", f[2])
	}
	return r, nil
}

// exits runs a program that must end with a code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

// until runs a program until it succeeds and a pattern is found in what it prints.
func until(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile(args[0])
	ts.Check(err)
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if out := ts.ReadFile("stdout"); err == nil && pattern.MatchString(out) {
			return
		} else if time.Now().After(end) {
			ts.Fatalf("%s is not found in:\n%s%s%v", pattern, out, ts.ReadFile("stderr"), err)
		}
	}
}

// patience is how long a test waits for another process before it gives up.
const patience = time.Minute

// hold keeps a database open for writing, as a running service does, until the script ends.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	db, err := sqlite.Open(context.Background(), ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Defer(func() { ts.Check(db.Close()) })
}

// share gives a service a store of its own in a file, as a program does that runs several services on it. The store
// without a name is another's there.
func share(ts *testscript.TestScript, _ bool, args []string) {
	ctx := context.Background()
	db, err := sqlite.Open(ctx, ts.MkAbs(args[0]))
	ts.Check(err)
	for service, store := range map[string]driver.Store{args[1]: db.StoreOf(args[1]), "another": db.Store()} {
		var a driver.Assignment
		a.Inbox, err = db.Log().Topic(ctx, service+".inbox")
		ts.Check(err)
		a.Journal, err = db.Log().Topic(ctx, service+".journal")
		ts.Check(err)
		l, err := store.Acquire(ctx, a)
		ts.Check(err)
		ts.Check(store.Release(ctx, l))
	}
	ts.Check(db.Close())
}

// damage overwrites the beginning of a file.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteAt([]byte("no database at all, but a text"), 0)
	ts.Check(errors.Join(err, f.Close()))
}

// truncate cuts a file to half its length.
func truncate(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), info.Size()/2/4096*4096))
}

// resolve says what became of the only open effect of a key.
func resolve(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec("bank", "effects", "list", "--json"))
	var open struct{ ID string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &open))
	ts.Check(ts.Exec("bank", append([]string{"effects", "resolve", args[0], open.ID}, args[1:]...)...))
}
