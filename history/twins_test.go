package history

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/internal/till"
	"github.com/dejalog/deja/internal/wire"
)

// teller is a message as the naive finder of twins sees it.
type teller struct {
	id      deja.ID
	stream  deja.Stream
	cause   deja.ID
	payload string // with type
	whole   [32]byte
	offset  int64
}

// naiveTwins compares each message with each: the first of a class speaks for it.
func naiveTwins(all []teller) (found []string) {
	done := map[int]bool{}
	for i, a := range all {
		if done[i] {
			continue
		}
		group, whole := []string{a.id.String()}, true
		for j := i + 1; j < len(all); j++ {
			b := all[j]
			same := a.whole == b.whole || !a.cause.IsZero() && a.payload == b.payload
			if a.stream == b.stream && a.cause == b.cause && same {
				done[j] = true
				if group = append(group, b.id.String()); a.whole != b.whole {
					whole = false
				}
			}
		}
		if len(group) > 1 {
			found = append(found, fmt.Sprint(a.stream, " ", a.cause, " ", whole, " ", group))
		}
	}
	return found
}

// Over random histories, the twins are those that a comparison of all with all finds.
func TestTwinsAreThoseThatSayTheSame(t *testing.T) {
	seed, found := seedOf(t), 0
	for run := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed+run, 0))
		l := newLived(t, till.Service(till.Variant{}))
		var all []teller
		for range 60 {
			env := deja.Envelope{
				Type: []string{"till.put", "till.take", "till.take"}[rng.IntN(3)], Stream: deja.Stream{Aggregate: "till", Key: string(rune('a' + rng.IntN(3)))},
				// Spaces are no content.
				Payload: fmt.Appendf(nil, `{"Amount":%s%d}`, strings.Repeat(" ", rng.IntN(2)), 1+rng.IntN(8)),
			}
			if rng.IntN(2) == 0 {
				env.CausationID = deja.DeriveID("cause", fmt.Sprint(rng.IntN(5)))
			}
			if rng.IntN(3) == 0 {
				env.BusinessTime = time.Unix(int64(rng.IntN(2))*1e6+1, 0).UTC()
			}
			known := len(all) > 0 && rng.IntN(6) == 0
			if known { // a duplicate, or a conflict
				env.ID = all[rng.IntN(len(all))].id
			}
			sent := l.send(env)
			if known {
				continue
			}
			whole, err := wire.ContentHash(sent)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, teller{sent.ID, sent.Stream, sent.CausationID, sent.Type + strings.ReplaceAll(string(sent.Payload), " ", ""), whole, int64(len(all))})
		}
		h := l.open()
		var got []string
		for tw, err := range h.Twins(t.Context(), Scope{}, h.All()) {
			if err != nil {
				t.Fatal(err)
			}
			ids := make([]string, len(tw.Messages))
			for i, m := range tw.Messages {
				ids[i] = m.ID.String()
			}
			got = append(got, fmt.Sprint(tw.Key, " ", tw.Cause, " ", tw.Whole, " ", ids))
		}
		want := naiveTwins(all)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed+run, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		found += len(want)
	}
	if found == 0 {
		t.Errorf("seed %d: there were no twins at all", seed)
	}
}

// Two hashes that begin alike are not equal.
func TestTwinsAreComparedInFull(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	for amount := range 3 {
		l.send(deja.Envelope{Type: "till.put", Stream: deja.Stream{Key: "a"}, Payload: fmt.Appendf(nil, `{"Amount":%d}`, amount)})
	}
	h := l.open()
	h.steps = collide{h.steps}
	for tw, err := range h.Twins(t.Context(), Scope{}, h.All()) {
		t.Errorf("got %+v, %v", tw, err)
	}
}

// collide is steps whose hashes all begin alike.
type collide struct{ steps }

func (c collide) scan(ctx context.Context, match func(deja.Stream) bool, last []int64) iter.Seq2[*Step, error] {
	return func(yield func(*Step, error) bool) {
		for s, err := range c.steps.scan(ctx, match, last) {
			if s != nil {
				alike := *s
				alike.Hash = 1
				s = &alike
			}
			if !yield(s, err) {
				return
			}
		}
	}
}

// Where the inbox has lost what was sent, the hash in the journal tells.
func TestTwinsAreFoundWithoutTheInbox(t *testing.T) {
	l := newLived(t, till.Service(till.Variant{}))
	for range 3 {
		l.send(deja.Envelope{Type: "till.put", Stream: deja.Stream{Key: "a"}, Payload: []byte(`{"Amount":7}`)})
	}
	for p := range int32(livedPartitions) {
		l.Log.Trim(wire.Inbox("shop"), p, 2)
	}
	h := l.open()
	var got []*Twins
	for tw, err := range h.Twins(t.Context(), Scope{}, h.All()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, tw)
	}
	if len(got) != 1 || len(got[0].Messages) != 3 || !got[0].Whole {
		t.Errorf("got %+v", got)
	}
}
