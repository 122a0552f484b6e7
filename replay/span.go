package replay

import (
	"context"
	"math"
	"slices"
	"time"
)

// A Span is a part of a history: of each partition the decisions with After < N ≤ Last.
type Span struct {
	After, Last []int64
	Notes       []string // what the reader of an answer has to know
}

// Span finds what a range is. Of a partition that the range's end says nothing about it is all that there is, also what is yet
// to come; of one that its beginning says nothing about, what was decided after that.
func (s *Source) Span(ctx context.Context, r Range, by Clock) (Span, error) {
	sp := Span{After: make([]int64, s.partitions), Last: slices.Repeat([]int64{math.MaxInt64}, int(s.partitions))}
	if r.From != nil {
		if err := s.begin(ctx, &sp, r.From.begin(), by); err != nil {
			return sp, err
		}
	}
	if r.To.kind == atHead && len(r.To.moves) == 0 {
		return sp, nil
	}
	cut, err := s.Cut(ctx, r.To, by)
	sp.Notes = append(sp.Notes, cut.Notes...)
	for i, p := range cut.Points {
		sp.Last[i] = p.N
	}
	return sp, err
}

// begin lets a span begin with what a locator names: a message is in it, what is up to a time is not.
func (s *Source) begin(ctx context.Context, sp *Span, at Locator, by Clock) error {
	cut, err := s.Cut(ctx, at, by)
	if err != nil {
		return err
	}
	var first *Point // of those that the locator speaks of
	for i := range cut.Points {
		p := &cut.Points[i]
		if sp.After[i] = p.N; !at.IsTime() {
			sp.After[i] = max(p.N-1, 0)
		}
		if p.Named && (first == nil || p.Time.Before(first.Time)) {
			first = p
		}
	}
	if at.IsTime() {
		sp.Notes = cut.Notes
	}
	for i, p := range cut.Points {
		if p.Named || first == nil {
			continue
		}
		t := first.Time
		if p.Partition > first.Partition { // of equal times, in order of partitions
			t = t.Add(-time.Microsecond)
		}
		if sp.After[i], err = s.finder().DecidedBy(ctx, p.Partition, t); err != nil {
			return err
		}
	}
	return nil
}
