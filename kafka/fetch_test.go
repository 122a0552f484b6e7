package kafka_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/kafka"
)

// Any position can be asked for at any time, by several at once, on a stream of many small and some large batches.
func TestFetchFromAnywhereByMany(t *testing.T) {
	l := open(t, kafka.Config{})
	topic := topicOf(t, l, kafka.TopicConfig{})
	const n = 2000
	for i := 0; i < n; {
		size := min(n-i, 1+i%300)
		rs := numbered(0, i, size)
		for j := range rs {
			rs[j].Value = append(rs[j].Value, make([]byte, (i+j)%700)...)
		}
		_, err := l.Append(t.Context(), topic, rs)
		must(t, err)
		i += size
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for c := range 6 {
		rng := rand.New(rand.NewPCG(seed, uint64(c)))
		all.Go(func() {
			at := deja.Position{Topic: topic}
			for range 200 {
				if at.Offset >= n || rng.IntN(4) == 0 {
					at.Offset = rng.Int64N(n)
				}
				most := 1 + rng.IntN(500)
				rs, err := l.Fetch(ctx, at, most)
				if err != nil || len(rs) == 0 || len(rs) > most {
					t.Errorf("Fetch of %d from %d: %d records, error %v", most, at.Offset, len(rs), err)
					return
				}
				for _, r := range rs {
					want := strconv.FormatInt(at.Offset, 10)
					if r.Offset != at.Offset || string(r.Value[:len(want)]) != want || len(r.Value) != len(want)+int(at.Offset)%700 || r.Key != "k" {
						t.Errorf("at %d: got offset %d, key %q, value %.10q", at.Offset, r.Offset, r.Key, r.Value)
						return
					}
					at.Offset++
				}
			}
		})
	}
	all.Wait()
}

// Markers of transactions are no records, those of aborted ones are none either, and the rest is there.
func TestFetchSkipsWhatTransactionsLeave(t *testing.T) {
	l := open(t, kafka.Config{})
	topic := topicOf(t, l, kafka.TopicConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cl := library(t, kgo.TransactionalID(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	var wanted []string
	for i, end := range []kgo.TransactionEndTry{
		kgo.TryCommit, kgo.TryAbort, kgo.TryAbort, kgo.TryCommit, kgo.TryAbort, kgo.TryCommit, kgo.TryAbort, kgo.TryAbort,
	} {
		must(t, cl.BeginTransaction())
		for j := range i % 3 * 2 { // also none
			value := fmt.Sprint(i, " ", j)
			must(t, cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr())
			if end == kgo.TryCommit {
				wanted = append(wanted, value)
			}
		}
		must(t, cl.EndTransaction(ctx, end))
		ps, err := l.Append(ctx, topic, numbered(0, 100*i, 2))
		must(t, err)
		wantEnd(ctx, t, l, topic, ps[1].Offset+1)
		wanted = append(wanted, strconv.Itoa(100*i), strconv.Itoa(100*i+1))
	}
	equal(t, "values", readAll(t, l, topic, 0), wanted)
	_, end, err := l.Bounds(ctx, topic, 0)
	must(t, err)
	for from := range end { // from the midst of everything
		rs, err := l.Fetch(ctx, deja.Position{Topic: topic, Offset: from}, 1)
		must(t, err)
		if rs[0].Offset < from {
			t.Fatalf("Fetch from %d returned a record at %d", from, rs[0].Offset)
		}
	}

	// A reader that waits behind markers gets what comes after them.
	must(t, cl.BeginTransaction())
	must(t, cl.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: []byte("aborted")}).FirstErr())
	got := make(chan []driver.Record, 1)
	go func() {
		rs, _ := l.Fetch(ctx, deja.Position{Topic: topic, Offset: end}, 10)
		got <- rs
	}()
	must(t, cl.EndTransaction(ctx, kgo.TryAbort))
	select {
	case rs := <-got:
		t.Fatalf("got %d records of an aborted transaction", len(rs))
	case <-time.After(100 * time.Millisecond):
	}
	_, err = l.Append(ctx, topic, numbered(0, 1234, 1))
	must(t, err)
	if rs := <-got; len(rs) != 1 || string(rs[0].Value) != "1234" {
		t.Fatalf("got %+v", rs)
	}
}

// What other clients compress is read, whatever they do it with.
func TestFetchReadsEveryCodec(t *testing.T) {
	l := open(t, kafka.Config{})
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			topic := topicOf(t, l, kafka.TopicConfig{})
			cl := library(t, kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(10*time.Millisecond))
			var rs []*kgo.Record
			var wanted []string
			for i := range 500 {
				value := fmt.Sprint("a value like the others ", i)
				rs = append(rs, &kgo.Record{Topic: topic, Value: []byte(value)})
				wanted = append(wanted, value)
			}
			must(t, cl.ProduceSync(t.Context(), rs...).FirstErr())
			equal(t, "values", readAll(t, l, topic, 0), wanted)
		})
	}
}

// A record wakes the Fetch that waits for it, also after a long time, and when the leader's connection broke meanwhile.
func TestWaitingFetchSurvivesBrokenConnections(t *testing.T) {
	conns := &connections{}
	l, other := open(t, kafka.Config{Dial: conns.dial}), open(t, kafka.Config{})
	topic := topicOf(t, other, kafka.TopicConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	at := deja.Position{Topic: topic}
	for i := range 10 {
		got := make(chan error, 1)
		go func() {
			rs, err := l.Fetch(ctx, at, 1)
			if err == nil && string(rs[0].Value) != strconv.Itoa(i) {
				err = fmt.Errorf("got %q", rs[0].Value)
			}
			got <- err
		}()
		time.Sleep(time.Duration(i) * 20 * time.Millisecond)
		conns.cut()
		_, err := other.Append(ctx, topic, numbered(0, i, 1))
		must(t, err)
		must(t, <-got)
		at.Offset++
	}
}

// A Fetch that ended with its context has lost nothing: the next one goes on.
func TestFetchGoesOnAfterItsContext(t *testing.T) {
	l := open(t, kafka.Config{})
	topic := topicOf(t, l, kafka.TopicConfig{})
	for i := range 20 {
		at := deja.Position{Topic: topic, Offset: int64(i)}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := l.Fetch(ctx, at, 1)
		cancel()
		want(t, err, context.DeadlineExceeded)
		_, err = l.Append(t.Context(), topic, numbered(0, i, 1))
		must(t, err)
		rs, err := l.Fetch(t.Context(), at, 1)
		must(t, err)
		equal(t, "value", []string{string(rs[0].Value)}, []string{strconv.Itoa(i)})
	}
}

// Reading four partitions at once, far behind, takes little memory: answers are small, and one is read ahead.
func TestFetchMemoryIsBounded(t *testing.T) {
	l := open(t, kafka.Config{})
	topic := topicOf(t, l, kafka.TopicConfig{Partitions: 4})
	const calls = 20
	rs := make([]driver.Record, 1000)
	for n := range int32(4) {
		for i := range rs {
			rs[i] = driver.Record{Partition: n, Value: make([]byte, 1000)} // compresses well: small answers become large
		}
		for range calls {
			_, err := l.Append(t.Context(), topic, rs)
			must(t, err)
		}
	}
	before := heap()
	most := uint64(0)
	for i := range int64(calls * len(rs) / 100) {
		for n := range int32(4) {
			_, err := l.Fetch(t.Context(), deja.Position{Topic: topic, Partition: n, Offset: 100 * i}, 100)
			must(t, err)
		}
		if i%20 == 0 {
			most = max(most, heap())
		}
	}
	const allowed = 20 << 20
	t.Logf("%d KiB more than before", (int64(most)-int64(before))>>10)
	if most > before+allowed {
		t.Errorf("reading took %d bytes more than before, want at most %d", most-before, allowed)
	}
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
