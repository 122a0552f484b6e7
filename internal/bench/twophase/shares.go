package main

import "math/rand/v2"

const (
	perSide = 1_000     // on each side
	opening = 1_000_000 // what each account of the first side begins with
	money   = perSide * opening
	closed  = 20 // every so many-th account of the second side is closed: 5 % of the transfers are refused
)

// move is a transfer: of an amount, from an account of the first side to one of the second.
type move struct {
	id       string
	from, to int
	amount   int64
}

// Accounts are shared out, so that what is asked for by one kind of clients does not disturb another: of those that are open,
// in order, the first are of transfers in flight when something dies, and of those that wait for them; the next are the other
// side of transfers that touch one of these; the last, open or closed, are everybody else's.
const (
	inFlightShare = 100
	touchingShare = 300
	othersShare   = 500
)

// open returns the nth account that is open.
func open(n int) int { return n + n/(closed-1) }

// isClosed reports whether an account of the second side is closed.
func isClosed(account int) bool { return account%closed == closed-1 }

func someTouching(rng *rand.Rand) int { return open(inFlightShare + rng.IntN(touchingShare)) }

func someOther(rng *rand.Rand) int { return perSide - 1 - rng.IntN(othersShare) }

// random is a transfer between any two accounts.
func random(rng *rand.Rand) move {
	return move{from: rng.IntN(perSide), to: rng.IntN(perSide), amount: 1 + rng.Int64N(100)}
}

// touching is a transfer that has an account in common with one of n others.
func touching(rng *rand.Rand, n int, other func(int) move) move {
	if rng.IntN(2) == 0 {
		return move{from: other(rng.IntN(n)).from, to: someTouching(rng), amount: 1}
	}
	return move{from: someTouching(rng), to: other(rng.IntN(n)).to, amount: 1}
}

// apart is a transfer that has no account in common with what is in flight, nor with what waits for that.
func apart(rng *rand.Rand) move {
	return move{from: someOther(rng), to: someOther(rng), amount: 1}
}
