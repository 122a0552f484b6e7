package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// tx is a core transaction. What it is to write is put together here and goes to the server with Commit, so that nothing
// there is held open while its owner thinks, or sleeps. Only a projection that reads begins it earlier.
type tx struct {
	db    *DB
	store *store
	lease driver.Lease
	joint bool // with the log's journal

	rows     rows
	step     *step
	sql      projector
	err      error
	advanced bool
	ended    bool

	conn    *pgxpool.Conn // nil until it is begun at the server
	catalog *catalog
	pages   int64 // of the newest segment
}

var _ driver.Tx = (*tx)(nil)

// step is what Advance was asked for.
type step struct{ from, to driver.Progress }

// Begin starts a transaction, which is begun at the server when it must be. A lease that was taken over is noticed then.
func (s *store) Begin(ctx context.Context, l driver.Lease) (driver.Tx, error) {
	if err := errors.Join(s.usable(), s.db.writable()); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := &tx{db: s.db, store: s, lease: l, joint: l.Journal.Cluster == s.db.cluster}
	t.sql.tx = t
	return t, nil
}

// check returns why nothing can be written any more.
func (t *tx) check(ctx context.Context) error {
	switch {
	case t.ended:
		return errEnded
	case t.err != nil:
		return t.err
	case t.advanced:
		return t.fail(errAdvanced)
	case ctx.Err() != nil:
		return t.fail(ctx.Err())
	}
	return t.fail(t.store.usable())
}

// fail keeps the first error, and returns it.
func (t *tx) fail(err error) error {
	if err != nil && t.err == nil {
		t.err = err
	}
	return t.err
}

// Write notes what a batch is to write. Whether it can be written comes from Commit.
func (t *tx) Write(ctx context.Context, b *driver.Batch) error {
	if err := t.check(ctx); err != nil {
		return err
	}
	return t.fail(t.rows.add(b))
}

// SQL returns the projections' side of the transaction.
func (t *tx) SQL() deja.Tx { return &t.sql }

// Advance notes how the progress is to move. Whether it may comes from Commit.
func (t *tx) Advance(ctx context.Context, from, to driver.Progress) error {
	if err := t.check(ctx); err != nil {
		return err
	}
	t.step, t.advanced = &step{from, to}, true
	return nil
}

const selectBegun = `SELECT l.epoch = $2 AND l.nonce = $3 AND ` + inPlace + `, c.version, pg_relation_size(('deja_ledger_' || c.newest)::regclass) / 8192
	FROM deja_leases l, deja_catalog c, deja_meta m WHERE l.partition = $1`

// begin begins the transaction at the server, once. Its locks keep the ledger's newest segment from being sealed until its end,
// and mark the session for an Acquire that must end it; what is there is read behind them.
func (t *tx) begin(ctx context.Context) (err error) {
	if t.conn != nil {
		return nil
	}
	if t.conn, err = t.db.pool.Acquire(ctx); err != nil {
		return err
	}
	var (
		b       batch
		held    bool
		version [16]byte
	)
	b.exec("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	b.exec("LOCK TABLE deja_segments IN ROW SHARE MODE")
	b.exec("SELECT pg_advisory_xact_lock_shared($1, $2)", t.db.locks, firstPartition+t.lease.Partition)
	b.row([]any{&held, &version, &t.pages}, selectBegun, holdingArgs(t.lease)...)
	if _, err := send(ctx, t.conn, &b); err != nil {
		return fencedIf(err)
	}
	if !held {
		return driver.ErrFenced
	}
	t.catalog = t.db.ledger.current()
	if t.catalog == nil || t.catalog.version != version {
		t.catalog, err = t.db.loadCatalog(ctx, t.conn)
	}
	return err
}

// Commit writes all and makes it durable. Its error says whether it is certain that nothing was written; if not, only
// Acquire can tell.
func (t *tx) Commit(ctx context.Context) error {
	switch {
	case t.ended:
		return errEnded
	case t.err == nil && !t.advanced:
		t.err = errNoCommit
	case t.err == nil && ctx.Err() != nil:
		t.err = ctx.Err()
	case t.err == nil:
		t.err = t.store.usable()
	}
	certain := true
	if t.err == nil {
		certain, t.err = t.commit(ctx)
	}
	t.end()
	switch {
	case t.err == nil:
		t.committed()
		return nil
	case !certain:
		return fmt.Errorf("commit: the answer was lost, it may have been written: %w", t.err)
	case t.step != nil && !errors.Is(t.err, driver.ErrFenced) && t.elsewhere(ctx):
		return fmt.Errorf("commit: nothing was written: %w: %w", driver.ErrFenced, t.err)
	}
	return fmt.Errorf("commit: nothing was written: %w", t.err)
}

// commit sends what the transaction is to write, and COMMIT behind it.
func (t *tx) commit(ctx context.Context) (certain bool, err error) {
	if err := t.begin(ctx); err != nil {
		return true, err
	}
	var b batch
	if err := t.writeLedger(ctx, &b); err != nil {
		return true, fmt.Errorf("write ledger: %w", err)
	}
	t.sql.queue(&b)
	if err := t.rows.queue(ctx, t, &b); err != nil {
		return true, fmt.Errorf("write journal: %w", err)
	}
	t.queueAdvance(&b)
	fence := b.Len() - 1
	b.exec("COMMIT")
	failed, err := send(ctx, t.conn, &b)
	switch {
	case err == nil:
		return true, nil
	case failed == fence && code(err) == codeDivisionByZero:
		return true, driver.ErrFenced
	}
	return refused(err) && failed < b.Len(), t.sql.explain(failed, err)
}

// advanceLease is the compare-and-set on which all rests.
var advanceLease = must(`UPDATE deja_leases SET position = $7, n = $8, chain = $9, time = $10, incarnation = $11, incarnation_nonce = $12,
	fold = $13, copied = copied AND incarnation = $11 AND incarnation_nonce = $12, tries = 0, tried = '00000000-0000-0000-0000-000000000000' WHERE ` + holding + ` AND position = $4 AND n = $5 AND chain = $6 RETURNING 1`)

// advanceJoint does so where what is committed is logged.
var advanceJoint = must(`UPDATE deja_leases SET position = $7, n = $8, chain = $9, time = $10, incarnation = $11, incarnation_nonce = $12,
	fold = $13, copied = copied AND incarnation = $11 AND incarnation_nonce = $12, tries = 0, tried = '00000000-0000-0000-0000-000000000000', 
	logged_n = $8, logged_chain = $9, logged_incarnation = $11, logged_incarnation_nonce = $12,
	logged_offset = (SELECT e.next FROM deja_ends e JOIN deja_topics t ON t.k = e.topic WHERE t.id = $14 AND e.partition = $1)
	WHERE ` + holding + ` AND position = $4 AND n = $5 AND chain = $6 RETURNING 1`)

func (t *tx) queueAdvance(b *batch) {
	from, to := &t.step.from, &t.step.to
	args := holdingArgs(t.lease, from.Position, from.N, from.Chain[:],
		to.Position, to.N, to.Chain[:], micros(to.Time), to.Incarnation.Number, to.Incarnation.Nonce, to.Fold)
	var one int64
	if t.joint {
		b.row([]any{&one}, advanceJoint, append(args, t.lease.Journal.ID)...)
	} else {
		b.row([]any{&one}, advanceLease, args...)
	}
}

// elsewhere reports whether it is certain that the store is not where the caller left it: then somebody else came first,
// and whatever else went wrong follows from that.
func (t *tx) elsewhere(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var l driver.Lease
	err := scanLease(t.db.pool.QueryRow(ctx, "SELECT "+leaseColumns+" FROM deja_leases l WHERE l.partition = $1", t.lease.Partition), &l)
	if errors.Is(err, pgx.ErrNoRows) {
		return true
	}
	from, now := &t.step.from, &l.Progress
	return err == nil && (l.Epoch != t.lease.Epoch || l.Nonce != t.lease.Nonce ||
		now.Position != from.Position || now.N != from.N || !bytes.Equal(now.Chain[:], from.Chain[:]))
}

// committed does what a commit makes possible.
func (t *tx) committed() {
	if t.joint && t.rows.count > 0 {
		t.db.wake(t.lease.Journal.Name, t.lease.Partition)
	}
	if t.db.full(t.pages) {
		t.db.sealSoon(t.catalog.newest())
	}
}

// Rollback gives everything up, whatever the context says.
func (t *tx) Rollback(context.Context) error {
	if !t.ended {
		t.end()
	}
	return nil
}

// end gives the connection back. One in which a transaction is open still is ended with it if it does not answer.
func (t *tx) end() {
	t.ended = true
	t.sql.pending = nil
	if t.conn == nil {
		return
	}
	conn := t.conn.Conn()
	if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = conn.Exec(ctx, "ROLLBACK") // after an error the pool closes the connection, which rolls back too
	}
	t.conn.Release()
	t.conn = nil
}
