package trail

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/dejalog/deja"
)

// each calls fn with all entries of a segment, stream by stream. An entry is valid only until fn returns.
func (t *Trail) each(s *segment, fn func(*Entry) error) error {
	d, err := t.directory(s)
	if err != nil {
		return err
	}
	var c cursor
	var e Entry
	for i := range d.blocks {
		b, err := t.readBlock(s, d, i)
		if err != nil {
			return err
		}
		for c.start(s, b); c.more(); {
			if c.next(&e); c.bad {
				return c.err()
			}
			if err := fn(&e); err != nil {
				return err
			}
		}
		if err := c.err(); err != nil {
			return err
		}
	}
	return nil
}

// Key yields the entries of a stream in a partition with after < N ≤ last, in order; the last first, if back says so. They
// are the caller's.
func (t *Trail) Key(ctx context.Context, partition int32, stream deja.Stream, after, last int64, back bool) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		list := t.present().segments[partition]
		id := streamID(stream)
		for i := range list {
			s := list[i]
			if back {
				s = list[len(list)-1-i]
			}
			if s.end() <= after || s.first > last {
				continue
			}
			more, err := t.keyIn(ctx, s, stream, id, after, last, back, yield)
			if err != nil {
				yield(nil, err)
			}
			if err != nil || !more {
				return
			}
		}
	}
}

// keyIn is Key for one segment; more is false if yield wants no more.
func (t *Trail) keyIn(
	ctx context.Context, s *segment, stream deja.Stream, id [16]byte, after, last int64, back bool, yield func(*Entry, error) bool,
) (more bool, err error) {
	d, err := t.directory(s)
	if err != nil || !d.streams.Has(id) {
		return true, err
	}
	from, to := d.seek(stream, after+1), d.seek(stream, last)
	for k := range to - from + 1 {
		i := from + k
		if back {
			i = to - k
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		b, err := t.block(s, d, i)
		if err != nil {
			return false, err
		}
		found, err := b.entries(s, stream, after, last)
		if err != nil {
			return false, err
		}
		if back {
			slices.Reverse(found)
		}
		for _, e := range found {
			if !yield(e, nil) {
				return false, nil
			}
		}
	}
	return true, nil
}

// entries returns a block's entries of a stream with after < N ≤ last.
func (b *block) entries(s *segment, stream deja.Stream, after, last int64) ([]*Entry, error) {
	if !slices.ContainsFunc(b.groups, func(g group) bool { return g.stream == stream }) {
		return nil, nil
	}
	var c cursor
	var e Entry
	var found []*Entry
	for c.start(s, b); c.more(); {
		own := c.stream() == stream
		if c.next(&e); own && !c.bad && e.N > after && e.N <= last {
			found = append(found, e.clone())
		}
		if own && c.left == 0 {
			break
		}
	}
	return found, c.err()
}

// Decision returns a decision's entry.
func (t *Trail) Decision(at Place) (*Entry, error) {
	s := t.present().holding(at)
	if s == nil {
		return nil, fmt.Errorf("decision %d of partition %d is not in the index", at.N, at.Partition)
	}
	d, err := t.directory(s)
	if err != nil {
		return nil, err
	}
	i, err := t.blockOf(s, d, at.N)
	if err != nil {
		return nil, err
	}
	b, err := t.block(s, d, i)
	if err != nil {
		return nil, err
	}
	var c cursor
	var e Entry
	for c.start(s, b); c.more(); {
		if c.next(&e); e.N == at.N && !c.bad {
			return e.clone(), c.err()
		}
	}
	return nil, cmp.Or(c.err(), fmt.Errorf("%w: decision %d of partition %d is not where it should be", ErrDamaged, at.N, at.Partition))
}

func (r *root) holding(at Place) *segment {
	if at.Partition < 0 || int(at.Partition) >= len(r.segments) {
		return nil
	}
	list := r.segments[at.Partition]
	i := sort.Search(len(list), func(i int) bool { return list[i].end() >= at.N })
	if i == len(list) || list[i].first > at.N {
		return nil
	}
	return list[i]
}

// DecidedBy returns the number of the last decision of a partition that was made by t; 0 if there is none. Times do not fall.
func (t *Trail) DecidedBy(ctx context.Context, partition int32, at time.Time) (int64, error) {
	list := t.present().segments[partition]
	i := sort.Search(len(list), func(i int) bool { return time.UnixMicro(list[i].last).After(at) })
	if i == len(list) {
		return t.Mark(partition).N, nil
	}
	s := list[i]
	var failed error
	n := sort.Search(int(s.count), func(k int) bool {
		if failed = cmp.Or(failed, ctx.Err()); failed != nil {
			return true
		}
		e, err := t.Decision(Place{partition, s.first + int64(k)})
		failed = err
		return err != nil || e.Time.After(at)
	})
	return s.first + int64(n) - 1, failed
}

// Find returns where up to max messages with lo ≤ ID ≤ hi were decided, in order of IDs; of one ID, in order of partitions
// and decisions.
func (t *Trail) Find(ctx context.Context, lo, hi deja.ID, max int) ([]Place, error) {
	found, err := t.lookUp(ctx, lo, hi, max, func(d *directory) *tableDir { return &d.ids }, func(e *Entry) deja.ID { return e.ID })
	slices.SortStableFunc(found, func(a, b hit) int { return bytes.Compare(a.id[:], b.id[:]) })
	return places(found[:min(len(found), max)]), err
}

// Caused returns where messages with a Cause were decided, in order of partitions and decisions.
func (t *Trail) Caused(ctx context.Context, cause deja.ID) ([]Place, error) {
	const all = 1 << 62
	found, err := t.lookUp(ctx, cause, cause, all, func(d *directory) *tableDir { return &d.causes }, func(e *Entry) deja.ID { return e.Cause })
	return places(found), err
}

// hit is an ID that was looked for, and where it is.
type hit struct {
	id deja.ID
	at Place
}

func places(hits []hit) []Place {
	var ps []Place
	for _, h := range hits {
		ps = append(ps, h.at)
	}
	return ps
}

// lookUp returns IDs from lo to hi in order of partitions and decisions: the first max of each segment, or more.
func (t *Trail) lookUp(
	ctx context.Context, lo, hi deja.ID, max int, table func(*directory) *tableDir, id func(*Entry) deja.ID,
) (found []hit, err error) {
	if bytes.Compare(lo[:], hi[:]) > 0 || max <= 0 {
		return nil, nil
	}
	for _, list := range t.present().segments {
		for _, s := range list {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			d, err := t.directory(s)
			if err != nil {
				return nil, err
			}
			l := lookup{t: t, s: s, d: d, table: table(d), lo: lo, hi: hi, id: id}
			hits, err := l.run(max)
			if err != nil {
				return nil, err
			}
			slices.SortFunc(hits, func(a, b hit) int { return cmp.Compare(a.at.N, b.at.N) })
			found = append(found, hits...)
		}
	}
	return found, nil
}

// lookup looks for IDs in one segment.
type lookup struct {
	t      *Trail
	s      *segment
	d      *directory
	table  *tableDir
	lo, hi deja.ID
	id     func(*Entry) deja.ID
}

// run returns the first max IDs, or somewhat more.
func (l *lookup) run(max int) ([]hit, error) {
	lo, hi := prefixOf(l.lo), prefixOf(l.hi)
	found := map[int64]hit{} // by decision: pages may end and begin with the same prefix
	from, to := l.table.pages(lo, hi)
	for i := from; i < to; i++ {
		p, err := l.t.page(l.s, l.d, l.table, i)
		if err != nil {
			return nil, err
		}
		k := sort.Search(len(p.ids), func(k int) bool { return p.ids[k] >= lo>>p.cut })
		for k < len(p.ids) && p.ids[k] <= hi>>p.cut {
			if k, err = l.equal(p, k, found); err != nil {
				return nil, err
			}
			ends := k == len(p.ids) && i+1 < to && l.table.firsts[i+1]>>p.cut == p.ids[k-1]
			if len(found) >= max && !ends {
				return slices.Collect(maps.Values(found)), nil
			}
		}
	}
	return slices.Collect(maps.Values(found)), nil
}

// equal finds all that have the k-th prefix of a page, among which the order is not known, and returns where others begin.
func (l *lookup) equal(p *page, k int, found map[int64]hit) (end int, err error) {
	blocks := map[int]bool{}
	for end = k; end < len(p.ids) && p.ids[end] == p.ids[k]; end++ {
		blocks[p.block(end)] = true
	}
	for b := range blocks {
		hits, err := l.inBlock(b, func(id deja.ID) bool { return prefixOf(id)>>p.cut == p.ids[k] })
		if err != nil {
			return end, err
		}
		for _, h := range hits {
			found[h.at.N] = h
		}
	}
	return end, nil
}

// inBlock returns the IDs of a block that are looked for and match.
func (l *lookup) inBlock(i int, match func(deja.ID) bool) ([]hit, error) {
	if i >= len(l.d.blocks) {
		return nil, fmt.Errorf("%w: a table of IDs names block %d of %d", ErrDamaged, i, len(l.d.blocks))
	}
	b, err := l.t.block(l.s, l.d, i)
	if err != nil {
		return nil, err
	}
	var c cursor
	var e Entry
	var found []hit
	for c.start(l.s, b); c.more(); {
		c.next(&e)
		if id := l.id(&e); bytes.Compare(id[:], l.lo[:]) >= 0 && bytes.Compare(id[:], l.hi[:]) <= 0 && match(id) {
			found = append(found, hit{id, Place{l.s.partition, e.N}})
		}
	}
	return found, c.err()
}
