package sqlite

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// groupBytes bounds the values that one transaction appends for several callers; one caller's may be more.
const groupBytes = 4 << 20

// An appending is a caller of Append that waits.
type appending struct {
	topic *topic
	rs    []driver.Record
	size  int

	done      chan struct{} // closed once the rest is set
	positions []deja.Position
	err       error
}

// appendQueue holds the callers of Append in the order they came. Whoever gets the connection that writes appends for
// all that wait: one sync then makes many callers' records durable.
type appendQueue struct {
	mu      sync.Mutex
	waiting []*appending
}

func (q *appendQueue) add(a *appending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, a)
}

// remove reports whether a still waited. If not, it is in a transaction that runs, and its answer will come.
func (q *appendQueue) remove(a *appending) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, a)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	return i >= 0
}

// next removes the callers that go into one transaction.
func (q *appendQueue) next() []*appending {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.waiting) && (n == 0 || size+q.waiting[n].size <= groupBytes) {
		size += q.waiting[n].size
		n++
	}
	group := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	return group
}

// Append appends all records of a call or none, and those of calls that wait at the same time together with them; if
// the engine fails, all of these fail. A context that ends while the records are being written is not heeded.
func (l *log) Append(ctx context.Context, name string, rs []driver.Record) ([]deja.Position, error) {
	if l.db.conn == nil {
		return nil, fmt.Errorf("append to %s: %s: %w", name, l.db.path, ErrReadOnly)
	}
	t, err := l.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	size, err := t.check(rs)
	if err != nil || len(rs) == 0 {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a := &appending{topic: t, rs: rs, size: size, done: make(chan struct{})}
	l.db.appends.add(a)
	return l.db.await(ctx, a)
}

// check refuses what cannot be appended before anything is.
func (t *topic) check(rs []driver.Record) (size int, err error) {
	for i := range rs {
		if _, err := t.partition(rs[i].Partition); err != nil {
			return 0, fmt.Errorf("append record %d of the call: %w", i, err)
		}
		if n := len(rs[i].Value); n > maxRecord {
			return 0, fmt.Errorf("append to %s: record %d of the call has %d bytes, at most %d fit: %w", t.name, i, n, maxRecord, driver.ErrTooLarge)
		}
		size += len(rs[i].Value)
	}
	return size, nil
}

// await returns a's answer, and does the work of all that wait when it is a's turn.
func (db *DB) await(ctx context.Context, a *appending) ([]deja.Position, error) {
	for {
		select {
		case <-a.done:
			return a.positions, a.err
		case db.gate <- struct{}{}:
			db.appendWaiting()
			db.release()
		case <-ctx.Done():
			if db.appends.remove(a) {
				return nil, ctx.Err()
			}
			<-a.done
		case <-db.closing:
			if db.appends.remove(a) {
				return nil, ErrClosed
			}
			<-a.done
		}
	}
}

// appendWaiting appends for the callers that wait, in one transaction, and answers them. The caller holds the gate.
func (db *DB) appendWaiting() {
	group := db.appends.next()
	if len(group) == 0 {
		return
	}
	err := db.usable()
	if err == nil {
		err = db.appendGroup(group)
	}
	for _, a := range group {
		if err != nil {
			a.positions, a.err = nil, fmt.Errorf("append to %s: %w", a.topic.name, err)
		} else {
			a.topic.appended(a.rs)
		}
		close(a.done)
	}
}

func (db *DB) appendGroup(group []*appending) error {
	if err := exec(db.conn, "BEGIN IMMEDIATE"); err != nil {
		return db.noted(err)
	}
	for _, a := range group {
		if err := a.write(db.conn); err != nil {
			db.rollback()
			return db.noted(err)
		}
	}
	return db.commit()
}

func (a *appending) write(c *sqlite.Conn) error {
	ws := writers{c: c, topic: a.topic}
	a.positions = make([]deja.Position, len(a.rs))
	for i := range a.rs {
		r := &a.rs[i]
		w, err := ws.of(r.Partition)
		if err != nil {
			return err
		}
		a.positions[i] = deja.Position{Topic: a.topic.name, Partition: r.Partition, Offset: w.next}
		if err := w.append(r.Value); err != nil {
			return err
		}
	}
	return nil
}

// appended wakes those that wait for records of the partitions that were appended to.
func (t *topic) appended(rs []driver.Record) {
	last := int32(-1)
	for i := range rs {
		if p := rs[i].Partition; p != last {
			t.partitions[p].appended()
			last = p
		}
	}
}

// writers are the writers of a topic's partitions in one transaction, each made when it is first needed.
type writers struct {
	c     *sqlite.Conn
	topic *topic
	made  []writer // by partition
}

func (ws *writers) of(partition int32) (*writer, error) {
	if ws.made == nil {
		ws.made = make([]writer, len(ws.topic.partitions))
	}
	w := &ws.made[partition]
	if w.insert != nil {
		return w, nil
	}
	var err error
	*w, err = ws.topic.partitions[partition].writer(ws.c)
	return w, err
}

// A writer appends to a partition inside one transaction. Where the log ends is read anew for each: after a commit
// whose outcome is unknown, what was known of it is worth nothing.
type writer struct {
	insert *sqlite.Stmt
	next   int64
	time   int64 // microseconds; of all that the transaction appends
}

// writer begins to append. Times never go back, even if the clock does.
func (p *partition) writer(c *sqlite.Conn) (writer, error) {
	end, last, err := p.end(c)
	if err != nil {
		return writer{}, err
	}
	st, err := c.Prepare(p.insert)
	if err != nil {
		return writer{}, err
	}
	now := micros(time.Now())
	if end > 0 {
		now = max(now, last)
	}
	return writer{insert: st, next: end, time: now}, nil
}

func (w *writer) append(value []byte) error {
	err := w.insertAt(w.next, w.time, value)
	w.next++
	return err
}

func (w *writer) insertAt(offset, time int64, value []byte) error {
	w.insert.BindInt64(1, offset)
	w.insert.BindInt64(2, time)
	w.insert.BindBytes(3, value)
	return run(w.insert)
}

// Import appends records with their offsets and times, all or none; a partition's offsets go on from its end upward.
func (l *log) Import(ctx context.Context, name string, rs []driver.Record) error {
	t, err := l.topic(ctx, name)
	if err != nil {
		return err
	}
	if _, err := t.check(rs); err != nil {
		return err
	}
	err = l.db.write(ctx, func(c *sqlite.Conn) error {
		ws := writers{c: c, topic: t}
		for i := range rs {
			r := &rs[i]
			w, err := ws.of(r.Partition)
			if err != nil {
				return err
			}
			if r.Offset < w.next {
				return fmt.Errorf("record %d of the call has offset %d, but partition %d goes on at %d", i, r.Offset, r.Partition, w.next)
			}
			if err := w.insertAt(r.Offset, micros(r.Time), r.Value); err != nil {
				return err
			}
			w.next = r.Offset + 1
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("import to %s: %w", name, err)
	}
	t.appended(rs)
	return nil
}

// CreateTopic makes a topic of so many partitions. The error wraps [driver.ErrPartitions] where there is one of another
// number.
func (l *log) CreateTopic(ctx context.Context, name string, partitions int32) error {
	if err := l.usable(); err != nil {
		return err
	}
	if partitions < 1 || partitions > maxPartitions {
		return fmt.Errorf("create topic %s of %d partitions: want 1 to %d", name, partitions, maxPartitions)
	}
	t, err := l.db.makeTopic(ctx, name, partitions)
	if err == nil && len(t.partitions) != int(partitions) {
		err = fmt.Errorf("create topic %s of %d partitions: it has %d: %w", name, partitions, len(t.partitions), driver.ErrPartitions)
	}
	return err
}
