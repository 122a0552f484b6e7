package kafka_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/kafka"
)

func TestTmpRatio(t *testing.T) {
	var raw []byte
	for _, r := range journalLike(0, 1000) {
		raw = append(raw, r.Value...)
	}
	for _, c := range []kgo.CompressionCodec{kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		k, _ := kgo.DefaultCompressor(c)
		var b bytes.Buffer
		out, _ := k.Compress(&b, raw)
		t.Log(len(raw)/1000, float64(len(out))/float64(len(raw)))
	}
}

func TestTmpFreeze(t *testing.T) {
	read := func() int {
		b, _ := os.ReadFile("/tmp/kf/pid")
		p, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return p
	}
	l := open(t, kafka.Config{Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	topic := topicOf(t, l, kafka.TopicConfig{})
	ctx, cancel := context.WithTimeout(t.Context(), 80*time.Second)
	defer cancel()
	const callers, records = 3, 700
	var work sync.WaitGroup
	errs := map[string]int{}
	var mu sync.Mutex
	for c := range callers {
		work.Go(func() {
			for next := 0; next < records; {
				n := min(5, records-next)
				rs := make([]driver.Record, n)
				for i := range rs {
					rs[i].Value = fmt.Appendf(nil, "%d %d", c, next+i)
				}
				p, stop := context.WithTimeout(ctx, 700*time.Millisecond)
				_, err := l.Append(p, topic, rs)
				stop()
				if ctx.Err() != nil {
					t.Error(ctx.Err())
					return
				}
				if err == nil {
					next += n
					time.Sleep(30 * time.Millisecond)
				} else {
					mu.Lock()
					errs[err.Error()]++
					mu.Unlock()
				}
			}
		})
	}
	var got []string
	reading := make(chan struct{})
	rctx, rstop := context.WithCancel(ctx)
	go func() {
		defer close(reading)
		at := deja.Position{Topic: topic}
		for {
			rs, err := l.Fetch(rctx, at, 100)
			if err != nil {
				t.Log("reader ends:", err)
				return
			}
			for _, r := range rs {
				got = append(got, string(r.Value))
			}
			at.Offset = rs[len(rs)-1].Offset + 1
		}
	}()
	time.Sleep(time.Second)
	syscall.Kill(read(), syscall.SIGSTOP)
	time.Sleep(3 * time.Second)
	syscall.Kill(read(), syscall.SIGCONT)
	time.Sleep(2 * time.Second)
	syscall.Kill(read(), syscall.SIGKILL)
	time.Sleep(time.Second)
	out, err := exec.Command("sh", "-c", `cd /tmp/kf && nohup java -Xmx512m -Dlog4j2.configurationFile=log4j2.xml -cp "libs/*" kafka.Kafka server.properties > broker2.log 2>&1 & echo $! > /tmp/kf/pid`).CombinedOutput()
	t.Log(string(out), err)
	work.Wait()
	for k, v := range errs {
		t.Log(v, k)
	}
	time.Sleep(time.Second)
	rstop()
	<-reading
	vs := readAll(t, l, topic, 0)
	t.Log(len(vs), len(got))
	must(t, firstCopies(vs, callers, records))
	equal(t, "reader", got, vs)
}
