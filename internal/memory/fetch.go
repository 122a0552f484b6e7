package memory

import (
	"context"
	"fmt"
	"slices"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

// Fetch implements [driver.Log]. A max below 1 is taken as 1.
func (l *Log) Fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, error) {
	for {
		rs, changed, err := l.fetch(ctx, from, max)
		if err != nil || len(rs) > 0 {
			return rs, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fetch returns records, or what is closed when asking again may help.
func (l *Log) fetch(ctx context.Context, from deja.Position, max int) ([]driver.Record, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.partition(ctx, from.Topic, from.Partition)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case from.Offset < p.first():
		return nil, nil, fmt.Errorf("fetch %s, which begins at %d: %w", from, p.first(), driver.ErrTrimmed)
	case from.Offset > p.end:
		return nil, nil, fmt.Errorf("fetch %s, which ends at %d: %w", from, p.end, driver.ErrBeyondEnd)
	case from.Offset == p.end:
		return nil, p.wait(), nil
	}
	return p.read(from.Offset, max), nil, nil
}

func (p *partition) read(from int64, max int) []driver.Record {
	i := p.search(from)
	var rs []driver.Record
	for size := 0; i < len(p.records); i++ {
		r := p.records[i]
		size += len(r.Value)
		if len(rs) > 0 && (len(rs) >= max || size > answerBytes) {
			break
		}
		rs = append(rs, ownRecord(r))
	}
	return rs
}

// search returns the index of the first record at or after an offset.
func (p *partition) search(offset int64) int {
	i, _ := slices.BinarySearchFunc(p.records, offset, func(r driver.Record, offset int64) int {
		return int(min(max(r.Offset-offset, -1), 1))
	})
	return i
}

// ownRecord gives a record bytes of its own.
func ownRecord(r driver.Record) driver.Record {
	r.Value = clone(r.Value)
	r.Headers = slices.Clone(r.Headers)
	for i := range r.Headers {
		r.Headers[i].Value = clone(r.Headers[i].Value)
	}
	return r
}

// clone copies bytes; nothing stays nothing.
func clone(b []byte) []byte { return append([]byte(nil), b...) }
