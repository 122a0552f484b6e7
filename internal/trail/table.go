package trail

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sort"
)

// A table of IDs says which blocks of a segment have IDs that begin so. It is made of pages of prefixes in order: each
// page says how many low bits of its prefixes are left out, as few bits tell IDs apart where there are few.
const pageIDs = 1024 // of a table of IDs

// tableDir is where the pages of a table are.
type tableDir struct {
	firsts []uint64 // the first prefix of each page
	at     []uint64 // where in the segment each page begins; one more for the end
}

// cutBits returns how many low bits of a page's prefixes need not be kept: so many that hardly any two become the same.
func cutBits(ps []prefix) int {
	distinct := func(cut int) int {
		n := 1
		for i := range ps[1:] {
			if ps[i].id>>cut != ps[i+1].id>>cut {
				n++
			}
		}
		return n
	}
	all := distinct(0)
	for cut := 56; cut > 0; cut -= 4 {
		if distinct(cut) >= all-all/100 {
			return cut
		}
	}
	return 0
}

// appendPage appends a page: how many bits are left out; how many prefixes; of each, by how much it is above the one before,
// and its block.
func appendPage(dst encoder, ps []prefix, width int) encoder {
	cut := cutBits(ps)
	dst.uint(uint64(cut))
	dst.uint(uint64(len(ps)))
	last := ps[0].id >> cut
	for _, p := range ps {
		dst.uint(p.id>>cut - last)
		last = p.id >> cut
	}
	var blocks packer
	blocks.width = width
	for _, p := range ps {
		blocks.add(uint64(p.block))
	}
	return append(dst, blocks.bytes()...)
}

// page is a page as it was read.
type page struct {
	cut    int
	ids    []uint64 // without the bits that were cut
	blocks []byte
	width  int
}

func (p *page) size() int { return 8*len(p.ids) + len(p.blocks) }

func parsePage(b []byte, first uint64, width int) (*page, error) {
	d := decoder{b: b}
	p := &page{cut: int(d.uint() & 63), width: width}
	p.ids = make([]uint64, d.count())
	last := first >> p.cut
	for i := range p.ids {
		last += d.uint()
		p.ids[i] = last
	}
	p.blocks = d.take(uint64(packed(len(p.ids), width)))
	return p, d.end("a table of IDs")
}

// block returns the block of the i-th prefix.
func (p *page) block(i int) int { return int(unpack(p.blocks, i, p.width)) }

// pages returns which pages may have prefixes from lo to hi.
func (t *tableDir) pages(lo, hi uint64) (from, to int) {
	from = sort.Search(len(t.firsts), func(i int) bool { return t.firsts[i] >= lo })
	from = max(from-1, 0) // the page before may end with it, and cut bits make equal what is not
	to = sort.Search(len(t.firsts), func(i int) bool { return t.firsts[i] > hi })
	return from, to
}

// packer packs numbers of a fixed width, from the low bits up.
type packer struct {
	width int
	out   []byte
	acc   uint64
	have  int
}

func (p *packer) add(v uint64) {
	p.acc |= v << p.have
	for p.have += p.width; p.have >= 8; p.have -= 8 {
		p.out = append(p.out, byte(p.acc))
		p.acc >>= 8
	}
}

func (p *packer) bytes() []byte {
	if p.have > 0 {
		p.out = append(p.out, byte(p.acc))
		p.acc, p.have = 0, 0
	}
	return p.out
}

// packed returns how many bytes n numbers take.
func packed(n, width int) int { return (n*width + 7) / 8 }

// unpack returns the i-th number. A width is 24 at most.
func unpack(b []byte, i, width int) uint64 {
	at := i * width
	var word [8]byte
	copy(word[:], b[min(at/8, len(b)):])
	return binary.LittleEndian.Uint64(word[:]) >> (at % 8) & (1<<width - 1)
}

// widthOf returns the width of numbers below n.
func widthOf(n int) int { return bits.Len(uint(max(n-1, 0))) }

// pagesOf cuts sorted prefixes into pages.
func pagesOf(ps []prefix) [][]prefix { return slices.Collect(slices.Chunk(ps, pageIDs)) }
