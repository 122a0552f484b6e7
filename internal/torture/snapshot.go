//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
)

// A violation is something that may never be seen, whatever the moment. Each query returns the rows that tell of one;
// all of them see the same snapshot of the database.
var violations = []struct{ what, query string }{
	{
		"a process wrote under a lease that another one has",
		`SELECT format('%s of partition %s, epoch %s, which %s has: from %s to %s, at %s', session, partition, epoch, owner, was, became, at)
			FROM fence.passed LIMIT 5`,
	},
	{
		"balances differ from the sum of the applied decisions: account; sum, entries, newest, distinct versions, distinct events; state; balance",
		`WITH e AS (
			SELECT account, sum(amount)::bigint AS sum, count(*) AS n, max(version) AS version,
				count(DISTINCT version) AS versions, count(DISTINCT event) AS events
			FROM torture_entry GROUP BY account
		), s AS (
			SELECT key AS account, (convert_from(data, 'UTF8')::json ->> 'balance')::bigint AS balance, version
			FROM deja_states WHERE aggregate = 'account' AND version > 0
		)
		SELECT coalesce(e.account, s.account, b.account) || format('; %s, %s, %s, %s, %s; %s at %s; %s at %s',
			e.sum, e.n, e.version, e.versions, e.events, s.balance, s.version, b.balance, b.version)
		FROM e FULL JOIN s ON s.account = e.account FULL JOIN torture_balance b ON b.account = coalesce(e.account, s.account)
		WHERE e.sum IS DISTINCT FROM s.balance OR e.sum IS DISTINCT FROM b.balance
			OR e.n IS DISTINCT FROM s.version OR e.n IS DISTINCT FROM b.version
			OR e.n IS DISTINCT FROM e.version OR e.n IS DISTINCT FROM e.versions OR e.n IS DISTINCT FROM e.events LIMIT 5`,
	},
	{
		"the total of the balances differs from the total of the entries",
		`SELECT format('%s, %s', b.total, e.total) FROM (SELECT coalesce(sum(balance), 0) AS total FROM torture_balance) b,
			(SELECT coalesce(sum(amount), 0) AS total FROM torture_entry) e WHERE b.total <> e.total`,
	},
	{
		"balances below zero",
		`SELECT format('%s: %s', account, balance) FROM torture_balance WHERE balance < 0 LIMIT 5`,
	},
	{
		"entries of an account that are not in the log's order: account, version",
		`SELECT format('%s, %s', account, version) FROM (SELECT account, version, off, lag(off) OVER (PARTITION BY account ORDER BY version) AS before
			FROM torture_entry) o WHERE off <= before LIMIT 5`,
	},
	{
		"the ledger's applied messages are not the causes of the entries",
		`SELECT format('%s of the ledger, %s entries', l.n, e.n) FROM (SELECT count(*) AS n FROM ledger WHERE status = ` +
			fmt.Sprint(int(deja.Applied)) + `) l, (SELECT count(*) AS n FROM torture_entry) e WHERE l.n <> e.n
		UNION ALL
		SELECT format('entry without a ledger line: %s', e.cause) FROM torture_entry e LEFT JOIN ledger l ON l.key = e.cause::uuid
			AND l.off = e.off AND l.status = ` + fmt.Sprint(int(deja.Applied)) + ` WHERE l.key IS NULL LIMIT 5`,
	},
	{
		"keys twice in the ledger",
		`SELECT key::text FROM ledger GROUP BY key HAVING count(*) > 1 LIMIT 5`,
	},
	{
		"the ledger is ahead of the lease: partition",
		`SELECT format('%s: %s, %s', p.partition, p.n, p.off) FROM deja_leases l JOIN
			(SELECT partition, max(n) AS n, max(off) AS off FROM ledger GROUP BY partition) p ON p.partition = l.partition
			WHERE p.n > l.n OR p.off >= l.position`,
	},
}

// errNoSnapshot says that the store could not be looked at: it was down, or being put back.
var errNoSnapshot = errors.New("no snapshot")

// checkSnapshot looks at one snapshot of the store, and returns what is wrong with it.
func checkSnapshot(ctx context.Context, conn *pgx.Conn, schema string) (wrong []string, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		ledger, err := ledgerQuery(ctx, tx, schema)
		if err != nil {
			return err
		}
		for _, v := range violations {
			query := v.query
			if strings.Contains(query, "ledger ") {
				query = "WITH ledger AS MATERIALIZED (" + ledger + ") " + query
			}
			rows, err := tx.Query(ctx, query)
			if err != nil {
				return err
			}
			found, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return fmt.Errorf("%s: %w", v.what, err)
			}
			if len(found) > 0 {
				wrong = append(wrong, v.what+": "+strings.Join(found, " | "))
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSnapshot, err)
	}
	return wrong, nil
}

// ledgerQuery returns the query of all the ledger's segments.
func ledgerQuery(ctx context.Context, tx pgx.Tx, schema string) (string, error) {
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = "+schema); err != nil {
		return "", err
	}
	rows, err := tx.Query(ctx, "SELECT 'SELECT * FROM deja_ledger_' || n FROM deja_segments ORDER BY n")
	if err != nil {
		return "", err
	}
	parts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err == nil && len(parts) == 0 {
		err = errors.New("the ledger has no segments")
	}
	return strings.Join(parts, " UNION ALL "), err
}
