package postgres

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dejalog/deja/driver"
)

var (
	// ErrNoStore is returned by OpenReadOnly when the schema is not there, or is not one of this program.
	ErrNoStore = errors.New("the schema holds no store")

	// ErrNewer is returned when a newer version of this program made the schema.
	ErrNewer = errors.New("the schema has a newer version")

	// ErrOlder is returned by OpenReadOnly for a schema that is to be migrated first: Open does that.
	ErrOlder = errors.New("the schema has an older version")

	// ErrReadOnly is returned by calls that would write where the database is open for reading only.
	ErrReadOnly = fmt.Errorf("the database is open for reading only: it %w for writing", driver.ErrUnusable)

	// ErrClosed is returned by calls on a database that was closed.
	ErrClosed = fmt.Errorf("the database is closed: it %w", driver.ErrUnusable)
)

var (
	errEnded    = errors.New("the transaction has ended")
	errAdvanced = errors.New("the transaction has advanced: nothing may be written after that")
	errSettled  = errors.New("settled already")
	errNoCommit = errors.New("commit before advance")
)

// The server's codes that we tell apart: https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	codeDivisionByZero   = "22012" // see must
	codeUndefinedTable   = "42P01"
	codeLockNotAvailable = "55P03"
	codeForbidden        = "42501"
)

// code returns the server's code of an error; "" if it did not come from a server.
func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// refused reports whether the server answered with an error and goes on. Then the transaction is rolled back for
// certain; after anything else, a lost connection say, it may have committed.
func refused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR"
}

// wrong reports whether a statement is wrong, and stays so.
func wrong(err error) bool {
	c := code(err)
	return len(c) == 5 && (c[:2] == "42" && c != codeForbidden || c[:2] == "22")
}
