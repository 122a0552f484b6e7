// Package cli is the command line that every service binary has: it looks into a service's log and store, at any moment
// of its past, keeps them, and runs the service. It works on the embedded mode's one file, on servers, and on archives,
// and ends there: what a service itself does, such as serving HTTP, are commands of its own, which it adds.
//
// Data go to the standard output and all else to the standard error. With --json each answer is one object on one
// line; those over many keys or messages are one object on a line each. Commands that read never create a file, and
// work while a service runs in another process.
package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/engine"
	"github.com/dejalog/deja/history"
)

// An App is a service's program. All fields but Service may be left zero.
type App struct {
	Service   *deja.Service
	New       func() *deja.Service              // makes it: a named, exported function, which tests that pin writes call; nil: it writes none
	Short     string                            // what the program is, in a line
	Under     string                            // the command of a program of several services that is this one's; "" if the program has one
	DefaultDB string                            // where --db and DEJA_DB are not given; "" is <service>.db
	Commands  func(*Env) []*cobra.Command       // the service's own
	Bare      func(context.Context, *Env) error // what it does without arguments; nil: it prints its help

	// Classes names fields of commands and events by what they are, for redaction: "personal": {"account.enter.operation"}.
	Classes map[string][]string
	Peers   map[string]string                    // which services own the aggregates of others that this one talks to, as in engine.Config
	Effects func(*Env) ([]deja.Performer, error) // makes the performers of its effects, when it is to run or to tell of effects; nil: there are none
	Repair  history.Corrective                   // which commands correct a state; nil: there are none
}

// config returns what an engine is made with.
func (e *Env) config(db *Database) engine.Config {
	return engine.Config{Service: e.app.Service, Log: db.Log, Store: db.Store, Peers: e.app.Peers, Logger: e.logger()}
}

// Main runs the command that args name, of which the first is the program, and returns the code to exit with: 0 done,
// 1 done and the answer is no, 2 wrong usage, 3 halted, locked or corrupt, 4 interrupted. It is interrupted by the end
// of ctx.
func (a App) Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) int {
	called := a.Service.Name
	if len(args) > 0 {
		called, args = args[0], args[1:]
	}
	out := bufio.NewWriter(stdout)
	e := &Env{
		app: a, name: under(filepath.Base(called), a.Under), called: called, Stdin: stdin, Stdout: out, bare: stdout, Stderr: stderr, getenv: getenv,
		colour: colours(stdout, getenv), terminal: isTerminal(stderr),
		interactive: isTerminal(stdin) && isTerminal(stdout) && isTerminal(stderr),
	}
	root := e.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !e.running {
		err = Usagef("%w\nrun `%s --help` for what there is", err, e.Program())
	}
	err = errors.Join(err, out.Flush())
	return e.report(ctx, err)
}

// root returns the tree of commands.
func (e *Env) root() *cobra.Command {
	root := &cobra.Command{
		Use:           e.name,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: e.name},
		Short:         e.app.Short,
		Long:          e.app.Short + rootHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		// The arguments are checked by now: what fails from here on is no wrong usage, or says so itself.
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			e.running = true
			if err := cmd.ValidateFlagGroups(); err != nil {
				return Usagef("%w", err)
			}
			e.keepSecrets()
			return e.compile()
		},
	}
	root.PersistentFlags().StringVar(&e.given.db, "db", "", "the database: a `FILE`, the directory of an archive, or a postgres:// (else $DEJA_DB, else "+e.defaultDB()+")")
	root.PersistentFlags().StringVar(&e.given.log, "log", "", "the log, instead of --db: a kafka://, a postgres:// or an archive://`DIR` (else $DEJA_LOG)")
	root.PersistentFlags().StringVar(&e.given.store, "store", "", "the store beside --log: a `postgres://` (else $DEJA_STORE)")
	root.PersistentFlags().BoolVar(&e.json, "json", false, "answer in JSON: one object on one line, or one a line for many")
	version := root.Flags().Bool("version", false, "print the build, as decisions record it")
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case *version:
			return e.version()
		case e.app.Bare != nil:
			return e.app.Bare(cmd.Context(), e)
		}
		return cmd.Help()
	}
	if e.app.Commands != nil {
		root.AddGroup(&cobra.Group{ID: "service", Title: "The service:"})
		for _, c := range e.app.Commands(e) {
			c.GroupID = "service"
			root.AddCommand(c)
		}
	}
	e.addGroup(root, "look", "Look into it:", e.logCommand(), e.showCommand(), e.stateCommand(), e.stepCommand(), e.statsCommand())
	e.addGroup(root, "pinpoint", "Pinpoint:",
		e.blameCommand(),
		e.diffCommand(),
		e.divergeCommand(),
		e.whenCommand(),
		e.minCommand(),
		e.bisectCommand(),
		e.whatIfCommand(),
		e.traceCommand(),
		e.dedupCommand(),
		e.queryCommand(),
		e.bundleCommand(),
		e.repairCommand(),
		e.pinCommand(),
	)
	e.addGroup(root, "past", "Its past:", e.replayCommand(), e.snapshotCommand(), e.verifyCommand(), e.archiveCommand())
	e.addGroup(root, "run", "Run it:", e.runCommand(), e.topicsCommand(), e.lagCommand(), e.leasesCommand(), e.unloggedCommand())
	e.addGroup(root, "keep", "Keep it:", e.parkedCommand(), e.sagasCommand(), e.effectsCommand(), e.rebuildCommand(), e.adoptCommand(), e.versionCommand())
	root.AddCommand(e.workerCommand())
	return root
}

func (e *Env) addGroup(root *cobra.Command, id, title string, cmds ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: id, Title: title})
	for _, c := range cmds {
		c.GroupID = id
		root.AddCommand(c)
	}
}

const rootHelp = `

A command looks at a file or an archive (--db), at a log with its store (--log and --store), or at a log alone (--log):
then what the store would have is told from the journal. Passwords belong into the environment: DEJA_LOG, DEJA_STORE.

A LOCATOR names a moment of the history:
  HEAD                    the present end
  inbox:0:1234            all messages up to this position are handled; also journal:0:1234. With several
                          partitions, one of each: inbox:0:1234,inbox:1:870; those left out are taken to their ends
  account/576@17          the decision that brought a key to a version
  0190163d-8694…          a message, by its ID or a unique prefix
  1993-06-30              a time: the end of that day, in UTC
  1993-06-30T12:00:00Z    a time; the one of decisions, unless --by business is given, or business: is before it
  account/576@1993-06-30  the key's last decision up to a time, a position or HEAD
and behind any of them, as often as wanted:
  ~3                      three messages before it: of the same key, or behind a position of the same partition
  ~cause  ~root           the message that caused it; the first one of the chain of causes

A RANGE is a..b, both included: inbox:0:12..HEAD, 1993-06-01..1993-06-30, ..account/576@17.

Exit codes: 0 done · 1 done, and the answer is no · 2 wrong usage · 3 halted, locked or corrupt · 4 interrupted`
