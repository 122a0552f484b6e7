package drivertest

import (
	"errors"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var sqlCases = []testCase{
	{
		"statements commit with the batch", "what a projection queued is committed with its transaction, or not at all",
		needs{store: true, sql: true},
		sqlCommits,
	},
	{
		"rows see what was queued", "Rows runs what is queued before it, and columns scan into the documented types",
		needs{store: true, sql: true},
		sqlRows,
	},
	{
		"a failed statement fails the transaction", "after the first error of a statement every call fails, and nothing commits",
		needs{store: true, sql: true},
		sqlFails,
	},
	{
		"reset empties the projections", "Reset empties the projections' tables: they are folded again",
		needs{store: true, sql: true},
		sqlReset,
	},
}

// sqlTable is a projection's table in words that every engine knows.
var sqlTable = deja.TableDef{
	Name: "drivertest_rows",
	DDL:  `CREATE TABLE drivertest_rows (k VARCHAR(100) PRIMARY KEY, v BIGINT NOT NULL, t VARCHAR(100), at TIMESTAMP)`,
}

const (
	sqlInsert = `INSERT INTO drivertest_rows (k, v, t) VALUES ($1, $2, $3)`
	sqlAdd    = `UPDATE drivertest_rows SET v = v + $2 WHERE k = $1`
	sqlSelect = `SELECT k, v, t FROM drivertest_rows ORDER BY k`
)

type sqlRow struct {
	K string
	V int64
	T string
}

// decideWith commits the worker's next decision together with a projection's work.
func (w *worker) decideWith(m *model, project func(deja.Tx)) error {
	b := w.b
	batch, to := w.story.next(0, w.at)
	tx, err := b.store.Begin(b.ctx, w.lease)
	b.must(err)
	defer func() { _ = tx.Rollback(b.ctx) }()
	if err := tx.Write(b.ctx, batch); err != nil {
		return err
	}
	project(tx.SQL())
	if err := tx.Advance(b.ctx, w.at, to); err != nil {
		return err
	}
	if err := tx.Commit(b.ctx); err != nil {
		return err
	}
	m.commit(0, batch, to)
	w.at = to
	return nil
}

// rows reads the table in a transaction that is given up.
func (w *worker) rows() []sqlRow {
	b := w.b
	b.Helper()
	tx, err := b.store.Begin(b.ctx, w.lease)
	b.must(err)
	defer func() { b.must(tx.Rollback(b.ctx)) }()
	rows, err := readRows(tx.SQL())
	b.must(err)
	return rows
}

func readRows(tx deja.Tx) ([]sqlRow, error) {
	var out []sqlRow
	for r, err := range tx.Rows(sqlSelect) {
		if err != nil {
			return nil, err
		}
		var row sqlRow
		if err := r.Scan(&row.K, &row.V, &row.T); err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, nil
}

func sqlCommits(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	b.must(w.decideWith(m, func(tx deja.Tx) {
		tx.Queue(sqlInsert, "b", 2, "two")
		tx.Queue(sqlInsert, "a'", int64(1), "\u00fc")
		tx.Queue(sqlAdd, "b", 40)
	}))
	want := []sqlRow{{"a'", 1, "\u00fc"}, {"b", 42, "two"}}
	equal(b, "rows", w.rows(), want)

	from := w.at
	w.at.Position++ // wrong: fenced
	b.want(w.decideWith(m, func(tx deja.Tx) { tx.Queue(sqlAdd, "b", 1) }), driver.ErrFenced)
	w.at = from
	equal(b, "rows", w.rows(), want)
	b.holds(m)
	b.reopen()
	b.holds(m)
	equal(b, "rows", b.worker("a", 0).rows(), want)
}

func sqlRows(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	at := time.Date(2024, 5, 6, 7, 8, 9, 123456000, time.UTC)
	b.must(w.decideWith(m, func(tx deja.Tx) {
		tx.Queue(sqlInsert, "a", 1, "x")
		for range 2 { // queueing between two rows too
			n := 0
			for r, err := range tx.Rows(`SELECT v FROM drivertest_rows WHERE k = $1`, "a") {
				b.must(err)
				var v int64
				b.must(r.Scan(&v))
				equal(b, "v", v, 1)
				n++
				break
			}
			equal(b, "rows", n, 1)
		}
		for _, err := range tx.Rows(`SELECT v FROM drivertest_rows WHERE k = $1`, "none") {
			b.Errorf("a row, or error %v, of none", err)
		}
		tx.Queue(`UPDATE drivertest_rows SET at = $1 WHERE k = $2`, at, "a")
		for r, err := range tx.Rows(`SELECT at, t, v, k FROM drivertest_rows WHERE v = $1`, 1) {
			b.must(err)
			var (
				got  time.Time
				k, t string
				v    int64
			)
			b.must(r.Scan(&got, &t, &v, &k))
			if !got.Equal(at) {
				b.Errorf("the time reads %s, want %s", got, at)
			}
			equal(b, "row", sqlRow{k, v, t}, sqlRow{"a", 1, "x"})
		}
	}))
	equal(b, "rows", w.rows(), []sqlRow{{"a", 1, "x"}})
}

func sqlFails(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	b.must(w.decideWith(m, func(tx deja.Tx) { tx.Queue(sqlInsert, "a", 1, "x") }))
	for name, project := range map[string]func(deja.Tx){
		"constraint": func(tx deja.Tx) {
			tx.Queue(sqlInsert, "a", 2, "again")
			tx.Queue(sqlAdd, "a", 1)
		},
		"query": func(tx deja.Tx) {
			tx.Queue(sqlAdd, "a", 1)
			for _, err := range tx.Rows(`SELECT no_such_column FROM drivertest_rows`) {
				if err == nil {
					b.Error("a row of a column that is not there")
				}
			}
			tx.Queue(sqlAdd, "a", 1)
			if _, err := readRows(tx); err == nil {
				b.Error("Rows after an error gave no error")
			}
		},
	} {
		if err := w.decideWith(m, project); err == nil || errors.Is(err, driver.ErrFenced) {
			b.Errorf("%s: a transaction with a failed statement: error %v", name, err)
		}
		w = b.worker("a", 0)
		equal(b, "rows", w.rows(), []sqlRow{{"a", 1, "x"}})
		b.holds(m)
	}
	b.must(w.decideWith(m, func(tx deja.Tx) { tx.Queue(sqlAdd, "a", 1) }))
	equal(b, "rows", w.rows(), []sqlRow{{"a", 2, "x"}})
}

func sqlReset(b *bench) {
	m := newModel()
	w := b.worker("a", 0)
	b.must(w.decideWith(m, func(tx deja.Tx) { tx.Queue(sqlInsert, "a", 1, "x") }))
	b.must(b.store.Reset(b.ctx, w.lease))
	m.reset()
	w.at = m.progress[0]
	equal(b, "rows", w.rows(), nil)
	b.must(w.decideWith(m, func(tx deja.Tx) { tx.Queue(sqlInsert, "a", 1, "x") }))
	equal(b, "rows", w.rows(), []sqlRow{{"a", 1, "x"}})
	b.holds(m)
}
