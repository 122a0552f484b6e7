package memory

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/dejalog/deja"
)

// ErrNoQueries is yielded by Rows, and then returned by the transaction's other calls.
var ErrNoQueries = errors.New("the in-memory store records statements and has no query engine: test projections that read on a real store")

// A Statement is one that a projection queued.
type Statement struct {
	Partition int32
	SQL       string
	Args      []any
}

// Executed returns the statements of committed transactions, in order: all that projections would have done to their
// tables, once each.
func (s *Store) Executed() []Statement {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := slices.Clone(s.tables.executed)
	for i := range out {
		out[i].Args = copyArgs(out[i].Args)
	}
	return out
}

// recorder is the projections' side of a transaction.
type recorder struct{ tx *Tx }

// Queue implements [deja.Tx].
func (r recorder) Queue(sql string, args ...any) {
	tx := r.tx
	if tx.err != nil || tx.ended {
		return
	}
	if tx.err = checkArgs(args); tx.err == nil {
		tx.statements = append(tx.statements, Statement{tx.lease.Partition, sql, copyArgs(args)})
	}
}

// Rows implements [deja.Tx]: it yields an error.
func (r recorder) Rows(string, ...any) iter.Seq2[deja.Row, error] {
	return func(yield func(deja.Row, error) bool) {
		if r.tx.ended {
			yield(nil, errEnded)
			return
		}
		r.tx.err = cmp.Or(r.tx.err, ErrNoQueries)
		yield(nil, r.tx.err)
	}
}

func checkArgs(args []any) error {
	for i, a := range args {
		switch a.(type) {
		case nil, bool, float64, string, []byte, time.Time,
			int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		default:
			return fmt.Errorf("argument $%d is a %T, which no column takes", i+1, a)
		}
	}
	return nil
}

func copyArgs(args []any) []any {
	out := slices.Clone(args)
	for i, a := range out {
		if b, ok := a.([]byte); ok {
			out[i] = slices.Clone(b)
		}
	}
	return out
}
