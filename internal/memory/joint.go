package memory

import (
	"context"
	"fmt"

	"github.com/dejalog/deja/driver"
)

// applyJointly writes the transaction and appends its records to the journal of the store's log. Both are locked
// until both are done, so that nobody sees one without the other.
func (tx *Tx) applyJointly(ctx context.Context) error {
	log := tx.store.joint
	log.mu.Lock()
	defer log.mu.Unlock()
	journal, err := log.topic(ctx, tx.lease.Journal.Name)
	if err != nil {
		return err
	}
	var rs []driver.Record
	for _, b := range tx.batches {
		if b.Logged {
			continue
		}
		for _, r := range b.Records {
			rs = append(rs, driver.Record{Partition: tx.lease.Partition, Value: r.Value})
		}
	}
	if err := journal.check(rs); err != nil {
		return fmt.Errorf("commit: append to %s: %w", journal.Name, err)
	}
	journal.append(rs, log.config.Now())
	tx.apply()
	// What is committed is logged: there is nothing to read back.
	tx.store.tables.mark(tx.lease.Partition, driver.Logged{N: tx.step.to.N, Offset: journal.partitions[tx.lease.Partition].end})
	return nil
}
