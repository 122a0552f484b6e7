package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/dejalog/deja"
)

// projector is the projections' side of a core transaction. Statements are sent with the commit, or before a query. Its first
// error is the transaction's.
type projector struct {
	tx      *tx
	pending []statement
	base    int         // where the pending statements begin in the batch that they were sent in
	sent    []statement // those of that batch
}

type statement struct {
	sql  string
	args []any
}

var _ deja.Tx = (*projector)(nil)

// Queue notes a statement.
func (p *projector) Queue(sql string, args ...any) {
	if p.tx.check(context.Background()) != nil {
		return
	}
	st, err := p.statement(sql, args)
	if err != nil {
		_ = p.tx.fail(fmt.Errorf("projection statement %q: %w", sql, err))
		return
	}
	p.pending = append(p.pending, st)
}

// statement checks a statement, and makes arguments of it that the engine's driver knows.
func (p *projector) statement(sql string, args []any) (statement, error) {
	if err := p.tx.db.checked.check(sql); err != nil {
		return statement{}, err
	}
	st := statement{sql, make([]any, len(args))}
	for i, arg := range args {
		switch v := arg.(type) {
		case time.Time:
			st.args[i] = moment(v)
		case []byte:
			st.args[i] = append([]byte{}, v...)
			if v == nil {
				st.args[i] = nil
			}
		default:
			st.args[i] = arg
		}
	}
	return st, nil
}

// queue adds what is pending to a batch.
func (p *projector) queue(b *batch) {
	p.base, p.sent, p.pending = b.Len(), p.pending, nil
	for _, st := range p.sent {
		b.exec(st.sql, st.args...)
	}
}

// explain adds to a batch's error which projection's statement it is of, if it is of one.
func (p *projector) explain(failed int, err error) error {
	if i := failed - p.base; i >= 0 && i < len(p.sent) {
		return fmt.Errorf("projection statement %q: %w", p.sent[i].sql, err)
	}
	return err
}

// flush sends what is pending.
func (p *projector) flush(ctx context.Context) error {
	if err := p.tx.begin(ctx); err != nil {
		return err
	}
	var b batch
	p.queue(&b)
	failed, err := send(ctx, p.tx.conn, &b)
	return p.explain(failed, err)
}

// Rows runs what is queued and then the query, whose rows it reads to the end before it yields the first: the caller's code
// may use the transaction.
func (p *projector) Rows(sql string, args ...any) iter.Seq2[deja.Row, error] {
	return func(yield func(deja.Row, error) bool) {
		ctx := context.Background() // bounded by the session's statement_timeout
		err := p.tx.check(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		rs, err := p.query(ctx, sql, args)
		if err != nil {
			yield(nil, p.tx.fail(err))
			return
		}
		for i := range rs {
			if err := p.tx.check(ctx); err != nil { // the caller's code ran since the last row
				yield(nil, err)
				return
			}
			if !yield(&rs[i], nil) {
				return
			}
		}
	}
}

func (p *projector) query(ctx context.Context, sql string, args []any) (rs []row, err error) {
	st, err := p.statement(sql, args)
	if err == nil {
		err = p.flush(ctx)
	}
	if err == nil {
		err = each(ctx, p.tx.conn, func(r pgx.Rows) error {
			row := row{types: r.Conn().TypeMap(), fields: r.FieldDescriptions()}
			for _, v := range r.RawValues() {
				if v != nil {
					v = append([]byte{}, v...)
				}
				row.values = append(row.values, v)
			}
			rs = append(rs, row)
			return nil
		}, st.sql, st.args...)
	}
	if err != nil {
		return nil, fmt.Errorf("projection query %q: %w", sql, err)
	}
	return rs, nil
}

// row is a row that was read.
type row struct {
	types  *pgtype.Map // the connection's
	fields []pgconn.FieldDescription
	values [][]byte
}

// Scan copies the row's columns.
func (r *row) Scan(dest ...any) error {
	if len(dest) != len(r.values) {
		return fmt.Errorf("scan: the row has %d columns, not %d", len(r.values), len(dest))
	}
	for i, d := range dest {
		if err := r.column(i, d); err != nil {
			return fmt.Errorf("scan column %d (%s): %w", i+1, r.fields[i].Name, err)
		}
	}
	return nil
}

func (r *row) column(i int, dest any) error {
	switch d := dest.(type) {
	case *bool, *int64, *float64, *string, *[]byte:
	case *time.Time:
		dest = (*moment)(d)
	default:
		return fmt.Errorf("cannot scan into a %T: want *bool, *int64, *float64, *string, *[]byte or *time.Time", dest)
	}
	f := &r.fields[i]
	return r.types.Scan(f.DataTypeOID, f.Format, r.values[i], dest)
}

// moment is a time that goes into columns of times, and as RFC 3339 text in UTC into columns of text.
type moment time.Time

func (m moment) utc() time.Time { return time.Time(m).UTC() }

// TextValue is what goes into a text column.
func (m moment) TextValue() (pgtype.Text, error) {
	return pgtype.Text{String: m.utc().Format(time.RFC3339Nano), Valid: true}, nil
}

// TimestamptzValue is what goes into a column of moments.
func (m moment) TimestamptzValue() (pgtype.Timestamptz, error) {
	return pgtype.Timestamptz{Time: m.utc(), Valid: true}, nil
}

// TimestampValue is what goes into a column of times without a zone.
func (m moment) TimestampValue() (pgtype.Timestamp, error) {
	return pgtype.Timestamp{Time: m.utc(), Valid: true}, nil
}

// DateValue is what goes into a column of days.
func (m moment) DateValue() (pgtype.Date, error) { return pgtype.Date{Time: m.utc(), Valid: true}, nil }

var errNull = errors.New("it holds null")

func (m *moment) set(t time.Time, valid bool, finite bool) error {
	switch {
	case !valid:
		return errNull
	case !finite:
		return errors.New("it holds infinity")
	}
	*m = moment(t.UTC())
	return nil
}

// ScanText reads a text column.
func (m *moment) ScanText(v pgtype.Text) error {
	if !v.Valid {
		return errNull
	}
	t, err := time.Parse(time.RFC3339Nano, v.String)
	if err != nil {
		return err
	}
	return m.set(t, true, true)
}

// ScanTimestamptz reads a column of moments.
func (m *moment) ScanTimestamptz(v pgtype.Timestamptz) error {
	return m.set(v.Time, v.Valid, v.InfinityModifier == pgtype.Finite)
}

// ScanTimestamp reads a column of times without a zone.
func (m *moment) ScanTimestamp(v pgtype.Timestamp) error {
	return m.set(v.Time, v.Valid, v.InfinityModifier == pgtype.Finite)
}

// ScanDate reads a column of days.
func (m *moment) ScanDate(v pgtype.Date) error {
	return m.set(v.Time, v.Valid, v.InfinityModifier == pgtype.Finite)
}

// Tx returns the transaction of the engine's driver behind a projection's, for what [deja.Tx] has no words for. The schema is the
// first on its search path. All done with it is part of the core transaction, so its Commit and Rollback refuse, and the
// rules for projections are the caller's to keep. It reports false where the projection runs on something else.
func Tx(of deja.Tx) (pgx.Tx, bool) {
	p, ok := of.(*projector)
	if !ok || p.tx.check(context.Background()) != nil {
		return nil, false
	}
	ctx := context.Background() // bounded by the session's statement_timeout
	var inner pgx.Tx
	err := p.flush(ctx)
	if err == nil {
		inner, err = p.tx.conn.BeginTx(ctx, pgx.TxOptions{BeginQuery: ";"}) // it has begun
	}
	if err != nil {
		_ = p.tx.fail(err)
		return nil, false
	}
	return coreTx{inner}, true
}

// coreTx is the core transaction in the hands of a projection.
type coreTx struct{ pgx.Tx }

var errCore = errors.New("the core transaction ends by itself")

// Commit refuses.
func (coreTx) Commit(context.Context) error { return errCore }

// Rollback refuses.
func (coreTx) Rollback(context.Context) error { return errCore }
