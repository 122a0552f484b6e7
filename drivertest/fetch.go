package drivertest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var fetchCases = []testCase{
	{
		"fetch from anywhere", "Fetch returns up to max records from a position on, in order, at least one",
		needs{log: true},
		fetchAnywhere,
	},
	{
		"fetch waits and wakes", "at the end Fetch blocks until there is a record, and returns it",
		needs{log: true},
		fetchWakes,
	},
	{
		"fetch ends with its ctx", "a Fetch that waits returns ctx's error when ctx ends",
		needs{log: true},
		fetchCancelled,
	},
	{
		"fetch ends with its log", "a Fetch that waits returns an error when the log is closed",
		needs{log: true},
		fetchClosed,
	},
	{
		"fetch is bounded", "the bytes of one answer are bounded, however many records are asked for; one record is always told",
		needs{log: true},
		fetchBounded,
	},
	{
		"fetch beyond the end", "a position above the end is ErrBeyondEnd at once: the log was truncated, or is another",
		needs{log: true},
		fetchBeyond,
	},
	{
		"fetch what was trimmed", "a position below the first record is ErrTrimmed, never the first record",
		needs{log: true, trim: true},
		fetchTrimmed,
	},
}

func fetchAnywhere(b *bench) {
	ps := b.append(numbered(0, 7))
	for i, p := range ps {
		for _, most := range []int{1, 2, 100} {
			rs, err := b.log.Fetch(b.ctx, p, most)
			b.must(err)
			if len(rs) == 0 || len(rs) > most {
				b.Fatalf("Fetch of up to %d returned %d", most, len(rs))
			}
			equal(b, "values", values(rs), values(numbered(i, len(rs))))
		}
	}
}

func (b *bench) end() deja.Position {
	b.Helper()
	_, end, err := b.log.Bounds(b.ctx, b.inbox.Name, 0)
	b.must(err)
	return deja.Position{Topic: b.inbox.Name, Offset: end}
}

func fetchWakes(b *bench) {
	b.append(numbered(0, 2))
	type answer struct {
		rs  []driver.Record
		err error
	}
	got := make(chan answer, 1)
	from := b.end()
	go func() {
		rs, err := b.log.Fetch(b.ctx, from, 10)
		got <- answer{rs, err}
	}()
	select {
	case a := <-got:
		b.Fatalf("Fetch at the end returned %d records, error %v", len(a.rs), a.err)
	case <-time.After(aMoment):
	}
	b.append(numbered(2, 1))
	a := <-got
	b.must(a.err)
	equal(b, "values", values(a.rs), values(numbered(2, 1)))
}

func fetchCancelled(b *bench) {
	for _, empty := range []bool{true, false} {
		if !empty {
			b.append(numbered(0, 1))
		}
		ctx, cancel := context.WithTimeout(b.ctx, aMoment)
		rs, err := b.log.Fetch(ctx, b.end(), 10)
		cancel()
		if len(rs) != 0 || !errors.Is(err, context.DeadlineExceeded) {
			b.Errorf("got %d records and error %v, want %v", len(rs), err, context.DeadlineExceeded)
		}
	}
}

func fetchClosed(b *bench) {
	log, from := b.log, b.end()
	got := make(chan error, 1)
	go func() {
		_, err := log.Fetch(b.ctx, from, 10)
		got <- err
	}()
	time.Sleep(aMoment)
	b.log = nil
	b.must(log.Close())
	select {
	case err := <-got:
		if err == nil {
			b.Error("Fetch returned nothing, and no error, when its log was closed")
		}
	case <-time.After(fetchLimit):
		b.Error("Fetch waits on after its log was closed")
	}
}

// large returns enough large values for more than one answer, by the least limit that they may have.
func (b *bench) large(limit int) [][]byte {
	b.Helper()
	size := min(limit/2, 512<<10)
	if size < 64<<10 {
		b.Skipf("the topic takes records of %d bytes only", limit)
	}
	vs := make([][]byte, answerLimit/size+2)
	for i := range vs {
		vs[i] = bytes.Repeat([]byte{byte(i)}, size)
	}
	return vs
}

// bounded fails the case unless an answer of n values from the one at i on is as large as it may be, and no larger.
func (b *bench) bounded(i, n int, all [][]byte) {
	b.Helper()
	if n < 1 || n > 1 && n*len(all[0]) > answerLimit {
		b.Fatalf("an answer of %d of %d records of %d bytes each, from number %d on", n, len(all), len(all[0]), i)
	}
}

func fetchBounded(b *bench) {
	all := b.large(b.inbox.MaxRecord)
	for few := range slices.Chunk(all, 8) {
		var rs []driver.Record
		for _, v := range few {
			rs = append(rs, driver.Record{Value: v})
		}
		b.append(rs)
	}
	from, _, err := b.log.Bounds(b.ctx, b.inbox.Name, 0)
	b.must(err)
	for i := 0; i < len(all); {
		rs, err := b.log.Fetch(b.ctx, deja.Position{Topic: b.inbox.Name, Offset: from}, len(all))
		b.must(err)
		b.bounded(i, len(rs), all)
		for _, r := range rs {
			if !bytes.Equal(r.Value, all[i]) {
				b.Fatalf("record %d is another", i)
			}
			i++
		}
		from = rs[len(rs)-1].Offset + 1
	}
}

func fetchBeyond(b *bench) {
	b.append(numbered(0, 2))
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	for _, further := range []int64{1, 1000} {
		from := b.end()
		from.Offset += further
		_, err := b.log.Fetch(ctx, from, 10)
		b.want(err, driver.ErrBeyondEnd)
	}
}

func fetchTrimmed(b *bench) {
	ps := b.append(numbered(0, 6))
	b.h.Trim(b.T, b.log, b.inbox.Name, 0, ps[4].Offset)
	first, end, err := b.log.Bounds(b.ctx, b.inbox.Name, 0)
	b.must(err)
	equal(b, "offset of the first record", first, ps[4].Offset)
	if end <= ps[5].Offset {
		b.Errorf("the end is %d, after a record at %d", end, ps[5].Offset)
	}
	_, err = b.log.Fetch(b.ctx, ps[3], 10)
	b.want(err, driver.ErrTrimmed)
	equal(b, "values", values(b.fetchAll(0, 2)), values(numbered(4, 2)))
}
