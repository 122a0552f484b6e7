package sqlite

import (
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/dejalog/deja/driver"
)

// zeroTime is the zero time in microseconds since 1970, as the columns hold it.
var zeroTime = micros(time.Time{})

const selectLease = `SELECT epoch, nonce, position, n, chain, time, incarnation, incarnation_nonce, fold,
	logged_n, logged_offset FROM deja_lease`

// readLease fills in what the store knows of a lease.
func readLease(c *sqlite.Conn, l *driver.Lease) error {
	err := query(c, selectLease, func(st *sqlite.Stmt) error {
		l.Epoch = st.ColumnInt64(0)
		st.ColumnBytes(1, l.Nonce[:])
		p := &l.Progress
		p.Position, p.N, p.Time, p.Fold = st.ColumnInt64(2), st.ColumnInt64(3), timeOf(st.ColumnInt64(5)), st.ColumnText(8)
		st.ColumnBytes(4, p.Chain[:])
		p.Incarnation.Number = st.ColumnInt64(6)
		st.ColumnBytes(7, p.Incarnation.Nonce[:])
		l.Logged = driver.Logged{N: st.ColumnInt64(9), Offset: st.ColumnInt64(10)}
		return nil
	})
	if err != nil {
		return err
	}
	copied, err := queryInt(c, "SELECT copied FROM deja_file")
	l.Copied = copied != 0
	return err
}

// advance is the compare-and-set on which all rests. The token is known to nobody but the transaction that wrote it:
// if the engine rolled that back, and a later statement began another, it does not match.
const advance = `UPDATE deja_lease SET position = ?, n = ?, chain = ?, time = ?, incarnation = ?, incarnation_nonce = ?, fold = ?
	WHERE epoch = ? AND nonce = ? AND token = ? AND position = ? AND n = ? AND chain = ?`
