package posting_test

import (
	"fmt"
	"testing"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/dejatest"
	"github.com/dejalog/deja/examples/transfers/posting"
)

var receiver = posting.Number(7)

func given(t *testing.T, events ...deja.Event) *dejatest.Case[posting.Posting] {
	t.Helper()
	return dejatest.New(t, posting.Aggregate(), "t1").Given(events...)
}

func TestPost(t *testing.T) {
	given(t).
		When(posting.Post{Account: receiver, Amount: 100}).
		Recorded(posting.Posted{Account: receiver, Amount: 100}).
		State(posting.Posting{Account: receiver, Amount: 100, Stage: posting.Stands}).
		When(posting.Post{Account: receiver, Amount: 100}).Rejected(posting.ErrPosted).
		When(posting.Stop{}).Rejected(posting.ErrPosted)
	given(t).
		When(posting.Post{Account: "0000000799", Amount: 100}).Rejected(posting.ErrAccount).
		When(posting.Post{Account: receiver, Amount: 0}).Rejected(posting.ErrAmount).
		State(posting.Posting{})
}

func TestReverseUndoesAPosting(t *testing.T) {
	given(t, posting.Posted{Account: receiver, Amount: 100}).
		When(posting.Reverse{}).
		Recorded(posting.Reversed{Account: receiver, Amount: 100}).
		When(posting.Reverse{}).Nothing().
		When(posting.Post{Account: receiver, Amount: 100}).Rejected(posting.ErrBarred).
		When(posting.Stop{}).Nothing().
		State(posting.Posting{Account: receiver, Amount: 100, Stage: posting.Undone})
}

func TestReverseAndStopBarAPostingThatComesTooLate(t *testing.T) {
	for _, first := range []deja.Command{posting.Reverse{}, posting.Stop{}} {
		given(t).
			When(first).Recorded(posting.Barred{}).
			When(posting.Post{Account: receiver, Amount: 100}).Rejected(posting.ErrBarred).
			When(posting.Reverse{}).Nothing().
			When(posting.Stop{}).Nothing().
			State(posting.Posting{Stage: posting.Closed})
	}
}

func TestNumbersHaveCheckDigits(t *testing.T) {
	for customer := range 1000 {
		n := posting.Number(customer)
		if !posting.Valid(n) {
			t.Fatalf("%s is not valid", n)
		}
		for i := range n { // another digit in one place
			wrong := []byte(n)
			wrong[i] = '0' + (wrong[i]-'0'+1+byte(customer%9))%10
			if posting.Valid(string(wrong)) {
				t.Fatalf("%s is valid, as is %s", wrong, n)
			}
		}
	}
	for _, n := range []string{"", "1", "000000079", "0000000x79", fmt.Sprintf("%s0", posting.Number(1))} {
		if posting.Valid(n) {
			t.Errorf("%q is valid", n)
		}
	}
}
