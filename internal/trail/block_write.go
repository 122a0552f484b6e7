package trail

import (
	"encoding/binary"

	"github.com/dejalog/deja"
)

// The form of a block: how many rows there are, and the lengths of the columns; then the columns. Each column has one kind of
// value of all rows, which is what makes them small. Names are numbered block by block, so that a block can be read alone.
//
// A shape is all of a row that repeats: kind, type, status, which fields it has, by how much it moves the version on, the
// types of its events and the paths of its writes.
const (
	colNames  = iota // texts: how many, then each with its length
	colShapes        // how many, then each; see flags
	colGroups        // how many, then each: tenant and aggregate as names, how many bytes the key shares with the one before, the rest; version before; rows
	colShape         // of each row: its shape's number
	colN             // by how much N grows; in a group's first row, above the segment's first
	colOffset        // by how much the offset grows beyond that
	colTime          // by how much the time grows; in a group's first row, above the segment's first
	colDate          // of rows with a business time: the same of that
	colLength        // lengths in the data: payloads, old token where it is told, new token
	colPoint         // of rows with a point: version, length, bytes
	colData          // payloads and tokens
	colRare          // causes and acts, of rows that have one
	columns
)

// What a shape's flags say.
const (
	hasCause = 1 << iota
	hasAct
	hasDate
	hasVersion
	hasPoint
)

const idSize = 16 + 8 // a row's ID and hash, which stay as they are: nothing makes them smaller

// blockWriter makes the blocks of a segment.
type blockWriter struct {
	rows  *rows
	first *row // the segment's first
	cols  [columns]encoder
	ids   []byte
	n     int

	names   []uint32 // of the block, as numbers of rows
	local   []uint32 // by number of rows: its number in the block
	localIn []uint32 // in which block that is
	block   uint32

	shapes  map[string]uint32
	shape   encoder
	nShapes int

	groups   int
	stream   uint32
	open     bool // a group is
	grouped  int  // rows in it
	key      string
	n0       row // running values
	version  int64
	group    uint32
	token    []span // by number of a path: its last token in the group
	tokenIn  []uint32
	out, tmp encoder
}

func newBlockWriter(r *rows) *blockWriter {
	w := &blockWriter{
		rows: r, first: &r.list[0], shapes: map[string]uint32{},
		local: make([]uint32, len(r.names)), localIn: make([]uint32, len(r.names)),
		token: make([]span, len(r.names)), tokenIn: make([]uint32, len(r.names)),
	}
	w.begin()
	return w
}

func (w *blockWriter) begin() {
	for i := range w.cols {
		w.cols[i] = w.cols[i][:0]
	}
	w.ids, w.n, w.names = w.ids[:0], 0, w.names[:0]
	w.block++
	clear(w.shapes)
	w.nShapes, w.groups, w.open, w.key = 0, 0, false, ""
	w.tmp = w.tmp[:0]
}

func (w *blockWriter) size() int {
	n := len(w.ids)
	for i := range w.cols {
		n += len(w.cols[i])
	}
	return n
}

// add appends a row.
func (w *blockWriter) add(r *row) {
	if !w.open || w.stream != r.stream {
		w.endGroup()
		w.beginGroup(r)
	}
	w.grouped++
	w.n++
	shape := w.shapeOf(r)
	w.cols[colShape].uint(uint64(shape))
	w.cols[colN].uint(uint64(r.n - w.n0.n))
	w.cols[colOffset].int(r.offset - w.n0.offset - (r.n - w.n0.n))
	w.cols[colTime].int(r.time - w.n0.time)
	if r.dated {
		w.cols[colDate].int(r.business - w.n0.business)
		w.n0.business = r.business
	}
	w.n0.n, w.n0.offset, w.n0.time = r.n, r.offset, r.time
	if r.version != 0 {
		w.version = r.version
	}
	w.ids = append(w.ids, r.id[:]...)
	w.ids = binary.LittleEndian.AppendUint64(w.ids, r.hash)
	if !r.cause.IsZero() {
		w.cols[colRare] = append(w.cols[colRare], r.cause[:]...)
	}
	if !r.act.IsZero() {
		w.cols[colRare] = append(w.cols[colRare], r.act[:]...)
	}
	if r.pointed {
		w.cols[colPoint].int(r.pointVersion)
		w.cols[colPoint].bytes(w.rows.data[r.point.lo:r.point.hi])
	}
	w.addData(r)
}

// addData appends what a row's events and writes say. shapeOf has put the tokens that are told into w.tmp.
func (w *blockWriter) addData(r *row) {
	data := w.rows.data
	for _, e := range w.rows.events[r.events:r.eventsEnd] {
		w.cols[colLength].uint(uint64(e.hi - e.lo))
		w.cols[colData] = append(w.cols[colData], data[e.lo:e.hi]...)
	}
	for i, x := range w.rows.writes[r.writes:r.writesEnd] {
		if w.tmp[i] == 1 {
			w.cols[colLength].uint(uint64(x.mid - x.lo))
			w.cols[colData] = append(w.cols[colData], data[x.lo:x.mid]...)
		}
		w.cols[colLength].uint(uint64(x.hi - x.mid))
		w.cols[colData] = append(w.cols[colData], data[x.mid:x.hi]...)
	}
}

func (w *blockWriter) beginGroup(r *row) {
	s := w.rows.streams[r.stream]
	g := &w.cols[colGroups]
	g.uint(uint64(w.text(s.Tenant)))
	g.uint(uint64(w.text(s.Aggregate)))
	shared := 0
	for shared < min(len(s.Key), len(w.key)) && s.Key[shared] == w.key[shared] {
		shared++
	}
	g.uint(uint64(shared))
	g.string(s.Key[shared:])
	w.version = 0
	if r.version != 0 {
		w.version = r.version - int64(r.eventsEnd-r.events)
	}
	g.int(w.version)
	w.key, w.stream, w.open, w.grouped = s.Key, r.stream, true, 0
	w.n0 = row{n: w.first.n, offset: w.first.offset, time: w.first.time, business: w.first.time}
	w.group++
	w.groups++
}

func (w *blockWriter) endGroup() {
	if w.open {
		w.cols[colGroups].uint(uint64(w.grouped))
		w.open = false
	}
}

// text returns the number in the block of a text that need not be among the names of the rows.
func (w *blockWriter) text(s string) uint32 {
	i, ok := w.rows.byName[s]
	if !ok {
		i = w.rows.name(s)
	}
	return w.name(i)
}

// name returns the number in the block of a name of the rows.
func (w *blockWriter) name(i uint32) uint32 {
	for int(i) >= len(w.local) { // a text of a stream
		w.local, w.localIn = append(w.local, 0), append(w.localIn, 0)
		w.token, w.tokenIn = append(w.token, span{}), append(w.tokenIn, 0)
	}
	if w.localIn[i] != w.block {
		w.localIn[i], w.local[i] = w.block, uint32(len(w.names))
		w.names = append(w.names, i)
	}
	return w.local[i]
}

// shapeOf returns the number of a row's shape, and leaves in w.tmp which of its writes tell the old token.
func (w *blockWriter) shapeOf(r *row) uint32 {
	w.tmp = w.tmp[:0]
	var flags byte
	for _, f := range []struct {
		flag byte
		has  bool
	}{
		{hasCause, !r.cause.IsZero()}, {hasAct, !r.act.IsZero()}, {hasDate, r.dated}, {hasVersion, r.version != 0}, {hasPoint, r.pointed},
	} {
		if f.has {
			flags |= f.flag
		}
	}
	s := &w.shape
	*s = append((*s)[:0], r.kind, r.status, flags)
	s.uint(uint64(w.name(r.typ)))
	if r.version != 0 {
		s.int(r.version - w.version)
	}
	s.uint(uint64(r.eventsEnd - r.events))
	for _, e := range w.rows.events[r.events:r.eventsEnd] {
		s.uint(uint64(w.name(e.name)))
	}
	s.uint(uint64(r.writesEnd - r.writes))
	data := w.rows.data
	for _, x := range w.rows.writes[r.writes:r.writesEnd] {
		name := w.name(x.path) // it makes room, so comes first
		told := byte(1)
		if last := w.token[x.path]; w.tokenIn[x.path] == w.group && string(data[last.lo:last.hi]) == string(data[x.lo:x.mid]) {
			told = 0
		}
		w.token[x.path], w.tokenIn[x.path] = span{lo: x.mid, hi: x.hi}, w.group
		w.tmp = append(w.tmp, told)
		s.uint(uint64(name)<<1 | uint64(told))
	}
	n, ok := w.shapes[string(*s)]
	if !ok {
		n = uint32(w.nShapes)
		w.shapes[string(*s)] = n
		w.nShapes++
		w.cols[colShapes] = append(w.cols[colShapes], *s...)
	}
	return n
}

// finish returns the block's raw ids, and the bytes of its columns; both are valid until the next call. The next add
// begins a new block.
func (w *blockWriter) finish() (ids, cols []byte) {
	w.endGroup()
	var names encoder
	names.uint(uint64(len(w.names)))
	for _, i := range w.names {
		names.string(w.rows.names[i])
	}
	w.cols[colNames] = names
	w.out = w.out[:0]
	w.out.uint(uint64(w.n))
	w.out.uint(uint64(w.nShapes))
	w.out.uint(uint64(w.groups))
	for i := range w.cols {
		w.out.uint(uint64(len(w.cols[i])))
	}
	for i := range w.cols {
		w.out = append(w.out, w.cols[i]...)
	}
	return w.ids, w.out
}

// compareKeys orders rows: by stream, then by N.
func compareKeys(s deja.Stream, n int64, t deja.Stream, m int64) int {
	if c := s.Compare(t); c != 0 {
		return c
	}
	switch {
	case n < m:
		return -1
	case n > m:
		return +1
	}
	return 0
}
