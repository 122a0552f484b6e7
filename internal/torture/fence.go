//go:build unix

package main

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// installFence has the database itself watch the leases, from a schema of its own, which stays where it is when the
// store goes back. Whoever changes a lease's epoch and nonce has it; a process that then changes anything of a lease
// that another one has, has got past the fence. Processes are told apart by the names of their sessions.
//
// What else such a write would do is prevented by what comes behind the fence: the chain is compared too, and the
// ledger takes no key twice. So what is seen here may be seen nowhere else.
func installFence(ctx context.Context, dsn string) error { return inDatabase(ctx, dsn, createFence) }

// watchLeases puts the watch on the leases of a store that was just made.
func watchLeases(ctx context.Context, dsn, schema string) error {
	return inDatabase(ctx, dsn, "CREATE TRIGGER torture_fence AFTER INSERT OR UPDATE ON "+schema+".deja_leases FOR EACH ROW EXECUTE FUNCTION fence.watch()")
}

// inDatabase runs statements in one transaction.
func inDatabase(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // an error would have come from Exec
	_, err = conn.Exec(ctx, sql)
	return err
}

const createFence = `
CREATE SCHEMA fence;
CREATE TABLE fence.taken (nonce uuid PRIMARY KEY, session text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE fence.passed (partition int NOT NULL, epoch bigint NOT NULL, owner text NOT NULL, session text NOT NULL,
	was text NOT NULL, became text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE FUNCTION fence.watch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE owner text;
BEGIN
	IF TG_OP = 'INSERT' OR NEW.nonce <> OLD.nonce THEN
		INSERT INTO fence.taken (nonce, session) VALUES (NEW.nonce, current_setting('application_name'));
		RETURN NULL;
	END IF;
	SELECT t.session INTO owner FROM fence.taken t WHERE t.nonce = NEW.nonce;
	IF owner <> current_setting('application_name')
		AND (NEW.position, NEW.n, NEW.chain, NEW.incarnation, NEW.logged_n, NEW.logged_offset, NEW.ready, NEW.careful)
		IS DISTINCT FROM (OLD.position, OLD.n, OLD.chain, OLD.incarnation, OLD.logged_n, OLD.logged_offset, OLD.ready, OLD.careful) THEN
		INSERT INTO fence.passed (partition, epoch, owner, session, was, became) VALUES (NEW.partition, NEW.epoch, owner,
			current_setting('application_name'), format('n %s, logged %s', OLD.n, OLD.logged_n), format('n %s, logged %s', NEW.n, NEW.logged_n));
	END IF;
	RETURN NULL;
END $$;
`
