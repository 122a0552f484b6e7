package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// An Encoder makes records of requests, as they go into their service's inbox. An engine is one.
type Encoder interface {
	Encode(rs ...deja.Request) (topic string, recs []driver.Record, ids []deja.ID, err error)
}

// SendTx puts commands into the schema's outbox in the caller's own transaction, and returns their IDs in order: they are sent
// if and only if that commits. A running engine takes them from there into the inbox, those of one call in their order; of two
// transactions the one that commits first may come second.
//
// The transaction may be in any session on this database whose role may insert into the outbox table. No lock is taken that
// anybody waits for.
func (db *DB) SendTx(ctx context.Context, tx pgx.Tx, enc Encoder, rs ...deja.Request) ([]deja.ID, error) {
	topic, recs, ids, err := enc.Encode(rs...)
	if err != nil || len(recs) == 0 {
		return ids, err
	}
	c := newColumns(len(recs))
	for i := range recs {
		if n := len(recs[i].Value); n > maxRecord {
			return nil, fmt.Errorf("send: request %d makes a record of %d bytes, at most %d fit: %w", i, n, maxRecord, driver.ErrTooLarge)
		}
		c.add(&recs[i])
	}
	_, err = tx.Exec(ctx, "INSERT INTO "+db.schema+`.deja_outbox (topic, key, headers, value)
		SELECT $1, key, headers, value FROM unnest($2::bytea[], $3::bytea[], $4::bytea[]) WITH ORDINALITY AS r (key, headers, value, i) ORDER BY i`,
		topic, c.keys, c.headers, c.values)
	if err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	return ids, nil
}

// lookEvery is how often an empty outbox is looked at.
const lookEvery = 100 * time.Millisecond

const selectOutbox = `SELECT id, topic, key, headers, value FROM (
		SELECT *, sum(octet_length(value)) OVER (ORDER BY id) - octet_length(value) AS before
		FROM (SELECT * FROM deja_outbox ORDER BY id LIMIT $1) o
	) o WHERE before < $2 ORDER BY id`

// Outgoing returns messages of about 4 MiB together, or one. All that has committed is found, however late: messages leave the
// outbox by being removed, not by a mark that moves on.
func (s *store) Outgoing(ctx context.Context, limit int) ([]driver.Outgoing, error) {
	for {
		if err := s.usable(); err != nil {
			return nil, err
		}
		out, err := s.outgoing(ctx, max(limit, 1))
		if err != nil || len(out) > 0 {
			return out, err
		}
		if err := sleep(ctx, lookEvery); err != nil {
			return nil, err
		}
	}
}

func (s *store) outgoing(ctx context.Context, limit int) (out []driver.Outgoing, err error) {
	err = each(ctx, s.db.pool, func(r pgx.Rows) (err error) {
		var (
			o            driver.Outgoing
			key, headers []byte
		)
		if err := r.Scan(&o.ID, &o.Topic, &key, &headers, &o.Record.Value); err != nil {
			return err
		}
		o.Record.Key = string(key)
		o.Record.Headers, err = unpackHeaders(headers)
		out = append(out, o)
		return err
	}, selectOutbox, limit, fetchBytes)
	return out, err
}

// Sent removes messages.
func (s *store) Sent(ctx context.Context, ids []int64) error {
	if err := errors.Join(s.usable(), s.db.writable()); err != nil {
		return err
	}
	_, err := s.db.pool.Exec(ctx, `DELETE FROM deja_outbox WHERE id IN
		(SELECT id FROM deja_outbox WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE)`, ids)
	return err
}
