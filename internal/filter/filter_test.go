package filter

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

// ids makes n ids: random ones, or such as differ in their last bytes only.
func ids(r *rand.Rand, n int, random bool) [][16]byte {
	all := make([][16]byte, n)
	for i := range all {
		if random {
			binary.BigEndian.PutUint64(all[i][:], r.Uint64())
		}
		binary.BigEndian.PutUint64(all[i][8:], uint64(i))
	}
	return all
}

// What was added is found, also after the way through bytes, whatever the size and however many are added.
func TestNoMemberIsMissed(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		room, n := r.IntN(2000), r.IntN(3000)
		all := ids(r, n, r.IntN(2) == 0)
		f := New(room)
		for _, id := range all {
			f.Add(id)
		}
		again, err := Parse(f.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if f.Len() != n || again.Len() != n {
			t.Fatalf("of %d ids %d were counted, %d after parsing", n, f.Len(), again.Len())
		}
		for _, id := range all {
			if !f.Has(id) || !again.Has(id) {
				t.Fatalf("id %x of %d in a filter for %d is missed (seed %d)", id, n, room, seed)
			}
		}
	}
}

// A full filter takes no more than 0.15 % of other ids for members, of random and of neighbouring ones.
func TestFalsePositives(t *testing.T) {
	const n = 200_000
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, random := range []bool{true, false} {
		all := ids(r, 2*n, random)
		f := New(n)
		for _, id := range all[:n] {
			f.Add(id)
		}
		wrong := 0
		for _, id := range all[n:] {
			if f.Has(id) {
				wrong++
			}
		}
		t.Logf("random %v: %.3f %% false positives", random, 100*float64(wrong)/n)
		if wrong > n*15/10_000 { // about 0.1 % are expected; the standard deviation is 0.007 %
			t.Errorf("random %v: %d of %d others pass for members", random, wrong, n)
		}
		if wrong == 0 {
			t.Errorf("random %v: no other passes for a member: is the filter asked at all?", random)
		}
	}
}

func TestAnEmptyFilterHasNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	f := New(0)
	for _, id := range ids(r, 1000, true) {
		if f.Has(id) {
			t.Fatalf("it has %x", id)
		}
	}
}

// One sum serves all filters of a seed, however large.
func TestLike(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	f := New(1000)
	g := f.Like(50)
	if !f.SameSums(g) || f.SameSums(New(1000)) || g.Len() != 0 {
		t.Fatalf("%t, %t, %d ids", f.SameSums(g), f.SameSums(New(1000)), g.Len())
	}
	for _, id := range ids(r, 1000, true) {
		f.Add(id)
		if !f.HasSum(g.Sum(id)) || f.Sum(id) != g.Sum(id) {
			t.Fatalf("id %x has sums %x and %x", id, f.Sum(id), g.Sum(id))
		}
	}
	for _, id := range ids(r, 100, true) {
		if g.HasSum(f.Sum(id)) {
			t.Fatalf("the other has %x", id)
		}
	}
}

// Two filters set other bits for the same ids.
func TestSeedsDiffer(t *testing.T) {
	a, b := New(10), New(10)
	a.Add([16]byte{1})
	b.Add([16]byte{1})
	if a.seed == b.seed || a.blocks[0] == b.blocks[0] {
		t.Fatal("two filters are alike")
	}
}

// The hash is SipHash-1-3 as others compute it: of the bytes 0 to 15 under the key of the bytes 0 to 15.
func TestHash(t *testing.T) {
	const k0, k1 = 0x0706050403020100, 0x0f0e0d0c0b0a0908
	const want = 0xcc4fdd1a7d908b66
	if h := hash(k0, k1, k0, k1); h != want {
		t.Fatalf("got %#x, want %#x", h, uint64(want))
	}
}

// golden is a filter of two blocks with two ids under the seed 0, 1 … 15.
func golden() *Filter {
	f := &Filter{blocks: make([]block, 2)}
	for i := range f.seed {
		f.seed[i] = byte(i)
	}
	f.key()
	f.Add([16]byte{})
	f.Add([16]byte{15: 1})
	return f
}

// The stored form stays what it was.
func TestGoldenForm(t *testing.T) {
	const want = "64656a61666c7401" +
		"000102030405060708090a0b0c0d0e0f" +
		"0200000000000000" +
		"0200000000000000" +
		"00100000000000000000001000000000000200000000000000000200000000000002000000000000100000000000000000002000000000000000000000080000" +
		"00000040000000000001000000000000000008000000000000000000000800000001000000000000040000000000000000100000000000000000000000020000" +
		"68ba42e06a7758d3c7f606ca9aac0ca19ae53a84474546eac635dcad004d2bb0"
	if got := hex.EncodeToString(golden().Bytes()); got != want {
		t.Fatalf("the form is now %s", got)
	}
}

func FuzzParse(f *testing.F) {
	whole := golden().Bytes()
	f.Add([]byte(nil), 0, byte(0))
	f.Add(whole, 0, byte(1))
	f.Add(whole, len(whole)-1, byte(128))
	f.Add(whole[:len(whole)-64], 0, byte(0))
	f.Add(append(bytes.Clone(whole), 0), 0, byte(0))
	f.Fuzz(func(t *testing.T, b []byte, at int, flip byte) {
		parsed, err := Parse(b)
		if err != nil {
			return
		}
		if !bytes.Equal(parsed.Bytes(), b) {
			t.Fatal("what was parsed is written otherwise")
		}
		if flip == 0 || at < 0 || at >= len(b) {
			return
		}
		b = bytes.Clone(b)
		b[at] ^= flip
		if _, err := Parse(b); err == nil {
			t.Fatalf("byte %d changed by %#x is not noticed", at, flip)
		}
	})
}

// Every changed byte, and every length but the right one, is refused.
func TestParseRefusesDamage(t *testing.T) {
	whole := golden().Bytes()
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if _, err := Parse(b); err == nil {
			t.Errorf("byte %d changed: not noticed", i)
		}
		if _, err := Parse(whole[:i]); err == nil {
			t.Errorf("cut to %d bytes: not noticed", i)
		}
	}
	if _, err := Parse(append(bytes.Clone(whole), 0)); err == nil {
		t.Error("a byte more: not noticed")
	}
}

func BenchmarkHas(b *testing.B) {
	f := New(1_000_000)
	all := ids(rand.New(rand.NewPCG(1, 1)), 1<<16, true)
	for _, id := range all {
		f.Add(id)
	}
	i := 0
	for b.Loop() {
		id := all[i&(1<<16-1)]
		id[0]++
		f.Has(id)
		i++
	}
}
