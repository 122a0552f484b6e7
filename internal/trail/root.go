package trail

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/dejalog/deja/driver"
)

// A root is what there is of a trail at a moment. It never changes: what is added is a new one.
type root struct {
	generation uint64
	identity   string
	marks      []driver.Logged // by partition: right behind its last decision
	segments   [][]*segment    // by partition, in order
	end        int64           // of the file, as far as the root knows it: what it points to, and it, are before
}

func (r *root) encode() encoder {
	var e encoder
	e.string(r.identity)
	e.uint(uint64(len(r.marks)))
	for p := range r.marks {
		m := &r.marks[p]
		e.int(m.Offset)
		e.uint(uint64(m.N))
		e = append(e, m.Chain[:]...)
		e.int(m.Incarnation.Number)
		e = append(e, m.Incarnation.Nonce[:]...)
		e.uint(uint64(len(r.segments[p])))
		for _, s := range r.segments[p] {
			e = binary.LittleEndian.AppendUint64(e, s.stamp)
			for _, v := range []int64{s.at, s.length, s.dirLength, s.first, s.count, s.offset, s.time, s.last, s.data} {
				e.int(v)
			}
		}
	}
	return e
}

// parseRoot reads a root, and checks that it says nothing that cannot be: its segments are in the file, and each follows
// from the one before it.
func parseRoot(b []byte, end int64) (*root, error) {
	d := decoder{b: b}
	r := &root{identity: d.string(), end: end}
	n := d.count()
	r.marks, r.segments = make([]driver.Logged, n), make([][]*segment, n)
	for p := range r.marks {
		m := &r.marks[p]
		m.Offset, m.N = d.int(), int64(d.uint())
		copy(m.Chain[:], d.fixed(32))
		m.Incarnation.Number = d.int()
		copy(m.Incarnation.Nonce[:], d.fixed(16))
		next := int64(1)
		for range d.count() {
			s := &segment{partition: int32(p), stamp: d.uint64()}
			for _, v := range []*int64{&s.at, &s.length, &s.dirLength, &s.first, &s.count, &s.offset, &s.time, &s.last, &s.data} {
				*v = d.int()
			}
			if s.first != next || s.count < 1 || s.at < headerSize || s.length < s.dirLength || s.dirLength < 0 || s.at > end-s.length {
				return nil, fmt.Errorf("%w: its root does not fit", ErrDamaged)
			}
			next += s.count
			r.segments[p] = append(r.segments[p], s)
		}
		if next != m.N+1 {
			return nil, fmt.Errorf("%w: its root does not fit", ErrDamaged)
		}
	}
	return r, d.end("the root")
}

// live returns how many bytes the segments have.
func (r *root) live() int64 {
	n := int64(headerSize)
	for _, list := range r.segments {
		for _, s := range list {
			n += s.length
		}
	}
	return n
}

// with returns a root in which a segment stands for all of its partition from its first decision on.
func (r *root) with(s *segment, mark driver.Logged) *root {
	next := *r
	next.end = max(r.end, s.at+s.length)
	next.marks = slices.Clone(r.marks)
	next.marks[s.partition] = mark
	next.segments = slices.Clone(r.segments)
	var list []*segment
	for _, old := range r.segments[s.partition] {
		if old.first < s.first {
			list = append(list, old)
		}
	}
	next.segments[s.partition] = append(list, s)
	return &next
}

// The file begins with a magic, whose last byte is the version, and two slots for where the root is. The one of the higher
// generation counts; the other one is written next, so that a torn write leaves one that is right.
const (
	magic      = "dejatrl\x01"
	headerSize = 4096
	slotSize   = 8 + 8 + 4 + 4 + 4 // generation; offset, length and checksum of the root; checksum of all that
)

func slotAt(generation uint64) int64 { return 512 * (1 + int64(generation%2)) }

func encodeSlot(generation uint64, at int64, root []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, generation)
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(root)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(root, castagnoli))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

type slot struct {
	generation uint64
	at, length int64
	sum        uint32
}

// parseSlot reads a slot; ok is false if it is empty or damaged.
func parseSlot(b []byte) (s slot, ok bool) {
	le := binary.LittleEndian
	if le.Uint32(b[slotSize-4:]) != crc32.Checksum(b[:slotSize-4], castagnoli) {
		return s, false
	}
	s = slot{generation: le.Uint64(b), at: int64(le.Uint64(b[8:])), length: int64(le.Uint32(b[16:])), sum: le.Uint32(b[20:])}
	return s, s.at >= headerSize
}
