package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A point is a moment of a transfer at which its coordinator may die.
type point string

const (
	nowhere  point = ""
	first    point = "first"    // prepared in the first database, and not yet in the second
	prepared point = "prepared" // prepared in both, and nothing decided
	decided  point = "decided"  // the decision is in the log, and no database knows
	half     point = "half"     // the first database has committed, the second not
)

var points = []point{first, prepared, decided, half}

// coordinator carries out transfers by two-phase commit, one at a time. Several share a log.
type coordinator struct {
	name          string // all of its transactions begin with it
	log           *decisions
	first, second *side
	stop          point
	hold          func(move) // is called at stop, and does not return
}

// side is a connection to one of the two databases.
type side struct {
	*pgx.Conn
	suffix string // of prepared transactions: on one server, names are shared by all databases
}

const (
	firstSuffix  = "/accounts"
	secondSuffix = "/ledger"
)

// newCoordinator connects to both databases. A transfer that waits for a lock longer than patience is given up.
func newCoordinator(ctx context.Context, d databases, name string, log *decisions, patience time.Duration) (*coordinator, error) {
	c := &coordinator{name: d.Run + "." + name, log: log}
	var err error
	if c.first, err = newSide(ctx, d, d.first(), firstSuffix, patience,
		"UPDATE account SET balance = balance - $2 WHERE id = $1", "INSERT INTO transfer VALUES ($1, true)"); err != nil {
		return nil, err
	}
	if c.second, err = newSide(ctx, d, d.second(), secondSuffix, patience,
		"UPDATE account SET balance = balance + $2 WHERE id = $1", "INSERT INTO posting VALUES ($1, $2, $3)"); err != nil {
		return nil, errors.Join(err, c.first.Close(ctx))
	}
	return c, nil
}

// newSide connects to a database and prepares the statements of [side.prepare].
func newSide(ctx context.Context, d databases, database, suffix string, patience time.Duration, statements ...string) (*side, error) {
	conn, err := d.connect(ctx, database, patience)
	if err != nil {
		return nil, err
	}
	for i, sql := range statements {
		if _, err := conn.PgConn().Prepare(ctx, "s"+strconv.Itoa(i), sql, nil); err != nil {
			return nil, errors.Join(err, conn.Close(ctx))
		}
	}
	return &side{conn, suffix}, nil
}

func (c *coordinator) close(ctx context.Context) error {
	return errors.Join(c.first.Close(ctx), c.second.Close(ctx))
}

// payIn puts money to an account of the first database, with a record of it: a transaction of that database alone.
func (c *coordinator) payIn(ctx context.Context, id string, account int, amount int64) (outcome, error) {
	_, err := c.first.Exec(ctx, "WITH noted AS (INSERT INTO payment VALUES ($1, $3)) UPDATE account SET balance = balance + $3 WHERE id = $2",
		id, account, amount)
	if what, known := classify(err); known {
		return what, nil
	}
	return completed, err
}

// do carries out a transfer. Both databases are locked in one order by everybody, so that no two transfers wait for each
// other. On an error it is not known what became of it.
func (c *coordinator) do(ctx context.Context, t move) (outcome, error) {
	gid, amount := c.name+":"+t.id, strconv.FormatInt(t.amount, 10)
	if what, err := c.first.prepare(ctx, gid, []string{strconv.Itoa(t.from), amount}, []string{t.id}); err != nil || what != completed {
		return what, errors.Join(err, c.refuse(ctx, t, what))
	}
	c.pass(first, t)
	if what, err := c.second.prepare(ctx, gid, []string{strconv.Itoa(t.to), amount}, []string{t.id, strconv.Itoa(t.to), amount}); err != nil || what != completed {
		return what, errors.Join(err, c.first.run(ctx, rollbackPrepared(gid+firstSuffix)), c.refuse(ctx, t, what))
	}
	c.pass(prepared, t)
	if err := c.log.commit(gid); err != nil {
		return completed, fmt.Errorf("decide %s: %w", gid, err)
	}
	c.pass(decided, t)
	return completed, c.commit(ctx, gid, t)
}

// commit tells both databases of the decision, at the same time.
func (c *coordinator) commit(ctx context.Context, gid string, t move) error {
	if c.stop == half {
		err := c.first.run(ctx, commitPrepared(gid+firstSuffix))
		c.pass(half, t)
		return err
	}
	told := make(chan error, 1)
	go func() { told <- c.first.run(ctx, commitPrepared(gid+firstSuffix)) }()
	err := c.second.run(ctx, commitPrepared(gid+secondSuffix))
	return errors.Join(err, <-told)
}

func (c *coordinator) pass(p point, t move) {
	if c.stop == p {
		c.hold(t)
	}
}

// prepare executes the connection's two statements in a transaction and prepares it, all in one round trip.
func (s *side) prepare(ctx context.Context, gid string, args ...[]string) (outcome, error) {
	var b pgconn.Batch
	b.ExecParams("BEGIN", nil, nil, nil, nil)
	for i, texts := range args {
		values := make([][]byte, len(texts))
		for j, text := range texts {
			values[j] = []byte(text)
		}
		b.ExecPrepared("s"+strconv.Itoa(i), values, nil, nil)
	}
	b.ExecParams("PREPARE TRANSACTION "+quote(gid+s.suffix), nil, nil, nil, nil)
	_, err := s.PgConn().ExecBatch(ctx, &b).ReadAll()
	if err == nil {
		return completed, nil
	}
	what, known := classify(err)
	if !known {
		return completed, fmt.Errorf("prepare %s: %w", gid, err)
	}
	return what, s.run(ctx, "ROLLBACK")
}

// classify tells what a database's error means for a transfer.
func classify(err error) (what outcome, known bool) {
	if failed := (*pgconn.PgError)(nil); errors.As(err, &failed) {
		switch failed.Code {
		case "23514": // check_violation
			return undone, true
		case "55P03": // lock_not_available
			return gaveUp, true
		}
	}
	return completed, false
}

// refuse records that a transfer was refused, if it was.
func (c *coordinator) refuse(ctx context.Context, t move, what outcome) error {
	if what != undone {
		return nil
	}
	return c.first.run(ctx, "INSERT INTO transfer VALUES ("+quote(t.id)+", false)")
}

// run executes a statement.
func (s *side) run(ctx context.Context, statement string) error {
	return execute(ctx, s.Conn, statement)
}

func execute(ctx context.Context, conn *pgx.Conn, statement string) error {
	_, err := conn.PgConn().Exec(ctx, statement).ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}

// quote makes a literal of a name: statements about prepared transactions take no parameters.
func quote(name string) string { return "'" + strings.ReplaceAll(name, "'", "''") + "'" }

func commitPrepared(gid string) string   { return "COMMIT PREPARED " + quote(gid) }
func rollbackPrepared(gid string) string { return "ROLLBACK PREPARED " + quote(gid) }
