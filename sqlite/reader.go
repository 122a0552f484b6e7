package sqlite

import (
	"context"
	"slices"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

const (
	stateColumns = "SELECT tenant, aggregate, key, partition, version, data, position, n, parked, open, due FROM deja_states "
	selectState  = stateColumns + "WHERE tenant = ? AND aggregate = ? AND key = ?"
	selectStates = stateColumns + "WHERE (tenant, aggregate, key) > (?, ?, ?) ORDER BY tenant, aggregate, key LIMIT ?"
	selectOpen   = stateColumns + `WHERE partition = ? AND open IS NOT NULL AND (tenant, aggregate, key) > (?, ?, ?)
		ORDER BY tenant, aggregate, key LIMIT ?`
	selectDue = stateColumns + `WHERE partition = ? AND due <= ? AND (due, tenant, aggregate, key) > (?, ?, ?, ?)
		ORDER BY due, tenant, aggregate, key LIMIT ?`
)

// Load returns the states that exist among the streams, in the order of streams.
func (s *store) Load(ctx context.Context, streams []deja.Stream) (ss []driver.State, err error) {
	if len(streams) == 0 {
		return nil, ctx.Err()
	}
	streams = slices.Clone(streams)
	slices.SortFunc(streams, deja.Stream.Compare)
	streams = slices.Compact(streams)
	err = s.readWarm(ctx, func(c conn) error {
		ss, err = load(c, streams)
		return err
	})
	return ss, err
}

func load(c conn, streams []deja.Stream) ([]driver.State, error) {
	st, err := c.Prepare(selectState)
	if err != nil {
		return nil, err
	}
	var (
		data blobs
		ss   []driver.State
	)
	for i := range streams {
		st.BindText(1, streams[i].Tenant)
		st.BindText(2, streams[i].Aggregate)
		st.BindText(3, streams[i].Key)
		found, err := st.Step()
		if err != nil {
			return nil, err
		}
		if found {
			ss = append(ss, readState(st, streams[i], &data))
		}
		if err := st.Reset(); err != nil {
			return nil, err
		}
	}
	return ss, nil
}

// readState reads all but the stream, which Load's caller has given.
func readState(st *sqlite.Stmt, stream deja.Stream, data *blobs) driver.State {
	s := driver.State{
		Stream: stream, Partition: st.ColumnInt32(3), Version: st.ColumnInt64(4), Data: data.column(st, 5),
		Position: st.ColumnInt64(6), N: st.ColumnInt64(7), Parked: st.ColumnInt64(8), Open: data.column(st, 9),
	}
	if !st.ColumnIsNull(10) {
		s.Due = timeOf(st.ColumnInt64(10))
	}
	return s
}

func readStream(st *sqlite.Stmt, col int) deja.Stream {
	return deja.Stream{Tenant: st.ColumnText(col), Aggregate: st.ColumnText(col + 1), Key: st.ColumnText(col + 2)}
}

// States returns the states after a stream.
func (s *store) States(ctx context.Context, after deja.Stream, limit int) ([]driver.State, error) {
	return s.states(ctx, selectStates, after.Tenant, after.Aggregate, after.Key, max(limit, 0))
}

// Open returns the states that wait for something after a stream.
func (s *store) Open(ctx context.Context, partition int32, after deja.Stream, limit int) ([]driver.State, error) {
	return s.states(ctx, selectOpen, partition, after.Tenant, after.Aggregate, after.Key, max(limit, 0))
}

// Due returns the states that are due by a time after a state.
func (s *store) Due(ctx context.Context, partition int32, until time.Time, after driver.State, limit int) ([]driver.State, error) {
	of := after.Stream
	return s.states(ctx, selectDue, partition, micros(until), micros(after.Due), of.Tenant, of.Aggregate, of.Key, max(limit, 0))
}

func (s *store) states(ctx context.Context, sql string, args ...any) (ss []driver.State, err error) {
	err = s.read(ctx, func(c conn) error {
		var data blobs
		ss = nil
		return c.query(sql, func(st *sqlite.Stmt) error {
			ss = append(ss, readState(st, readStream(st, 0), &data))
			return nil
		}, args...)
	})
	return ss, err
}

const (
	parkedColumns      = "SELECT offset, tenant, aggregate, key, id, n FROM deja_parked "
	selectParked       = parkedColumns + "WHERE partition = ? AND offset >= ? ORDER BY offset LIMIT ?"
	selectParkedStream = parkedColumns +
		"WHERE tenant = ? AND aggregate = ? AND key = ? AND partition = ? AND offset >= ? ORDER BY offset LIMIT ?"
)

// Parked returns parked messages in the order of their offsets.
func (s *store) Parked(ctx context.Context, partition int32, stream deja.Stream, from int64, limit int) (ps []driver.Parked, err error) {
	sql, args := selectParked, []any{partition, from, max(limit, 0)}
	if stream != (deja.Stream{}) {
		sql, args = selectParkedStream, []any{stream.Tenant, stream.Aggregate, stream.Key, partition, from, max(limit, 0)}
	}
	err = s.read(ctx, func(c conn) error {
		ps = nil
		return c.query(sql, func(st *sqlite.Stmt) error {
			p := driver.Parked{Partition: partition, Offset: st.ColumnInt64(0), Stream: readStream(st, 1), N: st.ColumnInt64(5)}
			st.ColumnBytes(4, p.Key[:])
			ps = append(ps, p)
			return nil
		}, args...)
	})
	return ps, err
}

// Repeats returns what is counted for a key.
func (s *store) Repeats(ctx context.Context, key deja.ID) (rs []driver.Repeat, err error) {
	err = s.read(ctx, func(c conn) error {
		rs = nil
		return c.query("SELECT conflict, partition, count, first, last FROM deja_repeats WHERE key = ? ORDER BY conflict",
			func(st *sqlite.Stmt) error {
				rs = append(rs, driver.Repeat{
					Key: key, Conflict: st.ColumnBool(0), Partition: st.ColumnInt32(1),
					Count: st.ColumnInt64(2), First: st.ColumnInt64(3), Last: st.ColumnInt64(4),
				})
				return nil
			}, key[:])
	})
	return rs, err
}
