package journal_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dejalog/deja"
	"github.com/dejalog/deja/driver"
	"github.com/dejalog/deja/internal/journal"
	"github.com/dejalog/deja/internal/memory"
	"github.com/dejalog/deja/internal/wire"
)

const shopJournal = "shop.journal"

// writer writes a journal, honest or not.
type writer struct {
	t     *testing.T
	log   *memory.Log
	n     int64
	chain [32]byte
	life  driver.Incarnation
}

func newWriter(t *testing.T) *writer {
	return &writer{t: t, log: memory.NewLog(memory.LogConfig{}), chain: wire.Genesis("shop", 0)}
}

func (w *writer) append(r *wire.Record) []byte {
	w.t.Helper()
	r.Incarnation, r.Prev = w.life, w.chain
	raw := wire.AppendRecord(nil, r)
	if _, err := w.log.Append(w.t.Context(), shopJournal, []driver.Record{{Value: raw}}); err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *writer) decide() []byte {
	w.t.Helper()
	w.n++
	id := deja.NewID()
	raw := w.append(&wire.Record{
		Kind: wire.KindDecision, N: w.n, Time: time.Unix(w.n, 0).UTC(), Covers: w.n - 1, Decided: deja.Decided{Status: deja.Applied},
		Cause: deja.Envelope{ID: id, CorrelationID: id, Kind: deja.KindCommand, Type: "till.put", Source: "web", Stream: deja.Stream{Aggregate: "till", Key: "a"}},
	})
	w.chain = wire.Hash(raw)
	return raw
}

func (w *writer) begin(number int64) {
	w.t.Helper()
	w.life = driver.Incarnation{Number: number, Nonce: [16]byte{byte(number)}}
	w.append(&wire.Record{Kind: wire.KindMarker, N: w.n})
}

// numbers reads on to the end, and returns the decisions' numbers.
func (w *writer) numbers(r *journal.Reader) ([]int64, error) {
	w.t.Helper()
	_, end, err := w.log.Bounds(w.t.Context(), shopJournal, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	var ns []int64
	for {
		es, err := r.Next(w.t.Context(), end, 2)
		if err != nil || len(es) == 0 {
			return ns, err
		}
		for _, e := range es {
			ns = append(ns, e.N)
		}
	}
}

func (w *writer) want(r *journal.Reader, want ...int64) {
	w.t.Helper()
	got, err := w.numbers(r)
	if err != nil || len(got) != len(want) {
		w.t.Fatalf("read %v, %v; want %v", got, err, want)
	}
	for i := range want {
		if got[i] != want[i] {
			w.t.Fatalf("read %v, want %v", got, want)
		}
	}
}

func (w *writer) reader(from driver.Logged) *journal.Reader {
	return journal.NewReader(w.log, "shop", 0, from)
}

func TestEachDecisionCountsOnce(t *testing.T) {
	w := newWriter(t)
	var raws [][]byte
	for range 4 {
		raws = append(raws, w.decide())
	}
	for _, raw := range raws[1:] { // published again
		if _, err := w.log.Append(t.Context(), shopJournal, []driver.Record{{Value: raw}}); err != nil {
			t.Fatal(err)
		}
	}
	w.decide()
	r := w.reader(driver.Logged{})
	w.want(r, 1, 2, 3, 4, 5)
	if r.Mark() != r.Seen() || r.Mark().N != 5 || r.Mark().Offset != 8 {
		t.Errorf("marks %+v and %+v", r.Mark(), r.Seen())
	}
	if ok, err := journal.Holds(t.Context(), w.log, "shop", 0, r.Seen()); !ok || err != nil {
		t.Errorf("the log does not hold what was read: %v", err)
	}
	other := r.Seen()
	other.Chain[0]++
	if ok, err := journal.Holds(t.Context(), w.log, "shop", 0, other); ok || err != nil {
		t.Errorf("it holds what was not read: %v", err)
	}
}

func TestAnOlderLifeDoesNotCountAfterAMarker(t *testing.T) {
	w := newWriter(t)
	w.decide()
	old := *w
	w.begin(1)
	old.decide() // goes on, and knows nothing
	w.decide()
	old.begin(1) // of equal numbers the first marker won
	old.life.Nonce[0]++
	old.decide()
	w.decide()
	r := w.reader(driver.Logged{})
	w.want(r, 1, 2, 3)
	if r.Mark().Chain != w.chain || r.Mark().Incarnation != w.life {
		t.Errorf("it follows %+v", r.Mark())
	}
	if e, err := journal.Find(t.Context(), w.log, "shop", 0, 2, 1); err != nil || e.Incarnation != w.life {
		t.Errorf("decision 2: %+v, %v", e.Incarnation, err)
	}
}

func TestWhatDoesNotFollowIsAnError(t *testing.T) {
	for what, c := range map[string]struct {
		spoil func(w *writer)
		want  error
	}{
		"a number is missing":     {func(w *writer) { w.n++ }, journal.ErrGap},
		"another chain":           {func(w *writer) { w.chain[0]++ }, journal.ErrForked},
		"a life that never began": {func(w *writer) { w.life.Number++ }, journal.ErrForked},
		"no record": {func(w *writer) {
			if _, err := w.log.Append(t.Context(), shopJournal, []driver.Record{{Value: []byte("?")}}); err != nil {
				t.Fatal(err)
			}
		}, journal.ErrUnreadable},
	} {
		w := newWriter(t)
		w.decide()
		c.spoil(w)
		w.decide()
		r := w.reader(driver.Logged{})
		for range 2 { // and it stays before the offending record
			if _, err := w.numbers(r); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", what, err, c.want)
			}
			if r.Mark().N != 1 || r.Mark().Offset != 1 {
				t.Errorf("%s: it is at %+v", what, r.Mark())
			}
		}
	}
}

func TestAMarkIsWhereReadingGoesOn(t *testing.T) {
	w := newWriter(t)
	for range 3 {
		w.decide()
	}
	w.begin(1)
	w.decide()
	all := w.reader(driver.Logged{})
	w.want(all, 1, 2, 3, 4)
	for offset, rest := range [][]int64{{1, 2, 3, 4}, {2, 3, 4}, {3, 4}, {4}, {4}, {}} {
		at, err := journal.MarkAt(t.Context(), w.log, "shop", 0, int64(offset))
		if err != nil {
			t.Fatal(err)
		}
		w.want(w.reader(at), rest...)
	}
	if _, err := journal.MarkAt(t.Context(), w.log, "shop", 0, 6); !errors.Is(err, driver.ErrBeyondEnd) {
		t.Errorf("beyond the end: %v", err)
	}
	w.log.Trim(shopJournal, 0, 2)
	for _, offset := range []int64{0, 2} { // from the beginning, and where the log begins now: the record before is gone
		at, err := journal.MarkAt(t.Context(), w.log, "shop", 0, offset)
		if err != nil {
			t.Fatal(err)
		}
		w.want(w.reader(at), 3, 4)
	}
	if _, err := journal.MarkAt(t.Context(), w.log, "shop", 0, 1); !errors.Is(err, driver.ErrTrimmed) {
		t.Errorf("records were lost before they were read: %v", err)
	}
}

func TestWaitTellsWhatComes(t *testing.T) {
	w := newWriter(t)
	w.decide()
	r := w.reader(driver.Logged{})
	if es, err := r.Wait(t.Context(), 10); err != nil || len(es) != 1 {
		t.Fatalf("%d, %v", len(es), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.Wait(ctx, 10); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("at the end: %v", err)
	}
	w.begin(1) // is none
	w.decide()
	if es, err := r.Wait(t.Context(), 10); err != nil || len(es) != 1 || es[0].N != 2 {
		t.Errorf("%d, %v", len(es), err)
	}
}

func TestConfirmCountsWhatIsOwn(t *testing.T) {
	w := newWriter(t)
	own := map[int64][32]byte{}
	for range 3 {
		hash := wire.Hash(w.decide())
		own[w.n] = hash
	}
	w.decide()
	r := w.reader(driver.Logged{})
	hash := func(n int64) [32]byte { return own[n] }
	count, other, err := r.Confirm(t.Context(), 4, 100, driver.Incarnation{}, hash)
	if err != nil || count != 3 || other == nil || other.N != 4 || r.Mark().N != 4 {
		t.Errorf("%d, %+v, %v; mark %+v", count, other, err, r.Mark())
	}
}
