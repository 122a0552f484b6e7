// Package filter holds a set of ids that may answer yes in error, and never no: a blocked Bloom filter, for skipping a
// place that has not got an id without looking there. It ends at the filter's bytes: where they are kept, and what they
// belong to, is the caller's business.
package filter

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
)

const (
	bitsPerID  = 16
	blockWords = 8 // 64 bytes: a cache line, so an answer costs one access to memory
	blockBits  = blockWords * 64
)

// A Filter is a set of ids. Of those never added, Has takes about 0.1 % for members while no more were added than there
// is room for; with more it is wrong more often, but still never misses a member.
//
// Calls of Has are safe for concurrent use; Add is not safe beside any other call.
type Filter struct {
	seed   [seedSize]byte // random: whoever chooses ids must not choose which bits they set
	k0, k1 uint64         // the seed, as numbers
	n      uint64
	blocks []block
}

// A block has one bit of each word set for each of its ids.
type block [blockWords]uint64

// New returns an empty filter with room for n ids.
func New(n int) *Filter {
	f := &Filter{blocks: newBlocks(n)}
	_, _ = rand.Read(f.seed[:]) // it never fails
	f.key()
	return f
}

// Like returns an empty filter with room for n ids and the same seed, so that an id's Sum is the same in both.
func (f *Filter) Like(n int) *Filter {
	g := &Filter{seed: f.seed, blocks: newBlocks(n)}
	g.key()
	return g
}

func newBlocks(n int) []block { return make([]block, max(1, (n*bitsPerID+blockBits-1)/blockBits)) }

// key reads the numbers from the seed.
func (f *Filter) key() {
	f.k0, f.k1 = binary.LittleEndian.Uint64(f.seed[:8]), binary.LittleEndian.Uint64(f.seed[8:])
}

// A Sum stands for an id in all filters of one seed. Making it is most of the work of asking one.
type Sum uint64

// Sum returns an id's sum.
func (f *Filter) Sum(id [16]byte) Sum {
	return Sum(hash(f.k0, f.k1, binary.LittleEndian.Uint64(id[:8]), binary.LittleEndian.Uint64(id[8:])))
}

// SameSums reports whether a sum of one filter is good for the other.
func (f *Filter) SameSums(g *Filter) bool { return f.seed == g.seed }

// Add adds an id. The same one twice counts twice.
func (f *Filter) Add(id [16]byte) {
	b, at := f.place(f.Sum(id))
	for i := range b {
		b[i] |= 1 << (at & 63)
		at >>= 6
	}
	f.n++
}

// Has reports whether an id may have been added. If not, it was not.
func (f *Filter) Has(id [16]byte) bool { return f.HasSum(f.Sum(id)) }

// HasSum is Has for the id of a sum.
func (f *Filter) HasSum(s Sum) bool {
	b, at := f.place(s)
	missing := uint64(0)
	for i := range b {
		missing |= ^b[i] >> (at & 63)
		at >>= 6
	}
	return missing&1 == 0
}

// Len returns how many ids were added.
func (f *Filter) Len() int { return int(f.n) }

// place returns the block of a sum's id, and its bits there: six binary digits for each word, from below.
func (f *Filter) place(s Sum) (b *block, at uint64) {
	i, _ := bits.Mul64(uint64(s), uint64(len(f.blocks)))
	// The block takes the upper digits of the sum. The product's upper ones depend on all of it, so that the ids of one
	// block differ in all words even where there are very many blocks.
	return &f.blocks[i], uint64(s) * 0x9e3779b97f4a7c15 >> 16
}

// hash is SipHash-1-3 of sixteen bytes: nobody who does not know the key can choose ids that collide.
func hash(k0, k1, m0, m1 uint64) uint64 {
	const length = 16 << 56 // closes the message
	a, b, c, d := k0^0x736f6d6570736575, k1^0x646f72616e646f6d, k0^0x6c7967656e657261, k1^0x7465646279746573
	a, b, c, d = round(a, b, c, d^m0)
	a, b, c, d = round(a^m0, b, c, d^m1)
	a, b, c, d = round(a^m1, b, c, d^length)
	a, b, c, d = round(a^length, b, c^0xff, d)
	a, b, c, d = round(a, b, c, d)
	a, b, c, d = round(a, b, c, d)
	return a ^ b ^ c ^ d
}

func round(a, b, c, d uint64) (uint64, uint64, uint64, uint64) {
	a += b
	c += d
	b = bits.RotateLeft64(b, 13) ^ a
	d = bits.RotateLeft64(d, 16) ^ c
	c += b
	a = bits.RotateLeft64(a, 32) + d
	b = bits.RotateLeft64(b, 17) ^ c
	d = bits.RotateLeft64(d, 21) ^ a
	return a, b, bits.RotateLeft64(c, 32), d
}

// The form of a filter: the magic, whose last byte is the version; the seed; how many ids were added, and how many
// blocks there are, as 8 bytes each; the blocks, word by word; and the SHA-256 of all that. Numbers are little-endian.
const (
	magic      = "dejaflt\x01"
	seedSize   = 16
	headerSize = len(magic) + seedSize + 8 + 8
	blockSize  = blockWords * 8
)

// Bytes returns the filter in its stored form, which does not change.
func (f *Filter) Bytes() []byte {
	b := make([]byte, 0, headerSize+len(f.blocks)*blockSize+sha256.Size)
	b = append(b, magic...)
	b = append(b, f.seed[:]...)
	b = binary.LittleEndian.AppendUint64(b, f.n)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(f.blocks)))
	for i := range f.blocks {
		for _, w := range &f.blocks[i] {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

var errDamaged = errors.New("the filter is damaged")

// Parse reads a filter from its stored form, and keeps nothing of it. It refuses what Bytes has not written so.
func Parse(b []byte) (*Filter, error) {
	if len(b) < headerSize+blockSize+sha256.Size {
		return nil, fmt.Errorf("%w: it has %d bytes", errDamaged, len(b))
	}
	if !bytes.HasPrefix(b, []byte(magic)) {
		return nil, fmt.Errorf("%w, or of another version: it begins with %x", errDamaged, b[:len(magic)])
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return nil, fmt.Errorf("%w: its checksum differs", errDamaged)
	}
	words := body[headerSize:]
	blocks := binary.LittleEndian.Uint64(body[headerSize-8:])
	if len(words)%blockSize != 0 || blocks != uint64(len(words)/blockSize) {
		return nil, fmt.Errorf("%w: it says that it has %d blocks, but has %d bytes of them", errDamaged, blocks, len(words))
	}
	f := &Filter{seed: [seedSize]byte(body[len(magic):]), blocks: make([]block, blocks)}
	f.n = binary.LittleEndian.Uint64(body[headerSize-16:])
	f.key()
	for i := range f.blocks {
		for j := range f.blocks[i] {
			f.blocks[i][j] = binary.LittleEndian.Uint64(words[i*blockSize+j*8:])
		}
	}
	return f, nil
}
