package postgres_test

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/postgres"
)

// benchRows is how many old entries the ledger has: DEJA_BENCH_ROWS, say 10000000 in segments of a million.
func benchRows(b *testing.B) (rows, segment int64) {
	b.Helper()
	rows, segment = 20_000, 10_000
	if text := os.Getenv("DEJA_BENCH_ROWS"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		must(b, err)
		rows, segment = n, min(n, 1_000_000)
	}
	return rows, segment
}

// id returns a random id of version 4 or, made n milliseconds/1000 after a fixed moment, of version 7.
func id(version int, n int64) (id deja.ID) {
	_, _ = rand.Read(id[:])
	if version == 7 {
		var ms [8]byte
		binary.BigEndian.PutUint64(ms[:], uint64(1_700_000_000_000+n/1000)<<16)
		copy(id[:6], ms[:6])
	}
	id[6] = id[6]&0x0f | byte(version)<<4
	id[8] = id[8]&0x3f | 0x80
	return id
}

// BenchmarkLedger looks up 2,000 ids, of which 1 in 100 is old, and commits the others' decisions, in turn on an empty
// ledger and on one with a long past. They are to cost nearly the same, whatever the ids.
//
//	DEJA_BENCH_ROWS=10000000 go test -run '^$' -bench Ledger -benchtime 100x -timeout 1h ./postgres
func BenchmarkLedger(b *testing.B) {
	rows, segment := benchRows(b)
	for _, version := range []int{4, 7} {
		b.Run(fmt.Sprintf("v%d/%d", version, rows), func(b *testing.B) {
			empty, old := newAging(b, version, 0, segment), newAging(b, version, rows, segment)
			b.ResetTimer()
			for i := range b.N {
				if i%2 == 0 {
					empty.batch(b)
					old.batch(b)
				} else {
					old.batch(b)
					empty.batch(b)
				}
			}
			for name, a := range map[string]*aging{"empty": empty, "old": old} {
				b.ReportMetric(float64(a.looking.Microseconds())/float64(b.N)/1000, "ms-lookup-"+name)
				b.ReportMetric(float64(a.writing.Microseconds())/float64(b.N)/1000, "ms-commit-"+name)
			}
			b.ReportMetric(float64(empty.looking+empty.writing)/float64(old.looking+old.writing), "rate-old/empty")
		})
	}
}

// aging is a ledger that a worker writes into.
type aging struct {
	*worker
	version          int
	n                int64
	past             []deja.ID
	used             int
	looking, writing time.Duration
}

func newAging(b *testing.B, version int, rows, segment int64) *aging {
	b.Helper()
	db := open(b, newSchema(b), postgres.SegmentRows(segment), quiet)
	a := &aging{version: version, n: rows}
	for n := int64(0); n < rows; n += segment {
		a.past = append(a.past, db.Fill(b, version, n, min(segment, rows-n))...)
	}
	db.MakeFilters(b)
	a.worker = acquire(b, db.Store(), assignment(0))
	return a
}

func (a *aging) batch(b *testing.B) {
	b.Helper()
	const size = 2000
	var fresh, keys []deja.ID
	for j := range size {
		if j%100 == 0 && len(a.past) > 0 {
			keys = append(keys, a.past[a.used%len(a.past)])
			a.used += 7919
			continue
		}
		a.n++
		fresh = append(fresh, id(a.version, a.n))
	}
	hits := len(keys)
	keys = append(keys, fresh...)
	start := time.Now()
	es, asked, err := a.store.Lookup(b.Context(), keys)
	must(b, err)
	a.looking += time.Since(start)
	if len(es) != hits {
		b.Fatalf("found %d, want %d", len(es), hits)
	}
	batch, to := a.worker.batch(asked, fresh...)
	start = time.Now()
	must(b, a.try(batch, to))
	a.writing += time.Since(start)
}
