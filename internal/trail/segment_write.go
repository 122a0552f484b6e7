package trail

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/filter"
)

// A segment has the rows of consecutive decisions of a partition. Its sections follow one another: blocks, the pages that say
// in which block each decision is, the pages of IDs, those of causes, and last the directory of all that. A section has a
// checksum behind it, over the segment's stamp, where in the segment it begins, and its bytes: so one in another's place
// is noticed, too.
type segment struct {
	partition    int32
	stamp        uint64 // random
	at           int64  // where in the file it begins
	length       int64
	dirLength    int64 // of its last section, with the checksum
	first, count int64 // decisions
	offset       int64 // of the first's message
	time, last   int64 // of the first and the last decision; microseconds
	data         int64 // bytes of payloads, tokens and points, as they were before
}

// end returns the segment's last decision.
func (s *segment) end() int64 { return s.first + s.count - 1 }

const (
	blockBytes   = 64 << 10 // of a block's columns and ids, before they are compressed
	pageNumbers  = 2048     // decisions that a page has the blocks of
	checksumSize = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is that of a section.
func checksum(stamp uint64, at int64, b []byte) uint32 {
	var seed [16]byte
	binary.LittleEndian.PutUint64(seed[:], stamp)
	binary.LittleEndian.PutUint64(seed[8:], uint64(at))
	return crc32.Update(crc32.Checksum(seed[:], castagnoli), castagnoli, b)
}

// segmentWriter makes segments.
type segmentWriter struct {
	zstd  *zstd.Encoder
	block int // bytes
	seg   *segment
	out   encoder
	dir   encoder // of blocks
	n     int     // blocks

	blocks []uint32 // by number of the row: its block
	ids    []prefix
	causes []prefix
}

func newSegmentWriter(block int) (*segmentWriter, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	return &segmentWriter{zstd: z, block: block}, err
}

// write makes a segment of rows of a partition, to be put at an offset of the file. The bytes are valid until the next call.
func (w *segmentWriter) write(partition int32, r *rows, at int64) (*segment, []byte) {
	first, last := &r.list[0], &r.list[len(r.list)-1]
	w.seg = &segment{
		partition: partition, stamp: randomStamp(), at: at, first: first.n, count: int64(len(r.list)), offset: first.offset, time: first.time, last: last.time, data: int64(len(r.data)),
	}
	w.out, w.dir, w.n = w.out[:0], w.dir[:0], 0
	w.blocks = append(w.blocks[:0], make([]uint32, len(r.list))...)
	w.ids, w.causes = w.ids[:0], w.causes[:0]
	set := filter.New(len(r.streams))
	for _, s := range r.streams {
		set.Add(streamID(s))
	}
	w.writeBlocks(r)

	var dir encoder
	dir.uint(uint64(w.n))
	dir = append(dir, w.dir...)
	w.writeNumbers(&dir)
	w.writeTable(&dir, w.ids)
	w.writeTable(&dir, w.causes)
	dir.bytes(set.Bytes())
	dirAt := len(w.out)
	w.out = w.zstd.EncodeAll(dir, w.out)
	w.seal(dirAt)
	w.seg.dirLength, w.seg.length = int64(len(w.out)-dirAt), int64(len(w.out))
	return w.seg, w.out
}

func randomStamp() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}

// streamID is what a filter knows a stream by.
func streamID(s deja.Stream) [16]byte {
	var e encoder
	e.string(s.Tenant)
	e.string(s.Aggregate)
	e.string(s.Key)
	sum := sha256.Sum256(e)
	return [16]byte(sum[:16])
}

// seal ends the section that begins at lo.
func (w *segmentWriter) seal(lo int) {
	w.out = binary.LittleEndian.AppendUint32(w.out, checksum(w.seg.stamp, int64(lo), w.out[lo:]))
}

func (w *segmentWriter) writeBlocks(r *rows) {
	bw := newBlockWriter(r)
	order := r.sorted()
	begin := 0
	for i, k := range order {
		bw.add(&r.list[k])
		if bw.size() >= w.block || i == len(order)-1 {
			w.writeBlock(bw, r, order[begin:i+1])
			begin = i + 1
		}
	}
}

// writeBlock writes a block: its length in the directory, with its first key; the ids as they are, then the columns, compressed.
func (w *segmentWriter) writeBlock(bw *blockWriter, r *rows, order []uint32) {
	for _, k := range order {
		row := &r.list[k]
		w.blocks[k] = uint32(w.n)
		w.ids = append(w.ids, prefix{prefixOf(row.id), uint32(w.n)})
		if !row.cause.IsZero() {
			w.causes = append(w.causes, prefix{prefixOf(row.cause), uint32(w.n)})
		}
	}
	lo := len(w.out)
	ids, cols := bw.finish()
	w.out = append(w.out, ids...)
	w.out = w.zstd.EncodeAll(cols, w.out)
	w.seal(lo)
	first := &r.list[order[0]]
	s := r.streams[first.stream]
	w.dir.uint(uint64(len(w.out) - lo))
	w.dir.uint(uint64(len(order)))
	w.dir.string(s.Tenant)
	w.dir.string(s.Aggregate)
	w.dir.string(s.Key)
	w.dir.uint(uint64(first.n - w.seg.first))
	w.n++
	bw.begin()
}

func prefixOf(id deja.ID) uint64 { return binary.BigEndian.Uint64(id[:8]) }

// writeNumbers writes which block has which decision: pages of a fixed length.
func (w *segmentWriter) writeNumbers(dir *encoder) {
	dir.uint(uint64(len(w.out)))
	width := widthOf(w.n)
	for lo := 0; lo < len(w.blocks); lo += pageNumbers {
		p := packer{width: width}
		for _, b := range w.blocks[lo:min(lo+pageNumbers, len(w.blocks))] {
			p.add(uint64(b))
		}
		at := len(w.out)
		w.out = append(w.out, p.bytes()...)
		w.seal(at)
	}
}

// writeTable writes a table of IDs: in the directory how many pages there are, and the first prefix and length of each.
func (w *segmentWriter) writeTable(dir *encoder, ps []prefix) {
	sortPrefixes(ps)
	pages := pagesOf(ps)
	dir.uint(uint64(len(w.out)))
	dir.uint(uint64(len(pages)))
	for _, p := range pages {
		lo := len(w.out)
		w.out = appendPage(w.out, p, widthOf(w.n))
		w.seal(lo)
		*dir = binary.LittleEndian.AppendUint64(*dir, p[0].id)
		dir.uint(uint64(len(w.out) - lo))
	}
}
