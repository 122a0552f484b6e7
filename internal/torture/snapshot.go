//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/remit"
)

// A violation is something that may never be seen, whatever the moment. Its query returns the rows that tell of one.
type violation struct{ what, query string }

// violations are those of all services; all see the same snapshot of a database. HOLDER and FIELD are the aggregate that has
// money, and where in its states.
var violations = []violation{
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
			SELECT key AS account, (convert_from(data, 'UTF8')::json ->> 'FIELD')::bigint AS balance, version
			FROM deja_states WHERE aggregate = 'HOLDER' AND version > 0
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
		"entries whose causes the ledger does not have as applied: cause",
		`SELECT e.cause FROM torture_entry e LEFT JOIN ledger l ON l.partition = e.part
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

// barred are violations of the ledger's alone.
var barred = []violation{{
	"postings that were reversed and hold money, which was given back: remittance, amount",
	`SELECT format('%s, %s', key, data ->> 'amount') FROM (SELECT key, convert_from(data, 'UTF8')::json AS data FROM deja_states
		WHERE aggregate = 'posting' AND version > 0) p WHERE (data ->> 'reversed')::bool AND data ->> 'amount' <> '0' LIMIT 5`,
}}

// snapshot looks at one snapshot of the store, and returns what is wrong with it.
func (s *side) snapshot(ctx context.Context) (wrong []string, err error) {
	all := violations
	if s.name == remit.Ledger {
		all = slices.Concat(all, barred)
	}
	holder := strings.NewReplacer("HOLDER", holders[s.name].aggregate, "FIELD", holders[s.name].field)
	conn, err := pgx.Connect(ctx, s.direct.dsn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it was only read
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		ledger, err := ledgerQuery(ctx, tx, s.direct.schema)
		if err != nil {
			return err
		}
		for _, v := range all {
			query := holder.Replace(v.query)
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
