package service

import (
	"encoding/json"
	"errors"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/account"
)

// Repair returns the commands that bring an account from one state to another: a booking of the difference. The bank's own
// figure is not ours to correct.
func Repair(_ deja.Stream, is, shouldBe []byte) ([]deja.Command, error) {
	var a, b account.Account
	for _, s := range []struct {
		data []byte
		to   *account.Account
	}{{is, &a}, {shouldBe, &b}} {
		if len(s.data) == 0 { // nothing happened yet
			continue
		}
		if err := json.Unmarshal(s.data, s.to); err != nil {
			return nil, err
		}
	}
	if a.Recorded != b.Recorded {
		return nil, errors.New("the bank's own figure differs, which only another transaction of the bank's corrects")
	}
	amount := b.Balance - a.Balance
	if (amount > 0) != (b.Balance > a.Balance) {
		return nil, errors.New("the difference does not fit into 64 bits")
	}
	if amount == 0 {
		return nil, nil
	}
	return []deja.Command{account.Correct{Amount: amount, Reason: "repair"}}, nil
}
