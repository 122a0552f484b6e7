package trail

import (
	"errors"
	"fmt"
	"sync"

	"github.com/dejalog/deja/driver"
)

// Limits of what is built; tests take smaller ones.
type Limits struct {
	Rows  int // of a segment
	Data  int // bytes of payloads and tokens in a segment
	Block int // bytes of a block, before it is compressed
}

// DefaultLimits are those of a file that is used.
var DefaultLimits = Limits{Rows: 128 << 10, Data: 48 << 20, Block: blockBytes}

// A Builder adds to a trail. It is not safe for concurrent use; sorting and compressing a segment goes on while entries
// for the next one are added.
type Builder struct {
	t         *Trail
	limits    Limits
	partition int32
	rows      *rows
	next      int64 // decision to come
	mark      driver.Logged

	jobs chan job
	done chan struct{} // closed once the writing goroutine has ended
	free chan *rows

	mu        sync.Mutex
	err       error // of the writing goroutine
	persisted int64 // all up to this decision of the partition can be read
}

// job is a segment to be written.
type job struct {
	partition int32
	rows      *rows
	mark      driver.Logged
	flush     chan struct{} // if it is not nil, it is closed once all before it is committed
}

// Build returns a builder. It must be closed.
func (t *Trail) Build(limits Limits) (*Builder, error) {
	w, err := newSegmentWriter(limits.Block)
	if err != nil {
		return nil, err
	}
	b := &Builder{t: t, limits: limits, jobs: make(chan job), done: make(chan struct{}), free: make(chan *rows, 2)}
	b.free <- newRows()
	b.free <- newRows()
	go b.write(w)
	return b, nil
}

// Begin goes on with a partition, to which about so many entries are to be added. Small segments at its end are taken into
// the next one, so that their number grows with the logarithm of that of their entries.
func (b *Builder) Begin(partition int32, expect int64) error {
	if err := b.Flush(); err != nil {
		return err
	}
	r := b.t.present()
	list := r.segments[partition]
	b.partition, b.mark = partition, r.marks[partition]
	b.next, b.rows = b.mark.N+1, <-b.free
	b.mu.Lock()
	b.persisted = b.mark.N
	b.mu.Unlock()
	if expect == 0 {
		return nil
	}
	size, data, k := expect, int64(0), len(list)
	for k > 0 && list[k-1].count < 2*size && list[k-1].count+size <= int64(b.limits.Rows) && list[k-1].data+data <= int64(b.limits.Data)/2 {
		k--
		size, data = size+list[k].count, data+list[k].data
	}
	for _, s := range list[k:] {
		if err := b.take(s); err != nil {
			return err
		}
	}
	return nil
}

// take adds the entries of a segment that is there.
func (b *Builder) take(s *segment) error {
	entries := make([]*Entry, s.count)
	err := b.t.each(s, func(e *Entry) error {
		i := e.N - s.first
		if i < 0 || i >= s.count || entries[i] != nil {
			return fmt.Errorf("%w: decision %d is in a segment of %d to %d, or twice", ErrDamaged, e.N, s.first, s.end())
		}
		entries[i] = e.clone()
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := b.rows.add(e); err != nil {
			return err
		}
	}
	return nil
}

// Add adds the next entry of the partition, and copies it; after is the place in the journal right behind it.
func (b *Builder) Add(e *Entry, after driver.Logged) error {
	if e.N != b.next || after.N != e.N {
		return fmt.Errorf("decision %d is added where %d is to come", e.N, b.next)
	}
	if err := b.rows.add(e); err != nil {
		return err
	}
	b.mark = after
	b.next++
	if len(b.rows.list) >= b.limits.Rows || len(b.rows.data) >= b.limits.Data {
		return b.seal()
	}
	return nil
}

// Persisted returns up to which decision of the partition all can be read from the trail. It rises beside the caller.
func (b *Builder) Persisted() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.persisted
}

// seal hands over the rows that there are.
func (b *Builder) seal() error {
	if err := b.failed(); err != nil {
		return err
	}
	b.jobs <- job{partition: b.partition, rows: b.rows, mark: b.mark}
	b.rows = <-b.free
	return nil
}

func (b *Builder) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Flush writes and commits what was added.
func (b *Builder) Flush() error {
	if b.rows != nil {
		if len(b.rows.list) > 0 && b.next > b.t.present().marks[b.partition].N+1 {
			b.jobs <- job{partition: b.partition, rows: b.rows, mark: b.mark}
		} else {
			b.rows.reset()
			b.free <- b.rows
		}
		b.rows = nil
	}
	flushed := make(chan struct{})
	b.jobs <- job{flush: flushed}
	<-flushed
	return b.failed()
}

// Close flushes, and ends the builder.
func (b *Builder) Close() error {
	err := b.Flush()
	close(b.jobs)
	<-b.done
	return err
}

// write writes segments until there are no more. After an error it only takes them.
func (b *Builder) write(w *segmentWriter) {
	defer close(b.done)
	open := 0 // segments that are not committed
	for j := range b.jobs {
		var err error
		switch {
		case b.failed() != nil:
		case j.flush != nil && open > 0:
			err = b.t.commit(b.t.present())
			open = 0
		case j.flush == nil:
			err = b.t.put(w, &j)
			open++
			if _, n := b.t.Size(); err == nil && open > n/16 { // a root has all segments: not each is worth one
				err = b.t.commit(b.t.present())
				open = 0
			}
		}
		b.mu.Lock()
		b.err = errors.Join(b.err, err)
		if j.rows != nil && b.err == nil {
			b.persisted = j.mark.N
		}
		b.mu.Unlock()
		if j.rows != nil {
			j.rows.reset()
			b.free <- j.rows
		}
		if j.flush != nil {
			close(j.flush)
		}
	}
}

// put writes a segment behind what there is.
func (t *Trail) put(w *segmentWriter, j *job) error {
	s, out := w.write(j.partition, j.rows, t.size)
	if _, err := t.f.WriteAt(out, t.size); err != nil {
		return err
	}
	t.size += s.length
	t.publish(t.present().with(s, j.mark))
	return nil
}
