package sqlite

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja/driver"
)

// zeroTime is the zero time in microseconds since 1970, as the columns hold it.
var zeroTime = micros(time.Time{})

const (
	leaseColumns = `SELECT partition, epoch, nonce, position, n, chain, time, incarnation, incarnation_nonce, fold,
		logged_n, logged_offset, owner, until, tries, careful, adopted <> (SELECT adopted FROM deja_file) FROM deja_lease `
	selectLease  = leaseColumns + "WHERE partition = ?"
	selectLeases = leaseColumns + "ORDER BY partition"
)

// readLease fills in what the store knows of a lease.
func readLease(st *sqlite.Stmt, l *driver.Lease) {
	l.Partition = st.ColumnInt32(0)
	l.Epoch = st.ColumnInt64(1)
	st.ColumnBytes(2, l.Nonce[:])
	p := &l.Progress
	p.Position, p.N, p.Time, p.Fold = st.ColumnInt64(3), st.ColumnInt64(4), timeOf(st.ColumnInt64(6)), st.ColumnText(9)
	st.ColumnBytes(5, p.Chain[:])
	p.Incarnation.Number = st.ColumnInt64(7)
	st.ColumnBytes(8, p.Incarnation.Nonce[:])
	l.Logged = driver.Logged{N: st.ColumnInt64(10), Offset: st.ColumnInt64(11)}
	st.ColumnBytes(12, l.Owner[:])
	l.Held = !l.Owner.IsZero() && st.ColumnInt64(13) > micros(time.Now())
	l.Tries, l.Careful, l.Copied = st.ColumnInt64(14), st.ColumnInt64(15), st.ColumnBool(16)
}

// Progress returns how far the partition was handled.
func (s *store) Progress(ctx context.Context, partition int32) (driver.Progress, error) {
	var l driver.Lease
	err := s.read(ctx, func(c conn) error {
		return c.query(selectLease, func(st *sqlite.Stmt) error { readLease(st, &l); return nil }, partition)
	})
	return l.Progress, err
}

// Leases returns the leases as they are.
func (s *store) Leases(ctx context.Context) (ls []driver.Lease, err error) {
	err = s.read(ctx, func(c conn) error {
		var bound driver.Assignment
		if err := readBinding(c, &bound); err != nil {
			return err
		}
		ls = nil
		return c.query(selectLeases, func(st *sqlite.Stmt) error {
			l := driver.Lease{Assignment: bound}
			readLease(st, &l)
			ls = append(ls, l)
			return nil
		})
	})
	return ls, err
}

func readBinding(c conn, a *driver.Assignment) error {
	return c.query("SELECT role, name, cluster, id, partitions FROM deja_binding", func(st *sqlite.Stmt) error {
		t := driver.Topic{
			Name: st.ColumnText(1), Cluster: st.ColumnText(2), ID: st.ColumnText(3), Partitions: st.ColumnInt32(4), MaxRecord: maxRecord,
		}
		if st.ColumnText(0) == "inbox" {
			a.Inbox = t
		} else {
			a.Journal = t
		}
		return nil
	})
}

const (
	insertLease = `INSERT INTO deja_lease (partition, epoch, nonce, token, position, n, chain, time, incarnation, incarnation_nonce, fold,
		logged_n, logged_offset, owner, until, tried, tries, careful, attempted, attempts, ready, adopted)
		VALUES (?, 0, zeroblob(16), zeroblob(16), 0, 0, zeroblob(32), ?, 0, zeroblob(16), '',
		0, 0, zeroblob(16), 0, zeroblob(16), 0, 0, 0, x'', 0, 0)
		ON CONFLICT DO NOTHING`
	takeLease = `UPDATE deja_lease SET epoch = epoch + 1, nonce = ?, token = zeroblob(16), owner = ?, until = ? WHERE partition = ?`
	countTry  = `UPDATE deja_lease SET tries = tries + 1, tried = owner WHERE partition = ? AND owner NOT IN (tried, zeroblob(16))`
)

// Acquire takes a partition over. It waits for a core transaction in flight.
func (s *store) Acquire(ctx context.Context, a driver.Assignment) (driver.Lease, error) {
	l := driver.Lease{}
	err := s.write(ctx, func(c conn) error {
		if a.Partition < 0 || a.Partition >= a.Inbox.Partitions {
			return fmt.Errorf("%s has no partition %d: it has %d, counted from 0", a.Inbox.Name, a.Partition, a.Inbox.Partitions)
		}
		if err := belongs(c, "inbox", a.Inbox); err != nil {
			return err
		}
		if err := belongs(c, "journal", a.Journal); err != nil {
			return err
		}
		if err := s.createTables(c, a.Tables); err != nil {
			return err
		}
		if err := c.exec(insertLease, a.Partition, zeroTime); err != nil {
			return err
		}
		until := micros(time.Now().Add(a.TTL))
		if err := c.exec(takeLease, random(), a.Owner[:], until, a.Partition); err != nil {
			return err
		}
		if err := c.exec(countTry, a.Partition); err != nil {
			return err
		}
		return c.query(selectLease, func(st *sqlite.Stmt) error { readLease(st, &l); return nil }, a.Partition)
	})
	if err != nil {
		return driver.Lease{}, fmt.Errorf("acquire partition %d: %w", a.Partition, err)
	}
	l.Assignment = a
	s.ledger.tend(s.part)
	return l, nil
}

// belongs checks that a topic is of this database, and the one that the store was bound to under a role; the first
// is bound.
func belongs(c conn, role string, t driver.Topic) error {
	db := c.part.db
	own := db.topics.get(t.Name)
	switch {
	case t.Cluster != db.id:
		return fmt.Errorf("%w: %s %q is of %s, the file %s is %s", driver.ErrCluster, role, t.Name, t.Cluster, db.path, db.id)
	case own == nil:
		return fmt.Errorf("%w: %s has no topic %q", driver.ErrIdentity, db.path, t.Name)
	case own.id != t.ID:
		return fmt.Errorf("%w: %s %q of %s is %s, not %s", driver.ErrRecreated, role, t.Name, db.path, own.id, t.ID)
	case len(own.partitions) != int(t.Partitions):
		return fmt.Errorf("%w: %s %q has %d, not %d", driver.ErrPartitions, role, t.Name, len(own.partitions), t.Partitions)
	}
	if err := c.others(func(other conn) error { return refuseSharing(c.part, other, role, t) }); err != nil {
		return err
	}
	if err := c.exec("INSERT INTO deja_binding VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		role, t.Name, t.Cluster, t.ID, t.Partitions); err != nil {
		return err
	}
	return c.query("SELECT name, cluster, id, partitions FROM deja_binding WHERE role = ?", func(st *sqlite.Stmt) error {
		was := driver.Topic{
			Name: st.ColumnText(0), Cluster: st.ColumnText(1), ID: st.ColumnText(2), Partitions: st.ColumnInt32(3), MaxRecord: t.MaxRecord,
		}
		switch {
		case was.Name != t.Name:
			return fmt.Errorf("%w: %s is bound to %s %q, not %q; a service that shares the file has a store of its own, DB.StoreOf",
				driver.ErrIdentity, c.part, role, was.Name, t.Name)
		case was != t:
			return fmt.Errorf("%w: its %s is %+v, not %+v", driver.ErrIdentity, role, was, t)
		}
		return nil
	}, role)
}

// refuseSharing returns an error if another store is bound to a topic that one is to be bound to: two stores would decide
// the same messages, each its own way.
func refuseSharing(p *part, other conn, role string, t driver.Topic) error {
	taken, err := other.queryInt("SELECT count(*) FROM deja_binding WHERE role = ? AND name = ?", role, t.Name)
	if err == nil && taken > 0 {
		err = fmt.Errorf("%s %q belongs to %s in the file %s, so %s %w for it: go on with %s",
			role, t.Name, other.part, p.db.path, p, driver.ErrUnusable, other.part.call())
	}
	return err
}

// held is the condition of a lease's statements, with the arguments that heldBy gives.
const held = " WHERE partition = ? AND epoch = ? AND nonce = ?"

// underLease runs a statement that changes the lease's row if the caller holds the lease.
func underLease(c conn, l driver.Lease, sql string, args ...any) error {
	return fenced(c, sql+held, append(args, l.Partition, l.Epoch, l.Nonce[:])...)
}

// fenced runs a statement that changes a lease's row, or says that the lease is not the caller's.
func fenced(c conn, sql string, args ...any) error {
	if err := c.exec(sql, args...); err != nil {
		return err
	}
	if c.Changes() != 1 {
		return driver.ErrFenced
	}
	return nil
}

// Ready notes that the partition holds all that its journal had.
func (s *store) Ready(ctx context.Context, l driver.Lease) (waiting []int32, err error) {
	err = s.write(ctx, func(c conn) error {
		if err := underLease(c, l, "UPDATE deja_lease SET ready = 1"); err != nil {
			return err
		}
		partitions, err := c.queryInt("SELECT partitions FROM deja_binding WHERE role = 'inbox'")
		if err != nil {
			return err
		}
		ready := make([]bool, partitions)
		waiting = nil
		err = c.query("SELECT partition FROM deja_lease WHERE ready AND partition < ?", func(st *sqlite.Stmt) error {
			ready[st.ColumnInt64(0)] = true
			return nil
		}, partitions)
		for p, ok := range ready {
			if !ok {
				waiting = append(waiting, int32(p))
			}
		}
		return err
	})
	return waiting, err
}

// maxAttempts bounds the owners that are remembered to have attempted a message, the latest.
const maxAttempts = 64

// Attempt notes that a message is about to be handled. One process has the file, so other owners than the one that asks
// are dead.
func (s *store) Attempt(ctx context.Context, l driver.Lease, offset, careful int64) (died int64, err error) {
	err = s.write(ctx, func(c conn) error {
		var owners []byte
		err := c.query("SELECT attempts FROM deja_lease WHERE partition = ? AND attempted = ?", func(st *sqlite.Stmt) error {
			owners = make([]byte, st.ColumnLen(0))
			st.ColumnBytes(0, owners)
			return nil
		}, l.Partition, offset)
		if err != nil {
			return err
		}
		attempts := make([]byte, 0, len(owners)+idLen)
		for o := range slices.Chunk(owners, idLen) {
			if !bytes.Equal(o, l.Owner[:]) {
				attempts = append(attempts, o...)
			}
		}
		died = int64(len(attempts) / idLen)
		attempts = append(attempts, l.Owner[:]...)
		attempts = attempts[max(0, len(attempts)-maxAttempts*idLen):]
		return underLease(c, l, "UPDATE deja_lease SET careful = ?, attempted = ?, attempts = ?", careful, offset, attempts)
	})
	return died, err
}

// Release gives the lease back.
func (s *store) Release(ctx context.Context, l driver.Lease) error {
	return s.write(ctx, func(c conn) error {
		return underLease(c, l, `UPDATE deja_lease SET epoch = epoch + 1, nonce = ?, token = zeroblob(16),
			owner = zeroblob(16), until = 0, tries = 0, tried = zeroblob(16)`,
			random())
	})
}

// Logged notes how far the journal was read back.
func (s *store) Logged(ctx context.Context, l driver.Lease, to driver.Logged) error {
	return s.write(ctx, func(c conn) error {
		return underLease(c, l, "UPDATE deja_lease SET logged_n = max(logged_n, ?), logged_offset = max(logged_offset, ?)", to.N, to.Offset)
	})
}

// Reset empties the store, and makes the projections' tables of the lease anew.
func (s *store) Reset(ctx context.Context, l driver.Lease) error {
	return s.write(ctx, func(c conn) error {
		if err := underLease(c, l, "UPDATE deja_lease SET token = zeroblob(16)"); err != nil {
			return err
		}
		if err := c.exec("UPDATE deja_lease SET epoch = epoch + 1, nonce = randomblob(16), token = zeroblob(16) WHERE partition <> ?",
			l.Partition); err != nil {
			return err
		}
		if err := emptyStore(c); err != nil {
			return err
		}
		return s.createTables(c, l.Tables)
	})
}

// advance is the compare-and-set on which all rests. The token is known to nobody but the transaction that wrote it:
// if the engine rolled that back, and a later statement began another, it does not match.
const advance = `UPDATE deja_lease SET position = ?, n = ?, chain = ?, time = ?, incarnation = ?, incarnation_nonce = ?, fold = ?,
	tries = 0, tried = zeroblob(16)` +
	held + " AND token = ? AND position = ? AND n = ? AND chain = ?"

// renewed notes that a partition of an adopted copy has taken a new incarnation.
const renewed = "UPDATE deja_lease SET adopted = (SELECT adopted FROM deja_file) WHERE partition = ?"
