// Package orders makes the orders of a run: which transfers there are is decided by their number and a seed, so that whoever
// sends them, after a crash for the second time, sends the same, and whoever checks them knows what should have come of
// each.
package orders

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/examples/bank/account"
	"github.com/dejalog/deja/examples/transfers/posting"
	"github.com/dejalog/deja/examples/transfers/transfer"
)

// A Kind says what there is about an order.
type Kind string

// The kinds. One of twenty orders is refused by the ledger: Mistyped or Stopped.
const (
	Plain    Kind = "plain"    // it is completed
	Mistyped Kind = "mistyped" // the receiver's number is wrong: the ledger refuses it
	Stopped  Kind = "stopped"  // the receiver has barred it before it began: so does the ledger
	Greedy   Kind = "greedy"   // the sender does not have the money: no money moves
	Hasty    Kind = "hasty"    // the ledger has a few milliseconds: it is completed or not
)

// Accounts is how many senders there are, and how many receivers.
const Accounts = 1000

// A Plan says which orders there are.
type Plan struct {
	Transfers int
	Seed      uint64
	Began     time.Time // the orders' IDs are of version 7, and rise from here on
}

// An Order is an order to move money.
type Order struct {
	Number int // from 0
	Key    string
	Kind   Kind
	transfer.Start
}

// block is how many orders are decided together, so that exact parts of them are of a kind.
const block = 20

// hasty is the patience of a hasty order, in milliseconds.
const hasty = 20

// Orders yields the orders from a number on.
func (p Plan) Orders(from int) iter.Seq[Order] {
	return func(yield func(Order) bool) {
		for first := from / block * block; first < p.Transfers; first += block {
			for i, o := range p.block(first / block) {
				if n := first + i; n >= from && n < p.Transfers && !yield(o) {
					return
				}
			}
		}
	}
}

// block returns a block's orders: one that the ledger refuses, in some blocks one of another kind, and plain ones.
func (p Plan) block(n int) [block]Order {
	r := rand.New(rand.NewPCG(p.Seed, uint64(n)))
	place := r.Perm(block)
	var os [block]Order
	for i := range os {
		sender, receiver := r.IntN(Accounts), r.IntN(Accounts)
		os[i] = Order{Number: n*block + i, Kind: Plain, Start: transfer.Start{
			From: Sender(sender), To: posting.Number(receiver), Amount: 1 + r.Int64N(200),
		}}
		os[i].Key = key(os[i].Number)
	}
	if o := &os[place[0]]; n%5 == 1 {
		o.Kind = Stopped
	} else {
		o.Kind, o.To = Mistyped, mistyped(o.To)
	}
	switch o := &os[place[1]]; {
	case n%5 == 0:
		o.Kind, o.Amount = Greedy, 2*p.Opening()
	case n%10 == 7:
		o.Kind, o.Patience = Hasty, hasty
	}
	return os
}

func key(number int) string { return fmt.Sprintf("t%07d", number) }

// Number returns the number of the order with a key.
func (p Plan) Number(of string) (int, bool) {
	if len(of) < 2 || of[0] != 't' {
		return 0, false
	}
	n, err := strconv.Atoi(of[1:])
	return n, err == nil && n >= 0 && n < p.Transfers && of == key(n)
}

// Sender returns the key of a sender's account.
func Sender(n int) string { return fmt.Sprintf("a%04d", n) }

// mistyped returns a number with its last digit wrong.
func mistyped(number string) string {
	last := len(number) - 1
	return number[:last] + string('0'+(number[last]-'0'+1)%10)
}

// Opening returns what each sender has in the beginning: enough for all plain orders.
func (p Plan) Opening() int64 { return 1_000_000 + 2*int64(p.Transfers) }

// Money returns what all senders have together.
func (p Plan) Money() int64 { return Accounts * p.Opening() }

// Deposits returns the requests that give the senders their money.
func (p Plan) Deposits() []deja.Request {
	rs := make([]deja.Request, Accounts)
	for i := range rs {
		rs[i] = deja.Request{ID: p.id("deposit", Sender(i), 0), Key: Sender(i), Command: account.Deposit{Amount: p.Opening()}, Actor: "teller"}
	}
	return rs
}

// Stops returns the requests by which receivers bar transfers that are still to come. They are the ledger's.
func (p Plan) Stops() (rs []deja.Request) {
	for o := range p.Orders(0) {
		if o.Kind == Stopped {
			rs = append(rs, deja.Request{ID: p.id("stop", o.Key, 0), Key: o.Key, Command: posting.Stop{}, Actor: "receiver"})
		}
	}
	return rs
}

// Request returns the request that starts an order's transfer, always the same.
func (p Plan) Request(o Order) deja.Request {
	return deja.Request{ID: p.id("start", o.Key, o.Number), Key: o.Key, Command: o.Start, Actor: "sender"}
}

// perMillisecond is how many orders share a millisecond of their IDs' time.
const perMillisecond = 4

// id returns the ID of a request. It is derived, and has the time of version 7 in front, as IDs have that a client makes
// when it takes an order: those that are handled together are neighbours in the ledger of messages.
func (p Plan) id(what, key string, number int) deja.ID {
	id := deja.DeriveID(fmt.Sprintf("transfers/%d/%s", p.Seed, what), key)
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(p.Began.UnixMilli()+int64(number/perMillisecond))<<16)
	copy(id[:6], ms[:6])
	id[6] = id[6]&0x0f | 7<<4
	return id
}

// Decisions returns how many decisions the two services make at least, for all that is asked of them before the first
// transfer, and for the transfers.
func (p Plan) Decisions() (before, transfers int) {
	for o := range p.Orders(0) {
		switch o.Kind {
		case Greedy:
			transfers += 3 // started; the account refused; heard of that
		case Stopped:
			before++
			transfers += 7
		case Mistyped:
			transfers += 7 // started; taken; heard; refused; heard; given back; heard
		case Plain, Hasty:
			transfers += 6 // started; taken; heard; posted; heard; the receipt's result
		}
	}
	return before + Accounts, transfers
}
