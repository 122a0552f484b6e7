// Package account is the bank account: what may be asked of it, what can happen to it, and how the one follows from
// the other. Amounts are in hellers, a hundredth of a Czech crown.
package account

import (
	"errors"

	"github.com/dejalog/deja"
)

// Account is the state. Decisions have value receivers and cannot change it; the apply methods are the only code
// that can.
type Account struct {
	Balance  int64 `json:"balance"`  // ours: the sum of all that happened
	Recorded int64 `json:"recorded"` // the bank's own figure after its last imported transaction
}

// Refusals.
var (
	ErrAmount    = deja.NewRejection("account.amount")    // it is not positive
	ErrOverdraft = deja.NewRejection("account.overdraft") // the balance would go below zero
	ErrOverflow  = deja.NewRejection("account.overflow")  // the balance would not fit into 64 bits
)

// Aggregate returns the table of all that an account handles and applies.
func Aggregate() *deja.Aggregate[Account] {
	return deja.NewAggregate("account",
		deja.Handle(Account.Enter),
		deja.Handle(Account.Deposit),
		deja.Handle(Account.Withdraw),
		deja.Handle(Account.Correct),
		deja.Apply((*Account).credited),
		deja.Apply((*Account).debited),
		deja.Apply((*Account).deposited),
		deja.Apply((*Account).withdrawn),
		deja.Apply((*Account).corrected),
	)
}

// errUnfit parks an imported transaction: a fact cannot be refused, and a balance that wraps around would be a lie.
var errUnfit = errors.New("the balance after this transaction does not fit into 64 bits")

// Enter takes in a transaction that the bank has booked. It is a fact and never refused, whatever it makes of the
// balance; nor is the bank's own figure, where it differs from the sum.
func (a Account) Enter(d *deja.Decision, c Enter) error {
	switch c.Direction {
	case Credit:
		if !addable(a.Balance, c.Amount) {
			return errUnfit
		}
		d.Record(Credited{
			Transaction: c.Transaction, Amount: c.Amount, Recorded: c.Balance,
			Operation: c.Operation, Symbol: c.Symbol,
		})
	case Debit:
		if !subtractable(a.Balance, c.Amount) {
			return errUnfit
		}
		d.Record(Debited{
			Transaction: c.Transaction, Amount: c.Amount, Recorded: c.Balance,
			Operation: c.Operation, Symbol: c.Symbol,
		})
	default:
		return errors.New("the direction is neither credit nor debit")
	}
	return nil
}

// Deposit pays in.
func (a Account) Deposit(d *deja.Decision, c Deposit) error {
	if c.Amount <= 0 {
		return ErrAmount.Because("%d is not positive", c.Amount)
	}
	if !addable(a.Balance, c.Amount) {
		return ErrOverflow.Because("balance %d, deposit %d", a.Balance, c.Amount)
	}
	d.Record(Deposited(c))
	return nil
}

// Withdraw pays out what is there.
func (a Account) Withdraw(d *deja.Decision, c Withdraw) error {
	if c.Amount <= 0 {
		return ErrAmount.Because("%d is not positive", c.Amount)
	}
	if a.Balance < c.Amount {
		return ErrOverdraft.Because("balance %d, asked for %d", a.Balance, c.Amount)
	}
	d.Record(Withdrawn(c))
	return nil
}

// Correct makes up for a fault of this service. What should have been is a fact: it is not refused for what it makes of the
// balance.
func (a Account) Correct(d *deja.Decision, c Correct) error {
	switch {
	case c.Amount == 0:
		return ErrAmount.Because("nothing to correct")
	case !addable(a.Balance, c.Amount):
		return ErrOverflow.Because("balance %d, correction %d", a.Balance, c.Amount)
	}
	d.Record(Corrected(c))
	return nil
}

func (a *Account) credited(e Credited)   { a.Balance, a.Recorded = a.Balance+e.Amount, e.Recorded }
func (a *Account) debited(e Debited)     { a.Balance, a.Recorded = a.Balance-e.Amount, e.Recorded }
func (a *Account) deposited(e Deposited) { a.Balance += e.Amount }
func (a *Account) withdrawn(e Withdrawn) { a.Balance -= e.Amount }
func (a *Account) corrected(e Corrected) { a.Balance += e.Amount }

// addable reports whether a+b is within 64 bits.
func addable(a, b int64) bool { return (a+b > a) == (b > 0) }

// subtractable reports whether a-b is within 64 bits.
func subtractable(a, b int64) bool { return (a-b < a) == (b > 0) }
