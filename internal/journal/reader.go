// Package journal reads a partition's journal as what it means: the decisions in order of their numbers, each once,
// of the life of the service that counts. Adoption, release and replay all read through it.
package journal

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/wire"
)

var (
	// ErrForked is returned when a decision does not follow from the one before it: two histories of one partition.
	ErrForked = errors.New("history forked")

	// ErrGap is returned when a decision's number is missing: the journal was truncated, or records were lost.
	ErrGap = errors.New("journal truncated")

	// ErrUnreadable is returned for a record that this build cannot read: it is damaged, or a newer build's.
	ErrUnreadable = errors.New("record cannot be read")
)

// An Entry is a decision as it was read.
type Entry struct {
	*wire.Record
	Raw    []byte   // the record's bytes
	Chain  [32]byte // their hash
	Offset int64    // in the journal
}

// A Reader reads one partition of a journal. It is not safe for concurrent use.
type Reader struct {
	log  driver.Log
	from deja.Position
	mark driver.Logged
	seen driver.Logged // the mark right behind the last record that counted
	dec  *wire.Decoder
}

// NewReader returns a reader of a service's journal from a mark on.
func NewReader(log driver.Log, service string, partition int32, from driver.Logged) *Reader {
	if from.N == 0 {
		from.Chain = wire.Genesis(service, partition)
	}
	return &Reader{
		log:  log,
		from: deja.Position{Topic: wire.Journal(service), Partition: partition, Offset: from.Offset},
		mark: from,
		seen: from,
		dec:  wire.NewDecoder(service),
	}
}

// Mark returns how far the reader has come.
func (r *Reader) Mark() driver.Logged { return r.mark }

// Seen returns the mark right behind the last record that counted, so that [Holds] can tell whether a log is still
// the one that was read.
func (r *Reader) Seen() driver.Logged { return r.seen }

// Holds reports whether a log's record right before a mark is the one that the mark was set behind.
func Holds(ctx context.Context, log driver.Log, service string, partition int32, at driver.Logged) (bool, error) {
	if at.Offset == 0 {
		return at.N == 0, nil
	}
	pos := deja.Position{Topic: wire.Journal(service), Partition: partition, Offset: at.Offset - 1}
	first, end, err := log.Bounds(ctx, pos.Topic, partition)
	if err != nil || pos.Offset >= end {
		return false, err
	}
	if at.Offset == first { // retention has taken it, and all before it: there is nothing to compare
		return true, nil
	}
	recs, err := log.Fetch(ctx, pos, 1)
	if err != nil || recs[0].Offset != pos.Offset {
		return false, err
	}
	w, err := wire.NewDecoder(service).Record(partition, recs[0].Value)
	if err != nil {
		return false, fmt.Errorf("journal record at %s: %w: %w", pos, ErrUnreadable, err)
	}
	if w.Marker() {
		return w.Incarnation == at.Incarnation, nil
	}
	return w.N == at.N && wire.Hash(recs[0].Value) == at.Chain, nil
}

// MarkAt returns the mark at a journal offset right behind a record that counted, such as one that Seen gave once. At 0,
// and where the log begins right there, it is what [Begin] gives.
func MarkAt(ctx context.Context, log driver.Log, service string, partition int32, offset int64) (driver.Logged, error) {
	pos := deja.Position{Topic: wire.Journal(service), Partition: partition, Offset: offset - 1}
	first, end, err := log.Bounds(ctx, pos.Topic, partition)
	if err == nil && (offset == 0 || offset == first) {
		return Begin(ctx, log, service, partition)
	}
	if err == nil && pos.Offset >= end {
		err = driver.ErrBeyondEnd
	}
	if err != nil {
		return driver.Logged{}, fmt.Errorf("read %s: %w", pos, err)
	}
	recs, err := log.Fetch(ctx, pos, 1)
	if err != nil {
		return driver.Logged{}, fmt.Errorf("read %s: %w", pos, err)
	}
	w, err := wire.NewDecoder(service).Record(partition, recs[0].Value)
	if err != nil {
		return driver.Logged{}, fmt.Errorf("journal record at %s: %w: %w", pos, ErrUnreadable, err)
	}
	at := driver.Logged{Offset: offset, N: w.N, Chain: wire.Hash(recs[0].Value), Incarnation: w.Incarnation}
	if w.Marker() {
		at.Chain = w.Prev
	}
	return at, nil
}

// Next returns the decisions among the next records, up to max of them and below the offset end; it does not wait
// for more. An empty answer with a nil error says that there are none below end. After an error the reader is where
// it was before the offending record.
func (r *Reader) Next(ctx context.Context, end int64, max int) ([]Entry, error) {
	for r.mark.Offset < end {
		r.from.Offset = r.mark.Offset
		recs, err := r.log.Fetch(ctx, r.from, int(min(int64(max), end-r.mark.Offset)))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", r.from, err)
		}
		if entries, err := r.takeAll(recs, end); err != nil || len(entries) > 0 {
			return entries, err
		}
	}
	return nil, nil
}

// Confirm reads on like Next, for a worker that knows what is to come: own returns the hash of its decision n, or zero.
// A record that has it, in the worker's own life, counts without being decoded. It returns how many did, and stops
// behind the first other decision that counts, which is then returned too.
func (r *Reader) Confirm(ctx context.Context, end int64, max int, life driver.Incarnation, own func(n int64) [32]byte) (int, *Entry, error) {
	if r.mark.Offset >= end {
		return 0, nil, nil
	}
	r.from.Offset = r.mark.Offset
	recs, err := r.log.Fetch(ctx, r.from, int(min(int64(max), end-r.mark.Offset)))
	if err != nil {
		return 0, nil, fmt.Errorf("read %s: %w", r.from, err)
	}
	count := 0
	for _, rec := range recs {
		if hash := wire.Hash(rec.Value); r.mark.Incarnation == life && hash == own(r.mark.N+1) {
			r.mark.N, r.mark.Chain, r.mark.Offset = r.mark.N+1, hash, rec.Offset+1
			r.seen = r.mark
			count++
			continue
		}
		e, ok, err := r.take(rec)
		if err != nil {
			return count, nil, err
		}
		if ok {
			return count, &e, nil
		}
	}
	return count, nil, nil
}

// Wait returns the next decisions, up to max of them, and waits for one if there are none.
func (r *Reader) Wait(ctx context.Context, max int) ([]Entry, error) {
	for {
		r.from.Offset = r.mark.Offset
		recs, err := r.log.Fetch(ctx, r.from, max)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", r.from, err)
		}
		if entries, err := r.takeAll(recs, math.MaxInt64); err != nil || len(entries) > 0 {
			return entries, err
		}
	}
}

// takeAll takes the records below end, and returns those that count.
func (r *Reader) takeAll(recs []driver.Record, end int64) ([]Entry, error) {
	entries := make([]Entry, 0, len(recs))
	for _, rec := range recs {
		if rec.Offset >= end {
			r.mark.Offset = end
			break
		}
		e, ok, err := r.take(rec)
		if err != nil {
			return entries, err
		}
		if ok {
			entries = append(entries, e)
		}
	}
	return entries, nil
}

// take decides whether a record counts, and moves the mark past it.
func (r *Reader) take(rec driver.Record) (Entry, bool, error) {
	w, err := r.dec.Record(r.from.Partition, rec.Value)
	if err != nil {
		return Entry{}, false, r.errorf(rec, "%w: %w", ErrUnreadable, err)
	}
	switch {
	case w.Marker():
		if w.Incarnation.Number > r.mark.Incarnation.Number { // of equal numbers the first marker won
			r.mark.Incarnation, r.mark.Offset = w.Incarnation, rec.Offset+1
			r.seen = r.mark
		}
	case w.Incarnation.Number > r.mark.Incarnation.Number:
		return Entry{}, false, r.errorf(rec, "%w: decision %d is of incarnation %d, which no marker began", ErrForked, w.N, w.Incarnation.Number)
	case w.Incarnation != r.mark.Incarnation, w.N <= r.mark.N:
		// An older life that goes on writing, or a record that was published again.
	case w.N > r.mark.N+1:
		return Entry{}, false, r.errorf(rec, "%w: decision %d follows %d", ErrGap, w.N, r.mark.N)
	case w.Prev != r.mark.Chain:
		return Entry{}, false, r.errorf(rec, "%w: decision %d does not follow from decision %d as it was read", ErrForked, w.N, r.mark.N)
	default:
		r.mark.N, r.mark.Chain, r.mark.Offset = w.N, wire.Hash(rec.Value), rec.Offset+1
		r.seen = r.mark
		return Entry{Record: w, Raw: rec.Value, Chain: r.mark.Chain, Offset: rec.Offset}, true, nil
	}
	r.mark.Offset = rec.Offset + 1
	return Entry{}, false, nil
}

func (r *Reader) errorf(rec driver.Record, format string, args ...any) error {
	at := r.from
	at.Offset = rec.Offset
	return fmt.Errorf("journal record at %s: "+format, append([]any{at}, args...)...)
}

// Find returns decision n of a partition, read from the log: an offset is never below n-1, as each holds at most one
// decision. Of two records of one number the later life's counts; latest is the number of the newest life known, and
// 0 where a log cannot have two (log and store are one database).
func Find(ctx context.Context, log driver.Log, service string, partition int32, n, latest int64) (Entry, error) {
	var found Entry
	err := eachOf(ctx, log, service, partition, n, func(e Entry) bool {
		if found.Record == nil || e.Incarnation.Number > found.Incarnation.Number {
			found = e
		}
		return found.Incarnation.Number < latest
	})
	if err == nil && found.Record == nil {
		err = fmt.Errorf("decision %d is not in %s: %w", n, wire.Journal(service), ErrGap)
	}
	return found, err
}

// FindOf returns the decision n of a partition that is the one which is meant: of records of one number, which several lives
// may have written. The error wraps [ErrGap] if there is none.
func FindOf(ctx context.Context, log driver.Log, service string, partition int32, n int64, is func(*Entry) bool) (Entry, error) {
	var found Entry
	err := eachOf(ctx, log, service, partition, n, func(e Entry) bool {
		if is(&e) {
			found = e
		}
		return found.Record == nil
	})
	if err == nil && found.Record == nil {
		err = fmt.Errorf("decision %d as it is known is not in %s of partition %d: %w", n, wire.Journal(service), partition, ErrGap)
	}
	return found, err
}

// eachOf calls fn with the records of a decision's number, in order, until it returns false: several lives may have written
// one. It begins at offset n-1, as each holds at most one decision.
func eachOf(ctx context.Context, log driver.Log, service string, partition int32, n int64, fn func(Entry) bool) error {
	at := deja.Position{Topic: wire.Journal(service), Partition: partition}
	first, end, err := log.Bounds(ctx, at.Topic, partition)
	if err != nil {
		return err
	}
	dec := wire.NewDecoder(service)
	for at.Offset = max(n-1, first); at.Offset < end; {
		recs, err := log.Fetch(ctx, at, 16)
		if err != nil {
			return fmt.Errorf("read %s: %w", at, err)
		}
		for _, rec := range recs {
			r, err := dec.Record(partition, rec.Value)
			if err != nil {
				return fmt.Errorf("journal record at %s: %w: %w", at, ErrUnreadable, err)
			}
			if !r.Marker() && r.N == n && !fn(Entry{Record: r, Raw: rec.Value, Chain: wire.Hash(rec.Value), Offset: rec.Offset}) {
				return nil
			}
			at.Offset = rec.Offset + 1
		}
	}
	return nil
}
