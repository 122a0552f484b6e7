package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
)

// handleOne is the naive pattern's transaction.
func handleOne(ctx context.Context, conn *pgx.Conn, schema string, env *deja.Envelope) error {
	var d deposit
	if err := json.Unmarshal(env.Payload, &d); err != nil {
		return err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	var seen bool
	err = tx.QueryRow(ctx, "SELECT true FROM "+schema+".seen WHERE id = $1", env.ID[:]).Scan(&seen)
	if err == nil {
		return nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO "+schema+".balances VALUES ($1, $2) ON CONFLICT (account) DO UPDATE SET balance = balances.balance + excluded.balance",
		d.Account, d.Amount); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO "+schema+".seen VALUES ($1)", env.ID[:]); err != nil {
		return err
	}
	return tx.Commit(ctx)
}
