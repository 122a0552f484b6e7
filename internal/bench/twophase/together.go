package main

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A batch is transfers that share a transaction of each database.
type batch struct {
	transfers []move
	balances  map[int]int64 // of the accounts that pay
	closed    map[int]bool  // of the accounts that get
}

// together carries out transfers in one transaction of each database, but for those that one of them refuses. Accounts
// are locked in order, and the databases too, as [coordinator.do] does: nobody waits in a circle.
func (c *coordinator) together(ctx context.Context, id string, transfers []move) error {
	b := batch{transfers, map[int]int64{}, map[int]bool{}}
	if err := b.lock(ctx, c.first, c.second); err != nil {
		return err
	}
	var (
		paid, got   = map[int]int64{}, map[int]int64{}
		ids, posted []string
		applied     []bool
		accounts    []int
		amounts     []int64
		gid         = c.name + ":" + id
	)
	for _, t := range transfers {
		yes := b.take(t)
		ids, applied = append(ids, t.id), append(applied, yes)
		if !yes {
			continue
		}
		paid[t.from] -= t.amount
		got[t.to] += t.amount
		posted, accounts, amounts = append(posted, t.id), append(accounts, t.to), append(amounts, t.amount)
	}
	if err := c.first.finish(ctx, gid, paid, "INSERT INTO transfer SELECT * FROM unnest($1::text[], $2::bool[])", ids, applied); err != nil {
		return err
	}
	if err := c.second.finish(ctx, gid, got, "INSERT INTO posting SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[])", posted, accounts, amounts); err != nil {
		return err
	}
	if err := c.log.commit(gid); err != nil {
		return err
	}
	return c.commit(ctx, gid, move{})
}

// lock begins the transactions, and locks and reads the accounts of the batch.
func (b *batch) lock(ctx context.Context, first, second *side) error {
	var from, to []int
	for _, t := range b.transfers {
		from, to = append(from, t.from), append(to, t.to)
	}
	var (
		account  int
		balance  int64
		isClosed bool
	)
	if err := first.lock(ctx, "balance", from, []any{&account, &balance}, func() { b.balances[account] = balance }); err != nil {
		return err
	}
	return second.lock(ctx, "closed", to, []any{&account, &isClosed}, func() { b.closed[account] = isClosed })
}

// lock begins a transaction, and locks and reads accounts.
func (s *side) lock(ctx context.Context, column string, accounts []int, into []any, each func()) error {
	if err := s.run(ctx, "BEGIN"); err != nil {
		return err
	}
	rows, err := s.Query(ctx, "SELECT id, "+column+" FROM account WHERE id = ANY($1) ORDER BY id FOR UPDATE", accounts)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, into, func() error { each(); return nil })
	return err
}

// take reports whether neither database has anything against a transfer, after those that were taken before.
func (b *batch) take(t move) bool {
	if b.closed[t.to] || b.balances[t.from] < t.amount {
		return false
	}
	b.balances[t.from] -= t.amount
	return true
}

// finish changes the balances, inserts rows, and prepares the transaction.
func (s *side) finish(ctx context.Context, gid string, by map[int]int64, insert string, rows ...any) error {
	var ids []int
	var amounts []int64
	for account, amount := range by {
		ids, amounts = append(ids, account), append(amounts, amount)
	}
	var b pgx.Batch
	b.Queue("UPDATE account SET balance = balance + amount FROM unnest($1::int[], $2::bigint[]) changed(account, amount) WHERE id = account", ids, amounts)
	b.Queue(insert, rows...)
	if err := s.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	return s.run(ctx, "PREPARE TRANSACTION "+quote(gid+s.suffix))
}
