package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// migrations are the steps from each version of the schema to the next; deja_meta counts those taken. A step that was
// released never changes.
var migrations = []string{
	createSchema + createSegment(1) + "INSERT INTO deja_catalog VALUES (1, gen_random_uuid(), 1);",
	addOpen,
}

// Ids are uuids, which compare as their bytes do. Times of the core are microseconds since 1970, which hold the zero time
// too. Texts compare by their bytes, whatever the database's language.
const createSchema = `
CREATE TABLE deja_meta (
	one int PRIMARY KEY CHECK (one = 1), version int NOT NULL, id uuid NOT NULL,
	place text NOT NULL DEFAULT '', started timestamptz NOT NULL DEFAULT 'epoch' -- see whereabouts
);
INSERT INTO deja_meta VALUES (1, 0, gen_random_uuid());

CREATE TABLE deja_binding (
	role text PRIMARY KEY, name text NOT NULL, cluster text NOT NULL, id text NOT NULL, partitions int NOT NULL
);
CREATE TABLE deja_leases (
	partition int PRIMARY KEY,
	epoch bigint NOT NULL, nonce uuid NOT NULL,
	position bigint NOT NULL DEFAULT 0, n bigint NOT NULL DEFAULT 0, chain bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
	time bigint NOT NULL DEFAULT -62135596800000000,
	incarnation bigint NOT NULL DEFAULT 0, incarnation_nonce uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
	fold text NOT NULL DEFAULT '',
	logged_n bigint NOT NULL DEFAULT 0, logged_offset bigint NOT NULL DEFAULT 0,
	logged_chain bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
	logged_incarnation bigint NOT NULL DEFAULT 0,
	logged_incarnation_nonce uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
	owner uuid NOT NULL, until timestamptz NOT NULL,
	tries bigint NOT NULL DEFAULT 0, careful bigint NOT NULL DEFAULT 0,
	tried uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000', -- the owner that tries counted last
	attempted bigint NOT NULL DEFAULT 0, attempts uuid[] NOT NULL DEFAULT '{}', -- the owners that noted that offset
	ready boolean NOT NULL DEFAULT false,
	copied boolean NOT NULL DEFAULT false -- adopted, or gone back, and no new incarnation has begun
) WITH (fillfactor = 20); -- updated all the time: room for versions in the page
CREATE TABLE deja_members (id uuid PRIMARY KEY, fold text NOT NULL, started timestamptz NOT NULL, until timestamptz NOT NULL);

-- The ledger's segments, and one row that says which is written. version changes with every change of the segments.
CREATE TABLE deja_segments (
	n bigint PRIMARY KEY, id uuid NOT NULL, sealed boolean NOT NULL DEFAULT false,
	rows bigint, lo uuid, hi uuid, filter bytea -- set together some time after it is sealed
);
ALTER TABLE deja_segments ALTER filter SET STORAGE EXTERNAL;
CREATE TABLE deja_catalog (one int PRIMARY KEY CHECK (one = 1), version uuid NOT NULL, newest bigint NOT NULL);
CREATE FUNCTION deja_refuse() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN RAISE EXCEPTION '% on % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0] USING ERRCODE = 'restrict_violation'; END $$;

CREATE TABLE deja_states (
	tenant text COLLATE "C" NOT NULL, aggregate text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
	partition int NOT NULL, version bigint NOT NULL, data bytea NOT NULL, position bigint NOT NULL, n bigint NOT NULL,
	parked bigint NOT NULL,
	PRIMARY KEY (tenant, aggregate, key)
) WITH (fillfactor = 70);
CREATE TABLE deja_parked (
	partition int NOT NULL, off bigint NOT NULL,
	tenant text COLLATE "C" NOT NULL, aggregate text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL,
	id uuid NOT NULL, n bigint NOT NULL,
	PRIMARY KEY (partition, off)
);
CREATE INDEX deja_parked_stream ON deja_parked (partition, tenant, aggregate, key, off);
CREATE TABLE deja_repeats (
	key uuid NOT NULL, conflict boolean NOT NULL, partition int NOT NULL, count bigint NOT NULL, first bigint NOT NULL, last bigint NOT NULL,
	PRIMARY KEY (key, conflict)
);
CREATE TABLE deja_records (
	partition int NOT NULL, first bigint NOT NULL, last bigint NOT NULL, at timestamptz NOT NULL, packed bytea NOT NULL,
	PRIMARY KEY (partition, last)
);
ALTER TABLE deja_records ALTER packed SET STORAGE EXTERNAL;
CREATE TABLE deja_tables (name text PRIMARY KEY, ddl text NOT NULL);

CREATE TABLE deja_topics (
	k int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL UNIQUE, id uuid NOT NULL, partitions int NOT NULL
);
CREATE TABLE deja_ends (
	topic int, partition int, next bigint NOT NULL, time bigint NOT NULL, PRIMARY KEY (topic, partition)
) WITH (fillfactor = 20);
CREATE TABLE deja_cursors (
	reader text, topic text, partition int, off bigint NOT NULL, PRIMARY KEY (reader, topic, partition)
);
CREATE TABLE deja_outbox (
	id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, topic text NOT NULL, key bytea NOT NULL, headers bytea, value bytea NOT NULL
);
`

// addOpen lets the states say what their streams wait for. Those that are there do not know, so they are given a fold
// version that is nobody's: the engine folds them anew from the journals.
const addOpen = `
ALTER TABLE deja_states ADD open bytea, ADD due bigint; -- NULL if it waits for nothing, and has no timer
CREATE INDEX deja_states_open ON deja_states (partition, tenant, aggregate, key) WHERE open IS NOT NULL;
CREATE INDEX deja_states_due ON deja_states (partition, due, tenant, aggregate, key) WHERE due IS NOT NULL;
UPDATE deja_leases SET fold = 'before what streams wait for' WHERE n > 0;
`

// createSegment makes a segment of the ledger.
func createSegment(n int64) string {
	return fmt.Sprintf(`
CREATE TABLE deja_ledger_%[1]d (
	key uuid PRIMARY KEY, off bigint NOT NULL, n bigint NOT NULL, partition int NOT NULL, status smallint NOT NULL, hash bytea NOT NULL
);
INSERT INTO deja_segments (n, id) VALUES (%[1]d, gen_random_uuid());
`, n)
}

// sealSegment lets a segment's table take no further key, and give none away. The segment gets another id: if the schema
// goes back and the same segment is sealed once more with other keys, no filter of the first time is taken for its own.
func sealSegment(n int64) string {
	return fmt.Sprintf(`
CREATE TRIGGER deja_sealed BEFORE INSERT OR DELETE OR TRUNCATE ON deja_ledger_%[1]d
	EXECUTE FUNCTION deja_refuse('the segment is sealed');
UPDATE deja_segments SET sealed = true, id = gen_random_uuid() WHERE n = %[1]d;
`, n)
}

// version returns the schema's version: 0 where there is no schema, or an empty one.
func (db *DB) version(ctx context.Context, q querier, known int) (v int, err error) {
	var meta bool
	// Not by to_regclass: it would go by what the session knew before it waited for another that made the schema.
	err = q.QueryRow(ctx, `SELECT count(*) > 0 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = 'deja_meta'`, db.config.schema).Scan(&meta)
	if err != nil || !meta {
		return 0, err
	}
	err = q.QueryRow(ctx, "SELECT version FROM "+db.schema+".deja_meta").Scan(&v)
	if err == nil && v > known {
		err = fmt.Errorf("%w: schema %s has version %d, this program knows up to %d; use a newer program", ErrNewer, db.config.schema, v, known)
	}
	return v, err
}

// checkVersion returns an error unless the schema can be read as it is.
func (db *DB) checkVersion(ctx context.Context) error {
	v, err := db.version(ctx, db.pool, len(migrations))
	switch {
	case err != nil:
		return err
	case v == 0:
		return fmt.Errorf("schema %s: %w; a run of the service makes it", db.config.schema, ErrNoStore)
	case v < len(migrations):
		return fmt.Errorf("%w: schema %s has version %d, this program wants %d; open it for writing once, as a run does",
			ErrOlder, db.config.schema, v, len(migrations))
	}
	return nil
}

// migrate takes the steps that are missing, in one transaction. Who opens the same schema meanwhile waits.
func (db *DB) migrate(ctx context.Context, steps []string) error {
	if v, err := db.version(ctx, db.pool, len(steps)); err != nil || v == len(steps) {
		return err
	}
	err := db.transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1, $2)", db.locks, lockMigration); err != nil {
			return err
		}
		v, err := db.version(ctx, tx, len(steps))
		if err != nil {
			return err
		}
		if v == 0 {
			if err := db.createSchema(ctx, tx); err != nil {
				return err
			}
		}
		return db.take(ctx, tx, v, steps)
	})
	if err != nil && !errors.Is(err, ErrNewer) {
		return fmt.Errorf("migrate schema %s: %w", db.config.schema, err)
	}
	return err
}

// take takes the steps from version v on.
func (db *DB) take(ctx context.Context, tx pgx.Tx, v int, steps []string) error {
	if v >= len(steps) {
		return nil
	}
	for i, step := range steps[v:] {
		if _, err := tx.Exec(ctx, step); err != nil {
			return fmt.Errorf("to version %d: %w", v+i+1, err)
		}
	}
	_, err := tx.Exec(ctx, "UPDATE deja_meta SET version = $1", len(steps))
	return err
}

// createSchema makes the schema if it is not there. One that is there may be the role's without a right to make others.
func (db *DB) createSchema(ctx context.Context, tx pgx.Tx) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_namespace WHERE nspname = $1", db.config.schema).Scan(&there); err != nil || there {
		return err
	}
	_, err := tx.Exec(ctx, "CREATE SCHEMA "+db.schema)
	if code(err) == codeForbidden {
		err = fmt.Errorf("%w: the role may not make it; run as an administrator: CREATE SCHEMA %s AUTHORIZATION <role>", err, db.schema)
	}
	return err
}
