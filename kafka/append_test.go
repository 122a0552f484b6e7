package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/kafka"
)

func TestAppendKeepsKeysAndHeaders(t *testing.T) {
	for _, codec := range []string{kafka.None, kafka.Snappy, kafka.LZ4, kafka.Zstd} {
		t.Run(codec, func(t *testing.T) {
			l := open(t, kafka.Config{Compression: codec})
			topic := topicOf(t, l, kafka.TopicConfig{Partitions: 2})
			var in []driver.Record
			headers := []driver.Header{{Name: "ce_id", Value: []byte("7")}, {Name: "", Value: nil}, {Name: "empty", Value: []byte{}}}
			for i := range 100 { // more than one slab of keys, and alike enough to be compressed
				in = append(in, driver.Record{
					Partition: int32(i % 2), Key: strings.Repeat("k", i), Value: bytes.Repeat([]byte{byte(i)}, 10*i),
					Headers: headers[:i%4],
				})
			}
			ps, err := l.Append(t.Context(), topic, in)
			must(t, err)
			for n := range int32(2) {
				at := deja.Position{Topic: topic, Partition: n}
				for i := int(n); i < len(in); i += 2 {
					rs, err := l.Fetch(t.Context(), at, 1)
					must(t, err)
					got, want := rs[0], in[i]
					if at != ps[i] || got.Key != want.Key || !bytes.Equal(got.Value, want.Value) || len(got.Headers) != len(want.Headers) {
						t.Fatalf("record %d at %v: got %+v, want %+v at %v", i, at, got, want, ps[i])
					}
					for j, h := range want.Headers {
						if g := got.Headers[j]; g.Name != h.Name || !bytes.Equal(g.Value, h.Value) || (g.Value == nil) != (h.Value == nil) {
							t.Errorf("record %d: got header %+v, want %+v", i, g, h)
						}
					}
					at.Offset++
				}
			}
		})
	}
}

// A call of more than one batch is in order, and its positions are right.
func TestAppendOfManyBatches(t *testing.T) {
	l := open(t, kafka.Config{Compression: kafka.None})
	topic := topicOf(t, l, kafka.TopicConfig{Partitions: 2})
	var in []driver.Record
	for i := range 3000 {
		in = append(in, driver.Record{Partition: int32(i % 3 / 2), Value: append(fmt.Append(nil, i, " "), make([]byte, 1000)...)})
	}
	ps, err := l.Append(t.Context(), topic, in)
	must(t, err)
	var next [2]int64
	for i, p := range ps {
		if p.Partition != in[i].Partition || p.Offset != next[p.Partition] || p.Topic != topic {
			t.Fatalf("record %d is at %v, want offset %d", i, p, next[p.Partition])
		}
		next[p.Partition]++
	}
	for n := range int32(2) {
		values := readAll(t, l, topic, n)
		if int64(len(values)) != next[n] {
			t.Fatalf("partition %d has %d records, want %d", n, len(values), next[n])
		}
		for i, r := range in {
			if r.Partition == n {
				if values[ps[i].Offset] != string(r.Value) {
					t.Fatalf("record %d is not at %v", i, ps[i])
				}
			}
		}
	}
}

func TestAppendRefusesTooLarge(t *testing.T) {
	l := open(t, kafka.Config{})
	topic := topicOf(t, l, kafka.TopicConfig{Partitions: 2, Settings: map[string]string{"max.message.bytes": "100000"}})
	id, err := l.Topic(t.Context(), topic)
	must(t, err)
	random := make([]byte, 100_001) // does not compress
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	largest := driver.Record{Partition: 1, Key: strings.Repeat("k", 1000), Value: random[:id.MaxRecord]}
	_, err = l.Append(t.Context(), topic, []driver.Record{largest, largest})
	must(t, err)
	for name, r := range map[string]driver.Record{
		"value":   {Value: random[:id.MaxRecord+1]},
		"key":     {Key: string(random[:100_000])},
		"headers": {Headers: []driver.Header{{Name: "h", Value: random[:100_000]}}},
	} {
		_, err = l.Append(t.Context(), topic, []driver.Record{{Value: []byte("small")}, {Partition: 1}, r})
		if !errors.Is(err, driver.ErrTooLarge) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
	equal(t, "values", readAll(t, l, topic, 0), nil)
}

// The limit of the topic is lowered while the log is open: the first record that is refused takes with it what comes
// behind, in its call and in those that wait.
func TestRefusedRecordStopsTheRest(t *testing.T) {
	l, adm := open(t, kafka.Config{Compression: kafka.None}), admin(t)
	topic := topicOf(t, l, kafka.TopicConfig{})
	lower := []kadm.AlterConfig{{Name: "max.message.bytes", Value: kadm.StringPtr("1000")}}
	rs, err := adm.AlterTopicConfigs(t.Context(), lower, topic)
	must(t, err)
	must(t, rs[0].Err)
	in := numbered(0, 0, 4)
	in[2].Value = make([]byte, 600_000) // a batch by itself, refused
	in[3].Value = make([]byte, 500)
	_, err = l.Append(t.Context(), topic, in)
	want(t, err, driver.ErrTooLarge, kerr.MessageTooLarge)
	equal(t, "values", readAll(t, l, topic, 0), []string{"0", "1"})
	_, err = l.Append(t.Context(), topic, numbered(0, 5, 1))
	must(t, err)
	equal(t, "values", readAll(t, l, topic, 0), []string{"0", "1", "5"})
}

// Calls that queue behind a refused batch fail too, and nothing of theirs is sent.
func TestRefusedBatchFailsTheQueue(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	must(t, err)
	t.Cleanup(fake.Close)
	l := open(t, kafka.Config{Brokers: fake.ListenAddrs()})
	_, err = l.Append(t.Context(), "t", numbered(0, 0, 1))
	must(t, err)
	asked, refuse := make(chan struct{}), make(chan struct{})
	fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		close(asked)
		fake.SleepControl(func() { <-refuse })
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		got := req.(*kmsg.ProduceRequest).Topics[0]
		rt, rp := kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
		rt.Topic, rt.TopicID = got.Topic, got.TopicID
		rp.ErrorCode = kerr.TopicAuthorizationFailed.Code
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	errs := make(chan error)
	call := func(i int) { _, err := l.Append(t.Context(), "t", numbered(0, i, 1)); errs <- err }
	go call(1)
	<-asked
	for i := range 3 {
		go call(2 + i)
	}
	for queued := 0; queued < 3; time.Sleep(time.Millisecond) {
		queued, err = kafka.Queued(t.Context(), l, "t", 0)
		must(t, err)
	}
	close(refuse)
	for range 4 {
		want(t, <-errs, kerr.TopicAuthorizationFailed)
	}
	go call(9)
	must(t, <-errs)
	equal(t, "values", readAll(t, l, "t", 0), []string{"0", "9"})
}

// A batch whose answer was lost is sent again, and is there once.
func TestAppendLandsOnceWhenAnswersAreLost(t *testing.T) {
	conns := &connections{}
	l := open(t, kafka.Config{Dial: conns.dial})
	topic := topicOf(t, l, kafka.TopicConfig{})
	var wanted []string
	for i := range 50 {
		var cutting sync.WaitGroup
		if i%2 == 1 {
			cutting.Go(func() {
				time.Sleep(time.Duration(i) * 20 * time.Microsecond)
				conns.cut()
			})
		}
		_, err := l.Append(t.Context(), topic, numbered(0, i, 1))
		must(t, err)
		cutting.Wait()
		wanted = append(wanted, strconv.Itoa(i))
	}
	equal(t, "values", readAll(t, l, topic, 0), wanted)
}

// Callers that start again at their oldest unacknowledged record keep the order of first copies, whatever happens to
// the connections: they break, while what was written to them is still on its way to the broker. Who fails several times
// in a row is more patient each time, and there are only so many cuts: a slow machine gets there too.
func TestFirstCopiesStayInOrder(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DEJA_TEST_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with: DEJA_TEST_SEED=%d go test ./kafka -run %s", seed, t.Name())
		}
	})
	const callers, records, cuts = 3, 300, 150
	conns := &connections{rng: rand.New(rand.NewPCG(seed, 0)), late: 100 * time.Millisecond}
	l, plain := open(t, kafka.Config{Dial: conns.dial}), open(t, kafka.Config{})
	topic := topicOf(t, plain, kafka.TopicConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), 4*limit)
	defer cancel()

	var work sync.WaitGroup
	retried := make([]int, callers)
	for c := range callers {
		rng := rand.New(rand.NewPCG(seed, 1+uint64(c)))
		work.Go(func() {
			for next, failed := 0, 0; next < records; {
				n := min(1+rng.IntN(20), records-next)
				rs := make([]driver.Record, n)
				for i := range rs {
					rs[i].Value = fmt.Appendf(nil, "%d %d", c, next+i)
				}
				patience, stop := context.WithTimeout(ctx, time.Duration(1+rng.IntN(200))*time.Millisecond<<min(max(0, failed-4), 8))
				_, err := l.Append(patience, topic, rs)
				stop()
				if ctx.Err() != nil {
					t.Error(ctx.Err())
					return
				}
				if err == nil {
					next, failed = next+n, 0
				} else {
					failed++
					retried[c]++
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	rng := rand.New(rand.NewPCG(seed, 1000))
	for n, cutting := 0, true; n < cuts && cutting; n++ {
		select {
		case <-done:
			cutting = false
		case <-time.After(time.Duration(10+rng.IntN(150)) * time.Millisecond):
			conns.cut()
		}
	}
	<-done
	time.Sleep(300 * time.Millisecond) // until the last late writes have landed
	values := readAll(t, plain, topic, 0)
	if err := firstCopies(values, callers, records); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records in the log, %d of them repeats; calls that failed: %v", len(values), len(values)-callers*records, retried)
}

// firstCopies returns an error unless each caller's records are there, the first copies in order.
func firstCopies(values []string, callers, records int) error {
	next := make([]int, callers)
	for i, v := range values {
		var c, n int
		if _, err := fmt.Sscan(v, &c, &n); err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
		if n > next[c] {
			return fmt.Errorf("record %d is number %d of caller %d, before number %d", i, n, c, next[c])
		}
		next[c] = max(next[c], n+1)
	}
	for c, n := range next {
		if n != records {
			return fmt.Errorf("caller %d has %d records, want %d", c, n, records)
		}
	}
	return nil
}

func TestFirstCopiesCheckFails(t *testing.T) {
	for _, values := range [][]string{{"0 0", "0 2", "0 1"}, {"0 0", "0 1"}, {"0 1", "0 0", "0 1", "0 2"}} {
		if firstCopies(values, 1, 3) == nil {
			t.Errorf("%v was taken for good", values)
		}
	}
	must(t, firstCopies([]string{"0 0", "0 1", "0 0", "0 1", "0 2", "0 0"}, 1, 3))
}

// A call whose context ends in the queue is not sent; nor is the rest of one that was sent in part.
func TestWithdrawnCallsAreNotSent(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	must(t, err)
	t.Cleanup(fake.Close)
	l := open(t, kafka.Config{Brokers: fake.ListenAddrs()})
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	fake.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		asked <- struct{}{}
		fake.SleepControl(func() { <-answer })
		return nil, nil, false
	})
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	long := numbered(0, 0, 2)
	long[0].Value, long[1].Value = make([]byte, 500_000), make([]byte, 500_001)
	for i := range 3 {
		rs := long
		if i > 0 {
			rs = numbered(0, i, 1)
		}
		go func() { _, err := l.Append(ctx, "t", rs); errs <- err }()
		if i == 0 {
			<-asked
		}
	}
	for queued := 0; queued < 3; time.Sleep(time.Millisecond) { // the rest of the first among them
		queued, err = kafka.Queued(t.Context(), l, "t", 0)
		must(t, err)
	}
	cancel()
	for range 3 {
		want(t, <-errs, context.Canceled)
	}
	close(answer)
	_, err = l.Append(t.Context(), "t", numbered(0, 9, 1))
	must(t, err)
	values := readAll(t, l, "t", 0)
	if len(values) != 2 || len(values[0]) != 500_000 || values[1] != "9" {
		t.Fatalf("got %d records, want the one that was on its way, and the last", len(values))
	}
}

// While brokers cannot be reached, a call says why when its context ends.
func TestAppendTellsWhatWasWrong(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	must(t, err)
	brokers := fake.ListenAddrs()
	l := open(t, kafka.Config{Brokers: brokers})
	_, err = l.Append(t.Context(), "t", numbered(0, 0, 1))
	must(t, err)
	fake.Close()
	for patience := 500 * time.Millisecond; ; patience *= 2 { // it must have been tried until then
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err = l.Append(ctx, "t", numbered(0, 1, 1))
		cancel()
		want(t, err, context.DeadlineExceeded)
		if strings.Contains(err.Error(), "tried until then") {
			break
		}
		if patience > limit {
			t.Fatalf("the error %q does not tell what was wrong", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err = kafka.Open(ctx, kafka.Config{Brokers: brokers})
	want(t, err, context.DeadlineExceeded)
}

func TestManyPartitionsAtOnce(t *testing.T) {
	l := open(t, kafka.Config{})
	topic := topicOf(t, l, kafka.TopicConfig{Partitions: 8})
	var all sync.WaitGroup
	for p := range int32(8) {
		for c := range 4 {
			all.Go(func() {
				for i := range 20 {
					if _, err := l.Append(t.Context(), topic, []driver.Record{{Partition: p, Value: fmt.Appendf(nil, "%d %d", c, i)}}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	for p := range int32(8) {
		values := readAll(t, l, topic, p)
		if len(values) != 80 {
			t.Errorf("partition %d has %d records, want 80", p, len(values))
		}
		must(t, firstCopies(values, 4, 20))
		slices.Sort(values)
		if len(slices.Compact(values)) != 80 {
			t.Errorf("partition %d has repeats", p)
		}
	}
}
