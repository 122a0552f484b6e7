package trail

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dejalog/deja"
)

// A block is one as it was read: all of it is in memory, and nothing of it changes.
type block struct {
	n      int
	names  []string
	shapes []shape
	groups []group
	cols   [columns][]byte
	ids    []byte
	data   string // colData, once more
}

type shape struct {
	kind, status, flags byte
	typ                 string
	version             int64 // by how much it grows
	events              []string
	writes              []shapeWrite
}

type shapeWrite struct {
	path uint32 // its number in the block
	told bool   // the old token is among the data
}

type group struct {
	stream  deja.Stream
	version int64 // before its first row
	rows    int
}

// size returns about how much memory a block takes.
func (b *block) size() int {
	n := len(b.ids) + 2*len(b.data) + 100*len(b.groups) + 80*len(b.shapes) + 40*len(b.names)
	for i := range b.cols {
		n += len(b.cols[i])
	}
	return n
}

// parseBlock reads what blockWriter.finish gave, and shares it.
func parseBlock(ids, cols []byte) (*block, error) {
	d := decoder{b: cols}
	b := &block{ids: ids}
	n, shapes, groups := d.uint(), d.uint(), d.uint()
	var lens [columns]uint64
	for i := range lens {
		lens[i] = d.uint()
	}
	for i := range lens {
		b.cols[i] = d.take(lens[i])
	}
	if err := d.end("a block"); err != nil {
		return nil, err
	}
	if uint64(len(ids)) != n*idSize || n > uint64(len(cols)) || shapes > n || groups > n {
		return nil, fmt.Errorf("%w: a block of %d rows has %d bytes of ids", ErrDamaged, n, len(ids))
	}
	b.n, b.data = int(n), string(b.cols[colData])
	if err := b.parseNames(); err != nil {
		return nil, err
	}
	if err := b.parseShapes(int(shapes)); err != nil {
		return nil, err
	}
	if err := b.parseGroups(int(groups)); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *block) parseNames() error {
	d := decoder{b: b.cols[colNames]}
	b.names = make([]string, d.count())
	for i := range b.names {
		b.names[i] = d.string()
	}
	return d.end("names")
}

func (b *block) name(d *decoder) string {
	i := d.uint()
	if i >= uint64(len(b.names)) {
		d.bad = true
		return ""
	}
	return b.names[i]
}

func (b *block) parseShapes(n int) error {
	d := decoder{b: b.cols[colShapes]}
	b.shapes = make([]shape, n)
	for i := range b.shapes {
		s := &b.shapes[i]
		head := d.fixed(3)
		s.kind, s.status, s.flags, s.typ = head[0], head[1], head[2], b.name(&d)
		if s.flags&hasVersion != 0 {
			s.version = d.int()
		}
		for range d.count() {
			s.events = append(s.events, b.name(&d))
		}
		for range d.count() {
			v := d.uint()
			if v>>1 >= uint64(len(b.names)) {
				d.bad = true
				break
			}
			s.writes = append(s.writes, shapeWrite{uint32(v >> 1), v&1 == 1})
		}
	}
	return d.end("shapes")
}

func (b *block) parseGroups(n int) error {
	d := decoder{b: b.cols[colGroups]}
	b.groups = make([]group, n)
	key, rows := "", 0
	for i := range b.groups {
		g := &b.groups[i]
		g.stream.Tenant, g.stream.Aggregate = b.name(&d), b.name(&d)
		shared, rest := d.uint(), d.bytes()
		if shared > uint64(len(key)) {
			return fmt.Errorf("%w: keys cannot be read", ErrDamaged)
		}
		key = key[:shared] + string(rest)
		g.stream.Key, g.version = key, d.int()
		g.rows = int(min(d.uint(), uint64(b.n)))
		rows += g.rows
	}
	if rows != b.n {
		return fmt.Errorf("%w: a block has %d rows, its groups have %d", ErrDamaged, b.n, rows)
	}
	return d.end("groups")
}

// A cursor goes through the rows of a block, once.
type cursor struct {
	seg     *segment
	b       *block
	cols    [columns]decoder
	group   int // the present one
	left    int // rows of it that are to come
	row     int // rows read
	n       int64
	offset  int64
	time    int64
	date    int64
	version int64
	at      int // in the data
	token   []string
	tokenIn []int // group in which a token was written, plus one
	bad     bool
}

// start puts c before the first row of a block.
func (c *cursor) start(seg *segment, b *block) {
	c.seg, c.b, c.group, c.left, c.row, c.at, c.bad = seg, b, -1, 0, 0, 0, false
	for i := range c.cols {
		c.cols[i] = decoder{b: b.cols[i]}
	}
	if cap(c.token) < len(b.names) {
		c.token, c.tokenIn = make([]string, len(b.names)), make([]int, len(b.names))
	}
	c.token, c.tokenIn = c.token[:len(b.names)], c.tokenIn[:len(b.names)]
	clear(c.token)
	clear(c.tokenIn)
}

// more reports whether there is another row; its stream is then b.groups[c.group].stream.
func (c *cursor) more() bool {
	for c.left == 0 {
		if c.group+1 >= len(c.b.groups) {
			return false
		}
		c.group++
		g := &c.b.groups[c.group]
		c.left, c.version = g.rows, g.version
		c.n, c.offset, c.time, c.date = c.seg.first, c.seg.offset, c.seg.time, c.seg.time
	}
	return true
}

func (c *cursor) stream() deja.Stream { return c.b.groups[c.group].stream }

// next reads the next row, which more has said there is. What e has is shared with the block, and its slices are used again.
func (c *cursor) next(e *Entry) {
	c.left--
	shape := c.shape()
	dn := int64(c.cols[colN].uint())
	c.n += dn
	c.offset += dn + c.cols[colOffset].int()
	c.time += c.cols[colTime].int()
	e.Stream, e.Partition, e.N = c.stream(), c.seg.partition, c.n
	e.Offset, e.Time = c.offset, time.UnixMicro(c.time).UTC()
	id := c.b.ids[c.row*idSize:][:idSize]
	c.row++
	e.ID, e.Hash = deja.ID(id[:16]), binary.LittleEndian.Uint64(id[16:])
	e.Kind, e.Status, e.Type = deja.Kind(shape.kind), deja.Status(shape.status), shape.typ
	e.Cause, e.Act, e.BusinessTime, e.Version = deja.ID{}, deja.ID{}, time.Time{}, 0
	e.Point, e.PointVersion = nil, 0
	if f := shape.flags; f != hasVersion {
		c.rare(e, f)
	}
	if shape.flags&hasVersion != 0 {
		c.version += shape.version
		e.Version = c.version
	}
	c.changes(e, shape)
}

func (c *cursor) shape() *shape {
	i := c.cols[colShape].uint()
	if i >= uint64(len(c.b.shapes)) {
		c.bad = true
		return &shape{}
	}
	return &c.b.shapes[i]
}

func (c *cursor) rare(e *Entry, flags byte) {
	if flags&hasCause != 0 {
		e.Cause = deja.ID(c.cols[colRare].fixed(16))
	}
	if flags&hasAct != 0 {
		e.Act = deja.ID(c.cols[colRare].fixed(16))
	}
	if flags&hasDate != 0 {
		c.date += c.cols[colDate].int()
		e.BusinessTime = time.UnixMicro(c.date).UTC()
	}
	if flags&hasPoint != 0 {
		e.PointVersion, e.Point = c.cols[colPoint].int(), c.cols[colPoint].bytes()
	}
}

// changes reads events and writes.
func (c *cursor) changes(e *Entry, s *shape) {
	e.Events, e.Writes = e.Events[:0], e.Writes[:0]
	for _, typ := range s.events {
		var payload []byte
		if lo, hi := c.piece(); hi > lo {
			payload = c.b.cols[colData][lo:hi:hi]
		}
		e.Events = append(e.Events, Event{typ, payload})
	}
	for _, w := range s.writes {
		out := Write{Path: c.b.names[w.path]}
		switch {
		case w.told:
			lo, hi := c.piece()
			out.Old = c.b.data[lo:hi]
		case c.tokenIn[w.path] == c.group+1:
			out.Old = c.token[w.path]
		default:
			c.bad = true
		}
		lo, hi := c.piece()
		out.New = c.b.data[lo:hi]
		c.token[w.path], c.tokenIn[w.path] = out.New, c.group+1
		e.Writes = append(e.Writes, out)
	}
}

// piece returns where the next piece of the data is.
func (c *cursor) piece() (lo, hi int) {
	n := c.cols[colLength].uint()
	if n > uint64(len(c.b.data)-c.at) {
		c.bad = true
		n = 0
	}
	lo = c.at
	c.at += int(n)
	return lo, c.at
}

// err returns an error if something read was not there.
func (c *cursor) err() error {
	bad := c.bad
	for i := range c.cols {
		bad = bad || c.cols[i].bad
	}
	if bad {
		return fmt.Errorf("%w: rows cannot be read", ErrDamaged)
	}
	return nil
}

// clone copies what an entry shares, but for names.
func (e *Entry) clone() *Entry {
	c := *e
	n := len(e.Point)
	for i := range e.Events {
		n += len(e.Events[i].Payload)
	}
	buf := make([]byte, 0, n)
	own := func(b []byte) []byte {
		if b == nil {
			return nil
		}
		lo := len(buf)
		buf = append(buf, b...)
		return buf[lo:len(buf):len(buf)]
	}
	c.Events, c.Writes = nil, nil
	if len(e.Events) > 0 {
		c.Events = make([]Event, len(e.Events))
		for i, ev := range e.Events {
			c.Events[i] = Event{ev.Type, own(ev.Payload)}
		}
	}
	c.Point = own(e.Point)
	if len(e.Writes) > 0 {
		c.Writes = make([]Write, len(e.Writes))
		text := make([]byte, 0, 64)
		for _, w := range e.Writes {
			text = append(append(text, w.Old...), w.New...)
		}
		all := string(text)
		for i, w := range e.Writes {
			old := all[:len(w.Old)]
			all = all[len(w.Old):]
			c.Writes[i] = Write{w.Path, old, all[:len(w.New)]}
			all = all[len(w.New):]
		}
	}
	return &c
}
