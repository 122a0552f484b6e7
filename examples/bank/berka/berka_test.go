package berka_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/bank/berka"
)

const header = "transaction,account,date,direction,operation,symbol,amount,balance\n"

func read(text string) (ts []berka.Transaction, err error) {
	for t, err := range berka.Read(strings.NewReader(text)) {
		if err != nil {
			return ts, err
		}
		ts = append(ts, t)
	}
	return ts, nil
}

func TestDataIsWholeAndInOrder(t *testing.T) {
	data, err := berka.Data()
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	rows, sum, last := 0, int64(0), time.Time{}
	accounts, numbers := map[int64]bool{}, map[int64]bool{}
	for tr, err := range berka.Read(data) {
		if err != nil {
			t.Fatal(err)
		}
		if tr.Date.Before(last) {
			t.Fatalf("transaction %d is out of order", tr.Number)
		}
		rows, sum, last = rows+1, sum+tr.Amount, tr.Date
		accounts[tr.Account], numbers[tr.Number] = true, true
	}
	if rows != 39_385 || len(numbers) != rows || len(accounts) != 977 || sum != 25_535_741_660 {
		t.Errorf("%d rows, %d numbers, %d accounts, %d hellers", rows, len(numbers), len(accounts), sum)
	}
}

func TestRowsBecomeMessages(t *testing.T) {
	ts, err := read(header + "171812,576,1993-01-01,credit,cash_deposit,,90000,90000\n")
	if err != nil || len(ts) != 1 {
		t.Fatalf("%v, %v", ts, err)
	}
	r := ts[0].Request()
	want := account.Enter{Transaction: 171812, Direction: account.Credit, Operation: "cash_deposit", Amount: 90000, Balance: 90000}
	if r.Command != want || r.Key != "576" || r.Actor != "import" {
		t.Errorf("got %+v", r)
	}
	if day := time.Date(1993, 1, 1, 0, 0, 0, 0, time.UTC); !r.BusinessTime.Equal(day) {
		t.Errorf("business time %s", r.BusinessTime)
	}
	// Pinned: with any other ID, what was imported before would be imported again.
	if r.ID != deja.DeriveID("berka/transaction", "171812") || r.ID.String() != "dd170202-fb3b-8e2f-88e1-08f7227a5bbd" {
		t.Errorf("id %s", r.ID)
	}
}

func TestNothingIsMended(t *testing.T) {
	good := "1,576,1993-01-01,credit,cash_deposit,,90000,90000\n"
	for name, tt := range map[string]struct{ text, want string }{
		"empty":              {"", "line 1: the file is empty"},
		"no header":          {good, "line 1: the columns are"},
		"other columns":      {strings.Replace(header, "amount", "value", 1) + good, "line 1: the columns are"},
		"too few columns":    {header + good + "2,576\n", "line 3, position 1: wrong number of fields"},
		"open quote":         {header + good + "2,576,\"1993", "line 3"},
		"no number":          {header + "one,576,1993-01-01,credit,x,,1,1\n", `line 2, column transaction: "one"`},
		"number zero":        {header + "0,576,1993-01-01,credit,x,,1,1\n", "column transaction"},
		"padded account":     {header + "1,0576,1993-01-01,credit,x,,1,1\n", `column account: "0576"`},
		"negative account":   {header + "1,-5,1993-01-01,credit,x,,1,1\n", "column account"},
		"no such day":        {header + "1,576,1993-02-30,credit,x,,1,1\n", `column date: "1993-02-30"`},
		"unknown direction":  {header + good + good + "1,576,1993-01-01,VYBER,x,,1,1\n", `line 4, column direction: "VYBER"`},
		"fraction":           {header + "1,576,1993-01-01,credit,x,,1.50,1\n", `column amount: "1.50"`},
		"negative amount":    {header + "1,576,1993-01-01,credit,x,,-1,1\n", `column amount: "-1" is below 0`},
		"amount with a sign": {header + "1,576,1993-01-01,credit,x,,+1,1\n", "column amount"},
		"amount too large":   {header + "1,576,1993-01-01,credit,x,,9223372036854775808,1\n", "column amount"},
		"no balance":         {header + "1,576,1993-01-01,credit,x,,1,\n", `column balance: ""`},
		"not UTF-8":          {header + "1,576,1993-01-01,credit,\xff,,1,1\n", "column operation"},
	} {
		t.Run(name, func(t *testing.T) {
			ts, err := read(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%d rows, error %v; want %q", len(ts), err, tt.want)
			}
		})
	}
}

func TestReadIsLazyAndCanBeLeft(t *testing.T) {
	rows := io.MultiReader(strings.NewReader(header+"1,576,1993-01-01,credit,x,,1,-1\n"), failing{})
	for tr, err := range berka.Read(rows) {
		if err != nil || tr.Balance != -1 {
			t.Fatalf("%+v, %v", tr, err)
		}
		break
	}
	if _, err := read(header); err != nil {
		t.Errorf("no rows: %v", err)
	}
	var last error
	for _, err := range berka.Read(io.MultiReader(strings.NewReader(header), failing{})) {
		last = err
	}
	if !errors.Is(last, errBroken) {
		t.Errorf("error %v", last)
	}
}

var errBroken = errors.New("broken")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }
