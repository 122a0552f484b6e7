package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrScratch is returned by [OpenScratch] for a schema or a role that is not fit for it.
var ErrScratch = errors.New("no scratch schema")

// A Scratch is a schema that is made for one thing, to be filled with a past.
type Scratch struct {
	*DB
	Role string // as which every connection writes: it can write in this schema and nowhere else in the database
}

// OpenScratch opens the schema that the DSN names, which must be empty, not there, or left unfinished by an earlier one, for
// writing. Whoever writes into it, projections with bugs included, can write nowhere else: each connection sets a role
// without a login that has rights in this schema alone, deja_scratch_<schema>, made if the DSN's role may make roles. If it
// may not, it must be such a role itself: the error, which wraps [ErrScratch], names a table or schema that it could write.
func OpenScratch(ctx context.Context, dsn string) (*Scratch, error) {
	s, err := openScratch(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("open a scratch schema: %w", err)
	}
	return s, nil
}

func openScratch(ctx context.Context, dsn string) (*Scratch, error) {
	pc, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err // it hides the password
	}
	var c config
	if err := c.apply(pc.ConnConfig.RuntimeParams, nil); err != nil {
		return nil, err
	}
	if c.schema == "" {
		return nil, fmt.Errorf("%w: name it in the DSN, as postgres://…?schema=scratch", ErrScratch)
	}
	conn, err := pgx.ConnectConfig(ctx, pc.ConnConfig)
	if err != nil {
		return nil, err
	}
	role, err := prepareScratch(ctx, conn, c.schema)
	err = errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	if err != nil {
		return nil, err
	}
	db, err := Open(ctx, withRole(dsn, role))
	if err != nil {
		return nil, err
	}
	return &Scratch{db, role}, nil
}

// Finish notes that the past is whole, and what came of it. The schema is then not opened as a scratch one again.
func (s *Scratch) Finish(ctx context.Context, what string) error {
	_, err := s.pool.Exec(ctx, "INSERT INTO deja_past VALUES ($1)", what)
	return err
}

// prepareScratch checks or makes the schema and the role for it, and returns the role.
func prepareScratch(ctx context.Context, conn *pgx.Conn, schema string) (role string, err error) {
	if err := checkEmpty(ctx, conn, schema); err != nil {
		return "", err
	}
	var makes, there bool
	err = conn.QueryRow(ctx, "SELECT current_user, rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user").Scan(&role, &makes)
	if err != nil {
		return "", err
	}
	if makes {
		role = "deja_scratch_" + schema
		if err := makeRole(ctx, conn, role); err != nil {
			return "", fmt.Errorf("make the role %s: %w", role, err)
		}
	}
	err = conn.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_namespace WHERE nspname = $1", schema).Scan(&there)
	if err != nil {
		return "", err
	}
	name := pgx.Identifier{schema}.Sanitize()
	if !there {
		if _, err := conn.Exec(ctx, "CREATE SCHEMA "+name); err != nil {
			return "", fmt.Errorf("make the schema %s: %w", schema, err)
		}
	}
	if makes {
		if _, err := conn.Exec(ctx, "GRANT USAGE, CREATE ON SCHEMA "+name+" TO "+pgx.Identifier{role}.Sanitize()); err != nil {
			return "", fmt.Errorf("let %s write into %s: %w", role, schema, err)
		}
	}
	if err := checkNowhereElse(ctx, conn, role, schema); err != nil {
		return "", err
	}
	// First of all tables: a schema that has it and no row in it was begun and not finished.
	sql := "SET ROLE " + pgx.Identifier{role}.Sanitize() + "; CREATE TABLE IF NOT EXISTS " + name + ".deja_past (finished text NOT NULL)"
	if _, err := conn.Exec(ctx, sql); err != nil {
		return "", fmt.Errorf("begin schema %s as %s: %w", schema, role, err)
	}
	return role, nil
}

// checkEmpty refuses a schema that holds anything but a past that is not finished.
func checkEmpty(ctx context.Context, conn *pgx.Conn, schema string) error {
	var holds string
	err := conn.QueryRow(ctx, `SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE nspname = $1 ORDER BY relname <> 'deja_past', relname LIMIT 1`, schema).Scan(&holds)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case holds != "deja_past":
		return fmt.Errorf("%w: %s is not empty, it holds %s: name a new one", ErrScratch, schema, holds)
	}
	var finished bool
	err = conn.QueryRow(ctx, "SELECT count(*) > 0 FROM "+pgx.Identifier{schema, "deja_past"}.Sanitize()).Scan(&finished)
	if err == nil && finished {
		err = fmt.Errorf("%w: %s is a past already, and finished: name a new one", ErrScratch, schema)
	}
	return err
}

func makeRole(ctx context.Context, conn *pgx.Conn, role string) error {
	var there bool
	if err := conn.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_roles WHERE rolname = $1", role).Scan(&there); err != nil {
		return err
	}
	name := pgx.Identifier{role}.Sanitize()
	if !there {
		if _, err := conn.Exec(ctx, "CREATE ROLE "+name+" NOLOGIN"); err != nil {
			return err
		}
	}
	_, err := conn.Exec(ctx, "GRANT "+name+" TO CURRENT_USER")
	return err
}

// elsewhere finds what a role could write outside a schema; catalogs that nobody can write are left out.
const elsewhere = `
SELECT 'schema ' || nspname FROM pg_namespace
WHERE nspname <> $2 AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND has_schema_privilege($1, oid, 'CREATE')
UNION ALL
SELECT 'table ' || nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE nspname <> $2 AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND has_schema_privilege($1, n.oid, 'USAGE')
	AND CASE WHEN relkind IN ('r', 'p', 'v', 'm', 'f')
			THEN has_any_column_privilege($1, c.oid, 'INSERT, UPDATE') OR has_table_privilege($1, c.oid, 'DELETE, TRUNCATE')
		WHEN relkind = 'S' THEN has_sequence_privilege($1, c.oid, 'USAGE, UPDATE')
		ELSE false END
LIMIT 1`

func checkNowhereElse(ctx context.Context, conn *pgx.Conn, role, schema string) error {
	var could string
	err := conn.QueryRow(ctx, elsewhere, role, schema).Scan(&could)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: the role %s could write into the %s, and a replay must not be able to; "+
		"use a role that has rights in %s alone, or one that may make roles (and REVOKE what PUBLIC may write)", ErrScratch, role, could, schema)
}

// withRole returns a DSN whose sessions act as a role.
func withRole(dsn, role string) string {
	if !strings.Contains(dsn, "://") {
		return dsn + " role='" + role + "'"
	}
	sep := "?"
	if strings.Contains(dsn, "?") {
		sep = "&"
	}
	return dsn + sep + "role=" + url.QueryEscape(role)
}
