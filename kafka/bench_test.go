package kafka_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/kafka"
)

// The benchmarks move records like a journal's through a broker, and the same through the library alone:
//
//	go test ./kafka -run '^$' -bench . -benchtime 1000000x
const benchPartitions = 4

// journalLike returns n records of about 450 bytes: hashes and ids, which do not compress, and JSON, which does.
func journalLike(from, n int) []driver.Record {
	rs := make([]driver.Record, n)
	for i := range rs {
		var number [8]byte
		binary.BigEndian.PutUint64(number[:], uint64(from+i))
		h := sha256.Sum256(number[:])
		value := append([]byte(nil), h[:]...)
		for range 3 {
			h = sha256.Sum256(h[:])
			value = append(value, h[:]...)
		}
		account := binary.BigEndian.Uint32(h[:]) % 10000
		value = fmt.Appendf(value, `{"type":"bank.deposited","version":1,"account":"%d","tenant":"","amount":%d,"currency":"CZK","balance":%d,`+
			`"reference":"%x","kind":"VKLAD","operation":"credit in cash","bank":"AB","booked":"1993-01-%02d","sequence":%d,"states":[{"version":%d}],"outcome":"applied"}`,
			account, binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint32(h[8:]), h[12:20], 1+h[21]%28, from+i, binary.BigEndian.Uint16(h[22:]))
		rs[i] = driver.Record{Partition: int32(i % benchPartitions), Key: fmt.Sprint(account), Value: value}
	}
	return rs
}

func benchTopic(b *testing.B, cfg kafka.Config) (*kafka.Log, string) {
	b.Helper()
	l := open(b, cfg)
	topic := testenv.Unique("bench")
	if err := l.CreateTopics(b.Context(), kafka.TopicConfig{Name: topic, Partitions: benchPartitions}); err != nil {
		b.Fatal(err)
	}
	adm := admin(b)
	b.Cleanup(func() { _, _ = adm.DeleteTopic(context.Background(), topic) })
	return l, topic
}

const benchBatch = 2000

// byPartition returns records of one partition each.
func byPartition() [benchPartitions][]driver.Record {
	var rs [benchPartitions][]driver.Record
	for _, r := range journalLike(0, benchPartitions*benchBatch) {
		rs[r.Partition] = append(rs[r.Partition], r)
	}
	return rs
}

func perRecord(b *testing.B, before time.Duration) {
	b.Helper()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/record")
}

func fill(b *testing.B, l *kafka.Log, topic string, n int) {
	b.Helper()
	rs := byPartition()
	var all sync.WaitGroup
	for p := range rs {
		all.Go(func() {
			for i := 0; i < n/benchPartitions; i += benchBatch {
				if _, err := l.Append(b.Context(), topic, rs[p][:min(benchBatch, n/benchPartitions-i)]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkAppend(b *testing.B) {
	for _, codec := range []string{kafka.None, kafka.Snappy, kafka.LZ4, kafka.Zstd} {
		b.Run(codec, func(b *testing.B) {
			l, topic := benchTopic(b, kafka.Config{Compression: codec})
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			fill(b, l, topic, b.N)
			perRecord(b, before)
		})
	}
}

func BenchmarkAppendAlone(b *testing.B) {
	for name, codec := range map[string]kgo.CompressionCodec{kafka.None: kgo.NoCompression(), kafka.Snappy: kgo.SnappyCompression()} {
		b.Run(name, func(b *testing.B) {
			_, topic := benchTopic(b, kafka.Config{})
			cl, err := kgo.NewClient(kgo.SeedBrokers(testenv.Kafka(b)...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
				kgo.ProducerBatchCompression(codec), kgo.DefaultProduceTopic(topic), kgo.MaxBufferedRecords(4*benchBatch))
			if err != nil {
				b.Fatal(err)
			}
			defer cl.Close()
			rs := byPartition()
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			for i := range b.N {
				r := &rs[i%benchPartitions][i/benchPartitions%benchBatch]
				cl.Produce(b.Context(), &kgo.Record{Key: []byte(r.Key), Value: r.Value, Partition: r.Partition}, func(_ *kgo.Record, err error) {
					if err != nil {
						b.Error(err)
					}
				})
			}
			if err := cl.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			perRecord(b, before)
		})
	}
}

func BenchmarkFetch(b *testing.B) {
	for _, codec := range []string{kafka.None, kafka.Snappy} {
		b.Run(codec, func(b *testing.B) {
			l, topic := benchTopic(b, kafka.Config{Compression: codec})
			n := b.N / benchPartitions
			fill(b, l, topic, b.N)
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			var all sync.WaitGroup
			for p := range int32(benchPartitions) {
				all.Go(func() {
					at := deja.Position{Topic: topic, Partition: p}
					for at.Offset < int64(n) {
						rs, err := l.Fetch(b.Context(), at, benchBatch)
						if err != nil {
							b.Error(err)
							return
						}
						at.Offset = rs[len(rs)-1].Offset + 1
					}
				})
			}
			all.Wait()
			perRecord(b, before)
		})
	}
}

func BenchmarkFetchAlone(b *testing.B) {
	for _, codec := range []string{kafka.None, kafka.Snappy} {
		b.Run(codec, func(b *testing.B) {
			l, topic := benchTopic(b, kafka.Config{Compression: codec})
			fill(b, l, topic, b.N)
			cl, err := kgo.NewClient(kgo.SeedBrokers(testenv.Kafka(b)...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			if err != nil {
				b.Fatal(err)
			}
			defer cl.Close()
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			for n := 0; n < b.N/benchPartitions*benchPartitions; {
				n += cl.PollFetches(b.Context()).NumRecords()
			}
			perRecord(b, before)
		})
	}
}

// BenchmarkRoundTrip is the time from an Append of one record to its return from a Fetch that waits for it.
func BenchmarkRoundTrip(b *testing.B) {
	l, topic := benchTopic(b, kafka.Config{})
	at := deja.Position{Topic: topic}
	got := make(chan error)
	b.ReportAllocs()
	for b.Loop() {
		go func() {
			rs, err := l.Fetch(b.Context(), at, 1)
			if err == nil {
				at.Offset = rs[0].Offset + 1
			}
			got <- err
		}()
		if _, err := l.Append(b.Context(), topic, journalLike(0, 1)); err != nil {
			b.Fatal(err)
		}
		if err := <-got; err != nil {
			b.Fatal(err)
		}
	}
}
