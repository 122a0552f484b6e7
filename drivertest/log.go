package drivertest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
)

var logCases = []testCase{
	{
		"topic has an identity", "Topic gives a topic the same identity every time, and no other topic the same",
		needs{log: true},
		topicIdentity,
	},
	{
		"topic is the same after reopening", "a topic's identity survives the process",
		needs{log: true, reopen: true},
		topicReopened,
	},
	{
		"topic that is not there", "Topic of a topic that a log does not have and does not create is ErrNotFound, and none is created by asking",
		needs{log: true, absent: true},
		topicAbsent,
	},
	{
		"append gives positions", "every record gets a position of its own, rising in order per partition, and a time that never goes back",
		needs{log: true},
		appendPositions,
	},
	{
		"append stores repeats", "a record that was appended before is appended again, the same or in conflict: a log does not judge",
		needs{log: true},
		appendRepeats,
	},
	{
		"headers", "a log gives a record's headers back as they were, in order, or none of any",
		needs{log: true},
		headers,
	},
	{
		"append is durable", "what Append returned positions for is there, with its time, after the process has died",
		needs{log: true, reopen: true},
		appendDurable,
	},
	{
		"append refuses what is too large", "a record above the topic's limit is ErrTooLarge, and nothing of the call is appended",
		needs{log: true},
		appendTooLarge,
	},
	{
		"append keeps no argument", "a driver keeps no argument, and what it returns belongs to the caller",
		needs{log: true},
		appendKeepsNothing,
	},
	{
		"append by many", "of records appended by many at once none is lost, and the order of each one's stays",
		needs{log: true},
		appendByMany,
	},
	{
		"partitions are apart", "a record is in its own partition only",
		needs{log: true, partitions: 2},
		partitionsApart,
	},
	{
		"topics are apart", "a record is in its own topic only, and its position says which",
		needs{log: true},
		topicsApart,
	},
	{
		"bounds", "Bounds are the first record's offset and the one after the last; equal when empty",
		needs{log: true},
		bounds,
	},
	{
		"import", "Import keeps offset and time, allows gaps, and refuses offsets that do not rise",
		needs{log: true, importer: true},
		importRecords,
	},
	{
		"create topic", "CreateTopic makes a topic of so many partitions, once; another number of one that is there is ErrPartitions",
		needs{log: true, importer: true},
		createTopic,
	},
	{
		"import by partition", "imported offsets rise in each partition, whatever those of the others are",
		needs{log: true, importer: true},
		importByPartition,
	},
	{
		"log closes", "after Close other calls fail",
		needs{log: true},
		logCloses,
	},
}

func topicIdentity(b *bench) {
	again, err := b.log.Topic(b.ctx, b.inbox.Name)
	b.must(err)
	equal(b, "the same topic", again, b.inbox)
	if b.inbox.Name == "" || b.inbox.Partitions < 1 || b.inbox.MaxRecord < 1 || b.inbox.ID == "" && b.inbox.Cluster == "" {
		b.Errorf("an identity that says too little: %+v", b.inbox)
	}
	if b.inbox.ID == b.journal.ID && b.inbox.Cluster == b.journal.Cluster {
		b.Errorf("two topics with one identity: %+v and %+v", b.inbox, b.journal)
	}
}

func topicReopened(b *bench) {
	b.reopen()
	again, err := b.log.Topic(b.ctx, b.inbox.Name)
	b.must(err)
	equal(b, "the topic after reopening", again, b.inbox)
}

func topicAbsent(b *bench) {
	log := b.log
	if b.h.ReadOnly != nil {
		b.append(numbered(0, 1)) // or an engine might have nothing to open yet
		log = b.h.ReadOnly(b.T, b.log, b.store)
		defer func() { b.must(log.Close()) }()
		if _, err := log.Append(b.ctx, b.inbox.Name, numbered(1, 1)); err == nil {
			b.Error("appended to a log that is open for reading only")
		}
	}
	absent := "drivertest-" + deja.NewID().String() + ".inbox"
	for range 2 {
		_, err := log.Topic(b.ctx, absent)
		b.want(err, driver.ErrNotFound)
	}
	there, err := log.Topic(b.ctx, b.inbox.Name)
	b.must(err)
	equal(b, "the topic that is there", there, b.inbox)
}

func appendPositions(b *bench) {
	start := time.Now()
	allBytes := make([]byte, 256)
	for i := range allBytes {
		allBytes[i] = byte(i)
	}
	in := []driver.Record{
		{Key: "42", Value: []byte("first")},
		{Key: "42", Value: allBytes},
		{Key: "", Value: []byte("no key")},
		{Key: " \u00fc/%'\"\\", Value: []byte("odd key")},
	}
	ps := b.append(in[:1])
	ps = append(ps, b.append(in[1:])...)
	out := b.fetchAll(0, len(in))
	last := start.Add(-24 * time.Hour)
	for i, r := range out {
		equal(b, "position", deja.Position{Topic: b.inbox.Name, Partition: r.Partition, Offset: r.Offset}, ps[i])
		equal(b, "value", string(r.Value), string(in[i].Value))
		if i > 0 && r.Offset <= out[i-1].Offset {
			b.Errorf("offset %d after %d", r.Offset, out[i-1].Offset)
		}
		if b.utc(r.Time).Before(last) {
			b.Errorf("record %d has time %s, after %s", i, r.Time, last)
		}
		last = r.Time
	}
	if b.append(nil); len(b.append([]driver.Record{})) != 0 {
		b.Error("positions of no records")
	}
}

func headers(b *bench) {
	given := func() []driver.Header {
		return []driver.Header{
			{Name: "ce_type", Value: []byte("deposited")}, {Name: "b", Value: []byte("\x00\xff")}, {Name: "b", Value: []byte("again")}, {Name: "a"},
		}
	}
	in := []driver.Record{{Value: []byte("with"), Headers: given()}, {Value: []byte("without")}}
	b.append(in)
	clear(in[0].Headers[0].Value)
	want := given()
	for range 2 {
		rs := b.fetchAll(0, 2)
		equal(b, "headers of a record without", len(rs[1].Headers), 0)
		got := rs[0].Headers
		if len(got) == 0 {
			return // the log keeps none
		}
		equal(b, "number of headers", len(got), len(want))
		for i, h := range got {
			equal(b, "header", h.Name+"="+string(h.Value), want[i].Name+"="+string(want[i].Value))
			clear(h.Value)
		}
	}
}

func appendRepeats(b *bench) {
	same := driver.Record{Key: "k", Value: []byte("same")}
	other := driver.Record{Key: "k", Value: []byte("other")}
	ps := b.append([]driver.Record{same, same, other})
	ps = append(ps, b.append([]driver.Record{same})...)
	seen := map[deja.Position]bool{}
	for _, p := range ps {
		seen[p] = true
	}
	equal(b, "positions of four deliveries", len(seen), 4)
	equal(b, "values", values(b.fetchAll(0, 4)), []string{"same", "same", "other", "same"})
}

func appendDurable(b *bench) {
	b.append(numbered(0, 5))
	before := b.fetchAll(0, 5)
	b.reopen()
	equal(b, "records after reopening", b.fetchAll(0, 5), before)
	b.append(numbered(5, 1))
	equal(b, "values", values(b.fetchAll(0, 6)), values(numbered(0, 6)))
}

func appendTooLarge(b *bench) {
	const most = 64 << 20
	if b.inbox.MaxRecord > most {
		b.Skipf("the topic takes records of %d bytes", b.inbox.MaxRecord)
	}
	b.append(numbered(0, 1))
	_, err := b.log.Append(b.ctx, b.inbox.Name, []driver.Record{
		{Value: []byte("small")}, {Value: bytes.Repeat([]byte("x"), b.inbox.MaxRecord+1)},
	})
	b.want(err, driver.ErrTooLarge)
	b.append(numbered(1, 1))
	equal(b, "values", values(b.fetchAll(0, 2)), values(numbered(0, 2)))
}

func appendKeepsNothing(b *bench) {
	in := numbered(0, 2)
	want := values(in)
	b.append(in)
	for range 2 {
		for _, r := range in {
			clear(r.Value)
		}
		in = b.fetchAll(0, 2)
		equal(b, "values", values(in), want)
	}
}

func appendByMany(b *bench) {
	const producers, each = 8, 40
	var all sync.WaitGroup
	defer all.Wait()
	for p := range producers {
		all.Go(func() {
			for i := range each {
				_, err := b.log.Append(b.ctx, b.inbox.Name, []driver.Record{{Value: fmt.Appendf(nil, "%d %d", p, i)}})
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	var next [producers]int
	for i, r := range b.fetchAll(0, producers*each) { // while they append
		var p, n int
		if _, err := fmt.Sscan(string(r.Value), &p, &n); err != nil {
			b.Fatalf("record %d: %q", i, r.Value)
		}
		if n != next[p] {
			b.Fatalf("record %d is number %d of producer %d, want %d", i, n, p, next[p])
		}
		next[p]++
	}
}

func partitionsApart(b *bench) {
	ps := b.append([]driver.Record{{Partition: 1, Value: []byte("one")}, {Value: []byte("zero")}, {Partition: 1, Value: []byte("two")}})
	equal(b, "partitions", []int32{ps[0].Partition, ps[1].Partition, ps[2].Partition}, []int32{1, 0, 1})
	equal(b, "partition 0", values(b.fetchAll(0, 1)), []string{"zero"})
	equal(b, "partition 1", values(b.fetchAll(1, 2)), []string{"one", "two"})
	for p := range b.inbox.Partitions {
		first, end, err := b.log.Bounds(b.ctx, b.inbox.Name, p)
		b.must(err)
		if p > 1 && first != end {
			b.Errorf("partition %d has bounds %d and %d", p, first, end)
		}
	}
}

func topicsApart(b *bench) {
	in := b.append(numbered(0, 2))
	out, err := b.log.Append(b.ctx, b.journal.Name, numbered(2, 3))
	b.must(err)
	in = append(in, b.append(numbered(5, 1))...)
	for _, p := range in {
		equal(b, "topic of a position", p.Topic, b.inbox.Name)
	}
	for _, p := range out {
		equal(b, "topic of a position", p.Topic, b.journal.Name)
	}
	equal(b, "values", values(b.fetchAll(0, 3)), []string{"record 0", "record 1", "record 5"})
	equal(b, "values", values(fetchTopic(b, b.journal.Name, 0, out[0].Offset, 3)), values(numbered(2, 3)))
	first, end, err := b.log.Bounds(b.ctx, b.journal.Name, 0)
	b.must(err)
	if first > out[0].Offset || end <= out[2].Offset {
		b.Errorf("bounds %d and %d of the records from %d to %d", first, end, out[0].Offset, out[2].Offset)
	}
}

func bounds(b *bench) {
	first, end, err := b.log.Bounds(b.ctx, b.inbox.Name, 0)
	b.must(err)
	if first != end {
		b.Errorf("an empty partition has bounds %d and %d", first, end)
	}
	ps := b.append(numbered(0, 4))
	first, end, err = b.log.Bounds(b.ctx, b.inbox.Name, 0)
	b.must(err)
	equal(b, "offset of the first record", first, ps[0].Offset)
	equal(b, "offset after the last record", end, ps[3].Offset+1)
}

func importRecords(b *bench) {
	im := b.log.(driver.Importer)
	at := time.Date(2020, 2, 29, 12, 0, 0, 123456000, time.UTC)
	in := []driver.Record{
		{Offset: 5, Time: at, Value: []byte("a")},
		{Offset: 6, Time: at, Value: []byte("b")},
		{Offset: 9, Time: at.Add(time.Hour), Value: []byte("c")},
	}
	b.must(im.Import(b.ctx, b.inbox.Name, in))
	check := func(from int64, want []driver.Record) {
		b.Helper()
		for i, r := range b.fetchFrom(0, from, len(want)) {
			equal(b, "offset", r.Offset, want[i].Offset)
			equal(b, "time", b.utc(r.Time), want[i].Time)
			equal(b, "value", string(r.Value), string(want[i].Value))
		}
	}
	check(5, in)
	check(7, in[2:]) // in the gap
	if err := im.Import(b.ctx, b.inbox.Name, in[2:]); err == nil {
		b.Error("an offset was imported twice")
	}
	if ps := b.append(numbered(0, 1)); ps[0].Offset <= 9 {
		b.Errorf("appended at %d, after an import up to 9", ps[0].Offset)
	}
}

func createTopic(b *bench) {
	im := b.log.(driver.Importer)
	name := "drivertest-" + deja.NewID().String() + ".inbox"
	for range 2 {
		b.must(im.CreateTopic(b.ctx, name, 3))
		topic, err := b.log.Topic(b.ctx, name)
		b.must(err)
		equal(b, "number of partitions", topic.Partitions, 3)
	}
	b.want(im.CreateTopic(b.ctx, name, 2), driver.ErrPartitions)
	b.want(im.CreateTopic(b.ctx, b.inbox.Name, b.inbox.Partitions+1), driver.ErrPartitions)
	b.must(im.CreateTopic(b.ctx, b.inbox.Name, b.inbox.Partitions))
	again, err := b.log.Topic(b.ctx, b.inbox.Name)
	b.must(err)
	equal(b, "a topic that was there", again, b.inbox)
	b.reopen()
	topic, err := b.log.Topic(b.ctx, name)
	b.must(err)
	equal(b, "number of partitions", topic.Partitions, 3)
}

func importByPartition(b *bench) {
	im := b.log.(driver.Importer)
	name := "drivertest-" + deja.NewID().String() + ".inbox"
	b.must(im.CreateTopic(b.ctx, name, 3))
	at := time.Date(2020, 2, 29, 12, 0, 0, 0, time.UTC)
	record := func(partition int32, offset int64) driver.Record {
		return driver.Record{Partition: partition, Offset: offset, Time: at, Value: fmt.Appendf(nil, "%d:%d", partition, offset)}
	}
	b.must(im.Import(b.ctx, name, []driver.Record{record(1, 10), record(0, 3), record(1, 11), record(2, 0), record(0, 4)}))
	b.must(im.Import(b.ctx, name, []driver.Record{record(0, 7), record(2, 5)}))
	for _, late := range []driver.Record{record(0, 6), record(1, 11), record(2, 0)} {
		if im.Import(b.ctx, name, []driver.Record{late}) == nil {
			b.Errorf("offset %d was imported into partition %d, which is beyond it", late.Offset, late.Partition)
		}
	}
	for p, want := range [][]string{{"0:3", "0:4", "0:7"}, {"1:10", "1:11"}, {"2:0", "2:5"}} {
		first, end, err := b.log.Bounds(b.ctx, name, int32(p))
		b.must(err)
		rs := fetchTopic(b, name, int32(p), first, len(want))
		equal(b, "values", values(rs), want)
		equal(b, "end", end, rs[len(rs)-1].Offset+1)
	}
}

func logCloses(b *bench) {
	log := b.log
	b.log = nil
	b.must(log.Close())
	if _, err := log.Append(b.ctx, b.inbox.Name, numbered(0, 1)); err == nil {
		b.Error("Append after Close")
	}
	ctx, cancel := context.WithTimeout(b.ctx, fetchLimit)
	defer cancel()
	if _, err := log.Fetch(ctx, deja.Position{Topic: b.inbox.Name}, 1); err == nil || ctx.Err() != nil {
		b.Errorf("Fetch after Close: error %v", err)
	}
}

// append appends to the inbox.
func (b *bench) append(rs []driver.Record) []deja.Position {
	b.Helper()
	ps, err := b.log.Append(b.ctx, b.inbox.Name, rs)
	b.must(err)
	equal(b, "number of positions", len(ps), len(rs))
	return ps
}

// fetchAll reads n records from the inbox's beginning, which may not have come yet.
func (b *bench) fetchAll(partition int32, n int) []driver.Record {
	b.Helper()
	first, _, err := b.log.Bounds(b.ctx, b.inbox.Name, partition)
	b.must(err)
	return b.fetchFrom(partition, first, n)
}

func (b *bench) fetchFrom(partition int32, from int64, n int) []driver.Record {
	b.Helper()
	return fetchTopic(b, b.inbox.Name, partition, from, n)
}

func fetchTopic(b *bench, topic string, partition int32, from int64, n int) []driver.Record {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, fetchLimit)
	defer cancel()
	var out []driver.Record
	for len(out) < n {
		rs, err := b.log.Fetch(ctx, deja.Position{Topic: topic, Partition: partition, Offset: from}, n-len(out))
		if err != nil {
			b.Fatalf("Fetch after %d of %d records: %v", len(out), n, err)
		}
		if len(rs) == 0 || len(rs) > n-len(out) {
			b.Fatalf("Fetch returned %d records, want 1 to %d", len(rs), n-len(out))
		}
		for _, r := range rs {
			if r.Partition != partition || r.Offset < from {
				b.Fatalf("Fetch from %d:%d returned a record of %d:%d", partition, from, r.Partition, r.Offset)
			}
			from = r.Offset + 1
		}
		out = append(out, rs...)
	}
	return out
}

// numbered returns n records whose values say their number, from first on.
func numbered(first, n int) []driver.Record {
	rs := make([]driver.Record, n)
	for i := range rs {
		rs[i] = driver.Record{Key: "k", Value: fmt.Appendf(nil, "record %d", first+i)}
	}
	return rs
}

func values(rs []driver.Record) []string {
	vs := make([]string, len(rs))
	for i, r := range rs {
		vs[i] = string(r.Value)
	}
	return vs
}
