package sqlite

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"zombiezen.com/go/sqlite"
)

// applicationID marks the file in its header: "deja".
const applicationID = 0x64656a61

// migrations are the steps from each format version to the next; the header's user_version counts those taken. A
// step that was released never changes.
var migrations = []func(*sqlite.Conn) error{createFile}

// createFile makes the tables of the file and of the log. Those of the store are made by repairStore.
func createFile(c *sqlite.Conn) error {
	for _, ddl := range []string{
		// copied: the database was adopted and its next incarnation has not begun.
		`CREATE TABLE deja_file (one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL, copied INTEGER NOT NULL DEFAULT 0) STRICT`,
		`CREATE TABLE deja_topics (k INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, id TEXT NOT NULL) STRICT`,
	} {
		if err := exec(c, ddl); err != nil {
			return err
		}
	}
	return nil
}

// storeTables are the store's tables and indexes: a cache of the log, made anew where one is missing.
var storeTables = []struct{ name, ddl string }{
	{"deja_binding", `CREATE TABLE deja_binding (
		role TEXT PRIMARY KEY, name TEXT NOT NULL, cluster TEXT NOT NULL, id TEXT NOT NULL, partitions INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`},
	{"deja_lease", `CREATE TABLE deja_lease (
		one INTEGER PRIMARY KEY CHECK (one = 1),
		epoch INTEGER NOT NULL, nonce BLOB NOT NULL, token BLOB NOT NULL,
		position INTEGER NOT NULL, n INTEGER NOT NULL, chain BLOB NOT NULL, time INTEGER NOT NULL,
		incarnation INTEGER NOT NULL, incarnation_nonce BLOB NOT NULL, fold TEXT NOT NULL,
		logged_n INTEGER NOT NULL, logged_offset INTEGER NOT NULL
	) STRICT`},
	{"deja_ledger", `CREATE TABLE deja_ledger (
		key BLOB PRIMARY KEY, hash BLOB NOT NULL, offset INTEGER NOT NULL, n INTEGER NOT NULL, status INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`},
	{"deja_states", `CREATE TABLE deja_states (
		tenant TEXT NOT NULL, aggregate TEXT NOT NULL, key TEXT NOT NULL,
		version INTEGER NOT NULL, data BLOB NOT NULL, position INTEGER NOT NULL, n INTEGER NOT NULL, parked INTEGER NOT NULL,
		PRIMARY KEY (tenant, aggregate, key)
	) STRICT, WITHOUT ROWID`},
	{"deja_parked", `CREATE TABLE deja_parked (
		offset INTEGER PRIMARY KEY, tenant TEXT NOT NULL, aggregate TEXT NOT NULL, key TEXT NOT NULL,
		id BLOB NOT NULL, n INTEGER NOT NULL
	) STRICT`},
	{"deja_parked_stream", `CREATE INDEX deja_parked_stream ON deja_parked (tenant, aggregate, key, offset)`},
	{"deja_repeats", `CREATE TABLE deja_repeats (
		key BLOB NOT NULL, conflict INTEGER NOT NULL, count INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
		PRIMARY KEY (key, conflict)
	) STRICT, WITHOUT ROWID`},
	{"deja_tables", `CREATE TABLE deja_tables (name TEXT PRIMARY KEY, ddl TEXT NOT NULL) STRICT, WITHOUT ROWID`},
}

const insertLease = `INSERT OR IGNORE INTO deja_lease
	VALUES (1, 0, zeroblob(16), zeroblob(16), 0, 0, zeroblob(32), ?, 0, zeroblob(16), '', 0, 0)`

// format tells what the file is: its version, 0 for a fresh one.
func format(c *sqlite.Conn) (version int, err error) {
	objects, err := queryInt(c, "SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return 0, err
	}
	app, err := queryInt(c, "PRAGMA application_id")
	if err != nil {
		return 0, err
	}
	v, err := queryInt(c, "PRAGMA user_version")
	switch {
	case err != nil:
		return 0, err
	case app == 0 && v == 0 && objects == 0:
		return 0, nil
	case app != applicationID:
		return 0, fmt.Errorf("%w: an SQLite database with application id %#x", ErrNotDeja, app)
	case v > int64(len(migrations)):
		return 0, fmt.Errorf("%w: version %d, this program knows up to %d; use a newer program", ErrNewer, v, len(migrations))
	case v < 1:
		return 0, fmt.Errorf("%w: format version %d", ErrCorrupt, v)
	}
	return int(v), nil
}

// migrate takes the steps that are missing, inside the caller's transaction.
func migrate(c *sqlite.Conn, version int) error {
	if version == len(migrations) {
		return nil
	}
	for i, step := range migrations[version:] {
		if err := step(c); err != nil {
			return fmt.Errorf("migrate to format %d: %w", version+i+1, err)
		}
	}
	if err := exec(c, fmt.Sprintf("PRAGMA application_id = %d", applicationID)); err != nil {
		return err
	}
	return exec(c, fmt.Sprintf("PRAGMA user_version = %d", len(migrations)))
}

// checkLog returns an error if a topic's table is not there: what was acknowledged is lost.
func checkLog(c *sqlite.Conn) error {
	return query(c, `SELECT t.name, 'deja_log_' || t.k FROM deja_topics t
		WHERE NOT EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.type = 'table' AND s.name = 'deja_log_' || t.k)`,
		func(st *sqlite.Stmt) error {
			return fmt.Errorf("%w: topic %q has lost its table %s", ErrCorrupt, st.ColumnText(0), st.ColumnText(1))
		})
}

// repairStore makes the store's tables where they are missing, in the caller's transaction. If any is, or one of a
// projection, all begin empty: what is left of a cache is worth nothing once a part of it is gone, and with the
// progress at zero the engine folds it anew from the journal. Epoch and incarnation stay where they are known.
func repairStore(c *sqlite.Conn) error {
	missing := 0
	for _, t := range storeTables {
		n, err := queryInt(c, "SELECT count(*) FROM sqlite_schema WHERE name = ?", t.name)
		if err != nil {
			return err
		}
		if n > 0 {
			continue
		}
		missing++
		if err := exec(c, t.ddl); err != nil {
			return err
		}
	}
	if err := exec(c, insertLease, zeroTime); err != nil {
		return err
	}
	lost, err := queryInt(c, `SELECT count(*) FROM deja_tables t
		WHERE NOT EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.type = 'table' AND lower(s.name) = lower(t.name))`)
	if err != nil || missing == 0 && lost == 0 {
		return err
	}
	return emptyStore(c)
}

// checkStore returns an error if a table of the store is missing.
func checkStore(c *sqlite.Conn) error {
	for _, t := range storeTables {
		n, err := queryInt(c, "SELECT count(*) FROM sqlite_schema WHERE name = ?", t.name)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: there is no %s", ErrNoStore, t.name)
		}
	}
	return nil
}

// fileID returns the id that the database was made with, in hex.
func fileID(c *sqlite.Conn) (string, error) {
	id, err := queryText(c, "SELECT lower(hex(id)) FROM deja_file WHERE one = 1")
	if err == nil && len(id) != 2*idLen {
		err = fmt.Errorf("%w: it has lost its id", ErrCorrupt)
	}
	return id, err
}

const idLen = 16

// random returns fresh random bytes for an id, a nonce or a token.
func random() []byte {
	b := make([]byte, idLen)
	_, _ = rand.Read(b) // never fails: crypto/rand.Read crashes the program where there is no randomness
	return b
}

func randomText() string { return hex.EncodeToString(random()) }
