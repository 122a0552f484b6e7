package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/archive"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/postgres"
	"github.com/dejalog/deja/replay"
	"github.com/dejalog/deja/sqlite"
)

// The codes that the program exits with.
const (
	exitNo          = 1
	exitUsage       = 2
	exitHalted      = 3
	exitInterrupted = 4
)

// exitError is an error with the code to exit with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// Nof returns an error for a command that was done, and whose answer is no: the program exits with 1.
func Nof(format string, args ...any) error { return &exitError{exitNo, fmt.Errorf(format, args...)} }

// Usagef returns an error for a command that was called wrongly: the program exits with 2.
func Usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// report tells an error, and what to do about it, and returns the code to exit with.
func (e *Env) report(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	code := exitHalted
	exit, known := errors.AsType[*exitError](err)
	_, mistyped := errors.AsType[*replay.SyntaxError](err)
	switch {
	case known:
		code = exit.code
	case ctx.Err() != nil:
		code = exitInterrupted
	case mistyped, errors.Is(err, replay.ErrNotFound):
		code = exitUsage
	}
	text := err.Error()
	if code == exitInterrupted && errors.Is(err, context.Canceled) {
		text = "interrupted"
	}
	e.Notef("%s: %s", e.name, text)
	if advice := e.advice(err); advice != "" && code == exitHalted {
		e.Notef("%s", advice)
	}
	return code
}

// advice says what to do next about an error that does not say so itself.
func (e *Env) advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "name another file with --db or DEJA_DB; a database is made when the service first runs on it"
	case errors.Is(err, driver.ErrNotFound):
		return fmt.Sprintf("the topics of a cluster are made by hand, once: %s", e.hint("topics create"))
	case errors.Is(err, driver.ErrTrimmed):
		return fmt.Sprintf("an archive keeps what a log loses: %s, before it does", e.hint("archive DIR"))
	case errors.Is(err, archive.ErrDamaged):
		return "put a copy of the file in its place, or pull a new archive from the log, if it has all of it yet"
	case errors.Is(err, archive.ErrNewer), errors.Is(err, postgres.ErrNewer):
		return "use the program that wrote it, or a newer one"
	case errors.Is(err, sqlite.ErrCopied):
		return fmt.Sprintf("reading it works as ever; %s makes it a database of its own", e.hint("adopt"))
	case errors.Is(err, sqlite.ErrNotDeja):
		return "nothing was written to it; name another file with --db or DEJA_DB"
	case errors.Is(err, sqlite.ErrNoStore):
		return fmt.Sprintf("nothing is lost: %s makes it anew from the log", e.hint("rebuild"))
	case errors.Is(err, sqlite.ErrNewer):
		return "use the program that wrote it, or a newer one"
	case errors.Is(err, deja.ErrHalted):
		return fmt.Sprintf("nothing was decided beyond that point; %s tells more", e.hint("stats"))
	}
	return ""
}
