package trail

import (
	"encoding/binary"
	"fmt"
	"sort"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/filter"
)

// directory is what a segment says about its sections.
type directory struct {
	blocks  []blockAt
	numbers uint64 // where the pages of numbers begin
	ids     tableDir
	causes  tableDir
	streams *filter.Filter
	bytes   int
}

// blockAt is where a block is, and the key of its first row.
type blockAt struct {
	at, length int64
	rows       int
	stream     deja.Stream
	n          int64
}

func (d *directory) size() int { return d.bytes }

func parseDirectory(b []byte, s *segment) (*directory, error) {
	d := decoder{b: b}
	out := &directory{blocks: make([]blockAt, d.count()), bytes: 3 * len(b)}
	at, rows := int64(0), int64(0)
	for i := range out.blocks {
		x := &out.blocks[i]
		x.at, x.length, x.rows = at, int64(d.uint()), int(d.uint())
		x.stream = deja.Stream{Tenant: d.string(), Aggregate: d.string(), Key: d.string()}
		x.n = s.first + int64(d.uint())
		if at += x.length; x.length < checksumSize || at > s.length {
			d.bad = true
			break
		}
		rows += int64(x.rows)
		out.bytes += 120
	}
	out.numbers = d.uint()
	out.ids.parse(&d)
	out.causes.parse(&d)
	raw := d.bytes()
	if err := d.end("a directory"); err != nil {
		return nil, err
	}
	if rows != s.count {
		return nil, fmt.Errorf("%w: a segment of %d rows has %d", ErrDamaged, s.count, rows)
	}
	var err error
	if out.streams, err = filter.Parse(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return out, nil
}

func (t *tableDir) parse(d *decoder) {
	at := d.uint()
	n := d.count()
	t.firsts, t.at = make([]uint64, n), make([]uint64, n+1)
	for i := range n {
		t.firsts[i], t.at[i] = d.uint64(), at
		at += d.uint()
	}
	t.at[n] = at
}

// seek returns the last block whose first row is not behind a key; 0 if there is none.
func (d *directory) seek(s deja.Stream, n int64) int {
	i := sort.Search(len(d.blocks), func(i int) bool { return compareKeys(d.blocks[i].stream, d.blocks[i].n, s, n) > 0 })
	return max(i-1, 0)
}

// section reads a section without its checksum.
func (t *Trail) section(s *segment, at, length int64) ([]byte, error) {
	if at < 0 || length < checksumSize || at+length > s.length {
		return nil, fmt.Errorf("%w: a section is not in its segment", ErrDamaged)
	}
	buf := make([]byte, length)
	if _, err := t.f.ReadAt(buf, s.at+at); err != nil {
		return nil, t.readError(err)
	}
	body := buf[:length-checksumSize]
	if binary.LittleEndian.Uint32(buf[len(body):]) != checksum(s.stamp, at, body) {
		return nil, fmt.Errorf("%w: a checksum at %d is wrong", ErrDamaged, s.at+at)
	}
	return body, nil
}

// directory returns a segment's directory.
func (t *Trail) directory(s *segment) (*directory, error) {
	return load(t.cache, cacheKey{s.stamp, -1}, func() (*directory, error) {
		b, err := t.section(s, s.length-s.dirLength, s.dirLength)
		if err == nil {
			b, err = t.unpack(b)
		}
		if err != nil {
			return nil, err
		}
		return parseDirectory(b, s)
	})
}

// block returns a block of a segment.
func (t *Trail) block(s *segment, d *directory, i int) (*block, error) {
	return load(t.cache, cacheKey{s.stamp, d.blocks[i].at}, func() (*block, error) { return t.readBlock(s, d, i) })
}

func (t *Trail) readBlock(s *segment, d *directory, i int) (*block, error) {
	x := &d.blocks[i]
	b, err := t.section(s, x.at, x.length)
	if err != nil {
		return nil, err
	}
	ids := int64(x.rows) * idSize
	if ids > int64(len(b)) {
		return nil, fmt.Errorf("%w: a block is too short", ErrDamaged)
	}
	cols, err := t.unpack(b[ids:])
	if err != nil {
		return nil, err
	}
	return parseBlock(b[:ids:ids], cols)
}

func (t *Trail) unpack(b []byte) ([]byte, error) {
	out, err := t.zstd.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return out, nil
}

// page returns a page of a table of IDs.
func (t *Trail) page(s *segment, d *directory, table *tableDir, i int) (*page, error) {
	return load(t.cache, cacheKey{s.stamp, int64(table.at[i])}, func() (*page, error) {
		b, err := t.section(s, int64(table.at[i]), int64(table.at[i+1]-table.at[i]))
		if err != nil {
			return nil, err
		}
		return parsePage(b, table.firsts[i], widthOf(len(d.blocks)))
	})
}

// blockOf returns which block of a segment has decision n.
func (t *Trail) blockOf(s *segment, d *directory, n int64) (int, error) {
	width := widthOf(len(d.blocks))
	i := int(n - s.first)
	k := i / pageNumbers
	each := int64(packed(pageNumbers, width) + checksumSize)
	rows := min(pageNumbers, int(s.count)-k*pageNumbers)
	at := int64(d.numbers) + int64(k)*each
	p, err := load(t.cache, cacheKey{s.stamp, at}, func() (numbers, error) {
		return t.section(s, at, int64(packed(rows, width)+checksumSize))
	})
	if err != nil {
		return 0, err
	}
	b := int(unpack(p, i%pageNumbers, width))
	if b >= len(d.blocks) {
		return 0, fmt.Errorf("%w: decision %d is in block %d of %d", ErrDamaged, n, b, len(d.blocks))
	}
	return b, nil
}

type numbers []byte

func (n numbers) size() int { return len(n) }
