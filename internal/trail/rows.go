package trail

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/dejalog/deja"
)

// rows are the entries of a segment in the making, in order of N. They have hardly any pointers: a segment has many.
type rows struct {
	list    []row
	events  []span // of all rows, one after the other; name is the type
	writes  []write
	data    []byte // payloads, tokens and points
	names   []string
	byName  map[string]uint32
	streams []deja.Stream
	byKey   map[deja.Stream]uint32
}

// row is an entry.
type row struct {
	stream               uint32
	typ                  uint32
	n, offset, version   int64
	time, business       int64 // microseconds
	id, cause, act       deja.ID
	hash                 uint64
	kind, status         uint8
	dated                bool // it has a business time
	pointed              bool
	events, writes       uint32 // where its own begin
	eventsEnd, writesEnd uint32
	point                span // name is not used
	pointVersion         int64
}

// span is a piece of data, with a name.
type span struct{ name, lo, hi uint32 }

// write is a path, and its tokens in the data: the old one, then the new one.
type write struct{ path, lo, mid, hi uint32 }

func newRows() *rows { return &rows{byName: map[string]uint32{}, byKey: map[deja.Stream]uint32{}} }

// reset empties r, and keeps its memory.
func (r *rows) reset() {
	r.list, r.events, r.writes, r.data = r.list[:0], r.events[:0], r.writes[:0], r.data[:0]
	clear(r.names)
	clear(r.streams)
	r.names, r.streams = r.names[:0], r.streams[:0]
	clear(r.byName)
	clear(r.byKey)
}

// add appends a copy of an entry.
func (r *rows) add(e *Entry) error {
	if k := len(r.list); k > 0 && e.N != r.list[k-1].n+1 {
		return fmt.Errorf("decision %d follows %d", e.N, r.list[k-1].n)
	}
	w := row{
		stream: r.stream(e.Stream), typ: r.name(e.Type), n: e.N, offset: e.Offset, version: e.Version, time: e.Time.UnixMicro(),
		id: e.ID, cause: e.Cause, act: e.Act, hash: e.Hash, kind: uint8(e.Kind), status: uint8(e.Status),
		events: uint32(len(r.events)), writes: uint32(len(r.writes)),
	}
	if w.dated = !e.BusinessTime.IsZero(); w.dated {
		w.business = e.BusinessTime.UnixMicro()
	}
	for i := range e.Events {
		r.events = append(r.events, r.put(r.name(e.Events[i].Type), e.Events[i].Payload))
	}
	for i := range e.Writes {
		r.writes = append(r.writes, r.putWrite(&e.Writes[i]))
	}
	w.eventsEnd, w.writesEnd = uint32(len(r.events)), uint32(len(r.writes))
	if w.pointed = e.Point != nil; w.pointed {
		w.point, w.pointVersion = r.put(0, e.Point), e.PointVersion
	}
	r.list = append(r.list, w)
	return nil
}

func (r *rows) put(name uint32, b []byte) span {
	lo := uint32(len(r.data))
	r.data = append(r.data, b...)
	return span{name, lo, uint32(len(r.data))}
}

func (r *rows) putWrite(w *Write) write {
	out := write{path: r.name(w.Path), lo: uint32(len(r.data))}
	r.data = append(r.data, w.Old...)
	out.mid = uint32(len(r.data))
	r.data = append(r.data, w.New...)
	out.hi = uint32(len(r.data))
	return out
}

// name returns the number of a type or path.
func (r *rows) name(s string) uint32 {
	i, ok := r.byName[s]
	if !ok {
		i = uint32(len(r.names))
		r.names = append(r.names, s)
		r.byName[s] = i
	}
	return i
}

func (r *rows) stream(s deja.Stream) uint32 {
	i, ok := r.byKey[s]
	if !ok {
		i = uint32(len(r.streams))
		r.streams = append(r.streams, s)
		r.byKey[s] = i
	}
	return i
}

// sorted returns the numbers of the rows in order of streams, and of each in order of N.
func (r *rows) sorted() []uint32 {
	order := make([]uint32, len(r.streams))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return r.streams[a].Compare(r.streams[b]) })
	counts := make([]uint32, len(r.streams))
	for i := range r.list {
		counts[r.list[i].stream]++
	}
	at := uint32(0)
	next := counts // where the next row of each stream goes
	for _, s := range order {
		at, next[s] = at+counts[s], at
	}
	out := make([]uint32, len(r.list))
	for i := range r.list {
		s := r.list[i].stream
		out[next[s]] = uint32(i)
		next[s]++
	}
	return out
}

// prefix is the beginning of an ID, and the block that has it.
type prefix struct {
	id    uint64
	block uint32
}

func sortPrefixes(ps []prefix) {
	slices.SortFunc(ps, func(a, b prefix) int { return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.block, b.block)) })
}
