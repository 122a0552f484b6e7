package step

import "github.com/dejalog/deja/internal/wire"

// recentDecisions are a worker's newest decisions as it made them, dense and in order, for those that carry on from them.
// They are a short cut: what is not kept here is read from the journal.
type recentDecisions struct {
	records []*wire.Record
	sizes   []int
	bytes   int
}

// What is kept at most; of what is kept, the oldest goes first.
const (
	maxRecent      = 5000
	maxRecentBytes = 2 << 20 // of their records; in memory they take a few times that
)

func (d *recentDecisions) add(b *Batch) {
	i := 0
	for _, s := range b.settled {
		if s.Record == nil {
			continue
		}
		d.records, d.sizes = append(d.records, s.Record), append(d.sizes, len(b.out.Records[i].Value))
		d.bytes += len(b.out.Records[i].Value)
		i++
	}
	drop := 0
	for ; len(d.records)-drop > maxRecent || d.bytes > maxRecentBytes && drop < len(d.records); drop++ {
		d.bytes -= d.sizes[drop]
		d.records[drop] = nil
	}
	d.records, d.sizes = d.records[drop:], d.sizes[drop:]
}

// Decisions returns up to max decisions after n that are released, in order, of those that the worker keeps; with false
// where it does not keep the next one. It may be called at any time. The records must not be changed.
func (w *Worker) Decisions(n int64, max int) ([]*wire.Record, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n >= w.released {
		return nil, true
	}
	if len(w.recent.records) == 0 || w.recent.records[0].N > n+1 {
		return nil, false
	}
	from := int(n + 1 - w.recent.records[0].N)
	to := min(len(w.recent.records), from+max, int(w.released+1-w.recent.records[0].N))
	if from >= to {
		return nil, false
	}
	return append([]*wire.Record(nil), w.recent.records[from:to]...), true
}
