package trail

import (
	"container/heap"
	"context"
	"iter"

	"github.com/dejalog/deja"
)

// A From is where a scan begins: behind decision N of a stream in a partition. The zero From is the beginning.
type From struct {
	Stream    deja.Stream
	Partition int32
	N         int64
}

// Scan yields the entries of all streams that match, with N ≤ last of their partition: stream after stream, in order of
// streams, and of each in order of partitions and N. An entry is valid only until the next one. It keeps a block of each
// segment in memory.
func (t *Trail) Scan(ctx context.Context, match func(deja.Stream) bool, last []int64, from From) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		s := &scan{t: t, match: match, last: last, from: from}
		defer s.stop()
		if err := s.run(ctx, func(e *Entry) bool { return yield(e, nil) }); err != nil {
			yield(nil, err)
		}
	}
}

// scan merges segments.
type scan struct {
	t      *Trail
	match  func(deja.Stream) bool
	last   []int64
	from   From
	open   cursors
	entry  Entry
	opened []*segmentCursor
}

// segmentCursor goes through the rows of a segment. The next block is read while the rows of one are used.
type segmentCursor struct {
	cursor
	seg   *segment
	dir   *directory
	next  int // block
	ahead chan readAhead
}

type readAhead struct {
	b   *block
	err error
}

func (s *scan) run(ctx context.Context, yield func(*Entry) bool) error {
	for p, list := range s.t.present().segments {
		for _, seg := range list {
			if seg.first > s.last[p] {
				break
			}
			if err := s.begin(seg); err != nil {
				return err
			}
		}
	}
	heap.Init(&s.open)
	for len(s.open) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := s.open[0]
		more, err := s.group(c, yield)
		if err != nil || !more {
			return err
		}
		ok, err := c.advance(s.t)
		if err != nil {
			return err
		}
		if ok {
			heap.Fix(&s.open, 0)
		} else {
			heap.Pop(&s.open)
		}
	}
	return nil
}

// begin opens a segment at the first block that may have something to yield.
func (s *scan) begin(seg *segment) error {
	d, err := s.t.directory(seg)
	if err != nil {
		return err
	}
	c := &segmentCursor{seg: seg, dir: d, next: d.seek(s.from.Stream, 0)}
	c.read(s.t)
	s.opened = append(s.opened, c)
	ok, err := c.advance(s.t)
	if ok {
		s.open = append(s.open, c)
	}
	return err
}

// stop waits for what is being read.
func (s *scan) stop() {
	for _, c := range s.opened {
		if c.ahead != nil {
			<-c.ahead
		}
	}
}

// group yields what is left of the present group in the present block.
func (s *scan) group(c *segmentCursor, yield func(*Entry) bool) (more bool, err error) {
	stream, last := c.stream(), s.last[c.seg.partition]
	order := stream.Compare(s.from.Stream)
	after := int64(0)
	if order == 0 && c.seg.partition == s.from.Partition {
		after = s.from.N
	}
	wanted := order > 0 || order == 0 && c.seg.partition >= s.from.Partition
	wanted = wanted && s.match(stream)
	e := &s.entry
	for c.left > 0 {
		if c.cursor.next(e); c.bad {
			return false, c.err()
		}
		if wanted && e.N > after && e.N <= last && !yield(e) {
			return false, nil
		}
	}
	return true, nil
}

// read begins to read the next block.
func (c *segmentCursor) read(t *Trail) {
	c.ahead = nil
	if c.next == len(c.dir.blocks) {
		return
	}
	i := c.next
	c.next++
	ahead := make(chan readAhead, 1)
	c.ahead = ahead
	go func() {
		b, err := t.readBlock(c.seg, c.dir, i)
		ahead <- readAhead{b, err}
	}()
}

// advance goes on to the next group; false if there is none.
func (c *segmentCursor) advance(t *Trail) (bool, error) {
	for c.b == nil || !c.more() {
		if c.b != nil {
			if err := c.err(); err != nil {
				return false, err
			}
		}
		if c.ahead == nil {
			return false, nil
		}
		got := <-c.ahead
		c.ahead = nil
		if got.err != nil {
			return false, got.err
		}
		c.start(c.seg, got.b)
		c.read(t)
	}
	return true, nil
}

// cursors is a heap: the one with the first stream comes first, and of one stream that of the first partition and segment.
type cursors []*segmentCursor

func (h cursors) Len() int { return len(h) }

func (h cursors) Less(i, j int) bool {
	a, b := h[i], h[j]
	if c := a.stream().Compare(b.stream()); c != 0 {
		return c < 0
	}
	if a.seg.partition != b.seg.partition {
		return a.seg.partition < b.seg.partition
	}
	return a.seg.first < b.seg.first
}

func (h cursors) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *cursors) Push(x any) { *h = append(*h, x.(*segmentCursor)) }

// Pop implements heap.Interface.
func (h *cursors) Pop() any {
	old := *h
	c := old[len(old)-1]
	*h = old[:len(old)-1]
	return c
}
