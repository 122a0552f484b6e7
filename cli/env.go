package cli

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/dejalog/deja"
)

// An Env is what a command runs in. It belongs to one run of the program.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer // for data; buffered until the command is done
	Stderr io.Writer // for all else

	app         App
	bare        io.Writer // what Stdout writes to in the end
	name        string    // of the program
	called      string    // the program, as it was called
	machine     *deja.Machine
	getenv      func(string) string
	given       where // by flags
	index       indexPlace
	terminal    bool // people read the standard error
	json        bool
	colour      bool
	interactive bool // people read what it prints, and press keys
	running     bool // a command has begun
}

// DB returns the path of the database that the command is about, if it is about one.
func (e *Env) DB() string { return cmp.Or(e.given.db, e.getenv("DEJA_DB"), e.defaultDB()) }

func (e *Env) defaultDB() string { return cmp.Or(e.app.DefaultDB, e.app.Service.Name+".db") }

// JSON reports whether the answer is to be JSON.
func (e *Env) JSON() bool { return e.json }

// Notef tells people something that is no data: a line on the standard error.
func (e *Env) Notef(format string, args ...any) { fmt.Fprintf(e.Stderr, format+"\n", args...) }

// Program returns how this program is run again, for hints: `go run` builds it in a place that is gone afterwards.
func (e *Env) Program() string {
	exe, err := os.Executable()
	info, ok := debug.ReadBuildInfo()
	if err != nil || !ok || !strings.Contains(filepath.ToSlash(exe), "/go-build") {
		return under(quote(e.called), e.app.Under)
	}
	if dir, ok := strings.CutPrefix(info.Path, info.Main.Path+"/"); ok {
		return under("go run ./"+dir, e.app.Under)
	}
	return under("go run "+info.Path, e.app.Under)
}

// under returns a program's name with the command behind it that is a service's, if there is one.
func under(program, command string) string {
	if command == "" {
		return program
	}
	return program + " " + command
}

// hint returns a command line to try next, about the same database.
func (e *Env) hint(args string) string {
	return e.Program() + " " + args + e.flags()
}

// quote returns s as one word of a shell.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@=,", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (e *Env) compile() (err error) {
	e.machine, err = deja.Compile(e.app.Service)
	return err
}
