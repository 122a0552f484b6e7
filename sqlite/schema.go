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
var migrations = []func(*sqlite.Conn) error{createFile, forgetStates}

// createFile makes the tables of the file and of the log. Those of the store are made by repairStore.
func createFile(c *sqlite.Conn) error {
	for _, ddl := range []string{
		// adopted: how often the database was, as a copy.
		`CREATE TABLE deja_file (one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL, adopted INTEGER NOT NULL DEFAULT 0) STRICT`,
		`CREATE TABLE deja_topics (k INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, id TEXT NOT NULL, partitions INTEGER NOT NULL) STRICT`,
	} {
		if err := exec(c, ddl); err != nil {
			return err
		}
	}
	return nil
}

// forgetStates drops the states, which did not say what their streams wait for: repairStore makes them anew, and empties
// the store, which the engine then folds from the journals.
func forgetStates(c *sqlite.Conn) error { return exec(c, "DROP TABLE IF EXISTS deja_states") }

// storeTables are the store's tables and indexes: a cache of the log, made anew where one is missing.
var storeTables = []struct{ name, ddl string }{
	{"deja_binding", `CREATE TABLE deja_binding (
		role TEXT PRIMARY KEY, name TEXT NOT NULL, cluster TEXT NOT NULL, id TEXT NOT NULL, partitions INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`},
	{"deja_lease", `CREATE TABLE deja_lease (
		partition INTEGER PRIMARY KEY,
		epoch INTEGER NOT NULL, nonce BLOB NOT NULL, token BLOB NOT NULL,
		position INTEGER NOT NULL, n INTEGER NOT NULL, chain BLOB NOT NULL, time INTEGER NOT NULL,
		incarnation INTEGER NOT NULL, incarnation_nonce BLOB NOT NULL, fold TEXT NOT NULL,
		logged_n INTEGER NOT NULL, logged_offset INTEGER NOT NULL,
		owner BLOB NOT NULL, until INTEGER NOT NULL, tried BLOB NOT NULL, tries INTEGER NOT NULL,
		careful INTEGER NOT NULL, attempted INTEGER NOT NULL, attempts BLOB NOT NULL,
		ready INTEGER NOT NULL, adopted INTEGER NOT NULL
	) STRICT`},
	{"deja_ledger", `CREATE TABLE deja_ledger (segment INTEGER PRIMARY KEY, stamp BLOB NOT NULL, rows INTEGER NOT NULL) STRICT`},
	{"deja_ledger_parked", `CREATE TABLE deja_ledger_parked (
		key BLOB PRIMARY KEY, segment INTEGER NOT NULL, settled INTEGER NOT NULL
	) STRICT, WITHOUT ROWID`},
	{"deja_ledger_settled", `CREATE INDEX deja_ledger_settled ON deja_ledger_parked (settled)`},
	{"deja_states", `CREATE TABLE deja_states (
		tenant TEXT NOT NULL, aggregate TEXT NOT NULL, key TEXT NOT NULL, partition INTEGER NOT NULL,
		version INTEGER NOT NULL, data BLOB NOT NULL, position INTEGER NOT NULL, n INTEGER NOT NULL, parked INTEGER NOT NULL,
		open BLOB, due INTEGER, -- NULL if it waits for nothing, and has no timer
		PRIMARY KEY (tenant, aggregate, key)
	) STRICT, WITHOUT ROWID`},
	{"deja_states_open", `CREATE INDEX deja_states_open ON deja_states (partition, tenant, aggregate, key) WHERE open IS NOT NULL`},
	{"deja_states_due", `CREATE INDEX deja_states_due ON deja_states (partition, due, tenant, aggregate, key) WHERE due IS NOT NULL`},
	{"deja_parked", `CREATE TABLE deja_parked (
		partition INTEGER NOT NULL, offset INTEGER NOT NULL, tenant TEXT NOT NULL, aggregate TEXT NOT NULL, key TEXT NOT NULL,
		id BLOB NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (partition, offset)
	) STRICT, WITHOUT ROWID`},
	{"deja_parked_stream", `CREATE INDEX deja_parked_stream ON deja_parked (tenant, aggregate, key, partition, offset)`},
	{"deja_repeats", `CREATE TABLE deja_repeats (
		key BLOB NOT NULL, conflict INTEGER NOT NULL, partition INTEGER NOT NULL,
		count INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (key, conflict)
	) STRICT, WITHOUT ROWID`},
	{"deja_tables", `CREATE TABLE deja_tables (name TEXT PRIMARY KEY, ddl TEXT NOT NULL) STRICT, WITHOUT ROWID`},
}

// filtersTable holds the filters of the ledger's sealed segments. Each is made anew where it is missing, as is the table.
const filtersTable = `CREATE TABLE IF NOT EXISTS deja_filters (
	segment INTEGER PRIMARY KEY, stamp BLOB NOT NULL, rows INTEGER NOT NULL, filter BLOB NOT NULL
) STRICT`

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

// checkLog returns an error if a partition's table is not there: what was acknowledged is lost.
func checkLog(c *sqlite.Conn) error {
	return query(c, `WITH RECURSIVE partition (name, k, of) AS (
			SELECT name, k, partitions FROM deja_topics UNION ALL SELECT name, k + 1, of - 1 FROM partition WHERE of > 1
		)
		SELECT name, 'deja_log_' || k FROM partition
		WHERE NOT EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.type = 'table' AND s.name = 'deja_log_' || k)`,
		func(st *sqlite.Stmt) error {
			return fmt.Errorf("%w: topic %q has lost its table %s", ErrCorrupt, st.ColumnText(0), st.ColumnText(1))
		})
}

// repairStore makes the store's tables where they are missing, in the caller's transaction. If any is, or one of a
// projection, all begin empty: what is left of a cache is worth nothing once a part of it is gone, and with the
// progress at zero the engine folds it anew from the journals. Epochs and incarnations stay where they are known.
func repairStore(c conn) error {
	missing := 0
	for _, t := range storeTables {
		there, err := exists(c.Conn, c.part.table(t.name))
		if err != nil {
			return err
		}
		if there {
			continue
		}
		missing++
		if err := c.exec(t.ddl); err != nil {
			return err
		}
	}
	if err := c.exec(filtersTable); err != nil {
		return err
	}
	lost, err := c.queryInt(`SELECT count(*) FROM deja_tables t
		WHERE NOT EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.type = 'table' AND lower(s.name) = lower(t.name))`)
	if err != nil {
		return err
	}
	segment, err := lostSegment(c)
	if err != nil || missing == 0 && lost == 0 && segment == "" {
		return err
	}
	return emptyStore(c)
}

func exists(c *sqlite.Conn, name string) (bool, error) {
	n, err := queryInt(c, "SELECT count(*) FROM sqlite_schema WHERE name = ?", name)
	return n > 0, err
}

// lostSegment names a segment of the ledger that is not there, or nothing.
func lostSegment(c conn) (string, error) {
	return c.queryText(`WITH RECURSIVE want (segment) AS (
			SELECT coalesce(max(segment), 1) FROM deja_ledger UNION ALL SELECT segment - 1 FROM want WHERE segment > 1
		)
		SELECT replace(?1, '*', segment) FROM want
		WHERE NOT EXISTS (SELECT 1 FROM deja_ledger l WHERE l.segment = want.segment)
		OR NOT EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.type = 'table' AND s.name = replace(?1, '*', segment))`,
		c.part.table("deja_ledger_*"))
}

// checkStore returns an error if a table of the store is missing.
func checkStore(c conn) error {
	for _, t := range storeTables {
		there, err := exists(c.Conn, c.part.table(t.name))
		if err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("%w: there is no %s", ErrNoStore, c.part.table(t.name))
		}
	}
	lost, err := lostSegment(c)
	if err == nil && lost != "" {
		err = fmt.Errorf("%w: there is no %s", ErrNoStore, lost)
	}
	return err
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
