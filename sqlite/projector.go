package sqlite

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja"
)

// projector is the projections' side of a core transaction: statements run at once, on the projections' tables only.
// Its first error is the transaction's.
type projector struct {
	tx        *tx
	transient []*sqlite.Stmt // compiled beyond the cache's bound, or while the cached one is in use
	busy      map[*sqlite.Stmt]bool
}

var _ deja.Tx = (*projector)(nil)

// maxStatements bounds the compiled statements that are kept: projections have few texts, unless they make them up.
const maxStatements = 256

// A prepared statement knows which argument each of its parameters stands for.
type prepared struct {
	*sqlite.Stmt
	args []int
}

// Queue runs a statement.
func (p *projector) Queue(sql string, args ...any) {
	if p.tx.check(context.Background()) != nil {
		return
	}
	st, err := p.prepare(sql, args)
	if err == nil {
		err = p.tx.conn.part.guarded(projecting, func() error {
			for {
				if more, err := st.Step(); err != nil || !more {
					return err
				}
			}
		})
		if err == nil {
			err = st.Reset()
		}
	}
	if err != nil {
		_ = p.tx.fail(fmt.Errorf("projection statement %q: %w", sql, err))
	}
}

// Rows runs a query, and yields its rows as it finds them.
func (p *projector) Rows(sql string, args ...any) iter.Seq2[deja.Row, error] {
	return func(yield func(deja.Row, error) bool) {
		if err := p.tx.check(context.Background()); err != nil {
			yield(nil, err)
			return
		}
		st, err := p.prepare(sql, args)
		if err != nil {
			yield(nil, p.tx.fail(fmt.Errorf("projection query %q: %w", sql, err)))
			return
		}
		p.setBusy(st.Stmt, true)
		defer p.setBusy(st.Stmt, false)
		defer func() {
			if !p.tx.ended { // else its end has reset the statement
				_ = st.Reset() // gives the last step's error again
			}
		}()
		p.yieldRows(sql, st, yield)
	}
}

func (p *projector) yieldRows(sql string, st prepared, yield func(deja.Row, error) bool) {
	r := row{st.Stmt}
	for {
		var more bool
		err := p.tx.check(context.Background()) // the caller's code ran since the last row
		if err == nil {
			err = p.tx.conn.part.guarded(projecting, func() (err error) {
				more, err = st.Step()
				return err
			})
			if err != nil {
				err = p.tx.fail(fmt.Errorf("projection query %q: %w", sql, err))
			}
		}
		if err != nil {
			yield(nil, err)
			return
		}
		if !more || !yield(&r, nil) {
			return
		}
	}
}

func (p *projector) setBusy(st *sqlite.Stmt, busy bool) {
	if p.busy == nil {
		p.busy = map[*sqlite.Stmt]bool{}
	}
	if busy {
		p.busy[st] = true
	} else {
		delete(p.busy, st)
	}
}

// prepare returns a statement with its arguments bound.
func (p *projector) prepare(sql string, args []any) (prepared, error) {
	st, err := p.statement(sql)
	if err != nil {
		return st, err
	}
	used := 0
	for i, arg := range st.args {
		if arg >= len(args) {
			return st, fmt.Errorf("it uses $%d, but has %d arguments", arg+1, len(args))
		}
		if err := bind(st.Stmt, i+1, args[arg]); err != nil {
			return st, err
		}
		used = max(used, arg+1)
	}
	if used < len(args) {
		return st, fmt.Errorf("it has %d arguments, but uses up to $%d", len(args), used)
	}
	return st, nil
}

// statement returns a compiled statement that is not in use.
func (p *projector) statement(sql string) (prepared, error) {
	of := p.tx.conn.part
	if st, ok := of.statements[sql]; ok && !p.busy[st.Stmt] {
		if err := st.Reset(); err != nil {
			return st, err
		}
		err := st.ClearBindings()
		return st, err
	}
	var st prepared
	if err := refuseVolatile(sql); err != nil {
		return st, err
	}
	err := of.guarded(projecting, func() (err error) {
		st, err = compile(of.db.conn, sql)
		return err
	})
	if err != nil {
		return st, err
	}
	if _, ok := of.statements[sql]; ok || len(of.statements) >= maxStatements {
		p.transient = append(p.transient, st.Stmt)
	} else {
		of.statements[sql] = st
	}
	return st, nil
}

func compile(c *sqlite.Conn, sql string) (st prepared, err error) {
	var rest int
	st.Stmt, rest, err = c.PrepareTransient(sql)
	if err != nil {
		return st, err
	}
	if strings.TrimSpace(sql[len(sql)-rest:]) != "" {
		err = errors.New("it is more than one statement")
	}
	for i := 1; err == nil && i <= st.BindParamCount(); i++ {
		n, perr := strconv.Atoi(strings.TrimPrefix(st.BindParamName(i), "$"))
		if perr != nil || n < 1 {
			err = fmt.Errorf("parameter %q: want $1, $2 and so on", st.BindParamName(i))
		}
		st.args = append(st.args, n-1)
	}
	if err != nil {
		return st, errors.Join(err, st.Finalize())
	}
	return st, nil
}

// close ends what the projections left.
func (p *projector) close() {
	for _, st := range p.transient {
		_ = st.Finalize() // gives the last step's error again
	}
	p.transient = nil
	for st := range p.busy {
		_ = st.Reset()
	}
}

// row is the row that a statement stands on.
type row struct{ st *sqlite.Stmt }

// Scan copies the row's columns.
func (r *row) Scan(dest ...any) error {
	if n := r.st.ColumnCount(); len(dest) != n {
		return fmt.Errorf("scan: the row has %d columns, not %d", n, len(dest))
	}
	for i, d := range dest {
		if err := r.column(i, d); err != nil {
			return fmt.Errorf("scan column %d (%s): %w", i+1, r.st.ColumnName(i), err)
		}
	}
	return nil
}

func (r *row) column(i int, dest any) error {
	if b, ok := dest.(*[]byte); ok {
		*b = nil
		if !r.st.ColumnIsNull(i) {
			*b = make([]byte, r.st.ColumnLen(i))
			r.st.ColumnBytes(i, *b)
		}
		return nil
	}
	typ := r.st.ColumnType(i)
	switch d := dest.(type) {
	case *bool:
		*d = r.st.ColumnBool(i)
		return want(typ, sqlite.TypeInteger)
	case *int64:
		*d = r.st.ColumnInt64(i)
		return want(typ, sqlite.TypeInteger)
	case *float64:
		*d = r.st.ColumnFloat(i)
		return want(typ, sqlite.TypeFloat, sqlite.TypeInteger)
	case *string:
		*d = r.st.ColumnText(i)
		return want(typ, sqlite.TypeText)
	case *time.Time:
		if err := want(typ, sqlite.TypeText); err != nil {
			return err
		}
		t, err := time.Parse(time.RFC3339Nano, r.st.ColumnText(i))
		*d = t.UTC()
		return err
	}
	return fmt.Errorf("cannot scan into a %T: want *bool, *int64, *float64, *string, *[]byte or *time.Time", dest)
}

// want refuses to convert: what comes back is what was stored, or an error.
func want(typ sqlite.ColumnType, allowed ...sqlite.ColumnType) error {
	for _, a := range allowed {
		if typ == a {
			return nil
		}
	}
	return fmt.Errorf("it holds %s", strings.ToLower(strings.TrimPrefix(typ.String(), "SQLITE_")))
}
