// Package oracle_test computes the history of every account from the CSV in plain Go, for tests to compare with what
// the bank says. Nothing of deja takes part in this file.
package oracle_test

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
)

// A state is an account after one of its transactions; the zero state is that before the first.
type state struct {
	Row      int    // of the CSV, from 1: the state is this one from then on
	Date     string // of the transaction, as in the CSV
	Version  int64  // how many transactions the account has had
	Balance  int64  // the sum of all amounts
	Recorded int64  // the bank's figure
}

// An oracle knows the history of every account: its states, in the order of the rows.
type oracle struct {
	rows     int
	accounts map[string][]state
}

// balances reads a CSV.
func balances(r io.Reader) (*oracle, error) {
	o := &oracle{accounts: map[string][]state{}}
	rows := csv.NewReader(r)
	if _, err := rows.Read(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return o, nil
		}
		if err == nil {
			err = o.add(row)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (o *oracle) add(row []string) error {
	amount, err := strconv.ParseInt(row[6], 10, 64)
	if err != nil {
		return err
	}
	recorded, err := strconv.ParseInt(row[7], 10, 64)
	if err != nil {
		return err
	}
	if row[3] == "debit" {
		amount = -amount
	}
	o.rows++
	history := o.accounts[row[1]]
	s := state{Row: o.rows, Date: row[2], Version: int64(len(history) + 1), Balance: amount, Recorded: recorded}
	if len(history) > 0 {
		s.Balance += history[len(history)-1].Balance
	}
	o.accounts[row[1]] = append(history, s)
	return nil
}

// after returns an account's state after the first k rows of the CSV.
func (o *oracle) after(account string, k int) state {
	return o.before(account, func(s state) bool { return s.Row > k })
}

// on returns an account's state at the end of a day; the CSV must be in the order of its dates.
func (o *oracle) on(account, date string) state {
	return o.before(account, func(s state) bool { return s.Date > date })
}

// at returns an account's state at a version.
func (o *oracle) at(account string, version int64) state {
	return o.before(account, func(s state) bool { return s.Version > version })
}

// before returns the last state in front of the first that is too late.
func (o *oracle) before(account string, late func(state) bool) state {
	history := o.accounts[account]
	n := sort.Search(len(history), func(i int) bool { return late(history[i]) })
	if n == 0 {
		return state{}
	}
	return history[n-1]
}

// A month is one line of an account's statement.
type month struct{ Account, Month string }

// A sum is what a month came to; Version is the account's after the month's last transaction.
type sum struct{ Credits, Debits, Transactions, Version int64 }

// statement returns the statements of all accounts after the first k rows of the CSV.
func (o *oracle) statement(k int) map[month]sum {
	all := map[month]sum{}
	for account, history := range o.accounts {
		var last int64
		for _, s := range history {
			if s.Row > k {
				break
			}
			m := month{account, s.Date[:len("1993-01")]}
			line := all[m]
			if s.Balance > last {
				line.Credits += s.Balance - last
			} else {
				line.Debits += last - s.Balance
			}
			line.Transactions, line.Version = line.Transactions+1, s.Version
			all[m], last = line, s.Balance
		}
	}
	return all
}

// through returns how many rows are dated up to a day; the CSV must be in the order of its dates.
func (o *oracle) through(date string) (rows int) {
	for account := range o.accounts {
		rows = max(rows, o.on(account, date).Row)
	}
	return rows
}
