package account_test

import (
	"math"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/examples/bank/account"
)

func given(t *testing.T, events ...deja.Event) *dejatest.Case[account.Account] {
	t.Helper()
	return dejatest.New(t, account.Aggregate(), "576").Given(events...)
}

func TestTheFirstTransactionOpensTheAccount(t *testing.T) {
	given(t).
		When(account.Enter{Transaction: 1, Direction: account.Credit, Operation: "cash_deposit", Amount: 900, Balance: 900}).
		Recorded(account.Credited{Transaction: 1, Operation: "cash_deposit", Amount: 900, Recorded: 900}).
		State(account.Account{Balance: 900, Recorded: 900})
}

func TestABookedTransactionIsAFactEvenBelowZero(t *testing.T) {
	given(t, account.Credited{Amount: 100, Recorded: 100}).
		When(account.Enter{Transaction: 2, Direction: account.Debit, Symbol: "statement_fee", Amount: 300, Balance: -200}).
		Recorded(account.Debited{Transaction: 2, Symbol: "statement_fee", Amount: 300, Recorded: -200}).
		State(account.Account{Balance: -200, Recorded: -200})
}

func TestTheBanksFigureIsKeptAsItIs(t *testing.T) {
	given(t, account.Credited{Amount: 100, Recorded: 100}).
		When(account.Enter{Transaction: 3, Direction: account.Credit, Amount: 50, Balance: 140}).
		Recorded(account.Credited{Transaction: 3, Amount: 50, Recorded: 140}).
		State(account.Account{Balance: 150, Recorded: 140}).
		When(account.Deposit{Amount: 5}).
		State(account.Account{Balance: 155, Recorded: 140})
}

func TestABookedTransactionThatDoesNotFitFails(t *testing.T) {
	given(t, account.Credited{Amount: math.MaxInt64}).
		When(account.Enter{Direction: account.Credit, Amount: 1}).Fails()
	given(t, account.Debited{Amount: math.MaxInt64}, account.Debited{Amount: 1}).
		When(account.Enter{Direction: account.Debit, Amount: 1}).Fails().
		State(account.Account{Balance: math.MinInt64})
	given(t).
		When(account.Enter{Direction: "sideways", Amount: 1}).Fails()
}

func TestDeposit(t *testing.T) {
	given(t, account.Debited{Amount: 5}).
		When(account.Deposit{Amount: 1}).
		Recorded(account.Deposited{Amount: 1}).
		State(account.Account{Balance: -4}).
		When(account.Deposit{Amount: 0}).Rejected(account.ErrAmount).
		When(account.Deposit{Amount: -1}).Rejected(account.ErrAmount)
	given(t, account.Deposited{Amount: 1}).
		When(account.Deposit{Amount: math.MaxInt64}).Rejected(account.ErrOverflow).
		When(account.Deposit{Amount: math.MaxInt64 - 1}).
		State(account.Account{Balance: math.MaxInt64})
}

func TestWithdrawNeverGoesBelowZero(t *testing.T) {
	given(t, account.Deposited{Amount: 100}).
		When(account.Withdraw{Amount: 101}).Rejected(account.ErrOverdraft).
		When(account.Withdraw{Amount: 100}).
		Recorded(account.Withdrawn{Amount: 100}).
		State(account.Account{}).
		When(account.Withdraw{Amount: 1}).Rejected(account.ErrOverdraft).
		When(account.Withdraw{Amount: 0}).Rejected(account.ErrAmount).
		When(account.Withdraw{Amount: math.MinInt64}).Rejected(account.ErrAmount)
	given(t, account.Debited{Amount: 5, Recorded: -5}).
		When(account.Withdraw{Amount: 1}).Rejected(account.ErrOverdraft)
}

func TestACorrectionIsAFactToo(t *testing.T) {
	given(t, account.Deposited{Amount: 100}).
		When(account.Correct{Amount: -300, Reason: "a wrong sign"}).
		Recorded(account.Corrected{Amount: -300, Reason: "a wrong sign"}).
		State(account.Account{Balance: -200}).
		When(account.Correct{Amount: 200}).
		State(account.Account{}).
		When(account.Correct{}).Rejected(account.ErrAmount)
	given(t, account.Deposited{Amount: 100}).
		When(account.Correct{Amount: math.MaxInt64}).Rejected(account.ErrOverflow)
}
