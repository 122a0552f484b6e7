package postgres

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dejalog/deja/driver"
)

// A DB is an open database. It is safe for concurrent use.
type DB struct {
	pool     *pgxpool.Pool
	heart    *pgxpool.Pool          // a connection for heartbeats
	where    atomic.Pointer[string] // the store is, as the last Acquire found it
	config   config
	readOnly bool
	schema   string // quoted
	locks    int32  // the first number of the schema's advisory locks
	cluster  string // of the log's topics
	channel  string // of the log's notices

	topics   topics
	listener listener
	ledger   ledger
	checked  checked // the projections' statements
	trimmed  trimmed // how far kept records were removed

	//nolint:containedctx // what runs by itself ends with Close
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup
	closing sync.RWMutex // nothing begins to run by itself beside Close
}

func newDB(pool, heart *pgxpool.Pool, c config, readOnly bool) *DB {
	h := fnv.New32a()
	_, _ = h.Write([]byte("deja/" + c.schema)) // it never fails
	life, end := context.WithCancel(context.Background())
	return &DB{
		pool: pool, heart: heart, config: c, readOnly: readOnly, life: life, end: end,
		schema: pgx.Identifier{c.schema}.Sanitize(), locks: int32(h.Sum32()),
		ledger: ledger{wanted: make(chan struct{}, 1)},
	}
}

// The second numbers of advisory locks. Those from firstPartition on mark the core transactions of a partition.
const (
	lockMigration  = 0
	lockFilter     = 1
	firstPartition = 16
)

// identify reads who the database is.
func (db *DB) identify(ctx context.Context) (err error) {
	if db.cluster, err = db.clusterID(ctx, db.pool); err == nil {
		db.channel = "deja_" + strings.SplitN(db.cluster, "@", 2)[0]
	}
	return err
}

// clusterID returns what tells the log from others: the schema's own id, and the database cluster's.
func (db *DB) clusterID(ctx context.Context, q querier) (string, error) {
	var id string
	if err := q.QueryRow(ctx, "SELECT id::text FROM deja_meta").Scan(&id); err != nil {
		return "", fmt.Errorf("read the schema's id: %w", err)
	}
	var system string
	if err := q.QueryRow(ctx, "SELECT system_identifier::text FROM pg_control_system()").Scan(&system); err != nil {
		return "", fmt.Errorf("read the cluster's identifier: %w", err)
	}
	return id + "@" + system, nil
}

// Log returns the log in the schema. Its Close ends the use of that value alone: connections are closed by [DB.Close].
func (db *DB) Log() driver.Log { return &log{db: db} }

// Store returns the store in the schema, which is a [driver.Joint] of the schema's log. Its Close ends the use of that
// value alone: connections are closed by [DB.Close].
func (db *DB) Store() driver.Store { return &store{db: db} }

// Close waits for the calls that are under way, and closes all connections. Other calls then fail.
func (db *DB) Close() error {
	db.closing.Lock()
	db.end()
	db.closing.Unlock()
	db.running.Wait()
	db.pool.Close()
	db.heart.Close()
	return nil
}

// usable returns why nothing can be done any more.
func (db *DB) usable() error {
	if db.life.Err() != nil {
		return ErrClosed
	}
	return nil
}

// writable returns why nothing can be written.
func (db *DB) writable() error {
	if db.readOnly {
		return ErrReadOnly
	}
	return db.usable()
}

// background runs fn until Close, unless the database is closed already.
func (db *DB) background(fn func(ctx context.Context)) {
	db.closing.RLock()
	defer db.closing.RUnlock()
	if db.life.Err() == nil {
		db.running.Go(func() { fn(db.life) })
	}
}

// transact runs fn in a transaction of its own. Locks that it cannot get are given up after the session's lock_timeout.
func (db *DB) transact(ctx context.Context, fn func(tx pgx.Tx) error) error {
	if err := db.writable(); err != nil {
		return err
	}
	return pgx.BeginTxFunc(ctx, db.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, fn)
}

// A querier is the pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// send runs a batch on a connection, and returns its first error and the number of the statement that gave it. Each of the
// batch's statements must have been queued by the functions below.
func send(ctx context.Context, q querier, b *batch) (failed int, err error) {
	if b.Len() == 0 {
		return 0, nil
	}
	err = q.SendBatch(ctx, &b.Batch).Close()
	return b.done, err
}

// A batch is statements that are sent together. It counts those that were answered.
type batch struct {
	pgx.Batch
	done int
}

// exec adds a statement.
func (b *batch) exec(sql string, args ...any) {
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		rows.Close()
		if rows.Err() == nil {
			b.done++
		}
		return rows.Err()
	})
}

// row adds a query of one row.
func (b *batch) row(dest []any, sql string, args ...any) {
	b.Queue(sql, args...).QueryRow(func(r pgx.Row) error {
		if err := r.Scan(dest...); err != nil {
			return err
		}
		b.done++
		return nil
	})
}

// rows adds a query; scan is called for each row.
func (b *batch) rows(scan func(pgx.Rows) error, sql string, args ...any) {
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			if err := scan(rows); err != nil {
				return err
			}
		}
		if rows.Err() == nil {
			b.done++
		}
		return rows.Err()
	})
}

// each runs a query, and calls scan for each row.
func each(ctx context.Context, q querier, scan func(pgx.Rows) error, sql string, args ...any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// must turns a data-modifying statement with RETURNING into one that fails with codeDivisionByZero when it changed
// nothing. Behind it in the same batch a COMMIT may be on its way, which only an error can stop.
func must(sql string) string { return "WITH changed AS (" + sql + ") SELECT 1 / count(*) FROM changed" }

// fencedIf returns ErrFenced for a query that should have returned the lease's row and found none.
func fencedIf(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return driver.ErrFenced
	}
	return err
}

// micros returns microseconds since 1970, which hold the zero time too.
func micros(t time.Time) int64 { return t.UnixMicro() }

func timeOf(us int64) time.Time { return time.UnixMicro(us).UTC() }
