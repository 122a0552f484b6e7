package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja/driver"
)

const (
	maxRecord    = 8 << 20 // bytes of a record
	maxTopicName = 249     // what brokers allow
)

// A topic is one of the log's topics. Its records are in a table of its own.
type topic struct {
	k          int32
	name       string
	id         string
	partitions int32
}

func (t *topic) table() string { return fmt.Sprintf("deja_log_%d", t.k) }

func (t *topic) has(partition int32) error {
	if partition < 0 || partition >= t.partitions {
		return fmt.Errorf("topic %s has %d partitions, and no partition %d", t.name, t.partitions, partition)
	}
	return nil
}

// topics holds what is known of topics, by name. They are never removed, but the schema may go back: who finds a topic's
// table missing forgets what it knows.
type topics struct {
	mu     sync.Mutex
	byName map[string]*topic
}

func (ts *topics) get(name string) *topic {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.byName[name]
}

func (ts *topics) add(t *topic) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.byName == nil {
		ts.byName = map[string]*topic{}
	}
	ts.byName[t.name] = t
}

func (ts *topics) forget(name string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.byName, name)
}

const selectTopic = "SELECT k, name, id::text, partitions FROM deja_topics WHERE name = $1"

func scanTopic(r pgx.Row) (*topic, error) {
	t := &topic{}
	return t, r.Scan(&t.k, &t.name, &t.id, &t.partitions)
}

// findTopic returns a topic, or ErrNotFound.
func (db *DB) findTopic(ctx context.Context, q querier, name string) (*topic, error) {
	if t := db.topics.get(name); t != nil {
		return t, nil
	}
	t, err := scanTopic(q.QueryRow(ctx, selectTopic, name))
	if errors.Is(err, pgx.ErrNoRows) {
		err = driver.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", name, err)
	}
	db.topics.add(t)
	return t, nil
}

// topic returns a topic, and makes it with so many partitions if it is not there and the database is open for writing.
func (db *DB) topic(ctx context.Context, name string, partitions int32) (*topic, error) {
	if name == "" || len(name) > maxTopicName {
		return nil, fmt.Errorf("topic %q: want a name of 1 to %d bytes", name, maxTopicName)
	}
	t, err := db.findTopic(ctx, db.pool, name)
	if db.readOnly || !errors.Is(err, driver.ErrNotFound) {
		return t, err
	}
	if t, err = db.makeTopic(ctx, name, partitions); err != nil {
		return nil, fmt.Errorf("create topic %q: %w", name, err)
	}
	db.topics.add(t)
	return t, nil
}

// makeTopic makes a topic, unless another caller was faster.
func (db *DB) makeTopic(ctx context.Context, name string, partitions int32) (t *topic, err error) {
	err = db.transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "LOCK TABLE deja_topics IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return err
		}
		if t, err = scanTopic(tx.QueryRow(ctx, selectTopic, name)); !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		t, err = scanTopic(tx.QueryRow(ctx, `INSERT INTO deja_topics (name, id, partitions) VALUES ($1, gen_random_uuid(), $2)
			RETURNING k, name, id::text, partitions`, name, partitions))
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, createLog(t.table())); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "INSERT INTO deja_ends SELECT $1, p, 0, 0 FROM generate_series(0, $2 - 1) p", t.k, partitions)
		return err
	})
	return t, err
}

// createLog makes a topic's table, which takes no change to what it holds.
func createLog(table string) string {
	return fmt.Sprintf(`
CREATE TABLE %[1]s (
	partition int, off bigint, time bigint NOT NULL, key bytea NOT NULL, headers bytea, value bytea NOT NULL,
	PRIMARY KEY (partition, off)
);
ALTER TABLE %[1]s ALTER value SET STORAGE EXTERNAL;
CREATE TRIGGER deja_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %[1]s
	EXECUTE FUNCTION deja_refuse('the log is append-only');
`, table)
}
