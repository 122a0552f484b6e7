package sqlite

import (
	"errors"
	"fmt"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var (
	// ErrLocked is returned by Open and Adopt while another process, or this one, has the file open for writing.
	ErrLocked = errors.New("the database is open for writing elsewhere")

	// ErrCopied is returned by Open for a database that was copied or moved away from its lock file.
	ErrCopied = errors.New("the database is a copy or was moved without its lock file: it opens read-only until it is adopted")

	// ErrReadOnly is returned by calls that would write to a database that is open for reading only.
	ErrReadOnly = fmt.Errorf("the database is open for reading only: it %w for writing", driver.ErrUnusable)

	// ErrNotDeja is returned when the file is no SQLite database, or another application's.
	ErrNotDeja = errors.New("not a database of this program")

	// ErrNewer is returned when a newer version of this program wrote the file.
	ErrNewer = errors.New("the database has a newer format")

	// ErrNoStore is returned by OpenReadOnly when tables of the store are missing. Opened for writing, the file gets them
	// anew, and the engine fills them from the log.
	ErrNoStore = errors.New("the store's tables are missing")

	// ErrCorrupt is returned when the file is damaged.
	ErrCorrupt = errors.New("the database is damaged")

	// ErrHaltedIO is returned by every call after a write could not be made durable. What the file holds is unknown
	// until it is opened anew.
	ErrHaltedIO = fmt.Errorf("%w: the disk failed to make a write durable", deja.ErrHalted)

	// ErrClosed is returned by calls on a database that was closed.
	ErrClosed = fmt.Errorf("the database is closed: it %w", driver.ErrUnusable)
)

// errRolledBack is what a transaction ends with that the engine gave up by itself. SQLite does so when the disk is
// full, on input/output errors and when memory runs out, and later statements would then commit one by one.
var errRolledBack = fmt.Errorf("the database engine rolled the transaction back by itself: %w", driver.ErrFenced)

// opening wraps the error of opening a file, giving what SQLite found the name that callers test for.
func opening(path string, err error) error {
	const restore = "restore a backup; what was sent since may be sent again, which is safe"
	switch code := sqlite.ErrCode(err).ToPrimary(); {
	case errors.Is(err, ErrCorrupt):
		return fmt.Errorf("open %s: %w; %s", path, err, restore)
	case code == sqlite.ResultNotADB:
		return fmt.Errorf("open %s: %w: %w", path, ErrNotDeja, err)
	case code == sqlite.ResultCorrupt:
		return fmt.Errorf("open %s: %w: %w; %s", path, ErrCorrupt, err, restore)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// openingToWrite is opening for a file that was to be written.
func openingToWrite(path string, err error) error {
	if sqlite.ErrCode(err).ToPrimary() == sqlite.ResultReadOnly {
		return fmt.Errorf("open %s for writing: %w: the file or its directory is write-protected (%w)", path, ErrReadOnly, err)
	}
	return opening(path, err)
}

// undurable reports whether err says that a write may be lost although the engine tried to make it durable. After a
// failed sync a second one may succeed without having written anything: trying again proves nothing.
func undurable(err error) bool {
	switch sqlite.ErrCode(err) {
	case sqlite.ResultIOErrFsync, sqlite.ResultIOErrDirFsync, sqlite.ResultIOErrTruncate:
		return true
	}
	return false
}

// failedIO reports whether err is any input/output error.
func failedIO(err error) bool { return sqlite.ErrCode(err).ToPrimary() == sqlite.ResultIOErr }
