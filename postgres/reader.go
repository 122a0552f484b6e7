package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// Queries by many keys join them to a LATERAL subquery that OFFSET 0 keeps whole: whatever the planner knows of a table
// that was empty when it last looked, it looks each key up in the index.

const (
	stateColumns = "s.tenant, s.aggregate, s.key, s.partition, s.version, s.data, s.position, s.n, s.parked, s.open, s.due"

	loadStates = "SELECT " + stateColumns + ` FROM unnest($1::text[], $2::text[], $3::text[]) AS k (tenant, aggregate, key),
		LATERAL (SELECT * FROM deja_states d WHERE d.tenant = k.tenant AND d.aggregate = k.aggregate AND d.key = k.key OFFSET 0) s`

	pageStates = "SELECT " + stateColumns + ` FROM deja_states s WHERE (s.tenant, s.aggregate, s.key) > ($1, $2, $3)
		ORDER BY s.tenant, s.aggregate, s.key LIMIT $4`

	pageOpen = "SELECT " + stateColumns + ` FROM deja_states s WHERE s.partition = $1 AND s.open IS NOT NULL
		AND (s.tenant, s.aggregate, s.key) > ($2, $3, $4) ORDER BY s.tenant, s.aggregate, s.key LIMIT $5`

	pageDue = "SELECT " + stateColumns + ` FROM deja_states s WHERE s.partition = $1 AND s.due <= $2
		AND (s.due, s.tenant, s.aggregate, s.key) > ($3, $4, $5, $6) ORDER BY s.due, s.tenant, s.aggregate, s.key LIMIT $7`
)

func scanState(r pgx.Row, s *driver.State) error {
	var due *int64
	err := r.Scan(&s.Stream.Tenant, &s.Stream.Aggregate, &s.Stream.Key, &s.Partition, &s.Version, &s.Data, &s.Position, &s.N, &s.Parked,
		&s.Open, &due)
	if len(s.Data) == 0 {
		s.Data = nil
	}
	if due != nil {
		s.Due = timeOf(*due)
	}
	return err
}

func (s *store) states(ctx context.Context, sql string, args ...any) (ss []driver.State, err error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	err = each(ctx, s.db.pool, func(r pgx.Rows) error {
		var st driver.State
		err := scanState(r, &st)
		ss = append(ss, st)
		return err
	}, sql, args...)
	return ss, err
}

// Load returns the states that exist among the streams, in the order of streams.
func (s *store) Load(ctx context.Context, streams []deja.Stream) ([]driver.State, error) {
	if len(streams) == 0 {
		return nil, ctx.Err()
	}
	streams = slices.Clone(streams)
	slices.SortFunc(streams, deja.Stream.Compare)
	streams = slices.Compact(streams)
	c := newStreamColumns(len(streams))
	for _, st := range streams {
		c.add(st)
	}
	return s.states(ctx, loadStates, c.tenants, c.aggregates, c.keys)
}

// streamColumns are streams as arrays.
type streamColumns struct{ tenants, aggregates, keys []string }

func newStreamColumns(n int) streamColumns {
	return streamColumns{make([]string, 0, n), make([]string, 0, n), make([]string, 0, n)}
}

func (c *streamColumns) add(s deja.Stream) {
	c.tenants, c.aggregates, c.keys = append(c.tenants, s.Tenant), append(c.aggregates, s.Aggregate), append(c.keys, s.Key)
}

// States returns the states after a stream.
func (s *store) States(ctx context.Context, after deja.Stream, limit int) ([]driver.State, error) {
	return s.states(ctx, pageStates, after.Tenant, after.Aggregate, after.Key, max(limit, 0))
}

// Open returns the states that wait for something after a stream.
func (s *store) Open(ctx context.Context, partition int32, after deja.Stream, limit int) ([]driver.State, error) {
	return s.states(ctx, pageOpen, partition, after.Tenant, after.Aggregate, after.Key, max(limit, 0))
}

// Due returns the states that are due by a time after a state.
func (s *store) Due(ctx context.Context, partition int32, until time.Time, after driver.State, limit int) ([]driver.State, error) {
	of := after.Stream
	return s.states(ctx, pageDue, partition, micros(until), micros(after.Due), of.Tenant, of.Aggregate, of.Key, max(limit, 0))
}

const (
	parkedColumns      = "SELECT off, tenant, aggregate, key, id, n FROM deja_parked WHERE partition = $1 AND off >= $2 "
	selectParked       = parkedColumns + "ORDER BY off LIMIT $3"
	selectParkedStream = parkedColumns + "AND tenant = $4 AND aggregate = $5 AND key = $6 ORDER BY off LIMIT $3"
)

// Parked returns parked messages in the order of their offsets.
func (s *store) Parked(ctx context.Context, partition int32, stream deja.Stream, from int64, limit int) (ps []driver.Parked, err error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	sql, args := selectParked, []any{partition, from, max(limit, 0)}
	if stream != (deja.Stream{}) {
		sql, args = selectParkedStream, append(args, stream.Tenant, stream.Aggregate, stream.Key)
	}
	err = each(ctx, s.db.pool, func(r pgx.Rows) error {
		p := driver.Parked{Partition: partition}
		err := r.Scan(&p.Offset, &p.Stream.Tenant, &p.Stream.Aggregate, &p.Stream.Key, (*[16]byte)(&p.Key), &p.N)
		ps = append(ps, p)
		return err
	}, sql, args...)
	return ps, err
}

// Repeats returns what is counted for a key.
func (s *store) Repeats(ctx context.Context, key deja.ID) (rs []driver.Repeat, err error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	err = each(ctx, s.db.pool, func(r pgx.Rows) error {
		c := driver.Repeat{Key: key}
		err := r.Scan(&c.Partition, &c.Conflict, &c.Count, &c.First, &c.Last)
		rs = append(rs, c)
		return err
	}, "SELECT partition, conflict, count, first, last FROM deja_repeats WHERE key = $1 ORDER BY conflict", [16]byte(key))
	return rs, err
}
