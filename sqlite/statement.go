package sqlite

import (
	"fmt"
	"time"

	"zombiezen.com/go/sqlite"
)

// exec runs a statement that gives no rows, or whose rows do not matter. Statements are cached by their text.
func exec(c *sqlite.Conn, sql string, args ...any) error { return query(c, sql, nil, args...) }

// query runs a statement and calls row, which may be nil, for each of its rows.
func query(c *sqlite.Conn, sql string, row func(*sqlite.Stmt) error, args ...any) error {
	st, err := c.Prepare(sql)
	if err != nil {
		return err
	}
	for i, a := range args {
		if err := bind(st, i+1, a); err != nil {
			return err
		}
	}
	for {
		more, err := st.Step()
		if err != nil {
			return err
		}
		if !more {
			return st.Reset()
		}
		if row == nil {
			continue
		}
		if err := row(st); err != nil {
			_ = st.Reset() // gives the last step's error again, and that step succeeded
			return err
		}
	}
}

// queryInt returns the first column of the first row; 0 if there is none.
func queryInt(c *sqlite.Conn, sql string, args ...any) (n int64, err error) {
	err = query(c, sql, func(st *sqlite.Stmt) error { n = st.ColumnInt64(0); return nil }, args...)
	return n, err
}

// queryText is queryInt for text.
func queryText(c *sqlite.Conn, sql string, args ...any) (s string, err error) {
	err = query(c, sql, func(st *sqlite.Stmt) error { s = st.ColumnText(0); return nil }, args...)
	return s, err
}

// run executes a statement whose parameters are bound, and makes it ready for the next.
func run(st *sqlite.Stmt) error {
	if _, err := st.Step(); err != nil {
		return err
	}
	return st.Reset()
}

// timeText is how a time is kept where a projection stores one: of fixed length, so that texts sort as times do.
const timeText = "2006-01-02T15:04:05.000000Z"

// bind binds an argument of one of the types that a projection may use.
func bind(st *sqlite.Stmt, i int, arg any) error {
	switch v := arg.(type) {
	case nil:
		st.BindNull(i)
	case bool:
		st.BindBool(i, v)
	case int64:
		st.BindInt64(i, v)
	case float64:
		st.BindFloat(i, v)
	case string:
		st.BindText(i, v)
	case []byte:
		bindBlob(st, i, v)
	case time.Time:
		st.BindText(i, v.UTC().Format(timeText))
	default:
		return bindInteger(st, i, arg)
	}
	return nil
}

func bindInteger(st *sqlite.Stmt, i int, arg any) error {
	switch v := arg.(type) {
	case int:
		st.BindInt64(i, int64(v))
	case int8:
		st.BindInt64(i, int64(v))
	case int16:
		st.BindInt64(i, int64(v))
	case int32:
		st.BindInt64(i, int64(v))
	case uint:
		return bindUnsigned(st, i, uint64(v))
	case uint8:
		st.BindInt64(i, int64(v))
	case uint16:
		st.BindInt64(i, int64(v))
	case uint32:
		st.BindInt64(i, int64(v))
	case uint64:
		return bindUnsigned(st, i, v)
	default:
		return fmt.Errorf("argument %d is a %T: want nil, bool, an integer, float64, string, []byte or time.Time", i, arg)
	}
	return nil
}

func bindUnsigned(st *sqlite.Stmt, i int, v uint64) error {
	if v > 1<<63-1 {
		return fmt.Errorf("argument %d is %d: more than a 64-bit signed integer holds", i, v)
	}
	st.BindInt64(i, int64(v))
	return nil
}

// bindBlob binds nil as NULL, unlike BindBytes.
func bindBlob(st *sqlite.Stmt, i int, b []byte) {
	if b == nil {
		st.BindNull(i)
		return
	}
	st.BindBytes(i, b)
}

// micros and timeOf convert times to microseconds since 1970 and back; the zero time survives it.
func micros(t time.Time) int64  { return t.UnixMicro() }
func timeOf(us int64) time.Time { return time.UnixMicro(us).UTC() }

// blobs copies columns into few large blocks instead of one allocation each.
type blobs struct{ free []byte }

const blobBlock = 32 << 10

// column returns a copy of a column's bytes; nil when it has none.
func (b *blobs) column(st *sqlite.Stmt, col int) []byte {
	n := st.ColumnLen(col)
	if n == 0 {
		return nil
	}
	if n > blobBlock/4 {
		out := make([]byte, n)
		st.ColumnBytes(col, out)
		return out
	}
	if n > len(b.free) {
		b.free = make([]byte, blobBlock)
	}
	out := b.free[:n:n]
	b.free = b.free[n:]
	st.ColumnBytes(col, out)
	return out
}
