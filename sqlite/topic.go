package sqlite

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja/driver"
)

// maxRecord bounds a record, as brokers do: a service that grew up here can move to one.
const maxRecord = 1 << 20

// maxTopicName is what brokers allow.
const maxTopicName = 249

// maxPartitions bounds a topic's partitions: each is a table.
const maxPartitions = 4096

// A topic is one of the log's topics.
type topic struct {
	name, id   string
	partitions []*partition
}

// A partition of a topic has a table of its own. It knows the statements on it.
type partition struct {
	topic               string
	number              int32
	insert, last, first string
	fetch               string

	mu   sync.Mutex
	wake chan struct{} // closed by the next commit that appends; nil while nobody waits
}

// newTopic returns a topic whose partitions have the tables from k on.
func newTopic(k int64, name, id string, partitions int32) *topic {
	t := &topic{name: name, id: id, partitions: make([]*partition, partitions)}
	for i := range t.partitions {
		table := logTable(k + int64(i))
		t.partitions[i] = &partition{
			topic: name, number: int32(i),
			insert: "INSERT INTO " + table + " (offset, time, value) VALUES (?, ?, ?)",
			last:   "SELECT offset, time FROM " + table + " ORDER BY offset DESC LIMIT 1",
			first:  "SELECT offset FROM " + table + " ORDER BY offset LIMIT 1",
			fetch:  "SELECT offset, time, value FROM " + table + " WHERE offset >= ? ORDER BY offset LIMIT ?",
		}
	}
	return t
}

func logTable(k int64) string { return "deja_log_" + strconv.FormatInt(k, 10) }

// createTopic makes a topic and its tables, which take no change to what they hold.
func createTopic(c *sqlite.Conn, name string, partitions int32) (*topic, error) {
	id := randomText()
	k, err := queryInt(c, "SELECT coalesce(max(k + partitions), 1) FROM deja_topics")
	if err != nil {
		return nil, err
	}
	if err := exec(c, "INSERT INTO deja_topics (k, name, id, partitions) VALUES (?, ?, ?, ?)", k, name, id, partitions); err != nil {
		return nil, err
	}
	for i := range int64(partitions) {
		table := logTable(k + i)
		if err := exec(c, "CREATE TABLE "+table+" (offset INTEGER PRIMARY KEY, time INTEGER NOT NULL, value BLOB NOT NULL) STRICT"); err != nil {
			return nil, err
		}
		for _, act := range []string{"UPDATE", "DELETE"} {
			if err := exec(c, refusal(table, act, act, "the log is append-only")); err != nil {
				return nil, err
			}
		}
	}
	return newTopic(k, name, id, partitions), nil
}

// refusal is the statement that lets a table refuse an act from then on, by a trigger with the table's name and a suffix.
func refusal(table, suffix, act, why string) string {
	return "CREATE TRIGGER IF NOT EXISTS " + table + "_" + suffix + " BEFORE " + act + " ON " + table + " BEGIN SELECT RAISE(ABORT, '" + why + "'); END"
}

// partition returns one of the topic's partitions.
func (t *topic) partition(number int32) (*partition, error) {
	if number < 0 || int(number) >= len(t.partitions) {
		return nil, fmt.Errorf("topic %s has no partition %d: it has %d, counted from 0", t.name, number, len(t.partitions))
	}
	return t.partitions[number], nil
}

// end returns the offset after the last record, and the last record's time in microseconds.
func (p *partition) end(c *sqlite.Conn) (end, time int64, err error) {
	err = query(c, p.last, func(st *sqlite.Stmt) error {
		end, time = st.ColumnInt64(0)+1, st.ColumnInt64(1)
		return nil
	})
	return end, time, err
}

// waiter returns a channel that the next commit which appends closes.
func (p *partition) waiter() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wake == nil {
		p.wake = make(chan struct{})
	}
	return p.wake
}

// appended wakes those that wait.
func (p *partition) appended() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wake != nil {
		close(p.wake)
		p.wake = nil
	}
}

// topics holds the topics by name. Topics are never removed.
type topics struct {
	making sync.Mutex // held while a topic is made
	mu     sync.RWMutex
	byName map[string]*topic
}

func (ts *topics) get(name string) *topic {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
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

// load adds the topics in the file that are not known yet.
func (ts *topics) load(c *sqlite.Conn) error {
	return query(c, "SELECT k, name, id, partitions FROM deja_topics", func(st *sqlite.Stmt) error {
		if name := st.ColumnText(1); ts.get(name) == nil {
			ts.add(newTopic(st.ColumnInt64(0), name, st.ColumnText(2), st.ColumnInt32(3)))
		}
		return nil
	})
}

// topic returns a topic, and makes it, of one partition, if the database is open for writing.
func (db *DB) topic(ctx context.Context, name string) (*topic, error) {
	if t := db.topics.get(name); t != nil {
		return t, nil
	}
	if db.conn == nil {
		if err := db.read(ctx, db.topics.load); err != nil {
			return nil, err
		}
		if t := db.topics.get(name); t != nil {
			return t, nil
		}
		return nil, fmt.Errorf("topic %q: %w", name, driver.ErrNotFound)
	}
	return db.makeTopic(ctx, name, 1)
}

// makeTopic makes a topic, unless another caller was faster. The next caller must find it: so it is known before the
// next one looks.
func (db *DB) makeTopic(ctx context.Context, name string, partitions int32) (made *topic, err error) {
	if name == "" || len(name) > maxTopicName {
		return nil, fmt.Errorf("topic %q: want a name of 1 to %d bytes", name, maxTopicName)
	}
	db.topics.making.Lock()
	defer db.topics.making.Unlock()
	if t := db.topics.get(name); t != nil {
		return t, nil
	}
	err = db.write(ctx, func(c *sqlite.Conn) (err error) {
		made, err = createTopic(c, name, partitions)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create topic %q: %w", name, err)
	}
	db.topics.add(made)
	return made, nil
}
