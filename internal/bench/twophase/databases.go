package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
)

// databases are the two that a transfer is about: money leaves an account of the first and comes to one of the second.
type databases struct {
	Server string `json:"server"` // its DSN
	Run    string `json:"run"`    // in their names, and in those of all transactions
}

// first and second name the databases of a run.
func (d databases) first() string  { return "twophase_accounts_" + d.Run }
func (d databases) second() string { return "twophase_ledger_" + d.Run }

// tables are what two-phase commit has in each. A transfer that a constraint forbids is refused.
var tables = [2]string{
	`CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
	 CREATE TABLE transfer (id text PRIMARY KEY, applied bool NOT NULL);
	 CREATE TABLE payment (id text PRIMARY KEY, amount bigint NOT NULL);
	 INSERT INTO account SELECT n, ` + strconv.Itoa(opening) + ` FROM generate_series(0, ` + strconv.Itoa(perSide-1) + `) n`,
	`CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL, closed bool NOT NULL, CHECK (NOT closed OR balance = 0));
	 CREATE TABLE posting (transfer text PRIMARY KEY, account int NOT NULL, amount bigint NOT NULL);
	 INSERT INTO account SELECT n, 0, n % ` + strconv.Itoa(closed) + ` = ` + strconv.Itoa(closed-1) + ` FROM generate_series(0, ` + strconv.Itoa(perSide-1) + `) n`,
}

// makeDatabases makes both, with tables in them.
func makeDatabases(ctx context.Context, server string, tables [2]string) (d databases, err error) {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	id := deja.NewID()
	d = databases{server, fmt.Sprintf("%x", id[10:])}
	for i, name := range []string{d.first(), d.second()} {
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
			return d, errors.Join(err, d.drop(ctx))
		}
		if err := d.exec(ctx, name, tables[i]); err != nil {
			return d, errors.Join(err, d.drop(ctx))
		}
	}
	return d, nil
}

// allows fails unless a server keeps so many transactions prepared at a time.
func allows(ctx context.Context, server string, prepared int) (err error) {
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	var setting string
	if err := conn.QueryRow(ctx, "SHOW max_prepared_transactions").Scan(&setting); err != nil {
		return err
	}
	if allowed, err := strconv.Atoi(setting); err != nil || allowed < prepared {
		return fmt.Errorf("max_prepared_transactions of the server is %s, this needs %d; scripts/services sets it when it starts a server", setting, prepared)
	}
	return nil
}

// dsn returns the address of a database on the server.
func (d databases) dsn(name string) (string, error) {
	u, err := url.Parse(d.Server)
	if err != nil {
		return "", errors.New("the DSN is no URL postgres://user:password@host:port/database") // it may hold a password
	}
	u.Path = "/" + name
	return u.String(), nil
}

// connect connects to one of the databases. A statement that waits for a lock longer than patience fails; 0 is for ever.
func (d databases) connect(ctx context.Context, name string, patience time.Duration) (*pgx.Conn, error) {
	dsn, err := d.dsn(name)
	if err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["lock_timeout"] = strconv.FormatInt(patience.Milliseconds(), 10)
	return pgx.ConnectConfig(ctx, config)
}

// exec executes statements in a connection of its own.
func (d databases) exec(ctx context.Context, name string, statements ...string) (err error) {
	conn, err := d.connect(ctx, name, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for _, s := range statements {
		if _, err := conn.PgConn().Exec(ctx, s).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}

// drop drops both, and what is prepared in them, which nothing else gets rid of.
func (d databases) drop(ctx context.Context) (err error) {
	conn, err := pgx.Connect(ctx, d.Server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for _, name := range []string{d.first(), d.second()} {
		rows, err := conn.Query(ctx, "SELECT gid FROM pg_prepared_xacts WHERE database = $1", name)
		if err != nil {
			return err
		}
		left, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, gid := range left {
			if err := d.exec(ctx, name, rollbackPrepared(gid)); err != nil {
				return err
			}
		}
		if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			return err
		}
	}
	return nil
}

// waiting returns when so many connections to the databases wait for a lock.
func (d databases) waiting(ctx context.Context, connections int) (err error) {
	conn, err := pgx.Connect(ctx, d.Server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for n := 0; n < connections; {
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE datname IN ($1, $2) AND wait_event_type = 'Lock'",
			d.first(), d.second()).Scan(&n); err != nil {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sums are what a reader sees in both databases.
type sums struct {
	First, Second      int64 // the money
	Paid               int64 // what was paid in
	Applied, Refused   int   // ends
	Postings, Prepared int
}

func (s sums) money() int64 { return s.First + s.Second }

// sums reads both databases, which waits for nobody's locks.
func (d databases) sums(ctx context.Context) (s sums, err error) {
	read := func(name, query string, into ...any) error {
		conn, err := d.connect(ctx, name, 0)
		if err != nil {
			return err
		}
		return errors.Join(conn.QueryRow(ctx, query).Scan(into...), conn.Close(ctx))
	}
	var prepared int
	err = errors.Join(
		read(d.first(), `SELECT (SELECT sum(balance) FROM account)::bigint, (SELECT coalesce(sum(amount), 0) FROM payment)::bigint, (SELECT count(*) FROM transfer WHERE applied),
			(SELECT count(*) FROM transfer WHERE NOT applied), (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())`,
			&s.First, &s.Paid, &s.Applied, &s.Refused, &s.Prepared),
		read(d.second(), `SELECT (SELECT sum(balance) FROM account)::bigint, (SELECT count(*) FROM posting),
			(SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())`, &s.Second, &s.Postings, &prepared))
	s.Prepared += prepared
	return s, err
}

// check fails unless money is whole, and nothing is half done or in doubt.
func (d databases) check(ctx context.Context) (sums, error) {
	s, err := d.sums(ctx)
	switch {
	case err != nil:
		return s, err
	case s.money() != money+s.Paid:
		return s, fmt.Errorf("there is %d of money, and there should be %d", s.money(), money+s.Paid)
	case s.Applied != s.Postings:
		return s, fmt.Errorf("%d transfers are applied, and %d are posted", s.Applied, s.Postings)
	case s.Prepared != 0:
		return s, fmt.Errorf("%d transactions are in doubt", s.Prepared)
	}
	return s, nil
}
