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

// A topic is one of the log's topics, with the statements on its table.
type topic struct {
	name, id            string
	insert, last, first string
	fetch               string

	mu   sync.Mutex
	wake chan struct{} // closed by the next commit that appends; nil while nobody waits
}

func newTopic(k int64, name, id string) *topic {
	table := "deja_log_" + strconv.FormatInt(k, 10)
	return &topic{
		name: name, id: id,
		insert: "INSERT INTO " + table + " (offset, time, value) VALUES (?, ?, ?)",
		last:   "SELECT offset, time FROM " + table + " ORDER BY offset DESC LIMIT 1",
		first:  "SELECT offset FROM " + table + " ORDER BY offset LIMIT 1",
		fetch:  "SELECT offset, time, value FROM " + table + " WHERE offset >= ? ORDER BY offset LIMIT ?",
	}
}

// createTopic makes a topic and its table, which takes no change to what it holds.
func createTopic(c *sqlite.Conn, name string) (*topic, error) {
	id := randomText()
	if err := exec(c, "INSERT INTO deja_topics (name, id) VALUES (?, ?)", name, id); err != nil {
		return nil, err
	}
	k := c.LastInsertRowID()
	table := "deja_log_" + strconv.FormatInt(k, 10)
	if err := exec(c, "CREATE TABLE "+table+" (offset INTEGER PRIMARY KEY, time INTEGER NOT NULL, value BLOB NOT NULL) STRICT"); err != nil {
		return nil, err
	}
	for _, act := range []string{"UPDATE", "DELETE"} {
		if err := exec(c, "CREATE TRIGGER "+table+"_"+act+" BEFORE "+act+" ON "+table+
			" BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END"); err != nil {
			return nil, err
		}
	}
	return newTopic(k, name, id), nil
}

// end returns the offset after the last record, and the last record's time in microseconds.
func (t *topic) end(c *sqlite.Conn) (end, time int64, err error) {
	err = query(c, t.last, func(st *sqlite.Stmt) error {
		end, time = st.ColumnInt64(0)+1, st.ColumnInt64(1)
		return nil
	})
	return end, time, err
}

// waiter returns a channel that the next commit which appends closes.
func (t *topic) waiter() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wake == nil {
		t.wake = make(chan struct{})
	}
	return t.wake
}

// appended wakes those that wait.
func (t *topic) appended() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wake != nil {
		close(t.wake)
		t.wake = nil
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
	return query(c, "SELECT k, name, id FROM deja_topics", func(st *sqlite.Stmt) error {
		if name := st.ColumnText(1); ts.get(name) == nil {
			ts.add(newTopic(st.ColumnInt64(0), name, st.ColumnText(2)))
		}
		return nil
	})
}

// topic returns a topic, and makes it if the database is open for writing.
func (db *DB) topic(ctx context.Context, name string) (*topic, error) {
	if t := db.topics.get(name); t != nil {
		return t, nil
	}
	if name == "" || len(name) > maxTopicName {
		return nil, fmt.Errorf("topic %q: want a name of 1 to %d bytes", name, maxTopicName)
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
	return db.makeTopic(ctx, name)
}

// makeTopic makes a topic, unless another caller was faster. The next caller must find it: so it is known before the
// next one looks.
func (db *DB) makeTopic(ctx context.Context, name string) (made *topic, err error) {
	db.topics.making.Lock()
	defer db.topics.making.Unlock()
	if t := db.topics.get(name); t != nil {
		return t, nil
	}
	err = db.write(ctx, func(c *sqlite.Conn) (err error) {
		made, err = createTopic(c, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("create topic %q: %w", name, err)
	}
	db.topics.add(made)
	return made, nil
}
