package memory

import (
	"slices"

	"github.com/dejalog/deja/driver"
)

// keep keeps a batch's records. Records adopted from the journal replace those of the same numbers; a new decision
// replaces all from its number on, which are of a history that is no more.
func (ts *tables) keep(partition int32, b driver.Batch) {
	for _, r := range b.Records {
		rs := ts.records[partition]
		i, found := findRecord(rs, r.N)
		switch {
		case !b.Logged:
			rs = append(rs[:i], r)
		case found:
			rs[i] = r
		default:
			rs = slices.Insert(rs, i, r)
		}
		ts.records[partition] = rs
	}
}

func (ts *tables) kept(partition int32, after int64, max int) []driver.JournalRecord {
	rs := ts.records[partition]
	i, _ := findRecord(rs, after+1)
	var out []driver.JournalRecord
	size := 0
	for _, r := range first(rs[i:], max) {
		size += len(r.Value)
		if len(out) > 0 && size > answerBytes {
			break
		}
		out = append(out, driver.JournalRecord{N: r.N, Value: clone(r.Value)})
	}
	return out
}

// mark notes how far the journal was read back, and lets go of records long logged.
func (ts *tables) mark(partition int32, to driver.Logged) {
	row := ts.row(partition)
	if to.N < row.logged.N || to.Offset < row.logged.Offset {
		return
	}
	row.logged = to
	ts.progress[partition] = row
	rs := ts.records[partition]
	if i, _ := findRecord(rs, to.N-keepLogged+1); i > 0 {
		ts.records[partition] = slices.Delete(rs, 0, i)
	}
}

func findRecord(rs []driver.JournalRecord, n int64) (int, bool) {
	return slices.BinarySearchFunc(rs, n, func(r driver.JournalRecord, n int64) int {
		return int(min(max(r.N-n, -1), 1))
	})
}

// first returns the first n of s, or all.
func first[T any](s []T, n int) []T { return s[:min(len(s), max(n, 0))] }
