package step

import (
	"context"
	"fmt"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/wire"
)

// freshRecords are records on their way from a commit to the relay, dense and in order. They are a short cut: what is
// not kept here is read from the store.
type freshRecords struct {
	records []driver.JournalRecord
	bytes   int
}

// maxFresh bounds the bytes of fresh records: a relay that lags reads the store.
const maxFresh = 4 << 20

func (f *freshRecords) add(rs []driver.JournalRecord) {
	if f.bytes > maxFresh {
		*f = freshRecords{}
		return
	}
	f.records = append(f.records, rs...)
	for _, r := range rs {
		f.bytes += len(r.Value)
	}
}

// take returns up to chunk records after decision n, and forgets them; none if they are not kept.
func (f *freshRecords) take(n int64) []driver.JournalRecord {
	for len(f.records) > 0 && f.records[0].N <= n {
		f.drop(1)
	}
	if len(f.records) == 0 || f.records[0].N != n+1 {
		return nil
	}
	rs := f.records[:min(len(f.records), relayChunk)]
	f.drop(len(rs))
	return rs
}

func (f *freshRecords) drop(n int) {
	for _, r := range f.records[:n] {
		f.bytes -= len(r.Value)
	}
	if f.records = f.records[n:]; len(f.records) == 0 {
		f.records = nil
	}
}

// relayChunk is how many records are appended in one call.
const relayChunk = 5000

// Relay appends to the journal what it may not have yet: in order, stopping at the first failure, and never starting
// past a decision that was not acknowledged. So any number of relays and crashes leave the order of first copies
// intact, and readers that know numbers see each decision once, in order.
//
// It first reads what is new in the journal: a worker that slept while another wrote must not add to it.
func (w *Worker) Relay(ctx context.Context) error {
	if w.joint || w.relayed >= w.Progress().N {
		return nil
	}
	end, err := w.end(ctx)
	if err == nil {
		err = w.readBack(ctx, end)
	}
	if err != nil {
		return err
	}
	return w.publish(ctx)
}

// publish appends the records after the last one that was acknowledged.
func (w *Worker) publish(ctx context.Context) error {
	for w.relayed < w.Progress().N {
		waiting, err := w.unrelayed(ctx)
		if err != nil {
			return Halt(err)
		}
		recs := make([]driver.Record, len(waiting))
		for i, k := range waiting {
			if k.N != w.relayed+int64(i)+1 {
				return Halt(fmt.Errorf("%w: the store keeps decision %d after %d", journal.ErrGap, k.N, w.relayed+int64(i)))
			}
			recs[i] = driver.Record{
				Partition: w.cfg.Partition, Value: k.Value,
				Headers: wire.RecordHeaders(w.cfg.Machine.Name(), w.cfg.Partition, k.Value),
			}
		}
		at, err := w.cfg.Log.Append(ctx, w.journal.Name, recs)
		if err != nil {
			return fmt.Errorf("relay decisions from %d on: %w", waiting[0].N, err)
		}
		w.relayed = waiting[len(waiting)-1].N
		w.appended = at[len(at)-1].Offset + 1
	}
	return nil
}

// unrelayed returns the next records to relay, of which there must be some.
func (w *Worker) unrelayed(ctx context.Context) ([]driver.JournalRecord, error) {
	w.mu.Lock()
	rs := w.fresh.take(w.relayed)
	w.mu.Unlock()
	if len(rs) > 0 {
		return rs, nil
	}
	return w.kept(ctx, w.relayed)
}

// Release reads the journal back. What it has read may be told: a produce acknowledgement alone releases nothing, as
// a record may lie behind a newer life's marker. After a Relay it reads up to what that appended, and waits for it if a
// log shows it later; else up to the end.
func (w *Worker) Release(ctx context.Context) (err error) {
	if w.joint {
		return nil
	}
	end := w.appended
	if w.reading.Mark().Offset >= end {
		if end, err = w.end(ctx); err != nil {
			return err
		}
	}
	if err := w.readBack(ctx, end); err != nil {
		return err
	}
	if life := w.reading.Seen().Incarnation; life != w.Progress().Incarnation {
		if err := w.Note(ctx); err != nil {
			return err
		}
		// The lease is the newest one of this store, so it was no other worker of it.
		return fmt.Errorf("%w: incarnation %d began in %s, and this store lives in %d: another store of the service took over",
			deja.ErrHalted, life.Number, w.journal.Name, w.Progress().Incarnation.Number)
	}
	return nil
}

// Note tells the store how far the journal was read back. It need not follow every Release: it is where a take-over
// begins to read, and what lets the store forget records.
func (w *Worker) Note(ctx context.Context) error {
	if w.joint || w.reading.Seen() == w.noted {
		return nil
	}
	at := w.reading.Seen()
	if err := w.cfg.Store.Logged(ctx, w.lease, at); err != nil {
		return fmt.Errorf("note what is logged: %w", err)
	}
	w.noted = at
	return nil
}

// readBack reads what is new in the journal below an end, which must be this worker's, record by record.
func (w *Worker) readBack(ctx context.Context, end int64) error {
	life := w.Progress().Incarnation
	for w.reading.Mark().Offset < end {
		_, other, err := w.reading.Confirm(ctx, end, chunk, life, w.hash)
		logged := w.reading.Mark().N
		if err == nil && other != nil {
			if err = w.known(ctx, other); err != nil {
				logged--
			}
		}
		w.release(logged)
		if err != nil {
			return Halt(err)
		}
	}
	return nil
}

// hash returns the hash of a decision that this worker made, or has found in the store, and has not released yet; zero if
// it knows none.
func (w *Worker) hash(n int64) [32]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.chains[n]
}

// known returns an error unless a decision that was read is this worker's, or one that it found in the store when it
// took over. What it made itself is told from memory: a store that went back may keep another's of the same number. What
// it found is read from the store in pieces, and told from memory then.
func (w *Worker) known(ctx context.Context, e *journal.Entry) error {
	if own := w.hash(e.N); e.N <= w.Progress().N && own == ([32]byte{}) {
		kept, err := w.cfg.Store.Unlogged(ctx, w.cfg.Partition, e.N-1, chunk)
		if err != nil {
			return err
		}
		if len(kept) > 0 && kept[0].N == e.N && wire.Hash(kept[0].Value) == e.Chain {
			w.remember(kept[1:], e.N+1)
			return nil
		}
	} else if own == e.Chain {
		return nil
	}
	return fmt.Errorf("%w: decision %d in the journal is not this worker's", driver.ErrFenced, e.N)
}

// remember notes the hashes of decisions that the store keeps, from number n on.
func (w *Worker) remember(kept []driver.JournalRecord, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, k := range kept {
		if k.N != n+int64(i) {
			return
		}
		if _, own := w.chains[k.N]; !own {
			w.chains[k.N] = wire.Hash(k.Value)
		}
	}
}

// release notes that all decisions up to n are logged.
func (w *Worker) release(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ; w.released < n; w.released++ {
		delete(w.chains, w.released+1)
	}
}
