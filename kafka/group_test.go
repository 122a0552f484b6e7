package kafka_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/testenv"
	"github.com/dejalog/deja/kafka"
)

// shares follows the shares of members until together they are what is wanted.
type shares struct {
	t   *testing.T
	now [][]int32
	in  []<-chan []int32
}

func (s *shares) join(ctx context.Context, l *kafka.Log, group, topic string) {
	s.t.Helper()
	ch, err := l.Join(ctx, group, topic)
	must(s.t, err)
	s.in, s.now = append(s.in, ch), append(s.now, nil)
}

// until waits until each member has as many partitions as wanted, all of them together and none twice.
func (s *shares) until(sizes ...int) {
	s.t.Helper()
	deadline := time.After(limit)
	for {
		var all []int32
		var got []int
		for _, share := range s.now {
			if !slices.IsSorted(share) {
				s.t.Fatalf("a share is not in order: %v", share)
			}
			all, got = append(all, share...), append(got, len(share))
		}
		slices.Sort(all)
		if slices.Equal(got, sizes) && slices.Equal(all, []int32{0, 1, 2, 3}) {
			return
		}
		select {
		case share, ok := <-s.channel(0):
			s.set(0, share, ok)
		case share, ok := <-s.channel(1):
			s.set(1, share, ok)
		case <-deadline:
			s.t.Fatalf("shares are %v, want sizes %v", s.now, sizes)
		}
	}
}

func (s *shares) channel(i int) <-chan []int32 {
	if i >= len(s.in) {
		return nil
	}
	return s.in[i]
}

func (s *shares) set(i int, share []int32, ok bool) {
	s.now[i] = share
	if !ok {
		s.in[i] = nil
	}
}

func TestGroupSharesPartitions(t *testing.T) {
	for _, protocol := range []string{kafka.Classic, kafka.Consumer} {
		t.Run("protocol "+protocol, func(t *testing.T) {
			one, two := open(t, kafka.Config{Protocol: protocol}), open(t, kafka.Config{Protocol: protocol})
			topic, group := topicOf(t, one, kafka.TopicConfig{Partitions: 4}), testenv.Unique("deja_test")
			_, err := one.Append(t.Context(), topic, numbered(0, 0, 10)) // not to be fetched by the group
			must(t, err)
			first, leave := context.WithCancel(t.Context())
			s := &shares{t: t}
			s.join(first, one, group, topic)
			s.until(4)
			second, stop := context.WithCancel(t.Context())
			defer stop()
			s.join(second, two, group, topic)
			s.until(2, 2)
			leave()
			s.until(0, 4)
			offsets, err := admin(t).FetchOffsets(t.Context(), group)
			must(t, err)
			if len(offsets) > 0 {
				t.Errorf("the group has committed offsets: %v", offsets)
			}
			stop()
			for range s.in[1] { // until it has left
			}
		})
	}
}

// A membership whose topic is gone ends by itself, and the next Join says why.
func TestGroupEndsWithItsTopic(t *testing.T) {
	l, adm := open(t, kafka.Config{}), admin(t)
	topic := topicOf(t, l, kafka.TopicConfig{Partitions: 4})
	ch, err := l.Join(t.Context(), topic, topic)
	must(t, err)
	if share := <-ch; len(share) != 4 {
		t.Fatalf("got %v", share)
	}
	_, err = adm.DeleteTopic(t.Context(), topic)
	must(t, err)
	for range ch {
	}
	_, err = l.Join(t.Context(), topic, topic)
	want(t, err, driver.ErrRecreated)
}

func TestGroupEndsWithItsLog(t *testing.T) {
	l := open(t, kafka.Config{})
	topic := topicOf(t, l, kafka.TopicConfig{Partitions: 4})
	ch, err := l.Join(t.Context(), topic, topic)
	must(t, err)
	<-ch
	must(t, l.Close())
	for range ch {
	}
}

func TestCursorIsOfItsTopic(t *testing.T) {
	l, adm := open(t, kafka.Config{}), admin(t)
	topic := topicOf(t, l, kafka.TopicConfig{Partitions: 2})
	at, err := l.Cursor(t.Context(), topic, topic, 1)
	must(t, err)
	if at != 0 {
		t.Errorf("a cursor that was never set is at %d", at)
	}
	must(t, l.SetCursor(t.Context(), topic, topic, 1, 7))
	at, err = open(t, kafka.Config{}).Cursor(t.Context(), topic, topic, 1)
	must(t, err)
	if at != 7 {
		t.Errorf("got %d, want 7", at)
	}
	offsets, err := adm.FetchOffsets(t.Context(), "deja."+topic)
	must(t, err)
	if o, ok := offsets.Lookup(topic, 1); !ok || o.At != 7 {
		t.Errorf("the cursor is not the committed offset of its group: %+v", offsets)
	}
	recreate(t, l, adm, topic, 2)
	at, err = open(t, kafka.Config{}).Cursor(t.Context(), topic, topic, 1)
	if err == nil && at != 0 {
		t.Errorf("a topic that was made anew has a cursor at %d", at)
	}
}
