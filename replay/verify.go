package replay

import (
	"context"
	"errors"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/step"
)

// A Difference is where a decision, made again, is not what was recorded. It is an error.
type Difference = step.Difference

// A Verdict is the result of a verification.
type Verdict struct {
	Messages  int64       // decisions read; the chain of their records holds
	Judged    int64       // decided again and equal
	NotJudged int64       // decided by another build, Go version or architecture: folded only
	First     *Difference // the first difference; nil: none
	Hash      Hash        // of the states that the decisions give, if there is no difference
}

// Verify decides every message of the history again, each on the state that the record gives, and compares the
// decision with what was recorded: outcome, events, IDs, what was written, and so the chain; and then the store's
// ledger, states and parked messages, if there is a store, with what the record gives. Projections' rows are not compared. build names the running
// program as the engine does; decisions of another are not judged. It stops at the first difference. Memory grows
// with the live states and the ledger's index.
func (s *Source) Verify(ctx context.Context, build string, progress func(done, total int64)) (Verdict, error) {
	var v Verdict
	var rows []driver.State
	total, err := s.size(ctx)
	if err != nil {
		return v, err
	}
	for p := range s.partitions {
		check, err := step.NewVerifier(ctx, step.Config{Machine: s.machine, Log: s.log, Partition: p, Build: build})
		if err != nil {
			return v, err
		}
		from, err := s.whole(ctx, p)
		if err != nil {
			return v, err
		}
		err = s.scan(ctx, p, from, func(e *journal.Entry) (bool, error) {
			judged, err := check.Check(ctx, e)
			if err != nil {
				return false, err
			}
			v.Messages++
			if judged {
				v.Judged++
			} else {
				v.NotJudged++
			}
			if progress != nil && v.Messages%progressEvery == 0 {
				progress(v.Messages, total)
			}
			return true, nil
		})
		if err == nil && s.store != nil {
			err = check.Store(ctx, s.store)
		}
		if errors.As(err, &v.First) {
			return v, nil
		}
		if err != nil {
			return v, err
		}
		rows = append(rows, check.States()...)
	}
	v.Hash, err = hashRows(s.machine, rows)
	return v, err
}
