package service_test

import (
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/bank/berka"
	"github.com/dejalog/deja/examples/bank/service"
)

// Whatever is delivered again, and wherever the process dies, the bank ends where it would have.
func TestTheBankSurvivesRedeliveryAndCrashes(t *testing.T) {
	w := dejatest.NewWorld(t, service.Service())
	day := time.Date(1993, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, direction := range []account.Direction{account.Credit, account.Debit, account.Debit} {
		w.Must(berka.Transaction{
			Number: int64(i + 1), Account: 576, Date: day.AddDate(0, i, 0), Direction: direction, Amount: 60, Balance: 60 - int64(i)*60,
		}.Request())
	}
	w.Must(deja.Request{Key: "576", Command: account.Deposit{Amount: 100}})
	if _, err := w.Do(deja.Request{Key: "576", Command: account.Withdraw{Amount: 41}}); err == nil {
		t.Fatal("an overdraft was paid out")
	}
	before := w.Hash()
	w.RedeliverAll()
	w.WantHash(before)
	w.CrashAtEveryWrite()
	w.WantHash(before)
}
