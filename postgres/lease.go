package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// store is the store in a schema: a cache of the log.
type store struct {
	db     *DB
	closed atomic.Bool
}

var (
	_ driver.Store  = (*store)(nil)
	_ driver.Joint  = (*store)(nil)
	_ driver.Shared = (*store)(nil)
	_ driver.Outbox = (*store)(nil)
)

// Joint reports whether l is the log in the same schema, opened by the same Open.
func (s *store) Joint(l driver.Log) bool {
	own, ok := l.(*log)
	return ok && own.db == s.db
}

// Close ends the use of this store; its connections live as long as its [DB].
func (s *store) Close() error {
	s.closed.Store(true)
	return nil
}

func (s *store) usable() error {
	if s.closed.Load() {
		return ErrClosed
	}
	return s.db.usable()
}

func (s *store) transact(ctx context.Context, fn func(tx pgx.Tx) error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	return s.db.transact(ctx, fn)
}

const leaseColumns = `l.partition, l.epoch, l.nonce, l.position, l.n, l.chain, l.time, l.incarnation, l.incarnation_nonce, l.fold,
	l.logged_n, l.logged_offset, l.logged_chain, l.logged_incarnation, l.logged_incarnation_nonce,
	l.owner, l.owner <> '00000000-0000-0000-0000-000000000000' AND l.until > clock_timestamp(), l.tries, l.careful,
	l.copied`

// scanLease reads a row of leaseColumns.
func scanLease(r pgx.Row, l *driver.Lease) error {
	var (
		p                  = &l.Progress
		at                 int64
		chain, loggedChain []byte
	)
	err := r.Scan(&l.Partition, &l.Epoch, &l.Nonce, &p.Position, &p.N, &chain, &at, &p.Incarnation.Number, &p.Incarnation.Nonce, &p.Fold,
		&l.Logged.N, &l.Logged.Offset, &loggedChain, &l.Logged.Incarnation.Number, &l.Logged.Incarnation.Nonce,
		(*[16]byte)(&l.Owner), &l.Held, &l.Tries, &l.Careful, &l.Copied)
	if err != nil {
		return err
	}
	p.Time = timeOf(at)
	copy(p.Chain[:], chain)
	copy(l.Logged.Chain[:], loggedChain)
	return nil
}

// patience is how long Acquire waits for a commit in flight before it ends the connection that it is on.
const patience = 500 * time.Millisecond

// Acquire takes a partition over. It waits for a commit in flight for half a second. A transaction of an earlier lease
// that is open then is ended with its connection: a process that was frozen in the middle of one would hold up the
// partition's new owner, and nothing of it can commit any more.
func (s *store) Acquire(ctx context.Context, a driver.Assignment) (driver.Lease, error) {
	l, err := s.acquire(ctx, a)
	if code(err) == codeLockNotAvailable {
		if err = s.db.evict(ctx, a.Partition); err == nil {
			l, err = s.acquire(ctx, a)
		}
	}
	if err == nil {
		err = s.db.evict(ctx, a.Partition)
	}
	if err != nil {
		return driver.Lease{}, fmt.Errorf("acquire: %w", err)
	}
	return l, nil
}

const takeLease = `INSERT INTO deja_leases AS l (partition, epoch, nonce, owner, until, tries, tried)
	VALUES ($1, 1, gen_random_uuid(), $2, clock_timestamp() + $3 * interval '1 microsecond', $4, $2)
	ON CONFLICT (partition) DO UPDATE SET epoch = l.epoch + 1, nonce = excluded.nonce, owner = excluded.owner, until = excluded.until,
	tries = l.tries + CASE WHEN l.tried = excluded.owner THEN 0 ELSE excluded.tries END,
	tried = CASE WHEN excluded.tries = 0 THEN l.tried ELSE excluded.owner END
	RETURNING ` + leaseColumns

func (s *store) acquire(ctx context.Context, a driver.Assignment) (l driver.Lease, err error) {
	if a.Partition < 0 || a.Partition >= a.Inbox.Partitions {
		return l, fmt.Errorf("topic %s has %d partitions, and no partition %d", a.Inbox.Name, a.Inbox.Partitions, a.Partition)
	}
	tries, where := 0, ""
	if !a.Owner.IsZero() {
		tries = 1
	}
	err = s.transact(ctx, func(tx pgx.Tx) error {
		if err := s.db.bind(ctx, tx, a); err != nil {
			return err
		}
		if err := s.db.createTables(ctx, tx, a.Tables); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", patience.Milliseconds())); err != nil {
			return err
		}
		if err := comeBack(ctx, tx); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT place || started FROM deja_meta").Scan(&where); err != nil {
			return err
		}
		return scanLease(tx.QueryRow(ctx, takeLease, a.Partition, [16]byte(a.Owner), a.TTL.Microseconds(), tries), &l)
	})
	l.Assignment = a
	if err == nil {
		s.db.at(where)
	}
	return l, err
}

// at notes where the store is. If that is another server than before, or the same one anew, connections that still lead to
// the old one are given up: what they read may be of the past.
func (db *DB) at(where string) {
	if was := db.where.Swap(&where); was != nil && *was != where {
		db.pool.Reset()
	}
}

// whereabouts is what tells that the store went back: a restored dump has new files, a restored cluster or a standby that took
// over a new timeline. (VACUUM FULL of the leases looks the same, and does no harm.) That the server was started anew may
// mean that its files were put back as a whole.
const whereabouts = `substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' || pg_relation_filenode('deja_leases'::regclass)`

// inPlace is the condition that the store is where it was when a lease was last acquired.
const inPlace = `m.place = ` + whereabouts + ` AND m.started = pg_postmaster_start_time()`

// comeBack makes sure that nobody goes on in a store that went back, or may have, as if nothing was lost: it fences all
// leases, and nobody decides before all partitions have read their journals.
func comeBack(ctx context.Context, tx pgx.Tx) error {
	var in, back bool
	err := tx.QueryRow(ctx, "SELECT "+inPlace+" FROM deja_meta m").Scan(&in)
	if err != nil || in {
		return err
	}
	// Another may have been first, and is waited for.
	err = tx.QueryRow(ctx, "SELECT "+inPlace+", m.place NOT IN ('', "+whereabouts+") FROM deja_meta m FOR UPDATE").Scan(&in, &back)
	if err != nil || in {
		return err
	}
	if _, err := tx.Exec(ctx, "SELECT 1 FROM deja_leases ORDER BY partition FOR UPDATE"); err != nil { // as all lock them
		return err
	}
	_, err = tx.Exec(ctx, "UPDATE deja_leases SET epoch = epoch + 1, nonce = gen_random_uuid(), ready = false, copied = copied OR $1", back)
	if err == nil {
		_, err = tx.Exec(ctx, "UPDATE deja_meta SET place = "+whereabouts+", started = pg_postmaster_start_time()")
	}
	return err
}

// evict ends the sessions that are in a core transaction of a partition under a lease that is not the newest. That of the
// newest is not begun yet.
func (db *DB) evict(ctx context.Context, partition int32) error {
	const inTransaction = `SELECT %s FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND classid = $1::int8::oid AND objid = $2::int8::oid AND objsubid = 2`
	of, marked := int64(uint32(db.locks)), int64(firstPartition+partition)
	for until := time.Now().Add(patience); ; {
		var n int
		err := db.pool.QueryRow(ctx, fmt.Sprintf(inTransaction, "count(*)"), of, marked).Scan(&n)
		if err != nil || n == 0 {
			return err
		}
		if time.Now().After(until) {
			break
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	_, err := db.pool.Exec(ctx, fmt.Sprintf(inTransaction, "pg_terminate_backend(pid, 1000)"), of, marked)
	if code(err) == codeForbidden { // another role's: its session's time-outs must do
		db.config.logger.WarnContext(ctx, "a former owner's transaction is open and cannot be ended by this role", "partition", partition, "error", err)
		return nil
	}
	return err
}

// bind ties the schema to a service's topics, or refuses others than those it is tied to. A topic's largest record may
// change.
func (db *DB) bind(ctx context.Context, tx pgx.Tx, a driver.Assignment) error {
	bound, err := binding(ctx, tx)
	if err != nil {
		return err
	}
	for i, role := range []string{"inbox", "journal"} { // in this order, as others may bind them at the same time
		t := []driver.Topic{a.Inbox, a.Journal}[i]
		was, ok := bound[role]
		if !ok {
			if was, err = bindTopic(ctx, tx, role, t); err != nil {
				return err
			}
		}
		if err := sameTopic(role, was, t); err != nil {
			return err
		}
	}
	return nil
}

const selectBinding = "SELECT role, name, cluster, id, partitions FROM deja_binding"

func scanBinding(r pgx.Row, bound map[string]driver.Topic) error {
	var (
		role string
		t    driver.Topic
	)
	err := r.Scan(&role, &t.Name, &t.Cluster, &t.ID, &t.Partitions)
	bound[role] = t
	return err
}

func binding(ctx context.Context, q querier) (map[string]driver.Topic, error) {
	bound := map[string]driver.Topic{}
	err := each(ctx, q, func(r pgx.Rows) error { return scanBinding(r, bound) }, selectBinding)
	return bound, err
}

// bindTopic returns what was bound: by us, or by another process at the same time.
func bindTopic(ctx context.Context, tx pgx.Tx, role string, t driver.Topic) (was driver.Topic, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO deja_binding AS b VALUES ($1, $2, $3, $4, $5) ON CONFLICT (role) DO UPDATE SET role = b.role
		RETURNING name, cluster, id, partitions`, role, t.Name, t.Cluster, t.ID, t.Partitions).
		Scan(&was.Name, &was.Cluster, &was.ID, &was.Partitions)
	return was, err
}

// sameTopic says what differs between the topic that the schema is bound to and the one that it is given.
func sameTopic(role string, was, is driver.Topic) error {
	switch {
	case was.Name != is.Name:
		return fmt.Errorf("%w: the store's %s is topic %q, not %q", driver.ErrIdentity, role, was.Name, is.Name)
	case was.Cluster != is.Cluster:
		return fmt.Errorf("%w: the store's %s %s is of cluster %q, not %q", driver.ErrCluster, role, was.Name, was.Cluster, is.Cluster)
	case was.ID != is.ID:
		return fmt.Errorf("%w: the store's %s %s has id %q, not %q", driver.ErrRecreated, role, was.Name, was.ID, is.ID)
	case was.Partitions != is.Partitions:
		return fmt.Errorf("%w: the store's %s %s has %d, not %d", driver.ErrPartitions, role, was.Name, was.Partitions, is.Partitions)
	}
	return nil
}

// holding is the condition that a lease is the newest; its arguments come first.
const holding = "partition = $1 AND epoch = $2 AND nonce = $3"

func holdingArgs(l driver.Lease, args ...any) []any {
	return append([]any{l.Partition, l.Epoch, l.Nonce}, args...)
}

// Ready notes that the partition holds all that its journal had.
func (s *store) Ready(ctx context.Context, l driver.Lease) (waiting []int32, err error) {
	err = s.transact(ctx, func(tx pgx.Tx) error {
		var ready bool
		err := tx.QueryRow(ctx, "SELECT ready FROM deja_leases WHERE "+holding, holdingArgs(l)...).Scan(&ready)
		if err != nil {
			return fencedIf(err)
		}
		if !ready { // once: who waits for others asks again and again
			tag, err := tx.Exec(ctx, "UPDATE deja_leases SET ready = true WHERE "+holding, holdingArgs(l)...)
			if err != nil {
				return err
			}
			if tag.RowsAffected() != 1 {
				return driver.ErrFenced
			}
		}
		return each(ctx, tx, func(r pgx.Rows) error {
			var p int32
			err := r.Scan(&p)
			waiting = append(waiting, p)
			return err
		}, `SELECT p FROM deja_binding b, generate_series(0, b.partitions - 1) p WHERE b.role = 'inbox'
			AND NOT EXISTS (SELECT 1 FROM deja_leases l WHERE l.partition = p AND l.ready) ORDER BY p`)
	})
	return waiting, err
}

// under runs one statement that changes the lease's row.
func (s *store) under(ctx context.Context, sql string, args []any, dest ...any) error {
	if s.closed.Load() {
		return ErrClosed
	}
	if err := s.db.writable(); err != nil {
		return err
	}
	var one int
	return fencedIf(s.db.pool.QueryRow(ctx, sql, args...).Scan(append(dest, &one)...))
}

// noteAttempt counts the owners that noted the offset before and are no members any more.
const noteAttempt = `UPDATE deja_leases l SET attempted = $4, careful = $5,
	attempts = CASE WHEN l.attempted <> $4 THEN ARRAY[$6::uuid] ELSE array_append(array_remove(l.attempts, $6::uuid), $6::uuid) END
	FROM (SELECT partition, attempted, attempts FROM deja_leases WHERE partition = $1 FOR UPDATE) was
	WHERE l.` + holding + ` AND was.partition = l.partition
	RETURNING (SELECT count(*) FROM unnest(was.attempts) o WHERE was.attempted = $4 AND o <> $6::uuid
		AND NOT EXISTS (SELECT 1 FROM deja_members m WHERE m.id = o AND m.until > clock_timestamp())), 1`

// Attempt notes that a message is about to be handled.
func (s *store) Attempt(ctx context.Context, l driver.Lease, offset, careful int64) (died int64, err error) {
	err = s.under(ctx, noteAttempt, holdingArgs(l, offset, careful, [16]byte(l.Owner)), &died)
	return died, err
}

// Release gives the lease back.
func (s *store) Release(ctx context.Context, l driver.Lease) error {
	return s.under(ctx, "UPDATE deja_leases SET epoch = epoch + 1, nonce = gen_random_uuid(), tries = 0, tried = $4, until = 'epoch', owner = $4 WHERE "+
		holding+" RETURNING 1", holdingArgs(l, [16]byte{}))
}

// noteLogged looks at the row as it is when it is locked.
var noteLogged = func() string {
	set := ""
	for i, column := range []string{"n", "offset", "chain", "incarnation", "incarnation_nonce"} {
		set += fmt.Sprintf("logged_%s = CASE WHEN logged_n <= $4 AND logged_offset <= $5 THEN $%d ELSE logged_%[1]s END, ", column, i+4)
	}
	return "UPDATE deja_leases SET " + strings.TrimSuffix(set, ", ") + " WHERE " + holding + " RETURNING 1"
}()

// Logged notes how far the journal was read back. A mark behind the one that is kept changes nothing.
func (s *store) Logged(ctx context.Context, l driver.Lease, to driver.Logged) error {
	err := s.under(ctx, noteLogged, holdingArgs(l, to.N, to.Offset, to.Chain[:], to.Incarnation.Number, to.Incarnation.Nonce))
	if err == nil {
		err = s.db.trim(ctx, l.Partition, to.N)
	}
	return err
}

// Leases returns the partitions' leases.
func (s *store) Leases(ctx context.Context) (ls []driver.Lease, err error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	bound, err := binding(ctx, s.db.pool)
	if err != nil {
		return nil, err
	}
	return readLeases(ctx, s.db.pool, bound)
}

const selectLeases = "SELECT " + leaseColumns + " FROM deja_leases l ORDER BY l.partition"

func readLeases(ctx context.Context, q querier, bound map[string]driver.Topic) (ls []driver.Lease, err error) {
	err = each(ctx, q, func(r pgx.Rows) error {
		l := driver.Lease{Assignment: driver.Assignment{Inbox: bound["inbox"], Journal: bound["journal"]}}
		err := scanLease(r, &l)
		ls = append(ls, l)
		return err
	}, selectLeases)
	return ls, err
}

// Reset empties the store. It waits for the core transactions that are open, whose leases are fenced then, and makes
// the ledger anew under a number that was not used yet.
func (s *store) Reset(ctx context.Context, l driver.Lease) error {
	return s.transact(ctx, func(tx pgx.Tx) error {
		// Every core transaction holds the first of these from its beginning: none is open from here on. Acquire locks the
		// second before a lease.
		_, err := tx.Exec(ctx, "LOCK TABLE deja_segments IN EXCLUSIVE MODE; LOCK TABLE deja_tables IN SHARE ROW EXCLUSIVE MODE")
		if err != nil {
			return err
		}
		held := false
		err = each(ctx, tx, func(r pgx.Rows) error {
			var own bool
			err := r.Scan(&own)
			held = held || own
			return err
		}, "SELECT "+holding+" FROM deja_leases ORDER BY partition FOR UPDATE", holdingArgs(l)...)
		if err != nil {
			return err
		}
		if !held {
			return driver.ErrFenced
		}
		if err := s.db.emptyLedger(ctx, tx); err != nil {
			return err
		}
		if err := s.db.dropTables(ctx, tx); err != nil {
			return err
		}
		if err := s.db.createTables(ctx, tx, l.Tables); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "TRUNCATE deja_states, deja_parked, deja_repeats")
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE deja_leases SET position = 0, n = 0, chain = $2, time = $3, fold = '', ready = false,
			epoch = CASE WHEN partition = $1 THEN epoch ELSE epoch + 1 END,
			nonce = CASE WHEN partition = $1 THEN nonce ELSE gen_random_uuid() END`, l.Partition, make([]byte, 32), micros(time.Time{}))
		return err
	})
}

// Beat renews a member and its leases, in one round trip. Members that have been dead for a week are forgotten.
func (s *store) Beat(ctx context.Context, m driver.Member, ttl time.Duration) (crew driver.Crew, err error) {
	if err := errors.Join(s.usable(), s.db.writable()); err != nil {
		return crew, err
	}
	var b batch
	b.exec(`INSERT INTO deja_members VALUES ($1, $2, clock_timestamp(), clock_timestamp() + $3 * interval '1 microsecond')
		ON CONFLICT (id) DO UPDATE SET fold = excluded.fold, until = excluded.until`, [16]byte(m.ID), m.Fold, ttl.Microseconds())
	b.exec(`UPDATE deja_leases SET until = clock_timestamp() + $2 * interval '1 microsecond' WHERE owner = $1
		AND partition IN (SELECT partition FROM deja_leases WHERE owner = $1 ORDER BY partition FOR UPDATE)`, [16]byte(m.ID), ttl.Microseconds())
	b.exec(`DELETE FROM deja_members WHERE id IN
		(SELECT id FROM deja_members WHERE until < clock_timestamp() - interval '7 days' FOR UPDATE SKIP LOCKED)`)
	b.rows(func(r pgx.Rows) error {
		var m driver.Member
		err := r.Scan((*[16]byte)(&m.ID), &m.Fold, &m.Started)
		m.Started = m.Started.UTC()
		crew.Members = append(crew.Members, m)
		return err
	}, "SELECT id, fold, started FROM deja_members WHERE until > clock_timestamp() ORDER BY id")
	bound := map[string]driver.Topic{}
	b.rows(func(r pgx.Rows) error { return scanBinding(r, bound) }, selectBinding)
	b.rows(func(r pgx.Rows) error {
		var l driver.Lease
		err := scanLease(r, &l)
		l.Inbox, l.Journal = bound["inbox"], bound["journal"]
		crew.Leases = append(crew.Leases, l)
		return err
	}, selectLeases)
	_, err = send(ctx, s.db.heart, &b) // which the work must not hold up
	return crew, err
}

// Leave ends a membership.
func (s *store) Leave(ctx context.Context, member deja.ID) error {
	return s.transact(ctx, func(tx pgx.Tx) error {
		var b batch
		b.exec("DELETE FROM deja_members WHERE id = $1", [16]byte(member))
		b.exec(`UPDATE deja_leases SET owner = $2 WHERE owner = $1
			AND partition IN (SELECT partition FROM deja_leases WHERE owner = $1 ORDER BY partition FOR UPDATE)`, [16]byte(member), [16]byte{})
		_, err := send(ctx, tx, &b)
		return err
	})
}

// Progress returns how far a partition was handled.
func (s *store) Progress(ctx context.Context, partition int32) (driver.Progress, error) {
	if err := s.usable(); err != nil {
		return driver.Progress{}, err
	}
	var l driver.Lease
	err := scanLease(s.db.pool.QueryRow(ctx, "SELECT "+leaseColumns+" FROM deja_leases l WHERE l.partition = $1", partition), &l)
	if errors.Is(err, pgx.ErrNoRows) {
		return driver.Progress{}, nil
	}
	return l.Progress, err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
