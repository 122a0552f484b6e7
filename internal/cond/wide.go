package cond

import (
	"cmp"
	"math/big"
	"math/bits"
)

// wide is an integer of 128 bits: differences of 64-bit integers never overflow it.
type wide struct{ hi, lo uint64 } // two's complement

func (a wide) sub(b wide) wide {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ := bits.Sub64(a.hi, b.hi, borrow)
	return wide{hi, lo}
}

func (a wide) compare(b wide) int {
	const sign = 1 << 63
	return cmp.Or(cmp.Compare(a.hi^sign, b.hi^sign), cmp.Compare(a.lo, b.lo))
}

func (a wide) big() *big.Int {
	i := new(big.Int).SetUint64(a.hi)
	if a.hi>>63 != 0 {
		i.Sub(i, new(big.Int).Lsh(big.NewInt(1), 64))
	}
	return i.Add(i.Lsh(i, 64), new(big.Int).SetUint64(a.lo))
}
