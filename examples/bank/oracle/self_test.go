package oracle_test

import (
	"compress/gzip"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"strings"
	"testing"
)

// shipped returns the oracle of the data that the example ships.
func shipped(t *testing.T) *oracle {
	t.Helper()
	f, err := os.Open("../berka/berka.csv.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	o, err := balances(r)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOracleOnPaper(t *testing.T) {
	o, err := balances(strings.NewReader(`transaction,account,date,direction,operation,symbol,amount,balance
11,a,1993-01-01,credit,x,,100,100
12,b,1993-01-01,credit,x,,7,7
13,a,1993-01-05,debit,x,,30,69
14,a,1993-01-05,debit,x,,80,-11
`))
	if err != nil {
		t.Fatal(err)
	}
	one, two, three := state{1, "1993-01-01", 1, 100, 100}, state{3, "1993-01-05", 2, 70, 69}, state{4, "1993-01-05", 3, -10, -11}
	for name, c := range map[string]struct{ got, want state }{
		"before all":              {o.after("a", 0), state{}},
		"after its first":         {o.after("a", 1), one},
		"after another's":         {o.after("a", 2), one},
		"after its second":        {o.after("a", 3), two},
		"after all":               {o.after("a", 100), three},
		"the other, before it":    {o.after("b", 1), state{}},
		"no such account":         {o.after("c", 4), state{}},
		"the day before":          {o.on("a", "1992-12-31"), state{}},
		"the end of the day":      {o.on("a", "1993-01-01"), one},
		"a day without any":       {o.on("a", "1993-01-04"), one},
		"a day with two":          {o.on("a", "1993-01-05"), three},
		"at version 0":            {o.at("a", 0), state{}},
		"at version 2":            {o.at("a", 2), two},
		"at a version to come":    {o.at("a", 9), three},
		"the other, at version 1": {o.at("b", 1), state{2, "1993-01-01", 1, 7, 7}},
	} {
		if c.got != c.want {
			t.Errorf("%s: %+v, want %+v", name, c.got, c.want)
		}
	}
}

func TestOracleOfMonthsOnPaper(t *testing.T) {
	o, err := balances(strings.NewReader(`transaction,account,date,direction,operation,symbol,amount,balance
11,a,1993-01-01,credit,x,,100,100
12,b,1993-01-01,credit,x,,7,7
13,a,1993-01-31,debit,x,,130,-30
14,a,1993-02-01,debit,x,,80,-111
`))
	if err != nil {
		t.Fatal(err)
	}
	for rows, want := range []map[month]sum{
		{},
		{{"a", "1993-01"}: {100, 0, 1, 1}},
		{{"a", "1993-01"}: {100, 0, 1, 1}, {"b", "1993-01"}: {7, 0, 1, 1}},
		{{"a", "1993-01"}: {100, 130, 2, 2}, {"b", "1993-01"}: {7, 0, 1, 1}},
		{{"a", "1993-01"}: {100, 130, 2, 2}, {"b", "1993-01"}: {7, 0, 1, 1}, {"a", "1993-02"}: {0, 80, 1, 3}},
	} {
		if got := o.statement(rows); !maps.Equal(got, want) {
			t.Errorf("after %d rows: %v, want %v", rows, got, want)
		}
	}
	for date, want := range map[string]int{"1992-12-31": 0, "1993-01-01": 2, "1993-01-30": 2, "1993-01-31": 3, "1994-01-01": 4} {
		if got := o.through(date); got != want {
			t.Errorf("%d rows through %s, want %d", got, date, want)
		}
	}
}

// The figures were computed once by another program, in another language.
func TestOracleOfTheShippedData(t *testing.T) {
	o := shipped(t)
	if o.rows != 39_385 || len(o.accounts) != 977 {
		t.Fatalf("%d rows of %d accounts", o.rows, len(o.accounts))
	}
	off, below := 0, 0
	for _, history := range o.accounts {
		var last state
		for _, s := range history {
			if s.Recorded-last.Recorded != s.Balance-last.Balance {
				off++
			}
			if s.Balance < 0 {
				below++
			}
			if s.Date < last.Date || s.Row <= last.Row {
				t.Fatalf("%+v comes after %+v", s, last)
			}
			last = s
		}
	}
	if off != 1870 || below != 79 {
		t.Errorf("the bank's figure is off in %d rows, the balance below zero after %d; want 1870 and 79", off, below)
	}
	if s := o.after("576", o.rows); s.Balance != 1_855_660 || s.Recorded != 1_855_630 {
		t.Errorf("account 576 ends at %+v", s)
	}
}

func TestOracleStandsAlone(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "oracle_test.go", nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, imp := range f.Imports {
		if strings.Contains(imp.Path.Value, ".") {
			t.Errorf("the oracle imports %s", imp.Path.Value)
		}
	}
}
