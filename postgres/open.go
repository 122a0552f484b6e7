package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// An Option changes how a database is opened. One that the DSN names too goes before the DSN.
type Option func(*config) error

type config struct {
	schema     string
	partitions int32
	segment    int64 // rows
	keep       int64 // records
	keepFor    time.Duration
	logger     *slog.Logger
}

// schemaName is what a schema may be called: nothing that needs quoting, whatever the case.
var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,47}$`)

// Schema names the schema. The default is deja.
func Schema(name string) Option {
	return func(c *config) error {
		if !schemaName.MatchString(name) || strings.HasPrefix(name, "pg_") {
			return fmt.Errorf("schema %q: want a name that matches %s and does not begin with pg_", name, schemaName)
		}
		c.schema = name
		return nil
	}
}

// Partitions says how many partitions a topic of the log has that is made at its first use. The default is 4.
func Partitions(n int) Option {
	return func(c *config) error {
		if n < 1 || n > maxPartitions {
			return fmt.Errorf("%d partitions: want 1 to %d", n, maxPartitions)
		}
		c.partitions = int32(n)
		return nil
	}
}

// SegmentRows says after about how many rows a segment of the ledger is sealed and another begun. The default is a
// million.
func SegmentRows(n int64) Option {
	return func(c *config) error {
		if n < 1 {
			return fmt.Errorf("segments of %d rows: want 1 or more", n)
		}
		c.segment = n
		return nil
	}
}

// Keep says for how long records are kept that are in the journal already, in case it loses them: those among the last
// so many of their partition, and those not older than an age. The default is 100,000 and an hour.
func Keep(records int64, age time.Duration) Option {
	return func(c *config) error {
		if records < 0 || age < 0 {
			return fmt.Errorf("keep %d records for %s: want neither below 0", records, age)
		}
		c.keep, c.keepFor = records, age
		return nil
	}
}

// Logger sets where the little that happens by itself is reported. The default is [slog.Default].
func Logger(l *slog.Logger) Option {
	return func(c *config) error {
		c.logger = l
		return nil
	}
}

const (
	maxPartitions  = 10_000
	maxConns       = 16 // of a process, unless the DSN says pool_max_conns
	connectTimeout = 5 * time.Second
)

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

// settings are those of each session, unless the DSN says otherwise. Without the third, a process that is frozen in the
// middle of a transaction would keep its locks for ever.
var settings = map[string]string{
	"application_name":                    "deja",
	"lock_timeout":                        "5s",
	"statement_timeout":                   "60s",
	"idle_in_transaction_session_timeout": "2500ms",
	"tcp_user_timeout":                    "10s",
	"tcp_keepalives_idle":                 "5",
	"tcp_keepalives_interval":             "2",
	"tcp_keepalives_count":                "3",
	"client_min_messages":                 "warning",
	"jit":                                 "off", // no statement is worth compiling
	"timezone":                            "UTC",
}

// Open opens a database for writing. The DSN is one of libpq's, as a URL or as key=value, and may carry schema=NAME and
// partitions=N, as [Schema] and [Partitions]; settings of the session, such as lock_timeout; and pool_max_conns.
//
// A schema that is not there is made, and one of an older version migrated; a newer one gives [ErrNewer]. Any number of
// processes may do so at once. The context bounds the opening only.
func Open(ctx context.Context, dsn string, opts ...Option) (*DB, error) {
	db, err := connect(ctx, dsn, false, opts)
	if err != nil {
		return nil, fmt.Errorf("open postgres: %w", err)
	}
	return db.opened(ctx, db.migrate(ctx, migrations))
}

// opened finishes an opening, or gives it up.
func (db *DB) opened(ctx context.Context, err error) (*DB, error) {
	if err == nil {
		err = db.identify(ctx)
	}
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open postgres: %w", err)
	}
	return db, nil
}

// OpenReadOnly opens a database for looking: it makes and migrates nothing, and the sessions cannot write. A schema that
// is not there gives [ErrNoStore], one to be migrated first [ErrOlder].
func OpenReadOnly(ctx context.Context, dsn string, opts ...Option) (*DB, error) {
	db, err := connect(ctx, dsn, true, opts)
	if err != nil {
		return nil, fmt.Errorf("open postgres: %w", err)
	}
	return db.opened(ctx, db.checkVersion(ctx))
}

// Adopt makes a copy of a schema with log and store one of its own, such as a dump that was restored elsewhere while the first one
// lives on: the log gets a new identity, to which the store is bound, and the next lease says that the store was copied. A store
// whose log is on Kafka needs no adopting: the journal tells how far it is. Nobody may work on the copy meanwhile.
func Adopt(ctx context.Context, dsn string, opts ...Option) error {
	db, err := Open(ctx, dsn, opts...)
	if err != nil {
		return err
	}
	err = db.transact(ctx, func(tx pgx.Tx) error {
		var id string
		if err := tx.QueryRow(ctx, "SELECT id::text FROM deja_meta FOR UPDATE").Scan(&id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE deja_meta SET id = gen_random_uuid()"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE deja_leases SET copied = true"); err != nil {
			return err
		}
		now, err := db.clusterID(ctx, tx)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE deja_binding SET cluster = $1 WHERE split_part(cluster, '@', 1) = $2", now, id)
		return err
	})
	if err != nil {
		err = fmt.Errorf("adopt schema %s: %w", db.config.schema, err)
	}
	return errors.Join(err, db.Close())
}

// connect makes the pool. Nothing is known of the schema yet.
func connect(ctx context.Context, dsn string, readOnly bool, opts []Option) (*DB, error) {
	pc, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("%w (a DSN is postgres://user@host:port/database?schema=NAME)", err) // it hides the password
	}
	c := config{schema: "deja", partitions: 4, segment: 1_000_000, keep: 100_000, keepFor: time.Hour, logger: slog.Default()}
	if err := c.apply(pc.ConnConfig.RuntimeParams, opts); err != nil {
		return nil, err
	}
	for name, value := range settings {
		if _, ok := pc.ConnConfig.RuntimeParams[name]; !ok {
			pc.ConnConfig.RuntimeParams[name] = value
		}
	}
	pc.ConnConfig.RuntimeParams["search_path"] = c.schema
	if readOnly {
		pc.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	}
	if !said(dsn, "pool_max_conns") {
		pc.MaxConns = maxConns
	}
	if !said(dsn, "connect_timeout") {
		pc.ConnConfig.ConnectTimeout = connectTimeout
	}
	pc.ConnConfig.DialFunc = (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext // it bounds the wait for an answer of a host that is gone
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, err
	}
	hc := pc.Copy()
	hc.MaxConns, hc.MinConns, hc.MinIdleConns = 1, 0, 0
	heart, err := pgxpool.NewWithConfig(ctx, hc)
	if err != nil {
		pool.Close()
		return nil, err
	}
	return newDB(pool, heart, c, readOnly), nil
}

// said reports whether a DSN names a setting.
func said(dsn, setting string) bool {
	return regexp.MustCompile(`\b` + setting + `\b`).MatchString(dsn)
}

// apply takes what is ours out of a DSN's parameters, and then the options.
func (c *config) apply(params map[string]string, opts []Option) error {
	var errs []error
	if name, ok := params["schema"]; ok {
		delete(params, "schema")
		errs = append(errs, Schema(name)(c))
	}
	if text, ok := params["partitions"]; ok {
		delete(params, "partitions")
		n, err := strconv.Atoi(text)
		if err != nil {
			err = fmt.Errorf("partitions %q in the DSN: want a number", text)
		} else {
			err = Partitions(n)(c)
		}
		errs = append(errs, err)
	}
	for _, o := range opts {
		errs = append(errs, o(c))
	}
	return errors.Join(errs...)
}
