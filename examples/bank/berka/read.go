package berka

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dejalog/deja/examples/bank/account"
)

var columns = []string{"transaction", "account", "date", "direction", "operation", "symbol", "amount", "balance"}

// Read yields the rows of a CSV, one at a time. The first error is the last thing it yields. It can be ranged over
// once, as r can be read once.
func Read(r io.Reader) iter.Seq2[Transaction, error] {
	return func(yield func(Transaction, error) bool) {
		text := bufio.NewReader(r)
		if mark, _ := text.Peek(3); string(mark) == "\ufeff" { // as spreadsheets put in front of UTF-8
			_, _ = text.Discard(3)
		}
		rows := csv.NewReader(text)
		rows.ReuseRecord = true
		err := readHeader(rows)
		for err == nil {
			var t Transaction
			if t, err = readRow(rows); err == nil && !yield(t, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(Transaction{}, err)
		}
	}
}

func readHeader(rows *csv.Reader) error {
	header, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("line 1: the file is empty; want the columns %s", strings.Join(columns, ","))
	}
	if err != nil {
		return located(err)
	}
	if !slices.Equal(header, columns) {
		return fmt.Errorf("line 1: the columns are %q; want %s", header, strings.Join(columns, ","))
	}
	return nil
}

// readRow returns io.EOF after the last row.
func readRow(rows *csv.Reader) (t Transaction, err error) {
	row, err := rows.Read()
	if err != nil {
		return t, located(err)
	}
	c := cells{rows: rows, row: row}
	t = Transaction{
		Number:    c.integer(0, 1),
		Account:   c.integer(1, 1),
		Date:      c.date(2),
		Direction: c.direction(3),
		Operation: c.text(4),
		Symbol:    c.text(5),
		Amount:    c.integer(6, 0),
		Balance:   c.integer(7, math.MinInt64),
	}
	return t, c.err
}

// located words the reader's own errors like ours.
func located(err error) error {
	if e, ok := errors.AsType[*csv.ParseError](err); ok {
		return fmt.Errorf("line %d, position %d: %w", e.Line, e.Column, e.Err)
	}
	return err
}

// cells reads the columns of a row, and keeps the first error.
type cells struct {
	rows *csv.Reader
	row  []string
	err  error
}

func (c *cells) fail(column int, want string) {
	if c.err == nil {
		line, _ := c.rows.FieldPos(column)
		c.err = fmt.Errorf("line %d, column %s: %q is %s", line, columns[column], c.row[column], want)
	}
}

// integer reads a number in the one form that writing it again gives.
func (c *cells) integer(column int, least int64) int64 {
	n, err := strconv.ParseInt(c.row[column], 10, 64)
	switch {
	case err != nil || strconv.FormatInt(n, 10) != c.row[column]:
		c.fail(column, "not a plain integer of at most 64 bits")
	case n < least:
		c.fail(column, fmt.Sprintf("below %d", least))
	}
	return n
}

func (c *cells) date(column int) time.Time {
	t, err := time.Parse(time.DateOnly, c.row[column])
	if err != nil {
		c.fail(column, "not a date such as 1993-01-31")
	}
	return t
}

func (c *cells) direction(column int) account.Direction {
	d := account.Direction(c.row[column])
	if d != account.Credit && d != account.Debit {
		c.fail(column, "neither credit nor debit")
	}
	return d
}

func (c *cells) text(column int) string {
	if !utf8.ValidString(c.row[column]) {
		c.fail(column, "not UTF-8")
	}
	return c.row[column]
}
