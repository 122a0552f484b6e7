package main

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A verdict says what a transaction in doubt was resolved to, and why.
type verdict struct {
	Database  string `json:"database"`
	Statement string `json:"statement"`
	Why       string `json:"why"`
}

// resolve ends the transactions that a dead coordinator left prepared, by its log, as it would itself if it were started
// again. Without the log nobody can: the databases do not know what was decided.
func resolve(ctx context.Context, d databases, name string, log *decisions) ([]verdict, error) {
	decided, err := log.all()
	if err != nil {
		return nil, err
	}
	verdicts, err := resolveIn(ctx, d, d.first(), name, firstSuffix, decided)
	if err != nil {
		return verdicts, err
	}
	more, err := resolveIn(ctx, d, d.second(), name, secondSuffix, decided)
	return append(verdicts, more...), err
}

func resolveIn(ctx context.Context, d databases, database, name, suffix string, decided map[string]bool) (verdicts []verdict, err error) {
	conn, err := d.connect(ctx, database, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	rows, err := conn.Query(ctx, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid")
	if err != nil {
		return nil, err
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	for _, branch := range left {
		if !strings.HasPrefix(branch, d.Run+"."+name+":") {
			continue // another coordinator's
		}
		v := verdict{database, rollbackPrepared(branch), "no decision in the log"}
		if decided[strings.TrimSuffix(branch, suffix)] {
			v.Statement, v.Why = commitPrepared(branch), "decided"
		}
		if err := execute(ctx, conn, v.Statement); err != nil {
			return verdicts, err
		}
		verdicts = append(verdicts, v)
	}
	return verdicts, nil
}
